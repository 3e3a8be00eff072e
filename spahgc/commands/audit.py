"""The command that works out again what a run was made of: ``audit``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import FOLDER, json_option, spinner
from spahgc.store.words import spell_plain

if TYPE_CHECKING:
    from pathlib import Path

    from spahgc.store.cohort import Cohort
    from spahgc.store.runs import Run


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
    """Work out again what a RUN, or every run of an evaluation, was made of; name what leaked.

    Genes, scaling, programmes, kernel ridge, penalty and reliability are fitted again on the
    training slides, and test slides are predicted again. Graph networks are not trained again,
    and baselines not at all: that is said as "not checked". Ends with an error where anything
    leaks.
    """
    from spahgc.model.audit import Finding, audit_run
    from spahgc.store.runs import find_runs, read_run

    found = {}
    runs = {path: read_run(path) for path in find_runs(run)}  # before the first is audited
    for path, read in runs.items():
        with spinner(f"auditing {path}"):
            found[str(path)] = audit_run(read, _open_cohort(path, read, store))
    if (run / "scores.parquet").is_file() and run not in runs:
        text = "no baseline was fitted again, and the tables of the evaluation were not looked at"
        found[str(run)] = [Finding(check="baselines", verdict="not checked", text=text)]
    if as_json:
        report = {name: [asdict(finding) for finding in all_] for name, all_ in found.items()}
        click.echo(json.dumps(report, indent=1))
    else:
        for name, findings in found.items():
            click.echo(spell_plain(name))
            for finding in findings:
                text = spell_plain(finding.text)
                click.echo(f"  {finding.verdict:<12}{finding.check:<11}{text}")
    leaking = [name for name, all_ in found.items() if any(f.verdict == "leak" for f in all_)]
    if leaking:
        raise click.ClickException(
            f"{len(leaking)} of {len(runs)} runs leak: {spell_plain(', '.join(leaking))}"
        )


def _open_cohort(path: Path, run: Run, store: str | None) -> Cohort:
    from spahgc.errors import StoreError
    from spahgc.store.cohort import open_cohort

    if store:
        return open_cohort(store)
    try:
        return open_cohort(run.record.store)
    except StoreError as error:
        raise StoreError(
            f"{path} was trained on {run.record.store}, which cannot be opened here; name that "
            f"store with `--store` ({error})"
        ) from error
