"""What a run says of itself: read back, or refused for what it cannot say."""

import json
from dataclasses import asdict, replace

import pytest

from spahgc.errors import DamagedStoreError, FormatVersionError
from spahgc.store.drafts import digest_fingerprint
from spahgc.store.run_record import RECORD, RUN_VERSION, RunRecord, read_record, write_record

FINGERPRINT = {"encoder": "lite0", "patch_um": 112.0}
RECORD_OF_RUN = RunRecord(
    store="/data.zarr",
    commit=7,
    features={"embeddings": ["lite0"], "signed_root": False, "standardise": False},
    fingerprints={"lite0": digest_fingerprint(FINGERPRINT)},
    encoders={"lite0": FINGERPRINT},
    train={"A1": "1" * 64, "B1": "2" * 64},
    validation=("C1",),
    test=("D1",),
    groups={"A1": "A", "B1": "B", "C1": "C", "D1": "D"},
    panel=("G1", "G2"),
    panel_rule="hvg:2",
    panel_digest="0" * 12,
    wide=(),
    target_sum=1e4,
    network={"embedding_size": 8, "n_genes": 2},
    graph={"n_refer": 7, "n_close": 3},
    training={"seed": 0, "ema": None, "losses": {"target": 0.2}},
    best_epoch=2,
    validation_pcc=0.1 + 0.2,
    versions={"python": "3.11"},
    made_at="2025-01-01T00:00:00+00:00",
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_record(RECORD_OF_RUN, folder, files={"weights.safetensors": "0" * 64})
    return folder


def test_a_record_is_read_back_as_it_was_written(folder):
    assert read_record(folder) == RECORD_OF_RUN


def test_a_model_is_called_by_what_was_trained():
    committee = {"n_networks": 4}
    for record, name in (
        (RECORD_OF_RUN, "SpaHGC (paper)"),
        (replace(RECORD_OF_RUN, committee=committee), "SpaHGC networks + kernel ridge, stacked"),
        (replace(RECORD_OF_RUN, committee=committee, network={}), "kernel ridge on gene programs"),
    ):
        assert record.method == name


@pytest.mark.parametrize(
    "document",
    [
        pytest.param([], id="list"),
        pytest.param({}, id="nothing in it"),
        pytest.param({"version": "one"}, id="version in words"),
        pytest.param({"version": None}, id="no version"),
        pytest.param({"version": RUN_VERSION}, id="no slides"),
        pytest.param({**asdict(RECORD_OF_RUN), "panel": 3}, id="panel of one number"),
        pytest.param({**asdict(RECORD_OF_RUN), "mood": "good"}, id="something else too"),
    ],
)
def test_a_record_of_another_form_is_damaged(folder, document):
    (folder / RECORD).write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match=r"run is a damaged run"):
        read_record(folder)


def test_a_run_of_a_newer_spahgc_is_refused(folder):
    document = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**document, "version": 3, "more": "than we know"}))
    with pytest.raises(FormatVersionError, match="newer spahgc; `pip install --upgrade"):
        read_record(folder)


def test_a_run_of_an_older_spahgc_is_refused(folder):
    document = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**document, "version": 1}))
    with pytest.raises(FormatVersionError, match=r"older spahgc.*train again"):
        read_record(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panel": ("G1", "G1")}, 'its panel names "G1" twice'),
        ({"train": {}}, "its train is empty, expected at least one"),
        ({"groups": {"A1": "A"}}, 'its groups lack "B1", which it was trained on'),
        ({"committee": {}}, "its wide names no gene to find programs in"),
        ({"target_sum": 0.0}, "its target_sum is 0.0, expected more than 0"),
        ({"encoders": {}}, 'its encoders do not have what its fingerprint of "lite0" is of'),
    ],
    ids=str,
)
def test_a_record_that_contradicts_itself_is_damaged(folder, changes, message):
    write_record(replace(RECORD_OF_RUN, **changes), folder, files={})
    with pytest.raises(DamagedStoreError, match="run is a damaged run") as caught:
        read_record(folder)
    assert message in str(caught.value)


def test_what_was_found_and_expected_is_spelled_out(folder):
    document = {**asdict(RECORD_OF_RUN), "files": {}, "microns_per_pixel": {"A1": "0.5"}}
    (folder / RECORD).write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError) as caught:
        read_record(folder)
    expected = 'its microns_per_pixel is {"A1": "0.5"}, expected an object of a number or null'
    assert expected in str(caught.value)
