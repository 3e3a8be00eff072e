"""Commands about look-alike spots: ``index build``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import PlainErrors, spinner, store_option

if TYPE_CHECKING:
    from pathlib import Path


@click.group(cls=PlainErrors)
def index() -> None:
    """Find look-alike spots across slides."""


@index.command("build")
@store_option
@click.option("--embedding", default="lite0", show_default=True, help="Name of the embedding.")
def index_build(store: Path, embedding: str) -> None:
    """Index every embedded slide of the store (FAISS, exact, cosine)."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.index import build_index

    cohort = open_cohort(store)
    with spinner(f"indexing {embedding}"):
        record = build_index(cohort, embedding=embedding).record
    n_spots = sum(cohort[name].n_spots for name in record.slides)
    click.echo(
        f"index {embedding}: {n_spots} spots of {len(record.slides)} slides "
        f"({', '.join(record.slides)}), {record.kind}, {record.metric}"
    )
