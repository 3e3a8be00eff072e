import json

from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.ingest.networks.catalogue import CATALOGUE


def test_the_table_names_every_encoder_on_one_line_each():
    result = CliRunner().invoke(cli, ["encoders"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for name, known in CATALOGUE.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert f" {known.size} " in line
        assert known.licence in line
        assert known.url.split("/", 3)[-1] in line.replace("hf:", "") or name == "lite0"


def test_the_report_for_machines_says_what_each_needs():
    result = CliRunner().invoke(cli, ["encoders", "--json"])
    rows = {row["name"]: row for row in json.loads(result.output)}
    assert rows["virchow2"]["size"] == 2560
    assert rows["virchow2"]["is_gated"]
    assert rows["lite0"]["is_usable"]
    assert all(row["is_usable"] or row["cure"] for row in rows.values())
