"""The command that proves that nothing leaked into a run: ``audit``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import FOLDER, json_option, spinner

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--store",
    envvar="SPAHGC_STORE",
    show_envvar=True,
    help="The store it was trained on, where that is no longer where the run says.",
)
@json_option
def audit(run: Path, store: str | None, *, as_json: bool) -> None:
    """Work out again what a RUN, or every run of an evaluation, was made of; name every leak.

    Panel, statistics, references, scores, checkpoint, copies of images and patients are derived
    from the weights and the store, not believed. Ends with an error where anything leaks.
    """
    from spahgc.errors import MissingError
    from spahgc.model.audit import audit_run
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import find_runs, read_run

    found = {}
    for path in find_runs(run):
        read = read_run(path)
        with spinner(f"auditing {path}"):
            found[str(path)] = audit_run(read, open_cohort(store or read.record.store))
    if not found:
        raise MissingError(f"{run} has no run in it; `spahgc train` makes one")
    if as_json:
        report = {name: [asdict(finding) for finding in all_] for name, all_ in found.items()}
        click.echo(json.dumps(report, indent=1))
    else:
        for name, findings in found.items():
            click.echo(name)
            for finding in findings:
                click.echo(f"  {finding.verdict:<7}{finding.check:<11}{finding.text}")
    leaking = [name for name, all_ in found.items() if any(f.verdict == "leak" for f in all_)]
    if leaking:
        raise click.ClickException(
            f"{len(leaking)} of {len(found)} runs leak: {', '.join(leaking)}"
        )
