"""Commands that look at a store and take care of it: ``store ls | show | verify | gc``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import PlainErrors, console, spinner, store_option

if TYPE_CHECKING:
    from pathlib import Path


@click.group("store", cls=PlainErrors)
def store_group() -> None:
    """Look at a store and take care of it."""


@store_group.command("ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def store_ls(store: Path, *, as_json: bool) -> None:
    """List the slides of the store."""
    from dataclasses import asdict

    from spahgc.report.listing import print_slides
    from spahgc.store.cohort import open_cohort

    commit = open_cohort(store).commit
    if as_json:
        click.echo(json.dumps({n: asdict(e) for n, e in sorted(commit.slides.items())}, indent=1))
    else:
        print_slides(commit.slides, console=console(), title=f"{store} at commit {commit.number}")


@store_group.command("show")
@click.argument("slide")
@store_option
def store_show(slide: str, store: Path) -> None:
    """Print everything recorded about one SLIDE, as JSON."""
    from spahgc.store.cohort import open_cohort

    stored = open_cohort(store)[slide]
    fingerprints = {name: stored.embedding_record(name) for name in stored.entry.encoders}
    click.echo(json.dumps({**stored.record, "embeddings": fingerprints}, indent=1))


@store_group.command("verify")
@store_option
@click.option("--deep", is_flag=True, help="Read every byte and compare digests.")
def store_verify(store: Path, *, deep: bool) -> None:
    """Compare the store's files with what was committed."""
    from spahgc.store.care import verify_store

    with spinner(f"verifying {store}"):
        problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(f"{problem.owner}: {problem.text}")
    if problems:
        raise click.ClickException(f"{store}: {len(problems)} problem(s)")
    click.echo(f"{store}: every committed file is {'intact' if deep else 'there, of its size'}")


@store_group.command("gc")
@store_option
@click.option(
    "--older-than-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Spare what is younger: somebody may still write or read it.",
)
def store_gc(store: Path, older_than_hours: float) -> None:
    """Remove what killed writers left and what was replaced."""
    from datetime import timedelta

    from spahgc.store.care import collect_garbage

    done = collect_garbage(store, older_than=timedelta(hours=older_than_hours))
    for key in done:
        click.echo(key)
    click.echo(f"{store}: {len(done)} leftover(s) removed or mended")
