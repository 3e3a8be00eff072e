"""Wrong input to `spahgc train`, `evaluate` and `audit`: one clear line, and nothing changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from spahgc.errors import StoreError
from spahgc.report import pieces
from spahgc.store import runs
from spahgc.store.opening import open_store
from spahgc.store.runs import find_runs, read_run
from spahgc.store.words import is_plain
from tests.commands.conftest import TRAIN, files, forge, spahgc, the_error
from tests.model.conftest import EMBEDDING, draw_tissue, put_slide, without_gene

ONE_FOLD = "fold,slide,part\n" + "".join(
    f"../../up,{slide},{part}\n"
    for slide, part in {"A1": "test", "A2": "train", "B1": "train", "B2": "train"}.items()
)
TINY = ("--embedding", EMBEDDING)
NEVER = ("--out", "new")

SPLITS = {
    "empty.json": "",
    "text.json": "A1, A2",
    "object.json": "{}",
    "nothing.json": "[]",
    "numbers.json": "[1, 2]",
    "deep.json": "[" * 100_000,
    "columns.json": '[{"slide": "A1", "patient": "A"}]',
    "uneven.json": '[{"slide": "A1", "fold": "1"}, {"slide": "A2"}]',
    "unknown.json": '[{"slide": "Z9", "fold": "1"}, {"slide": "A1", "fold": "2"}]',
    "one.json": '[{"slide": "A1", "fold": "1"}, {"slide": "A2", "fold": "1"}]',
    "twice.csv": "slide,fold\nA1,1\nA1,2\n",
    "part.csv": "slide,part\nA1,train\nA2,exam\n",
    "untested.csv": "slide,part\nA1,train\nA2,train\nB1,train\n",
    "two.csv": "slide,part\nA1,test\nA2,train\n",
    "more.csv": "slide,fold\nA1,1,2\n",
    "long.csv": f"slide,fold\nA1,{'x' * 200_000}\n",
    "empty.csv": "",
    "escapes.csv": "slide,fold\n\x1b[31mA1,1\nA2,2\n",
}
PANELS = {
    "good.txt": b"G1\nG2\nG3\n",
    "bom.txt": b"\xef\xbb\xbfG1\r\nG2\r\n\r\nG3\r\n",
    "empty.txt": b"\n \n",
    "twice.txt": b"G1\nG2\nG1\n",
    "unknown.txt": b"G1\nTP53\n\x1b[31mG2\n",
    "binary.txt": b"\x89PNG\r\n\xff\x00",
}

BOTH = {
    "no store": (["--store", "none.zarr"], "none.zarr does not exist"),
    "not a store": (["--store", "plain"], "plain is not a spahgc store"),
    "empty store": (["--store", "empty.zarr"], "no slide to learn from: it is empty"),
    "unknown embedding": (["--embedding", "uni"], "A1 is not embedded as uni, and has no full-"),
    "embedding with escapes": (["--embedding", "\x1b[2J"], r"\x1b[2J"),
    "leave out unknown": ([*TINY, "--leave-out", "Z9"], "has no slide 'Z9'; it has A1, A2"),
    "leave out escapes": ([*TINY, "--leave-out", "\x1b[31m"], r"\x1b[31m"),
    "leave out all": (
        [*TINY, *(word for name in ("A1", "A2", "B1", "B2") for word in ("--leave-out", name))],
        "--leave-out names every slide of data.zarr that could be learned from",
    ),
    **{
        f"genes {rule[:12]}": ([*TINY, "--genes", rule], "expected hvg:N, heg:N, all, or a text")
        for rule in (
            *("", "nonsense", "hvg", "hvg:", "hvg:0", "hvg:-5", "hvg:1.5", "heg:abc", "hvg:²"),
            *("hvg:" + "9" * 5000, "file:none.txt", "none.txt", "plain", "\x1b[31mhvg:5"),
        )
    },
    "too many genes": ([*TINY, "--genes", "hvg:500"], "asks for 500 genes, but 12 of 12 are"),
    "no gene in a file": ([*TINY, "--genes", "panels/empty.txt"], "no gene in it"),
    "genes twice": ([*TINY, "--genes", "panels/twice.txt"], "G1 listed twice"),
    "unknown genes": (
        [*TINY, "--genes", "panels/unknown.txt"],
        r"2 of 3 genes are not among the 12 genes of the slides (TP53, \x1b[31mG2)",
    ),
    "genes in no text": ([*TINY, "--genes", "panels/binary.txt"], "binary.txt: not UTF-8 text"),
    "out exists": ([*TRAIN, "--out", "run"], "run exists; name another place"),
    "out is a file": ([*TRAIN, "--out", "plain/notes.txt"], "notes.txt exists; name another"),
    "out is here": ([*TRAIN, "--out", "."], ". exists; name another place"),
    "out below a file": ([*TRAIN, "--out", "plain/notes.txt/new"], "new cannot be made: "),
    "out below no device": ([*TRAIN, "--out", "/dev/null/new"], "new cannot be made: "),
    "out too long": ([*TRAIN, "--out", "x" * 300], "too long"),
    "no such device": (
        [*TRAIN, "--networks", "1", "--epochs", "1", "--device", "abacus", *NEVER],
        "no 'abacus' to train on here",
    ),
}
TRAINING = {
    "test unknown": ([*TINY, "--test", "Z9"], "has no slide 'Z9'"),
    "test not embedded": ([*TINY, "--test", "C1"], "slide C1 cannot be used: it is not embedded"),
    "test has no expression": ([*TINY, "--test", "I1"], "I1 cannot be used: it has no expression"),
    "test and left out": (
        [*TINY, "--test", "B2", "--leave-out", "B2"],
        "slide B2 cannot be used: it was named by --leave-out",
    ),
    "validation unknown": ([*TINY, "--validation", "Z9"], "has no slide 'Z9'"),
    "test and validation": (
        [*TINY, "--test", "B2", "--validation", "B2"],
        "B2 was asked for twice",
    ),
    "test twice": ([*TINY, "--test", "B2", "--test", "B2"], "B2 was asked for twice"),
    "test with escapes": ([*TINY, "--test", "\x1b[31mB2"], r"\x1b[31mB2"),
    "too few left": (
        [*TINY, "--test", "A1", "--test", "A2", "--test", "B1"],
        "4 usable slides (embedded, with expression), but 5 are needed",
    ),
}
JUDGING = {
    **{
        f"split {rule[:12]}": ([*TINY, "--split", rule], expected)
        for rule, expected in {
            "": "split '' is none of leave-one-patient-out, leave-one-slide-out, k-fold:N",
            "leave-one-out": "is none of leave-one-patient-out",
            "k-fold": "expected k-fold:N with N at least 2",
            "k-fold:1": "expected k-fold:N with N at least 2",
            "k-fold:" + "9" * 5000: "expected k-fold:N with N at least 2",
            "k-fold:9": "there are 2 patients; use `--split k-fold:2`",
            "none.json": "split file none.json cannot be read: No such file",
            "plain/notes.txt": "is none of leave-one-patient-out",
            "\x1b[31m": r"is none of leave-one-patient-out",
        }.items()
    },
    **{
        f"split {name}": ([*TINY, "--split", f"splits/{name}"], expected)
        for name, expected in {
            "empty.json": "is not JSON",
            "text.json": "is not JSON",
            "object.json": "is no list of objects",
            "nothing.json": "found nothing; expected one row per slide",
            "numbers.json": "is no list of objects",
            "deep.json": "is not JSON",
            "columns.json": "found patient, slide; expected",
            "uneven.json": "found fold, slide; expected",
            "unknown.json": "names Z9, which cannot be used; there are A1, A2, B1, B2",
            "one.json": "lists one fold (1), expected at least two",
            "twice.csv": "lists A1 twice in one fold",
            "part.csv": "part 'exam'; expected",
            "untested.csv": "no slide of part test",
            "two.csv": "2 usable slides",
            "more.csv": "found fold, more columns than named, slide",
            "long.csv": "is not CSV: field larger than",
            "empty.csv": "found nothing; expected",
            "escapes.csv": r"names \x1b[31mA1, which cannot be used",
        }.items()
    },
    "no scheduler": (
        [*TRAIN, "--scheduler", "nonsense", *NEVER],
        "no Dask scheduler answers at nonsense; start one with `dask scheduler`",
    ),
    "an empty scheduler": ([*TRAIN, "--scheduler", "", *NEVER], "no Dask scheduler answers at "),
    "a single patient": (
        [
            *(*TINY, "--split", "leave-one-patient-out"),
            *("--leave-out", "B1", "--leave-out", "B2"),
        ],
        "all slides are of one patient (A), so none can be left out; use `--split leave-one-slide",
    ),
    "networks and three slides": (
        [*TINY, "--networks", "1", "--leave-out", "B1"],
        "but 4 are needed: the test, two to train on, and one held out to choose when to stop",
    ),
    "a single slide": (
        [*TINY, *(word for name in ("A2", "B1", "B2") for word in ("--leave-out", name))],
        "1 usable slide (embedded, with expression), but 3 are needed: the test, two to train on",
    ),
}
WRONG = {
    **{f"train, {n}": (["train", *a], m) for n, (a, m) in {**BOTH, **TRAINING}.items()},
    **{
        f"evaluate, {n}": (["evaluate", "--no-paper", "--split", "leave-one-slide-out", *a], m)
        for n, (a, m) in {**BOTH, **JUDGING}.items()
    },
    "audit nothing": (["audit", "none"], "none is no folder; `spahgc train` makes a run"),
    "audit a plain folder": (["audit", "plain"], "plain has no run in it"),
    "audit a store": (["audit", "data.zarr"], "data.zarr has no run in it"),
    "audit a file": (["audit", "plain/notes.txt"], "notes.txt is no folder"),
    "audit beside no store": (["audit", "run", "--store", "none.zarr"], "none.zarr does not exist"),
    "audit beside a plain folder": (["audit", "run", "--store", "plain"], "is not a spahgc store"),
    "audit beside another store": (
        ["audit", "run", "--store", "other.zarr"],
        "were made in another way than those this run was trained with",
    ),
    "audit beside an empty store": (["audit", "run", "--store", "empty.zarr"], "no slide 'A1'"),
    "audit an odd name": (["audit", "[/b] \x1b[31m"], r"[/b] \x1b[31m is no folder"),
}


@pytest.fixture(scope="module")
def before(trained):
    """Everything in the folder to type in, with split files and lists of genes put there."""
    for folder, contents in {"splits": SPLITS, "panels": PANELS}.items():
        (trained / folder).mkdir(exist_ok=True)
        for name, content in contents.items():
            raw = content if isinstance(content, bytes) else content.encode()
            (trained / folder / name).write_bytes(raw)
    return files(trained)


@pytest.mark.parametrize(("arguments", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_input_is_one_clear_line_and_changes_nothing(lab, before, arguments, message):
    line = the_error(*arguments)
    assert message in line
    assert is_plain(line)
    assert files(lab) == before


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            [command, *TINY, *wrong]
            for command in ("train", "evaluate")
            for wrong in (
                *(["--seed", value] for value in ("-1", "4294967296", "1.5", "x")),
                *(["--epochs", value] for value in ("0", "-1", "1.5", "many")),
                *(["--networks", value] for value in ("-1", "1.5")),
                *(["--ema", value] for value in ("-0.1", "1.1", "nan", "inf", "x")),
                *(["--clip-gradient", value] for value in ("0", "-1", "nan")),
                ["--precision", "float8"],
                ["--preset", "best"],
                ["--preset", "paper", "--networks", "2"],
                ["--embedding", EMBEDDING],
                ["--resume"],
                ["--no-such-option"],
            )
        ),
        ["evaluate", "--seeds", "0"],
        ["evaluate", "--seeds", "-1"],
        ["evaluate", "--workers", "-1"],
        ["train", "--seeds", "2"],
        ["audit"],
    ],
    ids=" ".join,
)
def test_a_command_typed_wrongly_shows_its_usage(lab, before, arguments):
    result = spahgc(*arguments, exit_code=2)
    assert result.stderr.startswith(f"Usage: spahgc {arguments[0]} ")
    assert result.stderr.count("Error: ") == 1
    assert files(lab) == before


@pytest.mark.parametrize("name", ["good.txt", "bom.txt"])
def test_a_file_of_genes_may_come_from_any_editor(lab, before, tmp_path, name):
    out = tmp_path / "run"
    spahgc("train", *TINY, "--genes", f"panels/{name}", "--test", "B2", "--out", out)
    assert json.loads((out / "run.json").read_text())["panel"] == ["G1", "G2", "G3"]
    assert spahgc("audit", out).exit_code == 0


def test_folds_may_be_called_anything(lab, tmp_path):
    split, out = tmp_path / "split.csv", tmp_path / "evaluation"
    split.write_text(ONE_FOLD)
    spahgc("evaluate", *TRAIN, "--no-paper", "--split", split, "--out", out)
    assert [path.name for path in (out / "folds").iterdir()] == ["1-..-..-up"]
    assert {path.name for path in tmp_path.iterdir()} == {"split.csv", "evaluation"}
    assert len(json.loads(spahgc("run", "ls", out, "--json").stdout)) == 1


def test_three_slides_are_enough_for_the_default_model(lab, tmp_path):
    out, few = tmp_path / "out", ("--split", "leave-one-slide-out", "--leave-out", "B1")
    told = spahgc("evaluate", *TRAIN, "--beside", EMBEDDING, *few, "--out", out)
    reason = "with A1 held out no third slide is left to choose its epoch"
    assert f"the paper's network is left out: {reason}" in told.stderr
    told = json.loads(spahgc("run", "ls", out, "--json").stdout)
    assert [(list(run["train"]), run["test"]) for run in told.values()] == [
        (["A2", "B2"], ["A1"]),
        (["A1", "B2"], ["A2"]),
        (["A1", "A2"], ["B2"]),
    ]
    told = spahgc("audit", out).stdout
    assert told.count("clean       statistics") == 3
    assert told.count("not checked baselines  no baseline was fitted again") == 1


def test_leaving_out_a_slide_that_cannot_be_used_is_a_note(lab, tmp_path):
    out = tmp_path / "run"
    told = spahgc("train", *TRAIN, "--test", "B2", "--leave-out", "C1", "--out", out)
    (note,) = [line for line in told.stderr.splitlines() if line.startswith("C1 is left out: ")]
    assert "it was named by --leave-out, and could not be used anyway: it is not embedded" in note


def test_two_patients_are_enough_and_the_table_says_who_retrieves_from_whom(lab, tmp_path):
    out = tmp_path / "out"
    told = spahgc("evaluate", *TRAIN, "--no-paper", "--out", out)
    shown = " ".join(told.stdout.split())
    for held_out, patient in (("A1+A2", "B"), ("B1+B2", "A")):
        note = f"with {held_out} held out all training slides are of one patient ({patient})"
        assert f"Note: {note}: they retrieve from each other" in shown
        assert any(
            note in said for said in json.loads((out / "summary.json").read_text())["caveats"]
        )
    records = [read_run(place).record for place in find_runs(out)]
    assert [record.train for record in records] == [
        {name: record.train[name] for name in train}
        for record, train in zip(records, (("B1", "B2"), ("A1", "A2")), strict=True)
    ]
    assert [record.references for record in records] == [("B1", "B2"), ("A1", "A2")]
    assert "leak" not in spahgc("audit", out).stdout


def test_a_patient_that_cannot_be_held_out_is_named_before_and_after(lab, tmp_path):
    out = tmp_path / "out"
    told = spahgc("evaluate", *TRAIN, "--no-paper", "--leave-out", "B1", "--out", out)
    note = "not held out, as the other patients have too few slides to train on: A (A1, A2)"
    assert note in told.stderr.splitlines()
    assert f"Note: {note}" in " ".join(told.stdout.split())
    assert note in json.loads((out / "summary.json").read_text())["caveats"]
    assert [read_run(place).record.test for place in find_runs(out)] == [("B2",)]


PAPER = ("--preset", "paper", "--epochs", "1")


def test_without_an_index_that_fits_similar_spots_are_searched_in_memory_which_is_said_first(
    lab, tmp_path
):
    bare = shutil.copytree("data.zarr", tmp_path / "bare.zarr")
    spahgc("index", "remove", "--store", bare, "--name", EMBEDDING)
    split = tmp_path / "split.csv"
    split.write_text(ONE_FOLD.replace("B2,train", "B2,validation"))
    scores = {}
    for store in ("data.zarr", bare):
        out = tmp_path / f"{store}-out".replace("/", "-").lstrip("-")
        told = spahgc(
            *("evaluate", *TRAIN, *PAPER, "--split", split, "--store", store, "--out", out)
        )
        notes = [line for line in told.stderr.splitlines() if "searched in memory" in line]
        scores[store] = pd.read_parquet(out / "scores.parquet")
        assert "leak" not in spahgc("audit", out).stdout
    command = f"`spahgc index build --store {bare} --encoder tiny`"
    said = f"there is no index 'tiny', so similar spots are searched in memory; {command} keeps"
    assert notes == [f"{said} an index"]
    pd.testing.assert_frame_equal(*scores.values())


def test_what_a_later_fold_could_not_be_judged_for_is_refused_before_the_first(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setattr("spahgc.model.evaluation.judge", None)
    monkeypatch.setattr("spahgc.report.evaluation.EvaluationReport", None)
    store = shutil.copytree("data.zarr", tmp_path / "twins.zarr")
    slide, embedding_SD = draw_tissue("B2")
    put_slide(open_store(store), replace(slide, name="B3"), embedding_SD)
    (tmp_path / "late.txt").write_text("G1\nG7\n")
    fewer = shutil.copytree("data.zarr", tmp_path / "fewer.zarr")
    put_slide(open_store(fewer), without_gene(draw_tissue("A1")[0], "G7"), draw_tissue("A1")[1])
    for place, genes, message in (
        (store, "heg:6", "slides B2 and B3 have the same image or counts"),
        (fewer, "heg:12", "asks for 12 genes, but 11 of 11"),
        (fewer, tmp_path / "late.txt", "1 of 2 genes are not among the 11 genes of the slides"),
    ):
        assert message in the_error(
            *("evaluate", *TINY, "--no-paper", "--split", "leave-one-slide-out"),
            *("--genes", genes, "--store", place, "--out", tmp_path / "out"),
        )
        assert not list(tmp_path.glob("*out*"))


def test_a_device_that_is_not_here_is_refused_before_anything_is_trained(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setattr("spahgc.model.evaluation.judge", None)
    monkeypatch.setattr("spahgc.model.runs.train_fold", None)
    device = ("--networks", "1", "--device", "abacus", "--out", tmp_path / "out")
    for command in (("evaluate", "--no-paper", "--split", "leave-one-slide-out"), ("train",)):
        assert "no 'abacus' to train on here" in the_error(*command, *TRAIN, *device)
        assert list(tmp_path.iterdir()) == []


EVALUATE = ("evaluate", *TRAIN, "--no-paper", "--split", "split.csv")


@pytest.fixture(scope="module")
def interrupted(trained, tmp_path_factory):
    """A copy of the store, and an evaluation that was interrupted beside it."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(trained / "data.zarr", folder / "data.zarr")
    (folder / "split.csv").write_text(ONE_FOLD)
    kept = pieces.write_judged

    def interrupt(judged, place):
        if place.name != "0":
            raise KeyboardInterrupt
        kept(judged, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(pieces, "write_judged", interrupt)
        told = spahgc(*EVALUATE, "--out", "runs/judged", exit_code=1)
    *_, kept, blank, aborted = told.stderr.splitlines()
    left = folder / "runs/.judged.unfinished"
    assert kept == (
        f"what is done is kept: go on with `--resume --out runs/judged`, or remove {left}"
    )
    assert (blank, aborted) == ("", "Aborted!")
    return folder


@pytest.fixture
def begun(interrupted, tmp_path, monkeypatch):
    """What the interrupted evaluation left."""
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in Path("runs").iterdir()] == [".judged.unfinished"]
    return Path("runs/.judged.unfinished")


