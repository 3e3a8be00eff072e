import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import DamagedStoreError, FormatVersionError, MissingError, StoreError
from spahgc.store.runs import (
    CURVE,
    RECORD,
    SCORES,
    WEIGHTS,
    Run,
    RunRecord,
    fresh_folder,
    read_run,
    write_run,
)

RECORD_OF_RUN = RunRecord(
    store="/data.zarr",
    commit=7,
    embedding="lite0",
    fingerprint="f" * 64,
    encoder={"encoder": "lite0", "patch_um": 112.0},
    train={"A1": "1" * 64, "B1": "2" * 64},
    validation=("C1",),
    test=("D1",),
    groups={"A1": "A", "B1": "B", "C1": "C", "D1": "D"},
    panel=("G1", "G2"),
    panel_rule="hvg:2",
    panel_digest="0" * 12,
    target_sum=1e4,
    network={"embedding_size": 8, "n_genes": 2},
    graph={"n_refer": 7, "n_close": 3},
    training={"seed": 0, "ema": None, "losses": {"target": 0.2}},
    best_epoch=2,
    validation_pcc=0.1 + 0.2,
    versions={"python": "3.11"},
    made_at="2025-01-01T00:00:00+00:00",
)


def make_run():
    generator = np.random.default_rng(0)
    curve = pd.DataFrame(generator.random((40, 3)) / 3, columns=["a", "b", "validation_pcc"])
    curve.insert(0, "epoch", range(1, 41))
    curve.loc[3, "validation_pcc"] = np.nan
    scores = pd.DataFrame({"slide": "D1", "gene": ["G1", "G2"], "pcc": [1 / 3, np.nan]})
    weights = {
        "head.weight": generator.random((2, 5), dtype=np.float32).T,  # not contiguous
        "head.bias": np.float32([0, np.pi]),
    }
    return Run(record=RECORD_OF_RUN, weights=weights, curve=curve, scores=scores)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(make_run(), folder)
    return folder


def test_a_run_is_read_back_as_it_was_written(folder):
    run, read = make_run(), read_run(folder)
    assert read.record == run.record
    assert read.weights.keys() == run.weights.keys()
    for name, weight in run.weights.items():
        assert read.weights[name].dtype == np.float32
        assert np.array_equal(read.weights[name], weight)
    pd.testing.assert_frame_equal(read.curve, run.curve, check_exact=True)
    pd.testing.assert_frame_equal(read.scores, run.scores, check_exact=True)


def test_a_run_that_tested_nothing_has_no_scores(tmp_path):
    write_run(replace(make_run(), scores=None), tmp_path)
    assert read_run(tmp_path).scores is None
    assert not (tmp_path / SCORES).exists()


def test_a_folder_that_is_no_run_names_the_command(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(MissingError, match=r"is not a run: no run.json; `spahgc train`"):
            read_run(path)


@pytest.mark.parametrize("name", [WEIGHTS, CURVE])
def test_a_run_without_one_of_its_files_is_damaged(folder, name):
    (folder / name).unlink()
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run"):
        read_run(folder)


@pytest.mark.parametrize("name", [RECORD, WEIGHTS, SCORES])
@pytest.mark.parametrize("left", [0, 0.1, 0.9], ids="{:.0%} left".format)
def test_a_run_with_a_file_cut_short_is_damaged(folder, name, left):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(left * len(content))])
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_a_run_with_an_empty_curve_is_damaged(folder):
    (folder / CURVE).write_bytes(b"")
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run"):
        read_run(folder)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param([], id="list"),
        pytest.param({}, id="nothing in it"),
        pytest.param({"version": "one"}, id="version in words"),
        pytest.param({"version": None}, id="no version"),
        pytest.param({"version": 1}, id="no slides"),
        pytest.param({**asdict(RECORD_OF_RUN), "panel": 3}, id="panel of one number"),
        pytest.param({**asdict(RECORD_OF_RUN), "mood": "good"}, id="something else too"),
    ],
)
def test_a_record_of_another_form_is_damaged(folder, document):
    (folder / RECORD).write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run"):
        read_run(folder)


def test_a_run_of_a_newer_spahgc_is_refused(folder):
    document = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**document, "version": 2, "more": "than we know"}))
    with pytest.raises(FormatVersionError, match="newer spahgc; `pip install --upgrade"):
        read_run(folder)


def test_a_fresh_folder_takes_its_place_when_all_went_well(tmp_path):
    path = tmp_path / "runs" / "first"
    with fresh_folder(path) as unfinished:
        (unfinished / "a").write_text("b")
        assert not path.exists()
    assert (path / "a").read_text() == "b"
    assert [item.name for item in path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), fresh_folder(tmp_path / "run") as unfinished:  # noqa: PT012
        (unfinished / "a").write_text("b")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(folder):
    before = sorted(folder.iterdir())
    with pytest.raises(StoreError, match=r"run exists; .*`--out`"), fresh_folder(folder):
        pytest.fail("nothing may be trained for a place that is taken")
    assert sorted(folder.iterdir()) == before


def test_a_place_below_a_file_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"), fresh_folder(tmp_path / "file/run"):
        pytest.fail("there is no such place")


def test_a_place_that_is_taken_meanwhile_is_one_error(tmp_path):
    path = tmp_path / "run"
    with (  # noqa: PT012
        pytest.raises(StoreError, match="run cannot be made: Directory not empty"),
        fresh_folder(path) as unfinished,
    ):
        (unfinished / "a").write_text("mine")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert [item.name for item in tmp_path.iterdir()] == ["run"]
