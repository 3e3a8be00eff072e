"""From slides about to be read to what the user sees: stored, embedded, reported."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.embed import embed_stored, embedding_options, say_embedded
from spahgc.commands.screen import (
    POSITIVE,
    json_option,
    spinner,
    store_option,
    with_options,
)
from spahgc.store.words import spell_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from spahgc.ingest.slides import IngestedSlide, PendingSlide
    from spahgc.schema import Slide


def filling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every ingest command shares."""
    return with_options(
        embedding_options(command),
        store_option,
        click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing."),
        click.option(
            "--no-embed", is_flag=True, help="Store the slides without embedding their patches."
        ),
        click.option(
            "--replace", is_flag=True, help="Put a slide in the place of one of the same name."
        ),
        click.option(
            "--qc",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for a picture of each slide's spots.",
        ),
        json_option,
    )


def about_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what the user may know better than the files."""
    return with_options(
        command,
        click.option("--patient", help="Patient the slides are of."),
        click.option(
            "--mpp",
            type=POSITIVE,
            help="µm per full-resolution pixel, where the files do not say or say it wrong.",
        ),
    )


def genes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what to do with genes of one id."""
    return click.option(
        "--duplicate-genes",
        type=click.Choice(["sum", "first", "suffix"]),
        default="sum",
        show_default=True,
        help="Genes of one id: add their counts, keep the first, or number them.",
    )(command)


def fill(
    pending: Sequence[PendingSlide],
    *,
    store: str,
    dry_run: bool,
    no_embed: bool,
    replace: bool,
    qc: Path | None,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see embedding_options
) -> None:
    """Read, store and embed slides, and say of each what was found; one bad one stops none."""
    from spahgc.ingest.slides import ingest_slides

    names, failed, reports = [], [], []
    slides = ingest_slides(pending, store=store, replace_existing=replace, dry_run=dry_run)
    for done in _shown(slides, n_pending=len(pending)):
        if done.slide is None:
            failed.append(done)
            continue
        names.append(done.name)
        reports.append(_report(done.slide, done.outcome))
        if not as_json:
            _say_slide(done.slide, f"would be {done.outcome}" if dry_run else done.outcome)
        if qc is not None:
            _draw(done.slide, qc)
    is_embedded = bool(names) and not no_embed and not dry_run
    embedded = embed_stored(store, names, **how) if is_embedded else None
    if as_json:
        errors = {done.name: str(done.error) for done in failed}
        report = {"slides": reports, "embedding": embedded and asdict(embedded), "failed": errors}
        click.echo(json.dumps(report, indent=1))
    elif embedded is not None:
        say_embedded(embedded, as_json=False)
    if failed:
        raise click.ClickException(_say_failed(failed, n_pending=len(pending)))


def _shown(slides: Iterator[IngestedSlide], *, n_pending: int) -> Iterator[IngestedSlide]:
    """Say on standard error which slide is being read, while it is."""
    for number in range(1, n_pending + 1):
        with spinner(f"reading slide {number} of {n_pending}"):
            done = next(slides)
        yield done


def _report(slide: Slide, outcome: str) -> dict[str, Any]:
    return {
        "slide": slide.name,
        "outcome": outcome,
        "platform": slide.platform,
        "patient": slide.patient,
        "n_spots": len(slide.spots),
        "n_genes": len(slide.genes),
        "counts": int(slide.counts.sum()),
        "microns_per_pixel": slide.microns_per_pixel,
        "microns_per_pixel_sources": slide.microns_per_pixel_sources,
        "image": None if slide.image is None else str(slide.image.path),
        "findings": [asdict(finding) for finding in slide.findings],
    }


def _say_slide(slide: Slide, outcome: str) -> None:
    genes = f"{len(slide.genes)} genes" if len(slide.genes) else "no expression"
    total = f", {int(slide.counts.sum())} counts" if len(slide.genes) else ""
    scale = f"{slide.microns_per_pixel:.4g} µm/px" if slide.microns_per_pixel else "scale unknown"
    click.echo(
        f"{slide.name}: {outcome}, {len(slide.spots)} spots, {genes}{total}, {scale}, "
        f"patient {spell_plain(slide.patient or 'unknown')}"
    )
    for finding in slide.findings:
        click.echo(f"  {finding.kind}: {spell_plain(finding.text)}")


def _say_failed(failed: Sequence[IngestedSlide], *, n_pending: int) -> str:
    """Say it in one line where one slide was asked for, else in one line a slide and a last one."""
    lines = [spell_plain(" ".join(str(done.error).split())) for done in failed]
    names = [spell_plain(done.name) for done in failed]
    if n_pending == 1:
        return lines[0]
    for name, line in zip(names, lines, strict=True):
        click.echo(f"{name}: {line}", err=True)
    return f"{len(failed)} of {n_pending} slides not ingested: {', '.join(names)}"


def _draw(slide: Slide, folder: Path) -> None:
    from spahgc.report.quality import plot_spots

    path = folder / f"{slide.name}.png"
    if plot_spots(path, slide):
        click.echo(f"  picture: {path}", err=True)
