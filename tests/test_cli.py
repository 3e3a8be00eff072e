import json
import subprocess
import sys
from pathlib import Path

import anndata
import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.demo.formats import write_demo_slides
from spahgc.store.run_record import KERNEL_RIDGE


def commands(group: click.Group = cli, prefix: str = ""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield pytest.param(command, id=f"{prefix}{name}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_slides(tmp_path_factory.mktemp("demo") / "slides", seed=3, scale=0.35)


@pytest.fixture(scope="module")
def lab(demo, tmp_path_factory):
    """A folder with a filled and indexed store, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("lab")
    store = ["--store", str(folder / "data.zarr")]
    assert spahgc("ingest", "st", str(demo.st_study), *store).exit_code == 0
    for visium in demo.visium_slides:
        assert spahgc("ingest", "visium", str(visium), *store).exit_code == 0
    assert spahgc("index", "build", *store).exit_code == 0
    return folder


@pytest.fixture
def in_lab(lab, monkeypatch):
    monkeypatch.chdir(lab)
    return lab


def spahgc(*arguments: str):
    return CliRunner().invoke(cli, list(arguments), prog_name="spahgc")


def the_error(result) -> str:
    """The one line a user sees of an error."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_and_option_explains_itself(command):
    assert command.help
    assert all(p.help for p in command.params if p.param_type_name == "option")


@pytest.mark.parametrize("module", ["spahgc.cli", "spahgc.store.cohort", "spahgc.index"])
def test_help_and_reading_a_store_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_place_that_is_taken_is_refused_before_torch_is_imported(tmp_path, command):
    (tmp_path / "run").mkdir()
    arguments = [command, "--out", str(tmp_path / "run"), "--store", "none.zarr"]
    code = (
        "import sys; from spahgc.cli import cli\n"
        f"try:\n    cli({arguments})\nfinally:\n    print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert told.stderr == f"Error: {tmp_path / 'run'} exists; name another place\n"
    assert told.stdout == "False\n"


def test_the_three_commands_of_the_readme_work_as_typed(in_lab):
    result = spahgc("train", "--store", "data.zarr", "--genes", "hvg:20", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert "each is held out in turn" in result.stderr
    (run,) = Path("runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["test"] == record["validation"] == []
    assert len(record["panel"]) == 20
    for name in ("weights.safetensors", "curve.csv"):
        assert (run / name).stat().st_size > 0


def test_the_papers_model_is_a_preset(in_lab, tmp_path):
    run = tmp_path / "run"
    result = spahgc(
        *("train", "--preset", "paper", "--genes", "hvg:20", "--epochs", "2", "--out", str(run))
    )
    assert result.exit_code == 0, result.output
    assert "chooses the epoch" in result.stderr
    record = json.loads((run / "run.json").read_text())
    assert set(record["train"]).isdisjoint(record["validation"])
    assert (run / "curve.png").stat().st_size > 0
    assert spahgc("audit", str(run), "--store", "data.zarr").exit_code == 0


def test_networks_may_sit_beside_the_kernel_ridge(in_lab, tmp_path):
    run = tmp_path / "run"
    result = spahgc(
        *("train", "--networks", "1", "--genes", "hvg:20", "--epochs", "2", "--out", str(run))
    )
    assert result.exit_code == 0, result.output
    assert (run / "curve.png").stat().st_size > 0
    refused = spahgc("train", "--networks", "1", "--preset", "paper")
    assert "--networks is for the default preset" in refused.output


def test_slides_without_the_presets_fields_are_told_what_to_run(demo, tmp_path):
    store = ["--store", str(tmp_path / "narrow.zarr")]
    ingested = spahgc("ingest", "visium", str(demo.visium_slides[0]), "--patch-um=112", *store)
    assert ingested.exit_code == 0, ingested.output
    for command in ("train", "evaluate"):
        error = the_error(spahgc(command, *store))
        assert "--patch-um 77 --patch-um 154 --patch-um 308 --patch-um 616" in error


def test_a_model_is_trained_tested_and_used_on_an_image_alone(in_lab, demo, tmp_path):
    trained = spahgc(
        *("train", "--test", demo.st_slides[-1], "--genes", "hvg:20", "--epochs", "2"),
        *("--out", str(tmp_path / "run")),
    )
    assert trained.exit_code == 0, trained.output
    assert f"test slide {demo.st_slides[-1]}: mean PCC over 20 genes" in trained.output
    assert "near: 8 spots on a square lattice, within 283 µm: A" in trained.output
    for what in (
        ["--slide", demo.st_slides[-1]],
        ["--image", str(demo.image), "--mpp", str(demo.image_microns_per_pixel)],
    ):
        out = tmp_path / f"{what[0].strip('-')}.h5ad"
        result = spahgc("predict", "--run", str(tmp_path / "run"), *what, "--out", str(out))
        assert result.exit_code == 0, result.output
        table = anndata.read_h5ad(out)
        assert table.n_vars == 20
        assert np.isfinite(table.X).all()
        assert table.obsm["spatial"].shape == (table.n_obs, 2)
        assert "Values: log1p of counts per 10000, predicted, relative within" in result.stderr
        ((_, spatial),) = table.uns["spatial"].items()
        assert "hires" in spatial["images"]


def test_a_slide_can_be_left_out(in_lab, demo, tmp_path):
    unwanted = demo.st_slides[0]
    result = spahgc(
        *("train", "--leave-out", unwanted, "--genes", "hvg:20", "--epochs", "1"),
        *("--out", str(tmp_path / "run")),
    )
    assert result.exit_code == 0, result.output
    assert f"{unwanted} is left out: it was named by --leave-out" in result.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert unwanted not in [*record["train"], *record["validation"]]
    assert "has no slide 'Z9'" in the_error(spahgc("train", "--leave-out", "Z9"))


def test_evaluate_shows_the_model_beside_its_baselines(in_lab, tmp_path):
    out = tmp_path / "evaluation"
    result = spahgc("evaluate", "--genes", "hvg:20", "--epochs", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    for method in (KERNEL_RIDGE, "ridge own|near smoothed", "50 nearest", "depth alone", "mean"):
        assert method in result.output
    scores = pd.read_parquet(out / "scores.parquet")
    slides = set(json.loads(spahgc("store", "ls", "--json").output))
    assert set(scores["slide"]) == slides
    assert (scores.groupby(["slide", "method"]).size() == 20).all()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["methods"][KERNEL_RIDGE]["mean"] == pytest.approx(
        scores[scores["method"] == KERNEL_RIDGE].groupby("slide")["pcc"].mean().mean()
    )
    assert len(list((out / "pictures").glob("genes-*.png"))) == len(slides)


def test_ingest_again_keeps_everything(in_lab, demo):
    result = spahgc("ingest", "st", str(demo.st_study))
    assert result.exit_code == 0
    assert result.output.count(": kept,") == result.output.count("already embedded")


def test_json_reports_are_json(in_lab, demo, tmp_path):
    store = str(tmp_path / "new.zarr")
    report = spahgc("ingest", "st", str(demo.st_study), "--store", store, "--json", "--no-embed")
    slides = json.loads(report.stdout)["slides"]
    assert {slide["outcome"] for slide in slides} == {"added"}
    shown = spahgc("store", "show", slides[0]["slide"], "--store", store)
    assert json.loads(shown.output)["slide"] == slides[0]["slide"]


def test_the_store_may_be_named_by_the_environment(in_lab, monkeypatch):
    monkeypatch.setenv("SPAHGC_STORE", str(in_lab / "data.zarr"))
    monkeypatch.chdir("/")
    assert spahgc("store", "verify", "--deep").exit_code == 0


WRONG = {
    "missing folder": (["ingest", "st", "nowhere"], "nowhere does not exist, expected one that"),
    "missing HEST": (["ingest", "hest", "nowhere"], "nowhere does not exist, expected one that"),
    "a file for a folder": (["ingest", "st", "broken.jpg"], "broken.jpg is a file, expected one"),
    "no place": (["store", "ls", "--store", ""], "no place is named"),
    "no slide folder": (["ingest", "visium", "."], "."),
    "missing counts": (["ingest", "st", "--counts", "none.tsv"], "none.tsv"),
    "broken image": (["ingest", "image", "broken.jpg", "--mpp", "0.5"], "broken.jpg"),
    "no store": (["index", "build", "--store", "none.zarr"], "none.zarr does not exist"),
    "not a store": (["store", "ls", "--store", "plain"], "is not a spahgc store"),
    "unknown slide": (["train", "--test", "Z9"], "has no slide 'Z9'"),
    "unknown slide to show": (["store", "show", "Z9"], "has no slide 'Z9'"),
    "bad panel": (["train", "--genes", "hvg:many"], "hvg:many"),
    "unknown encoder": (["embed", "--encoder", "uni9"], "unknown encoder 'uni9'"),
    "index over nothing": (["index", "build", "--embedding", "uni"], "spahgc embed"),
    "no run": (["predict", "--run", "none", "--slide", "A1", "--out", "x.h5ad"], "is not a run"),
}


@pytest.mark.parametrize(("arguments", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_input_is_one_clear_line_and_nothing_is_written(in_lab, arguments, message):
    Path("plain").mkdir(exist_ok=True)
    Path("plain/notes.txt").write_text("mine")
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    before = sorted(path for path in in_lab.rglob("*") if path.suffix != ".lock")
    assert message in the_error(spahgc(*arguments))
    assert sorted(path for path in in_lab.rglob("*") if path.suffix != ".lock") == before


def test_one_slide_cannot_be_trained_on(demo, tmp_path):
    store = ["--store", str(tmp_path / "one.zarr")]
    assert spahgc("ingest", "visium", str(demo.visium_slides[0]), *store).exit_code == 0
    assert spahgc("index", "build", *store).exit_code == 0
    error = the_error(spahgc("train", *store, "--out", str(tmp_path / "run")))
    assert "1 usable slide" in error
    assert "spahgc ingest" in error
    assert not (tmp_path / "run").exists()


def test_an_existing_output_folder_is_never_written_into(in_lab, tmp_path):
    (tmp_path / "run").mkdir()
    result = spahgc("train", "--epochs", "1", "--genes", "hvg:5", "--out", str(tmp_path / "run"))
    assert "run exists; name another place" in the_error(result)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.real
def test_the_real_sections_equal_what_pandas_reads(real_slides, tmp_path):
    store = tmp_path / "data.zarr"
    study = real_slides / "her2st"
    result = spahgc("ingest", "st", str(study), "--store", str(store), "--no-embed")
    assert result.exit_code == 0, result.output
    for name in ("C2", "C3", "C4", "C5", "H1"):
        counts = pd.read_csv(study / f"ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
        spots = pd.read_csv(study / f"ST-spotfiles/{name}_selection.tsv", sep="\t")
        ids = spots["x"].astype(str) + "x" + spots["y"].astype(str)
        joined = counts.loc[counts.index.isin(ids)]
        table = anndata.read_zarr(str(store / "tables" / name))
        assert table.n_obs == len(joined)
        assert int(table.X.sum()) == int(joined.to_numpy().sum())
        assert (table.to_df().loc[joined.index, joined.columns] == joined).all(axis=None)


@pytest.mark.parametrize("place", ["/dev/null/qc", "/proc/qc"])
def test_a_picture_that_cannot_be_written_is_one_line(in_lab, demo, place):
    result = spahgc("ingest", "st", str(demo.st_study), "--dry-run", "--qc", place)
    assert f"{place}/" in the_error(result)
    assert "cannot be written" in the_error(result)


def test_a_file_in_the_place_of_the_pictures_is_told_before_anything_is_read(in_lab):
    Path("notes.txt").write_text("mine")
    result = spahgc("ingest", "st", "nowhere", "--qc", "notes.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'notes.txt' is a file" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["store", "ls", "--help"]])
def test_words_that_find_no_room_are_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spahgc.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_a_name_too_long_for_the_disk_is_one_line(in_lab):
    assert "too long" in the_error(spahgc("ingest", "visium", "x" * 300))
    assert "too long" in the_error(spahgc("store", "ls", "--store", "x" * 300))
