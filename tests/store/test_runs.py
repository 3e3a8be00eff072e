import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import DamagedStoreError, MissingError
from spahgc.store.confidence import FEWEST_HELD_OUT, Trust, parse_trust, serialise_trust
from spahgc.store.run_record import RECORD, read_record
from spahgc.store.runs import (
    CURVE,
    CURVE_COLUMNS,
    SCORES,
    TRUST,
    WEIGHTS,
    Run,
    export_run,
    find_runs,
    read_run,
    write_run,
)
from tests.store.test_run_record import RECORD_OF_RUN


def make_run():
    generator = np.random.default_rng(0)
    curve = pd.DataFrame(generator.random((40, 3)) / 3, columns=list(CURVE_COLUMNS[1:]))
    curve.insert(0, "epoch", range(1, 41))
    curve.loc[3, "validation_pcc"] = np.nan
    scores = pd.DataFrame({"slide": "D1", "gene": ["G1", "G2"], "pcc": [1 / 3, np.nan]})
    scores[["rmse", "mae"]] = generator.random((2, 2))
    weights = {
        "head.weight": generator.random((2, 5), dtype=np.float32).T,  # not contiguous
        "head.bias": np.float32([0, np.pi]),
    }
    trust = Trust(
        slides=("C1",),
        genes=pd.DataFrame(
            {
                "cv_pcc": [1 / 3, np.nan],
                "cv_low": [0, np.nan],
                "cv_high": 1,
                "cv_slides": [1, 0],
                "cv_worst": [1 / 4, np.nan],
                "cv_best": [1 / 2, np.nan],
            },
            index=pd.Index(["G1", "G2"], name="gene"),
            dtype=float,
        ),
        n_nearest=10,
        nearness_Q=np.linspace(-0.1, 1 / 3, 11),
        flagged_share=0.02,
        error_B=np.array([1.1, np.nan, 0.9]),
    )
    return Run(record=RECORD_OF_RUN, weights=weights, curve=curve, scores=scores, trust=trust)


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
    assert (read.trust.slides, read.trust.n_nearest) == (run.trust.slides, run.trust.n_nearest)
    assert read.trust.flagged_share == run.trust.flagged_share
    pd.testing.assert_frame_equal(read.trust.genes, run.trust.genes, check_exact=True)
    np.testing.assert_array_equal(read.trust.nearness_Q, run.trust.nearness_Q)
    np.testing.assert_array_equal(read.trust.error_B, run.trust.error_B)
    assert read_record(folder) == run.record
    assert (read.folder, run.folder) == (folder, None)


def test_an_interval_of_few_slides_by_an_older_version_is_not_believed(tmp_path):
    genes = make_run().trust.genes.assign(cv_slides=[3.0, 0.0])
    old = json.loads(serialise_trust(replace(make_run().trust, genes=genes)))
    for column in ("cv_worst", "cv_best"):
        del old["genes"][column]
    read = parse_trust(json.dumps(old)).genes
    assert read[["cv_low", "cv_high", "cv_worst", "cv_best"]].isna().all(axis=None)
    assert read["cv_pcc"].tolist()[0] == 1 / 3
    old["genes"]["cv_slides"] = [FEWEST_HELD_OUT, 0]
    assert parse_trust(json.dumps(old)).genes["cv_high"].tolist()[0] == 1


def test_a_run_that_tested_nothing_has_no_scores(tmp_path):
    write_run(replace(make_run(), scores=None, trust=None), tmp_path)
    run = read_run(tmp_path)
    assert run.scores is None
    assert run.trust is None
    assert not (tmp_path / SCORES).exists()


def test_a_folder_that_is_no_run_names_the_command(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(MissingError, match=r"is not a run: no run.json; `spahgc train`"):
            read_run(path)


@pytest.mark.parametrize("name", [WEIGHTS, CURVE, SCORES, TRUST])
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


@pytest.mark.parametrize("name", [WEIGHTS, CURVE, SCORES, TRUST])
def test_a_file_that_was_changed_later_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedStoreError, match=rf"{name} is not the file .*sha256") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_run_are_not_taken_for_its_own(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    run = make_run()
    write_run(replace(run, weights={n: w + 1 for n, w in run.weights.items()}), other)
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(DamagedStoreError, match=f"{WEIGHTS} is not the file"):
        read_run(folder)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="nothing"),
        pytest.param(["weights.safetensors"], id="list"),
        pytest.param({WEIGHTS: "0", CURVE: "0", "../../secret": "0"}, id="outside"),
    ],
)
def test_a_record_that_lists_other_files_is_damaged(folder, files):
    document = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**document, "files": files}))
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run"):
        read_run(folder)


def test_an_exported_run_can_be_read_and_does_not_say_where_it_lay(folder, tmp_path):
    into = tmp_path / "export"
    into.mkdir()
    files = export_run(folder, into)
    assert [path.name for path in files] == [CURVE, RECORD, TRUST, WEIGHTS]
    read, run = read_run(into), make_run()
    assert read.record == replace(run.record, store="data.zarr")
    assert read.scores is None
    assert all(np.array_equal(read.weights[name], run.weights[name]) for name in run.weights)


def test_an_exported_run_names_its_store_and_the_file_of_its_split_without_their_folders(tmp_path):
    places = {"store": "/data/Doe, Jane/lab.zarr", "split": "C:\\Doe, Jane\\split.csv"}
    run, whole, cut = (tmp_path / name for name in ("run", "whole", "cut"))
    for folder in (run, whole, cut):
        folder.mkdir()
    write_run(replace(make_run(), record=replace(make_run().record, **places)), run)
    export_run(run, cut)
    assert "Jane" not in (cut / RECORD).read_text()
    record = read_run(cut).record
    assert (record.store, record.split) == ("lab.zarr", "split.csv")
    export_run(run, whole, keep_paths=True)
    record = read_run(whole).record
    assert {"store": record.store, "split": record.split} == places


def test_runs_are_found_in_evaluations_too_but_not_in_unfinished_folders(folder, tmp_path):
    for place in ("evaluation/folds/1-C2", ".begun.unfinished/work/x", "notes"):
        (tmp_path / place).mkdir(parents=True)
    write_run(make_run(), tmp_path / "evaluation/folds/1-C2")
    write_run(make_run(), tmp_path / ".begun.unfinished/work/x")
    assert list(find_runs(tmp_path)) == [tmp_path / "evaluation/folds/1-C2", folder]
    assert list(find_runs(folder)) == [folder]
