from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import MissingError
from spahgc.metrics import SCORES
from spahgc.model.baselines import BASELINES, predict_baselines
from spahgc.model.evaluation import BASELINE_TASK, judge_all, plan_tasks, table_of
from spahgc.model.panel_rules import PanelRule
from spahgc.model.runs import gather_fold
from spahgc.model.spots import expression_of
from spahgc.store.run_record import PAPER
from spahgc.store.splits import make_folds
from tests.model.conftest import (
    RUN_CONFIG,
    copy_store,
    draw_tissue,
    fold_of,
    with_counts,
    without_gene,
)


def plan(folds, *, seeds=(1,), **changes):
    return plan_tasks(folds, models={PAPER: replace(RUN_CONFIG, **changes)}, seeds=seeds)


@pytest.fixture(scope="module")
def tasks(grown):
    """Two folds of four, two seeds."""
    folds = make_folds(grown.patients(grown.slides), rule="leave-one-slide-out")[::2]
    return plan(folds, seeds=(1, 2))


@pytest.fixture(scope="module")
def results(grown, tasks):
    return list(judge_all(grown, tasks))


@pytest.fixture(scope="module")
def scores(results):
    return pd.concat([result.scores for result in results], ignore_index=True)


def test_each_fold_is_judged_by_every_seed_and_then_by_the_baselines(tasks):
    assert [(task.fold.name, task.method, task.seed) for task in tasks] == [
        ("A1", PAPER, 1),
        ("A1", PAPER, 2),
        ("A1", BASELINE_TASK, None),
        ("B1", PAPER, 1),
        ("B1", PAPER, 2),
        ("B1", BASELINE_TASK, None),
    ]


def test_every_method_is_scored_on_every_test_slide_and_gene(results, tasks, scores):
    columns = ["fold", "slide", "method", "seed", "gene", *SCORES, "panel", "shared_patients"]
    assert list(scores.columns) == columns
    for slide, panel in (("A1", results[0].run.record), ("B1", results[3].run.record)):
        of_slide = scores[scores["slide"] == slide]
        assert set(of_slide["method"]) == {PAPER, *BASELINES}
        for _, of_one in of_slide.groupby(["method", "seed"], dropna=False):
            assert tuple(of_one["gene"]) == panel.panel
        assert set(of_slide["panel"]) == {panel.panel_digest}


def test_baselines_have_no_seed_and_each_model_its_own(scores):
    is_model = scores["method"] == PAPER
    assert set(scores.loc[is_model, "seed"]) == {1, 2}
    assert scores.loc[~is_model, "seed"].isna().all()
    first, second = (scores[is_model & (scores["seed"] == seed)]["rmse"] for seed in (1, 2))
    assert not np.allclose(first, second)


def test_every_row_says_which_patients_are_on_both_sides(scores):
    assert scores.groupby("slide")["shared_patients"].unique().str[0].to_dict() == {
        "A1": "A",
        "B1": "B",
    }


def test_the_models_rows_are_those_of_its_run(results, tasks):
    for task, result in zip(tasks, results, strict=True):
        if task.method == PAPER:
            own = result.scores.drop(columns=["seed", "panel", "shared_patients"])
            pd.testing.assert_frame_equal(own, result.run.scores)
        else:
            assert result.run is None


