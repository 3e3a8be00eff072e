"""The command that hands slides to other programs: ``store export``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import (
    FOLDER,
    json_option,
    keep_paths_option,
    say_paths,
    spinner,
    store_option,
)

if TYPE_CHECKING:
    from pathlib import Path

    from spahgc.store.export import ExportFormat


@click.command("export")
@click.argument("slides", metavar="[SLIDE]...", nargs=-1)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--to",
    type=click.Choice(["h5ad", "spatialdata"]),
    required=True,
    help="One AnnData file a slide, or one SpatialData container a slide.",
)
@click.option("--all", "is_all", is_flag=True, help="Export every slide of the store.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export wrote.")
@keep_paths_option
@store_option
@json_option
def store_export(
    slides: tuple[str, ...],
    folder: Path,
    store: str,
    to: ExportFormat,
    *,
    is_all: bool,
    overwrite: bool,
    keep_paths: bool,
    as_json: bool,
) -> None:
    """Write each SLIDE with its embeddings to DIR, for scanpy, squidpy or SpatialData."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.export import export_slide, find_place

    if is_all == bool(slides):
        raise click.UsageError("name the slides to export, or give `--all`")
    cohort = open_cohort(store)
    chosen = [cohort[name] for name in (cohort.slides if is_all else slides)]
    for slide in chosen:
        find_place(slide, folder, to=to, overwrite=overwrite)
    written = {}
    for slide in chosen:
        with spinner(f"exporting {slide.name}"):
            written[slide.name] = export_slide(
                slide, folder, to=to, overwrite=overwrite, keep_paths=keep_paths
            )
        if not as_json:
            click.echo(f"{slide.name}: {written[slide.name]}")
    if as_json:
        click.echo(json.dumps({name: str(place) for name, place in written.items()}, indent=1))
    else:
        say_paths(kept=keep_paths)
