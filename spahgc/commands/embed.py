"""The command that embeds patches, and the options it shares with ``ingest``: ``embed``."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import (
    FOLDER,
    POSITIVE,
    Picture,
    cluster_options,
    progress_bar,
    store_option,
    with_options,
)
from spahgc.commands.verifying import verify_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from spahgc.ingest.embedding import EmbeddingReport
    from spahgc.ingest.fields import EmbeddingConfig


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides how patches are embedded, and where."""
    return with_options(
        cluster_options(alone="embeds")(command),
        click.option(
            "--encoder",
            default="lite0",
            show_default=True,
            help="Patch encoder; `spahgc encoders` lists them.",
        ),
        click.option("--weights", type=FOLDER, help="Weights file to take for the encoder."),
        click.option(
            "--patch-um",
            type=POSITIVE,
            multiple=True,
            help="Width of a patch on the tissue, in µm; again for further fields of view, one "
            "embedding each. By default 77, 154, 308 and 616.",
        ),
        click.option(
            "--patch-px",
            type=click.IntRange(min=16),
            help="Width of a patch as the network sees it, where that can be chosen.",
        ),
        click.option(
            "--views",
            type=click.Choice(["1", "4", "8"]),
            default="1",
            show_default=True,
            help="Average over a patch's 4 rotations, or over these and their mirror images.",
        ),
        click.option(
            "--stain",
            type=click.Choice(["macenko"]),
            help="Bring each slide's stains to those of a reference first.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
            help="Of the forward pass; the shorter ones are for GPUs.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda, cuda:N or mps.",
        ),
    )


@click.command()
@click.argument("slides", nargs=-1)
@store_option
@embedding_options
@click.option(
    "--verify", is_flag=True, help="Embed a sample of the spots again, compare, write nothing."
)
@click.option("--recompute", is_flag=True, help="Embed again also what is embedded already.")
@click.option("--name", "called", help="What to call the embeddings, not after their encoder.")
@click.option(
    "--save-patches",
    type=Picture(),
    help="Picture of some patches, those that leave the image first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def embed(
    store: str,
    slides: tuple[str, ...],
    *,
    verify: bool,
    recompute: bool,
    save_patches: Path | None,
    as_json: bool,
    **how: Any,  # noqa: ANN401
) -> None:
    """Embed the patches of SLIDES (by default all) that lack this encoder's embedding."""
    if verify and recompute:
        raise click.UsageError("--verify writes nothing, --recompute does: choose one")
    if verify:
        del how["workers"], how["scheduler"]  # so few spots are embedded here
        verify_stored(store, slides or None, config=_config(**how), as_json=as_json)
        return
    report = embed_stored(store, slides or None, recompute=recompute, **how)
    if save_patches is not None:
        del how["workers"], how["scheduler"]
        _draw_patches(save_patches, store, [*report.embedded, *report.kept], _config(**how))
    say_embedded(report, as_json=as_json)


def embed_stored(
    store: str,
    slides: Iterable[str] | None,
    *,
    workers: int,
    scheduler: str | None,
    recompute: bool = False,
    **how: Any,  # noqa: ANN401  see embedding_options
) -> EmbeddingReport:
    """Embed slides of a store, with a bar."""
    from spahgc.clusters import Cluster
    from spahgc.ingest.embedding import embed_slides
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    names = list(cohort.slides) if slides is None else list(slides)
    config = _config(**how)
    is_shared = workers > 0 or scheduler is not None
    n_spots = sum(cohort[name].n_spots for name in names if cohort[name].entry.image)
    with progress_bar(f"embedding with {config.encoder}", n_spots, unit="spots") as advance:
        return embed_slides(
            store,
            config=config,
            slides=names,
            cluster=Cluster(workers=workers, scheduler=scheduler) if is_shared else None,
            recompute=recompute,
            advance=advance,
            tell=partial(click.echo, err=True),
        )


def _draw_patches(path: Path, store: str, slides: list[str], config: EmbeddingConfig) -> None:
    from spahgc.ingest.contact import show_patches
    from spahgc.report.patches import plot_patches
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    shown = [patch for name in slides for patch in show_patches(cohort[name], config)]
    if not shown:
        click.echo("no slide has patches to draw", err=True)
        return
    cells = [
        (
            f"{patch.slide} {patch.spot}\n{patch.side_um:g} µm"
            + (f", {patch.padded_share:.0%} outside" if patch.padded_share else ""),
            patch.pixels_HW3,
        )
        for patch in shown
    ]
    title = f"patches as {config.encoder} sees them; + is the spot's centre"
    plot_patches(path, cells, title=title, columns=len(config.fields))
    click.echo(f"drawn in {path}", err=True)


def _config(
    *,
    encoder: str,
    weights: Path | None,
    patch_um: tuple[float, ...],
    patch_px: int | None,
    views: Any,  # noqa: ANN401  one of the choices above
    stain: Any,  # noqa: ANN401  the same
    precision: Any,  # noqa: ANN401  the same
    device: str,
    called: str | None = None,
) -> EmbeddingConfig:
    from spahgc.ingest.fields import DEFAULT_FIELDS, EmbeddingConfig, Field

    widths = patch_um or tuple(field.side_um for field in DEFAULT_FIELDS)
    fields = [Field(side_um=width, side_px=patch_px, views=int(views)) for width in widths]
    return EmbeddingConfig(
        encoder=encoder,
        weights=weights,
        fields=tuple(dict.fromkeys(fields)),
        stain=stain,
        name=called,
        precision=precision,
        device=device,
    )


def say_embedded(report: EmbeddingReport, *, as_json: bool) -> None:
    """Say what was embedded, kept and left out."""
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps(asdict(report), indent=1))
        return
    names = ", ".join(report.embeddings)
    for slide, n_spots in report.embedded.items():
        reader = report.readers[slide]
        click.echo(f"{slide}: {n_spots} spots embedded as {names}; image read by {reader}")
        for embedding, n_padded in report.padded.get(slide, {}).items():
            click.echo(f"  {embedding}: {n_padded} patches reach over the image's border")
        for embedding, n_flat in report.flat.get(slide, {}).items():
            click.echo(f"  {embedding}: {n_flat} patches are all of one colour")
    for slide in report.kept:
        click.echo(f"{slide}: already embedded as {names}")
    for slide, reason in report.left_out.items():
        click.echo(f"{slide}: not embedded, {reason}")
