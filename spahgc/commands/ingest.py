"""Commands that fill the store: ``ingest st | visium | image`` and ``embed``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import FOLDER, PlainErrors, progress_bar, store_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from spahgc.ingest.embedding import EmbeddingReport
    from spahgc.ingest.slides import IngestedSlide, PendingSlide
    from spahgc.schema import Slide


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides how patches are embedded, and where."""
    for option in reversed(
        [
            click.option(
                "--encoder",
                default="lite0",
                show_default=True,
                help="Patch encoder: lite0, or timm:MODEL.",
            ),
            click.option("--weights", type=FOLDER, help="Weights file to take for the encoder."),
            click.option(
                "--patch-um",
                type=click.FloatRange(min=0, min_open=True),
                default=112.0,
                show_default=True,
                help="Width of a patch on the tissue, in µm.",
            ),
            click.option("--device", default="cpu", show_default=True, help="As torch names it."),
            click.option(
                "--workers",
                type=click.IntRange(min=0),
                default=0,
                help="Processes of a Dask cluster on this machine; 0 embeds in this one.",
            ),
            click.option("--scheduler", help="Address of a running Dask scheduler, tcp://…"),
        ]
    ):
        command = option(command)
    return command


def ingest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every ingest command shares."""
    for option in reversed(
        [
            store_option,
            click.option(
                "--no-embed", is_flag=True, help="Store the slides without embedding their patches."
            ),
            click.option(
                "--replace", is_flag=True, help="Put a slide in the place of one of the same name."
            ),
            click.option("--patient", help="Patient the slides are of."),
            click.option(
                "--mpp",
                type=click.FloatRange(min=0, min_open=True),
                help="µm per full-resolution pixel, where the files do not say or say it wrong.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print a report for machines."),
        ]
    ):
        command = option(command)
    return command


@click.group(cls=PlainErrors)
def ingest() -> None:
    """Read slides into the store, embeddings included."""


@ingest.command("st")
@click.argument("folder", type=FOLDER, required=False)
@click.option(
    "--counts", type=FOLDER, help="Counts of one section: spots × genes, .tsv or .tsv.gz."
)
@click.option("--spots", type=FOLDER, help="Spot coordinates of that section.")
@click.option("--image", type=FOLDER, help="Full-resolution image of that section.")
@click.option("--labels", type=FOLDER, help="Labels per spot of that section.")
@click.option("--name", help="Name of that section.")
@click.option(
    "--pitch-um",
    type=click.FloatRange(min=0, min_open=True),
    default=200.0,
    show_default=True,
    help="Distance between spot centers, in µm.",
)
@ingest_options
@embedding_options
def ingest_st(
    folder: Path | None,
    counts: Path | None,
    spots: Path | None,
    image: Path | None,
    labels: Path | None,
    name: str | None,
    pitch_um: float,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Read legacy Spatial Transcriptomics: a study FOLDER, or one section by its files."""
    from functools import partial

    from spahgc.ingest.readers.st import StFiles, find_sections, read_st
    from spahgc.ingest.slides import PendingSlide

    if counts is not None and folder is None:
        name = name or counts.name.removesuffix(".gz").removesuffix(".tsv")
        sections = [StFiles(name=name, counts=counts, spots=spots, image=image, labels=labels)]
    elif folder is not None and counts is None:
        sections = find_sections(folder)
    else:
        raise click.UsageError("give a FOLDER, or one section by --counts (and --spots, --image)")
    read = partial(
        read_st, pitch_um=pitch_um, patient=shared["patient"], microns_per_pixel=shared["mpp"]
    )
    _ingest([PendingSlide(name=s.name, read=partial(read, s)) for s in sections], **shared)


@ingest.command("visium")
@click.argument("folder", type=FOLDER)
@click.option("--image", type=FOLDER, help="Full-resolution H&E image the coordinates refer to.")
@click.option("--name", help="Name of the slide; by default the folder's.")
@click.option("--genome", help="Genome to keep where the counts have several.")
@ingest_options
@embedding_options
def ingest_visium(
    folder: Path,
    image: Path | None,
    name: str | None,
    genome: str | None,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Read one 10x Visium slide from FOLDER: Space Ranger's outs/, its parent, or a flat dump."""
    from functools import partial

    from spahgc.ingest.readers.visium import read_visium
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_visium,
        folder,
        image=image,
        name=name,
        genome=genome,
        patient=shared["patient"],
        microns_per_pixel=shared["mpp"],
    )
    _ingest([PendingSlide(name=name or folder.name, read=read)], **shared)


