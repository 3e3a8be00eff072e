"""Commands that look at a store and take care of it: ``store init | info | ls | show | …``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from spahgc.commands.export import store_export
from spahgc.commands.screen import (
    FiniteRange,
    PlainErrors,
    console,
    json_option,
    place_option,
    spinner,
    store_option,
)
from spahgc.commands.sharing import (
    store_copy,
    store_diff,
    store_merge,
    store_pack,
    store_unpack,
)
from spahgc.store.words import spell_plain


@click.group("store", cls=PlainErrors)
def store_group() -> None:
    """Look at a store, take care of it, and share it."""


@store_group.command("init")
@place_option
@click.option(
    "--single-writer",
    is_flag=True,
    help="Promise that one process writes at a time, where the place cannot keep two apart.",
)
@json_option
def store_init(store: str, *, single_writer: bool, as_json: bool) -> None:
    """Make an empty store; `spahgc ingest` does so by itself."""
    from spahgc.store.opening import create_store

    made = create_store(store, is_single_writer=single_writer)
    made.check_writable()
    number = made.head.number
    if as_json:
        click.echo(json.dumps({"store": made.location.address, "commit": number}))
    else:
        click.echo(f"{store}: {'an empty store' if number == 0 else 'there already'}")


@store_group.command("info")
@place_option
@json_option
def store_info(store: str, *, as_json: bool) -> None:
    """Say in a few lines what the store holds, and its digest."""
    from spahgc.report.listing import print_summary
    from spahgc.store.opening import open_store
    from spahgc.store.summary import summarise

    summary = summarise(open_store(store))
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=1))
    else:
        print_summary(summary, console=console())


@store_group.command("ls")
@place_option
@json_option
def store_ls(store: str, *, as_json: bool) -> None:
    """List the slides of the store."""
    from spahgc.report.listing import print_slides
    from spahgc.store.opening import open_store

    commit = open_store(store).head
    if as_json:
        click.echo(json.dumps({n: asdict(e) for n, e in sorted(commit.slides.items())}, indent=1))
    else:
        print_slides(commit.slides, console=console(), title=f"{store} at commit {commit.number}")


@store_group.command("show")
@click.argument("slide")
@store_option
@json_option
def store_show(slide: str, store: str, *, as_json: bool) -> None:  # noqa: ARG001  JSON either way
    """Print everything recorded about one SLIDE, as JSON."""
    from spahgc.store.cohort import open_cohort

    stored = open_cohort(store)[slide]
    embeddings = {
        name: {**stored.embedding_record(name), "licence": stored.entry.licences.get(name)}
        for name in stored.entry.encoders
    }
    place = {"group": stored.entry.group, "n_bytes": stored.entry.n_bytes}
    click.echo(
        json.dumps(
            {"lattice": stored.lattice, **stored.record, **place, "embeddings": embeddings},
            indent=1,
        )
    )


@store_group.command("verify")
@place_option
@click.option("--deep", is_flag=True, help="Read every byte and compare digests.")
@json_option
def store_verify(store: str, *, deep: bool, as_json: bool) -> None:
    """Compare the store's files with what was committed."""
    from spahgc.store.care import verify_store

    with spinner(f"verifying {store}"):
        problems = verify_store(store, deep=deep)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        for problem in problems:
            click.echo(spell_plain(f"{problem.owner}: {problem.text}"))
    if problems:
        raise click.ClickException(f"{store}: {len(problems)} problem(s)")
    if not as_json:
        click.echo(f"{store}: every committed file is {'intact' if deep else 'there, of its size'}")


@store_group.command("gc")
@place_option
@click.option(
    "--older-than-hours",
    type=FiniteRange(min=0),
    default=24.0,
    show_default=True,
    help="Spare what is younger: somebody may still write or read it.",
)
@json_option
def store_gc(store: str, older_than_hours: float, *, as_json: bool) -> None:
    """Remove what killed writers left and what was replaced."""
    from datetime import timedelta

    from spahgc.store.care import collect_garbage

    done = collect_garbage(store, older_than=timedelta(hours=older_than_hours))
    if as_json:
        click.echo(json.dumps(done, indent=1))
        return
    for key in done:
        click.echo(spell_plain(key))
    click.echo(f"{store}: {len(done)} leftover(s) removed or mended")


@store_group.command("remove")
@click.argument("slides", nargs=-1, required=True)
@store_option
@json_option
def store_remove(slides: tuple[str, ...], store: str, *, as_json: bool) -> None:
    """Take SLIDES out of the store; `spahgc store gc` frees their space a day later."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.editing import remove_slide
    from spahgc.store.opening import open_store

    opened = open_store(store)
    opened.check_writable()
    cohort = open_cohort(store)
    names = [cohort[slide].name for slide in dict.fromkeys(slides)]
    for slide in names:
        commit = remove_slide(opened, slide)
        if not as_json:
            click.echo(f"{slide}: removed")
    if as_json:
        click.echo(json.dumps({"removed": names, "commit": commit.number}))


@store_group.command("set")
@click.argument("slide")
@click.argument("facts", nargs=-1, required=True, metavar="KEY=VALUE...")
@store_option
@json_option
def store_set(slide: str, facts: tuple[str, ...], store: str, *, as_json: bool) -> None:
    """Say something of a SLIDE: patient=7 tissue=breast licence=CC-BY-4.0 uni.licence='…'.

    An empty value forgets a key. The files stay as they were ingested; the commit says it.
    """
    from spahgc.store.cohort import open_cohort
    from spahgc.store.editing import set_facts
    from spahgc.store.opening import open_store

    set_facts(open_store(store), slide, _parse_facts(facts))
    entry = open_cohort(store)[slide].entry
    known: dict[str, Any] = {"patient": entry.patient, **entry.about}
    if as_json:
        click.echo(json.dumps({"slide": slide, **known, "licences": dict(entry.licences)}))
    else:
        said = ", ".join(f"{key} {fact}" for key, fact in known.items() if fact is not None)
        click.echo(spell_plain(f"{slide}: {said or 'nothing said'}"))


for _command in (store_export, store_copy, store_pack, store_unpack, store_merge, store_diff):
    store_group.add_command(_command)


def _parse_facts(facts: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for fact in facts:
        key, is_fact, value = fact.partition("=")
        if not is_fact:
            raise click.UsageError(f"{fact!r} is no KEY=VALUE")
        parsed[key] = value
    return parsed
