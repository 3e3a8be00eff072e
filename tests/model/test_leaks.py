"""Nothing of a test slide, neither its counts nor its image, reaches what was trained."""

from dataclasses import replace

import numpy as np
import pytest

from spahgc.model.baselines import BASELINES, predict_baselines
from spahgc.model.evaluation import table_of
from spahgc.model.prediction import open_predictor
from spahgc.model.runs import gather_fold, train_fold
from spahgc.store.confidence import serialise_trust
from tests.model.conftest import (
    DEFAULT_CONFIG,
    RUN_CONFIG,
    SMALL,
    copy_store,
    draw_tissue,
    fold_of,
    with_counts,
)

WITH_NETWORKS = replace(
    DEFAULT_CONFIG,
    network=SMALL,
    training=replace(DEFAULT_CONFIG.training, max_epochs=3),
    committee=replace(DEFAULT_CONFIG.committee, n_networks=1),
)
CONFIGS = {"paper": RUN_CONFIG, "default": DEFAULT_CONFIG, "with networks": WITH_NETWORKS}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=list(CONFIGS))
def config(request):
    return request.param


@pytest.fixture(scope="module")
def before(grown, config):
    """A run tested on B2."""
    return train_fold(grown, fold_of(grown), config=config)


def changed_store(grown, path, name):
    """Copy the store, with a slide that has the counts and the looks of something else."""
    other = with_counts(draw_tissue(name)[0], seed=1)
    return copy_store(grown, path, other, with_looks=True)


def weights_differ(one, other):
    assert one.run.weights.keys() == other.run.weights.keys()
    return [
        name
        for name, values in one.run.weights.items()
        if not np.array_equal(values, other.run.weights[name])
    ]


def test_a_test_slides_counts_and_looks_leave_no_trace_in_a_run(tmp_path, grown, config, before):
    cohort = changed_store(grown, tmp_path / "data.zarr", "B2")
    after = train_fold(cohort, fold_of(cohort), config=config)
    assert not weights_differ(before, after)
    assert after.run.curve.equals(before.run.curve)
    assert serialise_trust(after.run.trust) == serialise_trust(before.run.trust)
    for name in ("panel", "wide", "train", "references", "best_epoch", "validation_pcc"):
        assert getattr(after.run.record, name) == getattr(before.run.record, name), name
    as_it_was = open_predictor(after.run, cohort).predict(before.tested["B2"])
    assert np.array_equal(as_it_was, before.predictions["B2"])
    assert not np.allclose(after.predictions["B2"], before.predictions["B2"])


def test_a_training_slides_looks_do(tmp_path, grown, config, before):
    cohort = copy_store(grown, tmp_path / "data.zarr", draw_tissue("B1")[0], with_looks=True)
    assert weights_differ(before, train_fold(cohort, fold_of(cohort), config=config))


def test_a_test_slides_counts_and_looks_leave_no_trace_in_the_baselines(tmp_path, grown, config):
    known = {}
    for cohort in (grown, changed_store(grown, tmp_path / "data.zarr", "B2")):
        fold = config.divide(fold_of(cohort))
        teaching = gather_fold(cohort, fold, config=config)
        slides = [*teaching.spots.values(), *map(teaching.read, fold.validation)]
        known[cohort] = table_of(slides, groups=teaching.groups)
    teaching = gather_fold(grown, config.divide(fold_of(grown)), config=config)
    test = table_of([teaching.read("B2")], groups=teaching.groups, with_expression=False)
    first, second = (predict_baselines(train, test) for train in known.values())
    for method in BASELINES:
        assert np.array_equal(first[method], second[method]), method