def test_an_interrupted_evaluation_goes_on_only_as_it_was_begun(begun):
    before = files(begun)
    again = (*EVALUATE, "--out", "runs/judged")
    assert "begun and not finished; go on with `--resume`, or remove" in the_error(*again)
    assert "with other settings (seeds)" in the_error(*again, "--resume", "--seeds", "2")
    assert files(begun) == before
    (begun / "pictures/genes-A1.png").write_bytes(b"half a picture")
    spahgc(*again, "--resume")
    assert [path.name for path in Path("runs").iterdir()] == ["judged"]
    assert Path("runs/judged/pictures/genes-A1.png").stat().st_size > 1000
    assert len(find_runs(Path("runs"))) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plan.json", "plan.json cannot be read"),
        ("work/0/all-scores.parquet", "work/0 is a damaged result: "),
        ("work/0/weights.safetensors", "weights.safetensors is not the file that was written"),
        ("work/0/predicted.safetensors", "work/0 is a damaged result: "),
    ],
)
def test_a_damaged_attempt_is_not_gone_on_with(begun, name, message):
    content = (begun / name).read_bytes()
    (begun / name).write_bytes(content[: len(content) // 2])
    before = files(begun / "work")
    line = the_error(*EVALUATE, "--out", "runs/judged", "--resume")
    assert message in line
    assert "remove " in line
    assert files(begun / "work") == before


def test_an_interrupted_training_leaves_nothing_half_made(lab, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write_run", interrupt)
    told = spahgc("train", *TRAIN, "--out", tmp_path / "run", exit_code=1)
    assert told.stderr.splitlines()[-1] == "Aborted!"
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_ends_in_an_error_says_what_is_left_and_goes_on(begun, monkeypatch):
    shutil.rmtree(begun)

    def fail(judged, place):
        if place.name != "0":
            raise StoreError("the disk is full")
        kept(judged, place)

    kept, out = pieces.write_judged, ("--out", "runs/judged")
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "write_judged", fail)
        *_, left, error = spahgc(*EVALUATE, *out, exit_code=1).stderr.splitlines()
    command = "`--resume --out runs/judged`"
    assert left == f"what is done is kept: go on with {command}, or remove {begun.absolute()}"
    assert error == "Error: the disk is full"
    spahgc(*EVALUATE, *out, "--resume")
    assert [path.name for path in Path("runs").iterdir()] == ["judged"]


def test_an_evaluation_whose_first_fold_fails_leaves_nothing(begun, monkeypatch):
    def fail(*_):
        raise StoreError("the disk is full")

    shutil.rmtree(begun)
    monkeypatch.setattr(pieces, "write_judged", fail)
    told = spahgc(*EVALUATE, "--out", "runs/judged", exit_code=1).stderr.splitlines()
    assert told[-1] == "Error: the disk is full"
    assert not any("what is done" in line for line in told)
    assert list(Path("runs").iterdir()) == []


def test_a_training_goes_on_only_with_the_same_genes_and_precision(lab, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    genes, out = tmp_path / "genes.txt", tmp_path / "run"
    genes.write_text("G1\nG2\nG3\n")
    again = ("train", *TINY, "--genes", genes, "--preset", "paper", "--epochs", "1", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_run", interrupt)
        spahgc(*again, exit_code=1)
    error = the_error(*again, "--resume", "--precision", "bfloat16")
    assert "was begun with other settings (SpaHGC (paper) training.precision); give the" in error
    genes.write_text("G1\nG2\nG4\n")
    error = the_error(*again, "--resume")
    assert "was begun with other settings (SpaHGC (paper) panel_rule.genes); give the" in error
    genes.write_text("G1\nG2\nG3\n")
    spahgc(*again, "--resume")
    assert json.loads((out / "run.json").read_text())["panel_rule"] == "file:genes.txt"


def test_a_choice_that_has_no_part_is_said(lab, tmp_path):
    told = spahgc("train", *TRAIN, "--validation", "B1", "--out", tmp_path / "run")
    assert "--validation has no part" in told.stderr
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
    assert len(modes) == 1, "somebody who may read the record may read the weights"


def test_a_leak_ends_with_an_error_that_names_the_run(lab, run_copy):
    record = json.loads((run_copy / "run.json").read_text())
    forge(run_copy, panel=record["panel"][::-1])
    result = spahgc("audit", run_copy, exit_code=1)
    assert "leak        panel" in result.stdout
    assert result.stderr.splitlines()[-1] == f"Error: 1 of 1 runs leak: {run_copy}"


def test_no_run_is_audited_where_one_of_them_cannot_be_read(lab, run_copy, tmp_path):
    (run_copy / "curve.csv").unlink()
    shutil.copytree("run", tmp_path / "a-good-one")
    assert "copy is a damaged run" in the_error("audit", tmp_path)


def test_the_store_is_named_where_it_is_not_what_the_run_says(lab, run_copy):
    forge(run_copy, store="gone.zarr")
    line = the_error("audit", run_copy)
    assert "was trained on gone.zarr, which cannot be opened here; name that store with" in line
    assert spahgc("audit", run_copy, "--store", Path("data.zarr")).exit_code == 0
