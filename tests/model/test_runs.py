import shutil
from dataclasses import replace

import pytest

from spahgc.errors import ProtocolError
from spahgc.index import ReferenceIndex
from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.runs import train_fold
from spahgc.store.cohort import open_cohort
from spahgc.store.run_record import KERNEL_RIDGE, PAPER, STACKED
from spahgc.store.splits import make_fold
from tests.model.conftest import EMBEDDING, RUN_CONFIG, draw_tissue, fold_of, put_slide


@pytest.mark.parametrize(
    ("committee", "name"),
    [
        (None, PAPER),
        (CommitteeConfig(n_components=4, n_programmes=2, n_networks=0), KERNEL_RIDGE),
        (CommitteeConfig(n_components=4, n_programmes=2, n_networks=1), STACKED),
    ],
    ids=["paper", "ridge", "stacked"],
)
def test_settings_scores_and_record_call_the_model_the_same(grown, committee, name):
    config = replace(RUN_CONFIG, committee=committee)
    run = train_fold(grown, fold_of(grown), config=config).run
    assert config.method == run.record.method == name
    assert set(run.scores["method"]) == {name}


@pytest.fixture
def cohort(grown, tmp_path):
    """Four slides of two patients, and B3: the counts of B2 under another name."""
    shutil.copytree(grown.store.path, tmp_path / "data.zarr")
    slide, embedding_SD = draw_tissue("B2")
    store = open_cohort(tmp_path / "data.zarr").store
    put_slide(store, replace(slide, name="B3", patient="C"), embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    return open_cohort(store.path)


@pytest.mark.parametrize("validation", ["A1", "B3"], ids=["training", "validation"])
def test_a_twin_of_the_test_slide_may_not_teach(cohort, validation):
    fold = make_fold(cohort.patients(cohort.slides), test=["B2"], validation=[validation])
    with pytest.raises(ProtocolError, match="slides B2 and B3 have the same image or counts"):
        train_fold(cohort, fold, config=RUN_CONFIG)


def test_a_twin_of_a_training_slide_may_not_choose_the_epoch(cohort):
    fold = make_fold(cohort.patients(cohort.slides), test=["A1"], validation=["B3"])
    with pytest.raises(ProtocolError, match="slides B3 and B2 have the same image or counts"):
        train_fold(cohort, fold, config=RUN_CONFIG)
