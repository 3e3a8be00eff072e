"""The command that lists patch encoders: ``encoders``."""

from __future__ import annotations

import json

import click

from spahgc.commands.screen import console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def encoders(*, as_json: bool) -> None:
    """List the patch encoders, and which can be used here now; nothing is downloaded."""
    from dataclasses import asdict

    from spahgc.ingest.networks.survey import survey_encoders
    from spahgc.report.encoders import print_encoders

    rows = survey_encoders()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print_encoders(rows, console=console())
