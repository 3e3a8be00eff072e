"""Wrong input to `spahgc predict`: one clear line, and nothing is written or replaced by it."""

from dataclasses import asdict
from pathlib import Path

import anndata
import numpy as np
import pytest
from PIL import Image

from spahgc.model.network import NetworkConfig
from spahgc.store.words import is_plain
from tests.commands.conftest import files, forge, spahgc, the_error

RUN = ("--run", "run")
B2 = ("--slide", "B2")
OUT = ("--out", "new.h5ad")
WHITE = ("--image", "plain/white.png")

WRONG = {
    "no run": (["--run", "none", *B2, *OUT], "none is not a run: no run.json; `spahgc train`"),
    "plain folder": (["--run", "plain", *B2, *OUT], "plain is not a run"),
    "a file": (["--run", "plain/notes.txt", *B2, *OUT], "notes.txt is not a run"),
    "a store": (["--run", "data.zarr", *B2, *OUT], "data.zarr is not a run"),
    "unknown slide": ([*RUN, "--slide", "Z9", *OUT], "no slide 'Z9'; it has A1, A2, B1, B2, C1"),
    "training slide": ([*RUN, "--slide", "A1", *OUT], "slide A1 taught this run"),
    "not embedded": ([*RUN, "--slide", "C1", *OUT], "slide C1 has no embedding 'tiny'"),
    "no store": ([*RUN, *B2, *OUT, "--store", "none.zarr"], "none.zarr does not exist"),
    "no store at all": ([*RUN, *B2, *OUT, "--store", "plain"], "plain is not a spahgc store"),
    "other store": ([*RUN, *B2, *OUT, "--store", "other.zarr"], "made in another way"),
    "empty store": ([*RUN, *B2, *OUT, "--store", "empty.zarr"], "empty.zarr has no slide A1, A2"),
    "no references": ([*RUN, *B2, *OUT, "--references", "none.zarr"], "none.zarr does not exist"),
    "other references": (
        [*RUN, *B2, *OUT, "--references", "other.zarr"],
        "other.zarr has no slide that this run can borrow from: A1 has an embedding 'tiny' made",
    ),
    "empty references": (
        [*RUN, *B2, *OUT, "--references", "empty.zarr"],
        "no slide that this run can borrow from: it is empty",
    ),
    "no image": ([*RUN, "--image", "none.svs", *OUT], "none.svs does not exist"),
    "image is a folder": ([*RUN, "--image", "plain", *OUT], "plain is a folder"),
    "image is text": ([*RUN, "--image", "plain/notes.txt", *OUT], "notes.txt"),
    "image without scale": ([*RUN, *WHITE, *OUT], "does not state its pixel size"),
    "image without tissue": ([*RUN, *WHITE, "--mpp", "1", *OUT], "white.png: no tissue found"),
    "pitch too wide": ([*RUN, *WHITE, "--mpp", "1", "--pitch-um", "301", *OUT], "does not fit"),
    "pitch too fine": (
        [*RUN, *WHITE, "--mpp", "1", "--pitch-um", "0.01", *OUT],
        "lays more than 20,000,000 spots over 400 x 300 px; check --mpp and --pitch-um",
    ),
    "mpp far too large": ([*RUN, *WHITE, "--mpp", "1e6", *OUT], "check --mpp and --pitch-um"),
    "no suffix": ([*RUN, *B2, "--out", "new"], "expected one of .h5ad, .zarr, .parquet, .geojson"),
    "other suffix": ([*RUN, *B2, "--out", "new.csv"], "new.csv: a prediction is written by"),
    "one of two suffixes": ([*RUN, *B2, *OUT, "--out", "new.csv"], "new.csv: a prediction is"),
    **{
        f"somebody's {suffix}": (
            [*RUN, *B2, "--out", f"plain/B2.{suffix}"],
            f"plain/B2.{suffix} exists already; replace it with `--overwrite`",
        )
        for suffix in ("h5ad", "parquet", "geojson")
    },
    "somebody's by its slide": (
        [*RUN, *B2, "--slide", "I1", "--out", "plain/{slide}.h5ad"],
        "plain/B2.h5ad exists already",
    ),
    "somebody's folder": (
        [*RUN, *B2, "--out", "plain/mine.zarr"],
        "is a folder, and no prediction",
    ),
    **{
        f"a store, {how}": (
            [*RUN, *B2, "--out", "data.zarr", *more],
            "data.zarr is a folder, and no prediction; name another place with `--out`",
        )
        for how, more in {"carelessly": [], "asked to": ["--overwrite"]}.items()
    },
    "inside a store": (
        [*RUN, *B2, "--out", "data.zarr/tables/B2.h5ad"],
        "data.zarr/tables/B2.h5ad is inside the store ",
    ),
    "below a file": (
        [*RUN, *B2, "--out", "plain/notes.txt/new.h5ad"],
        "new.h5ad cannot be written: ",
    ),
    "below no device": ([*RUN, *B2, "--out", "/dev/null/new.h5ad"], "/dev/null is no folder"),
    "a name too long": ([*RUN, *B2, "--out", "x" * 300 + ".h5ad"], "too long"),
    "one place for two": (
        [*RUN, *B2, "--slide", "I1", *OUT],
        "new.h5ad is one place for 2 slides; put {slide} where",
    ),
    "slide and image of one name": (
        [*RUN, *B2, "--image", "plain/B2.png", "--mpp", "1", "--out", "{slide}.h5ad"],
        "2 slides are called B2",
    ),
    "good then unknown": (
        [*RUN, *B2, "--slide", "Z9", "--out", "{slide}.h5ad"],
        "no slide 'Z9'",
    ),
    "good then no image": (
        [*RUN, *B2, "--image", "none.svs", "--out", "{slide}.h5ad"],
        "none.svs does not exist",
    ),
    "escapes": ([*RUN, "--slide", "\x1b[31mZ9\n", *OUT], r"\x1b[31mZ9"),
    "escapes in a place": ([*RUN, *B2, "--out", "\x1b[31m.csv"], r"\x1b[31m.csv"),
    "escapes in an image": ([*RUN, "--image", "\x1b[2J.png", *OUT], r"\x1b[2J.png does not"),
}


