from dataclasses import replace

import numpy as np
import pytest

from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.panel_rules import PanelRule
from spahgc.model.prediction import open_predictor, predict_stored
from spahgc.model.presets import DEFAULT
from spahgc.model.runs import train_fold
from spahgc.store.runs import read_run, write_run
from tests.model.conftest import EMBEDDING, SMALL, copy_store, draw_tissue, fold_of, with_counts

CONFIG = replace(
    DEFAULT,
    features=FeatureConfig(embeddings=(EMBEDDING,), signed_root=True, standardise=True),
    panel_rule=PanelRule.parse("heg:6"),
    graph=GraphConfig(n_refer=9),
    network=SMALL,
    training=replace(DEFAULT.training, max_epochs=4, patience=2, seed=3),
    committee=CommitteeConfig(n_components=6, n_programmes=3, n_networks=2),
)


def train(cohort, **changes):
    return train_fold(cohort, fold_of(cohort), config=replace(CONFIG, **changes))


@pytest.fixture(scope="module")
def seated(grown):
    """A committee tested on B2, taught by the three others."""
    return train(grown)


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def test_all_slides_but_the_tested_teach(seated):
    assert sorted(seated.run.record.train) == ["A1", "A2", "B1"]
    assert seated.run.record.validation == ()


def test_a_committee_learns_what_tissue_says(seated):
    assert seated.run.scores["pcc"].mean() > 0.4
    assert seated.run.record.validation_pcc > 0.4


def test_the_same_seed_gives_the_same_committee(grown, seated):
    again = train(grown)
    assert same(again.run.weights, seated.run.weights)
    assert np.array_equal(again.predictions["B2"], seated.predictions["B2"])


def test_a_test_slides_numbers_leave_no_trace(tmp_path, grown, seated):
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    other = train(copy_store(grown, tmp_path / "data.zarr", slide))
    assert same(other.run.weights, seated.run.weights)
    assert np.array_equal(other.predictions["B2"], seated.predictions["B2"])


def test_a_training_slides_numbers_do(tmp_path, grown, seated):
    slide = with_counts(draw_tissue("B1")[0], seed=1)
    other = train(copy_store(grown, tmp_path / "data.zarr", slide))
    assert not same(other.run.weights, seated.run.weights)


def test_a_run_read_back_predicts_the_same(tmp_path, grown, seated):
    write_run(seated.run, tmp_path)
    predictor = open_predictor(read_run(tmp_path), grown)
    table = predict_stored(predictor, grown, "B2")
    np.testing.assert_allclose(table.X, seated.predictions["B2"], atol=1e-6)


def test_a_committee_without_networks_is_its_ridge(grown):
    alone = train(grown, committee=replace(CONFIG.committee, n_networks=0))
    assert alone.run.record.network == {}
    assert not any(name.startswith("network") for name in alone.run.weights)
    assert alone.run.scores["pcc"].mean() > 0.4


def test_progress_reaches_what_was_announced(grown):
    told = []
    train_fold(grown, fold_of(grown), config=CONFIG, advance=told.append)
    assert sum(told) == CONFIG.n_epochs


def test_two_teachers_cannot_lend_to_each_other_while_one_is_held_out(grown):
    fold = replace(fold_of(grown), train=("A2",), validation=("B1",))
    finished = train_fold(grown, fold, config=CONFIG)
    assert finished.run.weights["shares"][1] == 0  # nobody could say what networks are worth
    assert np.isfinite(finished.predictions["B2"]).all()


def test_penalties_shares_and_epochs_are_chosen_where_nobody_learned(seated):
    teaching, record = seated.teaching, seated.run.record
    assert set(seated.run.trust.slides) == set(teaching.train)
    assert 1 <= record.best_epoch <= CONFIG.training.max_epochs
    assert (seated.run.weights["shares"] >= 0).all()
