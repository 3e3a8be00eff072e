"""Commands about look-alike spots: ``index build | info | search | recall | remove``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import (
    FiniteRange,
    Picture,
    PlainErrors,
    console,
    spinner,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spahgc.index import IndexRecord
    from spahgc.store.cohort import Cohort


def _embedding_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--encoder",
        "--embedding",
        "embedding",
        help="Name of the embedding; every one of the store where none is named.",
    )(command)


def _name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--name", help="Of the index; by default the embedding's name.")(command)


@click.group(cls=PlainErrors)
def index() -> None:
    """Find look-alike spots across slides."""


@index.command("build")
@store_option
@_embedding_option
@_name_option
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l2", "l1"]),
    default="cosine",
    show_default=True,
    help="What near means.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "ivf", "ivfpq"]),
    default="auto",
    show_default=True,
    help="flat is exact; ivf and ivfpq find most neighbours of very many spots sooner.",
)
@click.option(
    "--min-recall",
    type=FiniteRange(0, 1),
    default=0.95,
    show_default=True,
    help="Share of the true 10 neighbours that an approximate kind must find.",
)
@click.option("--retrain", is_flag=True, help="Learn an approximate kind anew, not add to it.")
@click.option("--slide", "slides", multiple=True, help="Index only this slide; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def index_build(
    store: str,
    embedding: str | None,
    name: str | None,
    *,
    slides: tuple[str, ...],
    as_json: bool,
    **how: Any,  # noqa: ANN401
) -> None:
    """Index every embedded slide of the store, so that spots find their look-alikes."""
    from spahgc.index import ReferenceIndex
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    records = {}
    for wanted in [embedding] if embedding else _embeddings(cohort, name):
        with spinner(f"indexing {name or wanted}"):
            built = ReferenceIndex.build(
                cohort, embedding=wanted, name=name or wanted, slides=slides or None, **how
            )
        records[name or wanted] = asdict(built.record)
        if not as_json:
            _say_index(cohort, name or wanted, built.record)
    if as_json:
        click.echo(json.dumps(records, indent=1))


@index.command("info")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def index_info(store: str, *, as_json: bool) -> None:
    """List the indexes of the store: what they cover, and whether they are still fresh."""
    from spahgc.index import read_record, stale_slides
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    records = {name: read_record(cohort, name) for name in sorted(cohort.commit.indexes)}
    stale = {name: stale_slides(cohort, record) for name, record in records.items()}
    if as_json:
        report = {name: {**asdict(r), "stale": stale[name]} for name, r in records.items()}
        click.echo(json.dumps(report, indent=1))
        return
    if not records:
        click.echo(f"{store} has no index; `spahgc index build --store {store}` makes one")
    for name, record in records.items():
        _say_index(cohort, name, record)
        for slide, reason in stale[name].items():
            click.echo(f"  stale: slide {slide} {reason}; `spahgc index build` mends it")


@index.command("search")
@store_option
@_embedding_option
@_name_option
@click.option("--slide", required=True, help="The slide that is asked about; it never answers.")
@click.option("--spot", required=True, help="Barcode or spot id on that slide, as 10x13.")
@click.option("-k", type=click.IntRange(min=1), default=9, show_default=True, help="How many.")
@click.option("--only-slide", multiple=True, help="Only this slide may answer; may be repeated.")
@click.option("--exclude-slide", multiple=True, help="Not this slide; may be repeated.")
@click.option("--exclude-patient", multiple=True, help="Not this patient; may be repeated.")
@click.option("--other-patients", is_flag=True, help="Not the slide's own patient.")
@click.option(
    "--out", type=Picture(), help="Picture to write; by default neighbours-SLIDE-SPOT.png."
)
@click.option("--no-picture", is_flag=True, help="Print the table alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the table for machines, no picture.")
def index_search(
    store: str,
    embedding: str | None,
    name: str | None,
    slide: str,
    spot: str,
    *,
    out: Path | None,
    no_picture: bool,
    as_json: bool,
    **rules: Any,  # noqa: ANN401
) -> None:
    """Show the spots of other slides that look most like one spot."""
    from pathlib import Path

    from spahgc.commands.neighbours import draw_found, find_spot
    from spahgc.index import ReferenceIndex
    from spahgc.report.neighbours import print_neighbours
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    opened = ReferenceIndex.open(
        cohort, name=name or embedding or _only(cohort), embedding=embedding
    )
    found, rule = find_spot(cohort, opened, slide=slide, spot=spot, **rules)
    if as_json:
        click.echo(json.dumps([neighbour._asdict() for neighbour in found], indent=1))
        return
    title = f"spots that look like {slide} {spot} ({rule})"
    print_neighbours(found, console=console(), title=title, metric=opened.record.metric)
    if not no_picture:
        path = out or Path(f"neighbours-{slide}-{spot}.png".replace(os.sep, "-"))
        draw_found(cohort, opened.record.embedding, (slide, spot), found, path=path, title=title)


@index.command("recall")
@store_option
@_embedding_option
@_name_option
@click.option(
    "--queries", type=click.IntRange(min=1), default=400, show_default=True, help="Spots."
)
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def index_recall(
    store: str, embedding: str | None, name: str | None, queries: int, *, as_json: bool
) -> None:
    """Measure again how many of the true 10 neighbours an index finds, and how fast."""
    from spahgc.index import ReferenceIndex
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    name = name or embedding or _only(cohort)
    opened = ReferenceIndex.open(cohort, name=name, embedding=embedding)
    with spinner(f"searching {name} and everything"):
        measured = opened.measure_recall(n_queries=queries)
    if as_json:
        click.echo(json.dumps(measured._asdict(), indent=1))
        return
    click.echo(
        f"index {name}: recall@{measured.k} {measured.recall:.4f} over {measured.n_queries} spots, "
        f"{1000 * measured.seconds / measured.n_queries:.2f} ms each ({opened.record.kind})"
    )


@index.command("remove")
@store_option
@_embedding_option
@_name_option
@click.option("--slide", "slides", multiple=True, help="Take only this slide out of the index.")
def index_remove(
    store: str, embedding: str | None, name: str | None, slides: tuple[str, ...]
) -> None:
    """Forget an index, or take slides out of it; slides and embeddings stay."""
    from spahgc.index import remove_index, remove_slides
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    name = name or embedding or _only(cohort)
    if slides:
        record = remove_slides(cohort, name, slides)
        _say_index(cohort, name, record)
        return
    remove_index(cohort, name)
    click.echo(f"index {name}: removed from {store}")


def _say_index(cohort: Cohort, name: str, record: IndexRecord) -> None:
    n_spots = sum(cohort[s].n_spots for s in record.slides if s in cohort.slides)
    over = "" if name == record.embedding else f" over {record.embedding}"
    slides = "1 slide" if len(record.slides) == 1 else f"{len(record.slides)} slides"
    click.echo(
        f"index {name}{over}: {n_spots} spots of {slides} "
        f"({', '.join(record.slides)}), {record.kind}, {record.metric}"
    )
    if record.recall:
        click.echo(
            f"  recall@{record.recall['k']:g} {record.recall['recall']:.3f} against exact search, "
            f"{record.recall['n_queries']:g} queries; "
            + ", ".join(f"{key} {value}" for key, value in record.settings.items())
        )


def _embeddings(cohort: Cohort, index: str | None) -> list[str]:
    """Name every embedding of the store, of which one index can be over one alone."""
    from spahgc.errors import MissingError

    names = {name for entry in cohort.commit.slides.values() for name in entry.encoders}
    if not names:
        raise MissingError(
            f"no slide in {cohort.where} has an embedding; "
            f"run `spahgc embed --store {cohort.where}`"
        )
    if index is not None and len(names) > 1:
        raise MissingError(
            f"{cohort.where} has embeddings {', '.join(sorted(names))}; say with `--encoder` "
            f"which one the index {index!r} is to be over"
        )
    return sorted(names)


def _only(cohort: Cohort) -> str:
    """Name the index that is meant where none is named: a spot's own field, or the only one."""
    from spahgc.errors import MissingError
    from spahgc.store.embedding_names import PREFERRED

    names = sorted(cohort.commit.indexes)
    if not names:
        raise MissingError(
            f"{cohort.where} has no index; run `spahgc index build --store {cohort.where}`"
        )
    return next((name for name in PREFERRED if name in names), names[0])
