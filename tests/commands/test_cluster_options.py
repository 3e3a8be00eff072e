"""`--workers` and `--scheduler`, wherever a command takes them: one at most."""

import click
import pytest

from spahgc.cli import cli
from tests.commands.conftest import spahgc


def commands_of(group, *path):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, *path, name)
        elif any(param.name == "scheduler" for param in command.params):
            yield (*path, name), command


SHARED = dict(commands_of(cli))


@pytest.mark.parametrize("name", SHARED, ids=" ".join)
@pytest.mark.parametrize("n_workers", [0, 2])
def test_workers_and_a_scheduler_at_once_are_refused(name, n_workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = ["x" for param in SHARED[name].params if param.required]
    told = spahgc(*name, *needed, "--workers", n_workers, "--scheduler", "tcp://x", exit_code=2)
    assert told.stderr.splitlines()[0].startswith(f"Usage: spahgc {' '.join(name)} ")
    assert "--workers starts processes on this machine, --scheduler takes" in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_both_are_known_to_embed_ingest_and_evaluate():
    assert {name[0] for name in SHARED} >= {"embed", "ingest", "evaluate"}
