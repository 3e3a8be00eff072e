from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import MissingError
from spahgc.metrics import SCORES
from spahgc.model.evaluation import judge_all, plan_tasks
from spahgc.model.workers import _judge, judge_on_dask
from spahgc.store.editing import remove_slide
from spahgc.store.run_record import PAPER
from tests.model.conftest import RUN_CONFIG, copy_store, fold_of


def tasks_of(cohort):
    config = replace(RUN_CONFIG, training=replace(RUN_CONFIG.training, max_epochs=1))
    return plan_tasks([fold_of(cohort)], models={PAPER: config}, seeds=(3, 4))


def test_worker_processes_give_the_same_numbers_in_the_same_order(grown):
    tasks = tasks_of(grown)
    there = list(judge_on_dask(grown, tasks, workers=1))
    for one, other in zip(judge_all(grown, tasks), there, strict=True):
        columns = list(SCORES)
        pd.testing.assert_frame_equal(
            one.scores.drop(columns=columns), other.scores.drop(columns=columns)
        )
        np.testing.assert_allclose(
            one.scores[columns], other.scores[columns], rtol=1e-4, atol=1e-5, equal_nan=True
        )


def test_a_worker_reads_the_commit_it_is_told_whatever_came_after(tmp_path, grown):
    cohort = copy_store(grown, tmp_path / "data.zarr")
    (task, *_) = tasks_of(cohort)
    before = _judge(cohort.where, cohort.commit.number, task)
    remove_slide(cohort.store, task.fold.test[0])
    after = _judge(cohort.where, cohort.commit.number, task)
    pd.testing.assert_frame_equal(before.scores, after.scores)
    with pytest.raises(MissingError, match="has no commit 99; its newest is"):
        _judge(cohort.where, 99, task)