def test_every_spot_of_a_test_slide_has_a_correlation_over_genes(results):
    spots = results[0].spots
    assert list(spots.columns) == ["fold", "slide", "method", "seed", "spot", "pcc"]
    assert len(spots) == 30
    y_SG, p_SG = results[0].measured["A1"], results[0].predictions["A1"]
    expected = [np.corrcoef(y, p)[0, 1] for y, p in zip(y_SG, p_SG, strict=True)]
    np.testing.assert_allclose(spots["pcc"], expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_the_slides_that_teach_or_choose_is_a_baseline(grown, tasks, scores):
    teaching, fold = gather_fold(grown, tasks[0].fold, config=RUN_CONFIG), tasks[0].fold
    known = [expression_of(teaching.read(name)) for name in (*fold.train, *fold.validation)]
    error_SG = np.concatenate(known).mean(axis=0) - expression_of(teaching.read("A1"))
    rows = scores.query("method == 'mean' and slide == 'A1'")
    np.testing.assert_allclose(rows["mae"], np.abs(error_SG).mean(axis=0), rtol=1e-4)
    assert rows["pcc"].isna().all()


def test_embeddings_that_say_something_are_used(scores):
    mean = scores.groupby("method")["pcc"].mean()
    assert mean["ridge"] > 0.3
    assert mean["7 nearest"] > 0.3


def test_tasks_are_judged_one_by_one(grown):
    results = judge_all(grown, plan([fold_of(grown)])[:1])
    assert set(next(results).scores["slide"]) == {"B2"}
    assert next(results, None) is None


def test_the_same_seed_gives_the_same_scores(grown, results, tasks):
    (again,) = judge_all(grown, tasks[:1])
    columns = list(SCORES)
    np.testing.assert_allclose(
        again.scores[columns], results[0].scores[columns], rtol=0, atol=1e-6, equal_nan=True
    )
    np.testing.assert_allclose(again.predictions["A1"], results[0].predictions["A1"], atol=1e-6)


def test_a_table_keeps_each_slides_neighbours_to_itself(finished):
    teaching = finished.teaching
    slides = list(teaching.spots.values())
    table = table_of(slides, groups=teaching.groups)
    assert table.slide_S.tolist() == ["A2"] * 25 + ["B1"] * 28
    assert table.groups_S.tolist() == table.slide_S.tolist()
    assert np.array_equal(table.neighbours_SQ[:25], slides[0].near_SQ)
    near_SQ = slides[1].near_SQ
    assert np.array_equal(table.neighbours_SQ[25:], np.where(near_SQ < 0, -1, near_SQ + 25))
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


def test_a_test_slides_numbers_leave_no_trace_in_the_baselines(tmp_path, grown):
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)

    def predictions(cohort):
        fold = fold_of(cohort)
        teaching = gather_fold(cohort, fold, config=RUN_CONFIG)
        known = [teaching.read(name) for name in (*fold.train, *fold.validation)]
        test = table_of([teaching.read("B2")], groups=teaching.groups, with_expression=False)
        return predict_baselines(table_of(known, groups=teaching.groups), test)

    before, after = predictions(grown), predictions(cohort)
    for method in BASELINES:
        assert np.array_equal(before[method], after[method]), method


def test_a_gene_unknown_on_the_test_slide_has_no_score_by_any_method(tmp_path, grown):
    slide = without_gene(draw_tissue("B2")[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    tasks = plan([fold_of(cohort)], panel_rule=PanelRule.parse("all"))
    scores = pd.concat([result.scores for result in judge_all(cohort, tasks)])
    is_unknown = scores["gene"] == "G3"
    assert is_unknown.sum() == 1 + len(BASELINES)
    assert scores.loc[is_unknown, "rmse"].isna().all()
    assert scores.loc[~is_unknown, "rmse"].notna().all()


def test_baselines_learn_from_the_validation_slide_too(grown):
    teaching, fold = gather_fold(grown, fold_of(grown), config=RUN_CONFIG), fold_of(grown)
    with_validation = [*teaching.spots.values(), *map(teaching.read, fold.validation)]
    train = table_of(with_validation, groups=teaching.groups)
    test = table_of([teaching.read("B2")], groups=teaching.groups, with_expression=False)
    judged = next(judge_all(grown, plan([fold])[1:]))
    measured_SG = expression_of(teaching.read("B2"))
    for method, predicted_SG in predict_baselines(train, test).items():
        rows = judged.scores[judged.scores["method"] == method]
        np.testing.assert_allclose(
            rows["mae"], np.abs(predicted_SG - measured_SG).mean(axis=0), rtol=1e-4
        )


def test_slides_of_lattices_with_more_and_fewer_near_spots_share_a_table(finished):
    few, many = (replace(spots) for spots in finished.teaching.spots.values())
    few = replace(few, near_SQ=few.near_SQ[:, :4])
    table = table_of([few, many], groups=finished.teaching.groups)
    assert table.neighbours_SQ.shape == (53, 8)
    assert (table.neighbours_SQ[:25, 4:] == -1).all()
    assert np.array_equal(table.neighbours_SQ[:25, :4], few.near_SQ)
