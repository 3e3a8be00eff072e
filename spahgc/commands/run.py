"""Commands that look at trained runs and hand them on: ``run ls | show | export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from spahgc.commands.screen import (
    FOLDER,
    PlainErrors,
    console,
    json_option,
    keep_paths_option,
    say_paths,
)
from spahgc.store.words import spell_plain


@click.group("run", cls=PlainErrors)
def run_group() -> None:
    """Look at trained runs and hand them on."""


@run_group.command("ls")
@click.argument("folder", type=FOLDER, default=Path("runs"))
@json_option
def run_ls(folder: Path, *, as_json: bool) -> None:
    """List the runs in FOLDER (runs/ where none is named), those of evaluations too."""
    from dataclasses import asdict

    from spahgc.errors import StoreError
    from spahgc.report.runs import print_runs
    from spahgc.store.run_record import read_record
    from spahgc.store.runs import find_runs

    records, problems = {}, []
    for path in find_runs(folder):
        try:
            records[path] = read_record(path)
        except StoreError as error:  # the others can still be listed
            problems.append(spell_plain(str(error)))
    if as_json:
        told = {str(path): {**asdict(r), "method": r.method} for path, r in records.items()}
        click.echo(json.dumps(told, indent=1))
    elif records:
        print_runs(records, console=console())
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.ClickException(
            f"{len(problems)} of {len(records) + len(problems)} runs cannot be read"
        )


@run_group.command("show")
@click.argument("run", type=FOLDER)
@json_option
def run_show(run: Path, *, as_json: bool) -> None:
    """Say what a RUN was trained on, how well it did and how far to believe it."""
    from spahgc.report.runs import describe_run, print_run
    from spahgc.store.runs import read_run

    trained = read_run(run)
    if as_json:
        click.echo(json.dumps(describe_run(trained), indent=1))
    else:
        print_run(trained, console=console(), title=str(run))


@run_group.command("export")
@click.argument("run", type=FOLDER)
@click.argument("out", type=FOLDER)
@keep_paths_option
def run_export(run: Path, out: Path, *, keep_paths: bool) -> None:
    """Copy what others need to use a RUN into a new folder OUT: safetensors, JSON, a curve."""
    from spahgc.errors import StoreError
    from spahgc.store.run_folders import unfinished_folder
    from spahgc.store.runs import export_run

    if run.resolve() in out.resolve().parents:
        raise StoreError(f"{out} is inside the run {run}; name another place")
    with unfinished_folder(out, plan={}) as unfinished:
        files = export_run(run, unfinished, keep_paths=keep_paths)
    for file in files:
        click.echo(spell_plain(str(out / file.name)))
    say_paths(kept=keep_paths)