@pytest.fixture(scope="module")
def before(trained):
    return files(trained)


@pytest.mark.parametrize(("arguments", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_input_is_one_clear_line_and_changes_nothing(lab, before, arguments, message):
    line = the_error("predict", *arguments)
    assert message in line
    assert is_plain(line)
    assert files(lab) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [*RUN, *B2],
        [*RUN, *OUT],
        [*B2, *OUT],
        *([*RUN, *WHITE, *OUT, "--mpp", value] for value in ("0", "-1", "nan", "inf", "half")),
        *([*RUN, *WHITE, *OUT, "--mpp", "1", "--pitch-um", value] for value in ("0", "nan", "inf")),
        [*RUN, *B2, *OUT, "--mpp", "0.5"],
        [*RUN, *B2, *OUT, "--weights", "w.pt"],
    ],
    ids=" ".join,
)
def test_a_command_typed_wrongly_shows_its_usage(lab, before, arguments):
    result = spahgc("predict", *arguments, exit_code=2)
    assert result.stderr.startswith("Usage: spahgc predict ")
    assert result.stderr.count("Error: ") == 1
    assert files(lab) == before


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "parquet", "geojson"])
def test_an_earlier_prediction_is_replaced_only_where_that_is_asked_for(lab, tmp_path, suffix):
    place = tmp_path / f"B2.{suffix}"
    spahgc("predict", *RUN, *B2, "--out", place)
    before = files(tmp_path)
    assert "exists already; replace it" in the_error("predict", *RUN, *B2, "--out", place)
    assert files(tmp_path) == before
    told = spahgc("predict", *RUN, *B2, "--out", place, "--overwrite")
    assert told.stdout == f"{place}: 33 spots × 6 genes\n"
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_a_slide_or_place_named_twice_is_predicted_once(lab, tmp_path):
    places = ["--out", tmp_path / "{slide}.h5ad"] * 2
    told = spahgc("predict", *RUN, *B2, *B2, "--slide", "I1", *places)
    assert told.stdout.count("spots × 6 genes") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"B2.h5ad", "I1.h5ad"}


def test_images_of_one_name_do_not_take_each_others_place(lab, tmp_path):
    places = [tmp_path / "a/x.png", tmp_path / "b/x.png"]
    for place in places:
        place.parent.mkdir()
        Image.fromarray(np.full((300, 400, 3), (180, 90, 160), np.uint8)).save(place)
    asked = [word for place in places for word in ("--image", place)]
    error = the_error("predict", *RUN, *asked, "--mpp", "1", "--out", tmp_path / "{slide}.h5ad")
    assert "2 slides are called x, so one prediction would take the other's place" in error


def test_an_encoder_that_is_not_here_is_named(lab, tmp_path):
    pixels = np.random.default_rng(0).integers(80, 200, (300, 400, 3), np.uint8)
    Image.fromarray(pixels * np.uint8([[[1, 0, 1]]])).save(tmp_path / "tissue.png")
    image = ["--image", tmp_path / "tissue.png", "--mpp", "1"]
    out = tmp_path / "new.h5ad"
    assert "unknown encoder 'tiny'" in the_error("predict", *RUN, *image, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "curve.csv", "trust.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "altered"])
def test_a_damaged_run_is_refused(lab, run_copy, tmp_path, name, how):
    path = run_copy / name
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "missing":
        path.unlink()
    else:
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:middle], "altered": altered}[how])
    is_gone = (name, how) == ("run.json", "missing")
    expected = "is not a run" if is_gone else "copy is a damaged run: "
    before = files(tmp_path)
    for command in (
        ["predict", "--run", run_copy, *B2, "--out", tmp_path / "new.h5ad"],
        ["run", "show", run_copy],
        ["run", "export", run_copy, tmp_path / "export"],
        ["audit", run_copy],
    ):
        line = the_error(*command)
        assert expected in line or (is_gone and "has no run in it" in line)
        assert len(line) < 400
        assert files(tmp_path) == before


def test_a_run_with_the_weights_of_another_model_is_refused(lab, run_copy, tmp_path):
    network = asdict(NetworkConfig(embedding_size=8, n_genes=6))
    forge(run_copy, committee=None, network=network)
    command = ["predict", "--run", run_copy, *B2, "--out", tmp_path / "new.h5ad"]
    assert "weights are of another network than the run's record" in the_error(*command)


@pytest.mark.parametrize("older", [False, True], ids=["new", "in an older one's place"])
def test_an_interrupted_prediction_leaves_nothing_half_written(lab, tmp_path, monkeypatch, older):
    def break_off(table, path, **how):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    place = tmp_path / "B2.h5ad"
    if older:
        place.write_text("the older one")
    before = files(tmp_path)
    monkeypatch.setattr(anndata.AnnData, "write_h5ad", break_off)
    told = spahgc("predict", *RUN, *B2, "--out", place, "--overwrite", exit_code=1)
    assert told.stderr.splitlines()[-1] == "Aborted!"
    assert files(tmp_path) == before
