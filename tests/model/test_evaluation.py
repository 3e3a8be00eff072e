from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import MissingError
from spahgc.metrics import SCORES
from spahgc.model.baselines import BASELINES, predict_baselines
from spahgc.model.evaluation import evaluate_folds, score_baselines, table_of
from spahgc.model.runs import MODEL
from spahgc.model.spots import expression_of
from spahgc.store.splits import make_folds
from tests.model.conftest import (
    RUN_CONFIG,
    copy_store,
    draw_tissue,
    fold_of,
    small_networks,
    with_counts,
    without_gene,
)


@pytest.fixture(scope="module")
def results(grown):
    """Two folds of four."""
    folds = make_folds(grown.patients(grown.slides), rule="leave-one-slide-out")[::2]
    with small_networks():
        return list(evaluate_folds(grown, folds, config=RUN_CONFIG))


def test_every_method_is_scored_on_every_test_slide_and_gene(results):
    assert [result.fold.test for result in results] == [("A1",), ("B1",)]
    for result in results:
        scores, panel = result.scores, result.finished.run.record.panel
        assert list(scores.columns) == ["fold", "slide", "method", "gene", *SCORES]
        assert set(scores["slide"]) == set(scores["fold"]) == set(result.fold.test)
        by_method = scores.groupby("method", sort=False)["gene"].apply(tuple)
        assert by_method.to_dict() == dict.fromkeys((MODEL, *BASELINES), panel)


def test_the_models_rows_are_those_of_its_run(results):
    for result in results:
        own = result.scores[result.scores["method"] == MODEL].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, result.finished.run.scores)


def test_the_mean_of_the_slides_that_teach_or_choose_is_a_baseline(results, grown):
    teaching, fold = results[0].finished.teaching, results[0].fold
    known = [expression_of(teaching.read(name)) for name in (*fold.train, *fold.validation)]
    error_SG = np.concatenate(known).mean(axis=0) - expression_of(teaching.read("A1"))
    scores = results[0].scores.query("method == 'mean'")
    np.testing.assert_allclose(scores["mae"], np.abs(error_SG).mean(axis=0), rtol=1e-4)
    assert scores["pcc"].isna().all()


def test_embeddings_that_say_something_are_used(results):
    scores = pd.concat([result.scores for result in results])
    mean = scores.groupby("method")["pcc"].mean()
    assert mean["ridge"] > 0.3
    assert mean["7 nearest"] > 0.3


def test_progress_is_told_for_every_fold(grown):
    told = []
    config = replace(RUN_CONFIG, training=replace(RUN_CONFIG.training, max_epochs=2))
    folds = [fold_of(grown), fold_of(grown, test="A1")]
    list(evaluate_folds(grown, folds, config=config, advance=told.append))
    assert sum(told) == 4


def test_folds_are_judged_one_by_one(grown):
    folds = iter([fold_of(grown)])
    results = evaluate_folds(grown, folds, config=RUN_CONFIG)
    assert next(results).fold.test == ("B2",)
    assert next(results, None) is None


def test_a_table_keeps_each_slides_neighbours_to_itself(finished):
    teaching = finished.teaching
    slides = list(teaching.spots.values())
    table = table_of(slides, groups=teaching.groups)
    assert table.slide_S.tolist() == ["A2"] * 25 + ["B1"] * 28
    assert table.groups_S.tolist() == table.slide_S.tolist()
    assert np.array_equal(table.neighbours_SQ[:25], slides[0].near_SQ)
    assert np.array_equal(table.neighbours_SQ[25:], slides[1].near_SQ + 25)
    assert np.array_equal(table.expression_SG, np.concatenate([s.expression_SG for s in slides]))
    assert np.array_equal(table.log_depth_S, np.concatenate([s.log_depth_S for s in slides]))


def test_a_missing_neighbour_stays_missing(finished):
    alone = replace(finished.tested["B2"], near_SQ=np.full((33, 6), -1))
    slides = [*finished.teaching.spots.values(), alone]
    assert (table_of(slides, groups=finished.teaching.groups).neighbours_SQ[-33:] == -1).all()


def test_a_test_slides_expression_is_not_handed_on(finished):
    table = table_of(
        [finished.tested["B2"]], groups=finished.teaching.groups, with_expression=False
    )
    assert table.expression_SG is None
    assert table.log_depth_S is None


def test_expression_that_was_never_measured_is_not_made_up(finished):
    bare = replace(finished.tested["B2"], expression_SG=None, log_depth_S=None)
    with pytest.raises(MissingError, match="slide B2 has no expression"):
        table_of([bare], groups=finished.teaching.groups)


def test_a_test_slides_numbers_leave_no_trace_in_the_baselines(tmp_path, grown, finished):
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    fold = fold_of(cohort)
    (other,) = evaluate_folds(cohort, [fold], config=RUN_CONFIG)

    def predictions(teaching):
        known = [teaching.read(name) for name in (*fold.train, *fold.validation)]
        test = table_of([teaching.read("B2")], groups=teaching.groups, with_expression=False)
        return predict_baselines(table_of(known, groups=teaching.groups), test)

    before, after = predictions(finished.teaching), predictions(other.finished.teaching)
    for method in BASELINES:
        assert np.array_equal(before[method], after[method]), method


def test_a_gene_unknown_on_the_test_slide_has_no_score_by_any_method(tmp_path, grown):
    slide = without_gene(draw_tissue("B2")[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    config = replace(RUN_CONFIG, panel_rule="all")
    (result,) = evaluate_folds(cohort, [fold_of(cohort)], config=config)
    is_unknown = result.scores["gene"] == "G3"
    assert is_unknown.sum() == 1 + len(BASELINES)
    assert result.scores.loc[is_unknown, "rmse"].isna().all()
    assert result.scores.loc[~is_unknown, "rmse"].notna().all()


def test_baselines_learn_from_the_slides_they_are_given(finished):
    teaching, test = finished.teaching, finished.tested["B2"]
    few, more = (
        score_baselines(teaching, test, known=known, fold="B2")
        for known in (
            list(teaching.spots.values()),
            [*teaching.spots.values(), teaching.read("A1")],
        )
    )
    assert not few["rmse"].equals(more["rmse"])
