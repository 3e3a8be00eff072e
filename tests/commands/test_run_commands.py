"""`spahgc run ls | show | export`: what they print and write, and what they refuse."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from spahgc.store.run_record import KERNEL_RIDGE, PAPER
from spahgc.store.runs import read_run, write_run
from spahgc.store.words import is_plain
from tests.commands.conftest import TRAIN, files, forge, spahgc, the_error

ESCAPES = "\x1b[31mred\x07\r\n"


@pytest.fixture(scope="session")
def paper_run(trained, tmp_path_factory):
    """A run of the paper's network, which keeps one of its epochs."""
    out = tmp_path_factory.mktemp("paper") / "run"
    spahgc(
        *("train", *TRAIN, "--preset", "paper", "--epochs", "2", "--test", "B2", "--out", out),
        *("--store", trained / "data.zarr"),
    )
    return out


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A folder with two runs, one of them deep inside, a hidden one and something else."""
    monkeypatch.chdir(tmp_path)
    for place in ("runs/first", "runs/evaluation/folds/1-B2/spahgc-seed0", "runs/.hidden/x"):
        shutil.copytree(trained / "run", tmp_path / place)
    (tmp_path / "runs/notes").mkdir()
    return tmp_path / "runs"


def test_ls_lists_every_run_below(runs):
    shown = spahgc("run", "ls").stdout
    assert spahgc("run", "ls", "runs").stdout == shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    (row,) = [row for row in rows if row[:1] == ["runs/first"]]
    record = read_run(runs / "first").record
    made = record.made_at[:16].replace("T", " ")
    assert row[1] == made
    assert KERNEL_RIDGE.startswith(row[2])
    assert row[3:5] == ["heg:6", "A1, A2, B1"]
    assert row[5].startswith("B2 (weaker:")
    assert row[6:] == ["tiny", f"{record.validation_pcc:.3f}"]
    assert shown.count(record.panel_digest) == shown.count("heg:6") == 2


def test_ls_reports_for_machines(runs):
    told = json.loads(spahgc("run", "ls", "--json").stdout)
    assert list(told) == ["runs/evaluation/folds/1-B2/spahgc-seed0", "runs/first"]
    assert told["runs/first"]["test"] == ["B2"]
    assert told["runs/first"]["method"] == KERNEL_RIDGE
    assert told["runs/first"]["panel_rule"] == "heg:6"


def test_ls_of_one_run_lists_it(runs):
    assert list(json.loads(spahgc("run", "ls", "runs/first", "--json").stdout)) == ["runs/first"]


def test_a_closed_pipe_ends_quietly(runs):
    out, into = os.pipe()
    os.close(out)
    command = [sys.executable, "-m", "spahgc.cli", "run", "ls", "--json"]
    told = subprocess.run(command, stdout=into, stderr=subprocess.PIPE, check=False)
    os.close(into)
    assert told.stderr == b""


def test_runs_that_cannot_be_read_do_not_hide_the_others(runs):
    for name, content in {"cut": '{"version": 2', "newer": '{"version": 9}', "list": "[]"}.items():
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(content)
    before = files(runs)
    for as_json in ([], ["--json"]):
        result = spahgc("run", "ls", *as_json, exit_code=1)
        assert "runs/first" in result.stdout
        *problems, error = result.stderr.splitlines()
        assert [problem.split(" ", 1)[0] for problem in problems] == [
            *("runs/cut", "runs/list", "runs/newer")
        ]
        assert "written by a newer spahgc; `pip install --upgrade spahgc`" in problems[2]
        assert error == "Error: 3 of 5 runs cannot be read"
    assert files(runs) == before


def test_show_tells_all_of_one_run(runs):
    shown = spahgc("run", "show", "runs/first").stdout
    run = read_run(runs / "first")
    for line in (
        f"  store      {run.record.store}, commit {run.record.commit}",
        f"  method     {KERNEL_RIDGE}",
        f"  panel      heg:6: 6 genes ({run.record.panel_digest})",
        "  train      A1, A2, B1",
        "  validation none",
        "  test       B2",
        f"  held out   mean PCC {run.record.validation_pcc:.3f}",
        f"  scored     B2: mean PCC {run.scores['pcc'].mean():.3f}",
    ):
        assert line in shown.splitlines()
    assert shown.startswith("runs/first\n")
    assert "slides of one patient (B) on both sides of the test" in shown
    assert all(f"  {gene} " in shown for gene in run.record.panel)


def test_show_tells_the_epoch_that_was_kept(paper_run):
    best = read_run(paper_run).record.best_epoch
    assert f", epoch {best} of 2 kept\n" in spahgc("run", "show", paper_run).stdout


def test_a_run_is_called_by_what_was_trained_whatever_an_older_version_called_it(paper_run, runs):
    for run, name in ((paper_run, PAPER), (runs / "first", KERNEL_RIDGE)):
        assert set(read_run(run).scores["method"]) == {name}
        assert f"  method     {name}\n" in spahgc("run", "show", run).stdout
    first = replace(read_run(runs / "first"), folder=None)
    (runs / "old").mkdir()
    write_run(replace(first, scores=first.scores.assign(method="SpaHGC")), runs / "old")
    assert set(pd.read_parquet(runs / "old/scores.parquet")["method"]) == {"SpaHGC"}
    assert set(read_run(runs / "old").scores["method"]) == {KERNEL_RIDGE}


def test_show_gives_each_genes_worst_and_best_slide_and_no_interval_of_three(runs):
    shown = spahgc("run", "show", "runs/first").stdout
    assert "PCC (no interval: too few slides), on the worst and best slide" in shown
    gene, row = next(iter(read_run(runs / "first").trust.genes.iterrows()))
    numbers = " ".join(f"{row[name]:+.2f}" for name in ("cv_pcc", "cv_worst", "cv_best"))
    assert f"  {gene:<20} {numbers}" in shown.splitlines()


def test_weights_of_another_model_than_the_record_says_are_refused(trained, paper_run, tmp_path):
    odd = shutil.copytree(paper_run, tmp_path / "odd")
    forge(odd, committee={}, wide=["G1"])
    where = ["--store", trained / "data.zarr"]
    out = ["--slide", "B2", "--out", tmp_path / "B2.h5ad"]
    for command in (["audit", odd, *where], ["predict", "--run", odd, *out, *where]):
        assert "weights are of another model than the run's record" in the_error(*command)


def test_show_reports_for_machines(runs):
    told = json.loads(spahgc("run", "show", "runs/first", "--json").stdout)
    run = read_run(runs / "first")
    assert told["panel"] == list(run.record.panel)
    assert told["method"] == KERNEL_RIDGE
    assert told["test_scores"]["B2"]["pcc"] == pytest.approx(run.scores["pcc"].mean())
    assert told["n_weights"] == sum(weight.size for weight in run.weights.values())
    assert set(told["trust"]["slides"]) == {"A1", "A2", "B1"}
    assert "on both sides of the test" in told["caveat"]


def test_an_exported_run_is_whole_and_can_be_used(trained, runs, tmp_path):
    told = spahgc("run", "export", "runs/first", "out/mine")
    names = ["curve.csv", "run.json", "trust.json", "weights.safetensors"]
    assert told.stdout.splitlines() == [f"out/mine/{name}" for name in names]
    assert sorted(path.name for path in Path("out/mine").iterdir()) == names
    assert [path.name for path in Path("out").iterdir()] == ["mine"]
    record = json.loads(Path("out/mine/run.json").read_text())
    assert record["store"] == "data.zarr"
    assert str(trained) not in Path("out/mine/run.json").read_text()
    ours, theirs = (load_file(f"{run}/weights.safetensors") for run in ("runs/first", "out/mine"))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    spahgc(
        *("predict", "--run", "out/mine", "--slide", "B2", "--out", "B2.parquet"),
        *("--store", trained / "data.zarr"),
    )
    error = the_error("audit", "out/mine")
    assert "out/mine was trained on data.zarr, which cannot be opened here; name that" in error
    assert spahgc("audit", "out/mine", "--store", trained / "data.zarr").exit_code == 0


WRONG = {
    "ls of nothing": (["ls", "none"], "none is no folder; `spahgc train` makes a run"),
    "ls of an empty folder": (["ls", "runs/notes"], "runs/notes has no run in it"),
    "ls of a file": (["ls", "runs/first/curve.csv"], "curve.csv is no folder"),
    "ls of an odd name": (["ls", "[/b] \x1b[31m"], r"[/b] \x1b[31m is no folder"),
    "show nothing": (["show", "none"], "none is not a run: no run.json"),
    "show an evaluation": (["show", "runs/evaluation"], "evaluation is not a run"),
    "export nothing": (["export", "none", "out"], "none is not a run"),
    "export onto a folder": (["export", "runs/first", "runs/notes"], "notes exists; name another"),
    "export onto itself": (["export", "runs/first", "runs/first"], "first exists; name another"),
    "export onto a file": (
        ["export", "runs/first", "runs/first/curve.csv"],
        "curve.csv is inside the run runs/first",
    ),
    "export into itself": (
        ["export", "runs/first", "runs/../runs/first/out"],
        "out is inside the run runs/first; name another place",
    ),
    "export to no place": (["export", "runs/first", "/dev/null/out"], "cannot be made: "),
    "export below a file": (
        ["export", "runs/first", "runs/evaluation/folds/1-B2/spahgc-seed0/run.json/x"],
        "cannot be made: ",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_input_is_one_clear_line_and_changes_nothing(runs, tmp_path, arguments, message):
    before = files(tmp_path)
    line = the_error("run", *arguments)
    assert message in line
    assert is_plain(line)
    assert files(tmp_path) == before


def test_a_link_that_leads_nowhere_is_not_exported_onto(runs, tmp_path):
    Path("link").symlink_to(tmp_path / "gone")
    assert "link exists; name another place" in the_error("run", "export", "runs/first", "link")
    assert Path("link").is_symlink()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("panel", ["G1", 2]),
        ("train", ["A1"]),
        ("validation_pcc", None),
        ("validation_pcc", True),
        ("best_epoch", "three"),
        ("made_at", 3),
        ("store", ["data.zarr"]),
        ("encoders", {"tiny": "lite0"}),
        ("microns_per_pixel", {"A1": "0.5"}),
        ("version", 1e400),
    ],
    ids=str,
)
def test_a_record_of_other_kinds_of_values_is_damaged(runs, name, value):
    forge(runs / "first", **{name: value})
    for command in (["show", "runs/first"], ["export", "runs/first", "out"]):
        assert "runs/first is a damaged run: " in the_error("run", *command)
    assert spahgc("run", "ls", exit_code=1).stderr.startswith("runs/first is a damaged run: ")


def test_a_record_without_its_own_digest_is_read(runs):
    """As runs of the first days have it."""
    forge(runs / "first")
    assert spahgc("run", "show", "runs/first").exit_code == 0


def test_a_foreign_runs_words_never_reach_the_terminal_raw(runs, trained):
    odd = runs / "\x1b[2J[b]"
    (runs / "first").rename(odd)
    forge(
        odd,
        store=str(trained / "data.zarr"),
        panel_rule=f"file:{ESCAPES}",
        made_at=ESCAPES,
        split=ESCAPES,
        shared_patients=[ESCAPES],
        versions={"spahgc": ESCAPES},
    )
    for arguments in (
        *(("run", "ls"), ("run", "ls", "--json"), ("run", "show", odd)),
        *(("run", "show", odd, "--json"), ("run", "export", odd, odd.with_name(f"{odd.name} out"))),
    ):
        shown = spahgc(*arguments).output
        assert is_plain(shown.replace("\n", "")), arguments
    told = spahgc("audit", odd, exit_code=1)
    assert all(map(is_plain, told.output.splitlines()))
    assert told.stderr.splitlines()[-1].startswith("Error: 1 of 1 runs leak: ")
    forge(odd, panel_rule=ESCAPES)
    assert is_plain(the_error("audit", odd))
