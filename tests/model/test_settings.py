"""Records of runs that say anything: used as they are, or refused in one line."""

import io
import json
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from spahgc.errors import DamagedStoreError, SpahgcError
from spahgc.model.audit import audit_run
from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.prediction import open_predictor, predict_stored
from spahgc.model.runs import train_fold
from spahgc.model.settings import settings_of
from spahgc.report.runs import describe_run, print_run
from spahgc.store.run_record import RECORD
from spahgc.store.runs import TRUST, read_run, write_run
from tests.model.conftest import RUN_CONFIG, fold_of

COMMITTEE = CommitteeConfig(n_components=4, n_programmes=2, n_networks=1)
WRONG = (
    *(None, True, 0, -1, 1.5, 10**400, 10**12, float("nan"), float("inf")),
    *("x", "\ud800", "\x00\n", [], ["x"], [[1]], {}, {"x": 1}),
)


@pytest.fixture(scope="module")
def committee_run(grown):
    config = replace(RUN_CONFIG, committee=COMMITTEE)
    return train_fold(grown, fold_of(grown), config=config).run


@pytest.fixture(scope="module")
def folders(finished, committee_run, tmp_path_factory):
    """A run of the paper's network and one of a committee, with what their files say."""
    found = {}
    for name, run in {"paper": finished.run, "committee": committee_run}.items():
        folder = tmp_path_factory.mktemp(name)
        write_run(run, folder)
        read = {file: json.loads((folder / file).read_text()) for file in (RECORD, TRUST)}
        del read[RECORD]["sha256"]
        found[folder] = read
    return found


def places(document, *path):
    """Give the way to everything in a document, of long lists to the first two."""
    items = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = list(enumerate(document))[:2]
    for key, value in items:
        yield (*path, key)
        yield from places(value, *path, key)


def changed(document, path, how):
    """Copy a document with one of its values gone, said twice, or another."""
    document = json.loads(json.dumps(document))
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    key = path[-1]
    if how == "gone":
        del inside[key]
    elif how == "twice":
        inside[key] = inside[key] * 2 if isinstance(inside[key], list) else [inside[key]] * 2
    else:
        inside[key] = how
    return document


@st.composite
def forgeries(draw, files):
    """Draw a run's documents with one value of theirs changed."""
    file = draw(st.sampled_from(sorted(files)))
    path = draw(st.sampled_from(list(places(files[file]))))
    how = draw(st.one_of(st.sampled_from(WRONG), st.sampled_from(["gone", "twice"])))
    return {**files, file: changed(files[file], path, how)}


def write(folder, documents):
    for file, document in documents.items():
        (folder / file).write_text(json.dumps(document))
    record = documents[RECORD]
    if isinstance(record.get("files"), dict):
        record["files"] = {**record["files"], TRUST: digest_of(folder / TRUST)}
        (folder / RECORD).write_text(json.dumps(record))


def digest_of(path):
    return sha256(path.read_bytes()).hexdigest()


def what_is_said_of(folder, cohort):
    """Use a run in every way; give the line that refuses it, if one does."""
    try:
        run = read_run(folder)
        json.dumps(describe_run(run))
        print_run(run, console=Console(file=io.StringIO()), title=folder.name)
        audit_run(run, cohort)
        predict_stored(open_predictor(run, cohort), cohort, "B2")
    except SpahgcError as error:
        return str(error)


@pytest.mark.parametrize("name", ["paper", "committee"])
def test_a_forged_run_is_refused_in_one_line_or_used(grown, folders, name):
    folder, files = next((f, files) for f, files in folders.items() if name in f.name)

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(documents=forgeries(files))
    def use(documents):
        write(folder, documents)
        told = what_is_said_of(folder, grown)
        write(folder, files)
        assert told is None or ("\n" not in told and 20 < len(told) < 500)

    use()
    audit_run(read_run(folder), grown)  # as it was


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"precision": "float8"}},
            'its training.precision is "float8", expected one of float32, bfloat16, float16',
        ),
        ({"training": {"seed": "0"}}, 'its training.seed is "0", expected a whole number'),
        ({"training": {"losses": 3}}, "its training.losses is 3, expected an object"),
        (
            {"committee": {"n_components": 0}},
            "its committee.n_components is 0, expected a whole number from 1 to ",
        ),
        ({"graph": {"n_refer": 7}}, "its graph lacks n_close, expected n_refer, n_close"),
        ({"features": {"embeddings": "tiny"}}, "its features lacks signed_root, standardise"),
        (
            {"features": {"embeddings": ["big"], "signed_root": False, "standardise": True}},
            'its features.embeddings are ["big"], expected those of its fingerprints, ["tiny"]',
        ),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_says_where_what_and_what_is_expected(
    committee_run, tmp_path, changes, message
):
    run = replace(committee_run, record=replace(committee_run.record, **changes), folder=tmp_path)
    with pytest.raises(DamagedStoreError) as caught:
        settings_of(run)
    assert str(caught.value).startswith(f"{tmp_path} is a damaged run: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith(
        "copy the whole run again, or train again with `spahgc train`"
    )


def test_settings_are_those_that_it_was_trained_with(committee_run):
    read = settings_of(committee_run)
    assert read.committee == COMMITTEE
    assert (read.features, read.graph) == (RUN_CONFIG.features, RUN_CONFIG.graph)
    assert read.training == RUN_CONFIG.training
    assert (read.network.hidden_size, read.network.n_genes) == (16, 2)


def test_settings_of_training_may_come_from_another_version(committee_run):
    record = committee_run.record
    training = {**record.training, "momentum": 0.9, "devices": 1}
    del training["precision"]
    older = replace(committee_run, record=replace(record, training=training))
    assert settings_of(older).training == RUN_CONFIG.training
