"""Commands that hand slides on: ``store copy | pack | unpack | merge | diff``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import (
    FOLDER,
    json_option,
    keep_paths_option,
    progress_bar,
    say_paths,
)
from spahgc.store.words import spell_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from spahgc.store.copying import CopyReport

_digest_option = click.option(
    "--digest", help="sha256:… that the source must have; see `spahgc store info`."
)


@click.command("copy")
@click.argument("source")
@click.argument("target")
@click.option("--slides", help="Names, with commas; all by default.")
@click.option("--encoders", help="Names of embeddings, with commas; all by default.")
@_digest_option
@keep_paths_option
@json_option
def store_copy(
    source: str,
    target: str,
    *,
    slides: str | None,
    encoders: str | None,
    digest: str | None,
    keep_paths: bool,
    as_json: bool,
) -> None:
    """Push or pull: bring the slides of the store SOURCE into the store TARGET.

    Each is a folder or s3://bucket/name; SOURCE may also be https://… or a .zip. Only what is
    missing is transferred, a copy that was stopped goes on, and a slide is there once every file
    of it arrived with the right digest.
    """
    _copy(
        source,
        target,
        slides=slides,
        encoders=encoders,
        digest=digest,
        keep_paths=keep_paths,
        as_json=as_json,
    )


@click.command("unpack")
@click.argument("archive")
@click.argument("target", required=False)
@_digest_option
@keep_paths_option
@json_option
def store_unpack(
    archive: str, target: str | None, *, digest: str | None, keep_paths: bool, as_json: bool
) -> None:
    """Bring the slides of a packed store into TARGET, by default a folder of its name here."""
    name = target or Path(archive).name.removesuffix(".zip")
    _copy(
        archive,
        name,
        slides=None,
        encoders=None,
        digest=digest,
        keep_paths=keep_paths,
        as_json=as_json,
    )


@click.command("merge")
@click.argument("sources", nargs=-1, required=True)
@click.option("--into", required=True, help="Folder or s3://bucket/name to fill.")
@keep_paths_option
@json_option
def store_merge(sources: tuple[str, ...], *, into: str, keep_paths: bool, as_json: bool) -> None:
    """Bring the slides of several stores into one; nothing is brought where names clash."""
    from spahgc.store.copying import merge_stores, open_source

    opened = [open_source(source) for source in sources]
    total = sum(entry.n_bytes for cohort in opened for entry in cohort.commit.slides.values())
    with _bytes_bar(f"merging into {into}", total) as advance:
        reports = merge_stores(opened, into, keep_paths=keep_paths, advance=advance)
    _say_copied(sources, reports, into, keep_paths=keep_paths, as_json=as_json)


@click.command("pack")
@click.argument("source")
@click.argument("archive", type=FOLDER)
@keep_paths_option
@json_option
def store_pack(source: str, archive: Path, *, keep_paths: bool, as_json: bool) -> None:
    """Write the store SOURCE into one ARCHIVE, a .zip that is read without being unpacked."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.copying import open_source
    from spahgc.store.packing import pack_store

    cohort = open_source(source)
    entries = cohort.commit.slides
    total = sum(entry.n_bytes for entry in entries.values())
    with _bytes_bar(f"packing {source}", total) as advance:
        n_bytes = pack_store(cohort, archive, keep_paths=keep_paths, advance=advance)
    digest = f"sha256:{open_cohort(archive).commit.digest()}"
    licences = {n: note for entry in entries.values() for n, note in entry.licences.items()}
    if as_json:
        click.echo(json.dumps({"archive": str(archive), "n_bytes": n_bytes, "digest": digest}))
    else:
        click.echo(f"{archive}: {len(entries)} slides, {n_bytes / 1e6:.1f} MB, {digest}")
        say_paths(kept=keep_paths)
    warn_of_licences(licences)


@click.command("diff")
@click.argument("first")
@click.argument("second")
@json_option
def store_diff(first: str, second: str, *, as_json: bool) -> None:
    """Say what two stores do not have in common; the exit code is 1 where there is anything."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.editing import compare_commits

    found = compare_commits(open_cohort(first).commit, open_cohort(second).commit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
    else:
        for where, names in ((first, found.only_first), (second, found.only_second)):
            for name in names:
                click.echo(f"only in {where}: {name}")
        for name, what in found.changed.items():
            click.echo(f"{name}: {', '.join(what)} differ")
        for name in found.indexes:
            click.echo(f"index {name} differs")
    raise click.exceptions.Exit(0 if found.is_none else 1)


def warn_of_licences(licences: Mapping[str, str]) -> None:
    """Say on standard error what binds the use of embeddings that are handed on."""
    for name, note in sorted(licences.items()):
        click.echo(f"note: the embeddings {name} are bound: {spell_plain(note)}", err=True)


def _copy(
    source: str,
    target: str,
    *,
    slides: str | None,
    encoders: str | None,
    digest: str | None,
    keep_paths: bool,
    as_json: bool,
) -> None:
    from spahgc.store.copying import copy_store, open_source

    cohort = open_source(source, digest=digest)
    names = None if slides is None else slides.split(",")
    wanted = list(cohort.commit.slides) if names is None else names
    total = sum(cohort[name].entry.n_bytes for name in wanted)
    with _bytes_bar(f"copying to {target}", total) as advance:
        report = copy_store(
            cohort,
            target,
            slides=names,
            encoders=None if encoders is None else encoders.split(","),
            keep_paths=keep_paths,
            advance=advance,
        )
    _say_copied([source], [report], target, keep_paths=keep_paths, as_json=as_json)


def _say_copied(
    sources: Sequence[str],
    reports: Sequence[CopyReport],
    target: str,
    *,
    keep_paths: bool,
    as_json: bool,
) -> None:
    if as_json:
        documents = {s: asdict(report) for s, report in zip(sources, reports, strict=True)}
        click.echo(json.dumps({"target": target, "sources": documents}, indent=1))
    else:
        for report in reports:
            for name, outcome in report.outcomes.items():
                click.echo(f"{name}: {outcome}")
            for name in report.indexes:
                click.echo(f"index {name}: copied")
            click.echo(f"{target}: {report.n_bytes / 1e6:.1f} MB brought")
        if any(report.n_bytes for report in reports):
            say_paths(kept=keep_paths)
    warn_of_licences({n: note for report in reports for n, note in report.licences.items()})


@contextmanager
def _bytes_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(what, total, unit="bytes") as advance:
        yield advance