@ingest.command("image")
@click.argument("file", type=FOLDER)
@click.option("--name", help="Name of the slide; by default the file's.")
@click.option(
    "--pitch-um",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Distance between spot centers, in µm.",
)
@ingest_options
@embedding_options
def ingest_image(
    file: Path,
    name: str | None,
    pitch_um: float,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Lay a grid of spots over the tissue of one H&E image FILE (SVS, TIFF, JPEG, PNG …)."""
    from functools import partial

    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_image_slide,
        file,
        name=name,
        pitch_um=pitch_um,
        patient=shared["patient"],
        microns_per_pixel=shared["mpp"],
    )
    _ingest([PendingSlide(name=name or file.stem, read=read)], **shared)


@click.command()
@click.argument("slides", nargs=-1)
@store_option
@embedding_options
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def embed(store: Path, slides: tuple[str, ...], *, as_json: bool, **how: Any) -> None:  # noqa: ANN401
    """Embed the patches of SLIDES (by default all) that lack this encoder's embedding."""
    report = _embed(store, slides or None, **how)
    _say_embedded(report, as_json=as_json)


def _ingest(
    pending: Sequence[PendingSlide],
    *,
    store: Path,
    replace: bool,
    no_embed: bool,
    as_json: bool,
    patient: str | None,  # noqa: ARG001  already in the readers' arguments
    mpp: float | None,  # noqa: ARG001  the same
    **how: Any,  # noqa: ANN401  see embedding_options
) -> None:
    from dataclasses import asdict

    from spahgc.ingest.slides import ingest_slides

    names, failed, reports = [], [], []
    for done in ingest_slides(pending, store=store, replace_existing=replace):
        if done.slide is None:
            failed.append(done)
            continue
        names.append(done.name)
        findings = [asdict(finding) for finding in done.slide.findings]
        reports.append({"slide": done.name, "outcome": done.outcome, "findings": findings})
        if not as_json:
            _say_slide(done.slide, done.outcome)
    embedded = None if no_embed or not names else _embed(store, names, **how)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "slides": reports,
                    "embedding": embedded and asdict(embedded),
                    "failed": {done.name: str(done.error) for done in failed},
                },
                indent=1,
            )
        )
    elif embedded is not None:
        _say_embedded(embedded, as_json=False)
    if failed:
        raise click.ClickException(_say_failed(failed, n_pending=len(pending)))


def _say_failed(failed: Sequence[IngestedSlide], *, n_pending: int) -> str:
    """Say it in one line where one slide was asked for, else in one line a slide and a last one."""
    lines = [" ".join(str(done.error).split()) for done in failed]
    if n_pending == 1:
        return lines[0]
    for done, line in zip(failed, lines, strict=True):
        click.echo(f"{done.name}: {line}", err=True)
    names = ", ".join(done.name for done in failed)
    return f"{len(failed)} of {n_pending} slides not ingested: {names}"


def _say_slide(slide: Slide, outcome: str) -> None:
    genes = f"{len(slide.genes)} genes" if len(slide.genes) else "no expression"
    total = f", {int(slide.counts.sum())} counts" if len(slide.genes) else ""
    scale = f"{slide.microns_per_pixel:.4g} µm/px" if slide.microns_per_pixel else "scale unknown"
    click.echo(
        f"{slide.name}: {outcome}, {len(slide.spots)} spots, {genes}{total}, {scale}, "
        f"patient {slide.patient or 'unknown'}"
    )
    for finding in slide.findings:
        click.echo(f"  {finding.kind}: {finding.text}")


def _embed(
    store: Path,
    slides: Iterable[str] | None,
    *,
    encoder: str,
    weights: Path | None,
    patch_um: float,
    device: str,
    workers: int,
    scheduler: str | None,
) -> EmbeddingReport:
    from spahgc.ingest.embedding import EmbeddingConfig, embed_slides
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    names = list(cohort.slides) if slides is None else list(slides)
    config = EmbeddingConfig(encoder=encoder, weights=weights, side_um=patch_um, device=device)
    n_spots = sum(cohort[name].n_spots for name in names if cohort[name].entry.image)
    with progress_bar(f"embedding with {encoder}", n_spots, unit="spots") as advance:
        return embed_slides(
            store,
            config=config,
            slides=names,
            workers=workers,
            scheduler=scheduler,
            advance=advance,
        )


def _say_embedded(report: EmbeddingReport, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps(asdict(report), indent=1))
        return
    for slide, n_spots in report.embedded.items():
        padded = report.padded.get(slide)
        note = f", {padded} of them reach over the image's border" if padded else ""
        click.echo(f"{slide}: {n_spots} spots embedded as {report.embedding}{note}")
    for slide in report.kept:
        click.echo(f"{slide}: already embedded as {report.embedding}")
    for slide, reason in report.left_out.items():
        click.echo(f"{slide}: not embedded, {reason}")
