"""Slides on which nothing can be predicted: a result to report, never an error or a warning."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.sparse import csr_matrix

from spahgc.model.audit import audit_run
from spahgc.model.baselines import BASELINES
from spahgc.model.evaluation import judge_all, plan_tasks
from spahgc.model.panel_rules import PanelRule
from spahgc.model.prediction import open_predictor, predict_stored
from spahgc.model.runs import train_fold
from spahgc.report.evaluation import EvaluationReport
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.run_record import KERNEL_RIDGE
from spahgc.store.runs import find_runs, read_run
from spahgc.store.splits import make_fold, make_folds
from tests.model.conftest import DEFAULT_CONFIG, draw_noise, put_slide

N_SEEDS = 8


def make_store(path, drawn):
    store = create_store(path)
    for slide, embedding_SD in drawn:
        put_slide(store, slide, embedding_SD)
    return open_cohort(path)


def draw(*names, seed=1):
    """Give slides of different patients, by default of a seed where nothing is predicted."""
    return [draw_noise(name, seed=seed) for name in names]


def only_spots(drawn, n_spots):
    slide, embedding_SD = drawn
    cut = replace(
        slide,
        spots=slide.spots[:n_spots],
        counts=slide.counts[:n_spots],
        centers=slide.centers[:n_spots],
    )
    return cut, embedding_SD[:n_spots]


def only_counts(drawn, change):
    slide, embedding_SD = drawn
    counts = csr_matrix(change(slide.counts.toarray()).astype(np.uint32))
    return replace(slide, counts=counts), embedding_SD


def test_random_embeddings_give_a_run_with_any_seed(tmp_path):
    n_silent = 0
    for seed in range(N_SEEDS):
        cohort = make_store(tmp_path / f"{seed}.zarr", draw("A1", "A2", "B1", "B2", seed=seed))
        fold = make_fold(cohort.patients(cohort.slides), test=["B2"], n_teachers=2)
        finished = train_fold(cohort, fold, config=DEFAULT_CONFIG)
        trust, is_silent = finished.run.trust, not finished.run.weights["shares"].any()
        assert np.isfinite(finished.predictions["B2"]).all()
        assert trust.genes["cv_pcc"].isna().all() == is_silent
        assert finished.run.scores["pcc"].isna().all() == is_silent
        assert sorted(trust.slides) == ["A1", "A2", "B1"]
        n_silent += is_silent
    assert 0 < n_silent < N_SEEDS, "both a constant prediction and another one were to be seen"


WITHOUT_SIGNAL = {
    "noise": lambda: draw("A1", "B1", "C1"),
    "a test slide of one spot": lambda: [only_spots(*draw("A1"), 1), *draw("B1", "C1")],
    "a training slide of one spot": lambda: [*draw("A1", "B1"), only_spots(*draw("C1"), 1)],
    "two spots a slide": lambda: [only_spots(drawn, 2) for drawn in draw("A1", "B1", "C1")],
    "a training slide that looks the same everywhere": lambda: [
        *draw("A1", "B1"),
        *((slide, np.ones_like(looks)) for slide, looks in draw("C1")),
    ],
    "a test slide without counts": lambda: [
        only_counts(*draw("A1"), lambda counts: 0 * counts),
        *draw("B1", "C1"),
    ],
    "every gene constant": lambda: [
        only_counts(drawn, lambda counts, n=n: np.full_like(counts, n + 1))
        for n, drawn in enumerate(draw("A1", "B1", "C1"))
    ],
    "a gene alone, which library size makes constant": lambda: [
        only_counts(drawn, lambda counts: (counts + 1) * (np.arange(counts.shape[1]) == 0))
        for drawn in draw("A1", "B1", "C1")
    ],
}


def test_networks_are_not_trained_on_programmes_that_there_are_none_of(tmp_path):
    drawn = WITHOUT_SIGNAL["every gene constant"]()
    cohort = make_store(tmp_path / "data.zarr", [*drawn, *draw("D1")])
    fold = make_fold(cohort.patients(cohort.slides), test=["D1"], validation=[])
    with_network = replace(DEFAULT_CONFIG.committee, n_networks=1)
    run = train_fold(cohort, fold, config=replace(DEFAULT_CONFIG, committee=with_network)).run
    assert not run.record.network
    assert run.scores["pcc"].isna().all()


@pytest.mark.parametrize("drawn", WITHOUT_SIGNAL.values(), ids=list(WITHOUT_SIGNAL))
def test_an_evaluation_that_finds_nothing_is_written_shown_audited_and_used(tmp_path, drawn):
    cohort = make_store(tmp_path / "data.zarr", drawn())
    config = replace(DEFAULT_CONFIG, panel_rule=PanelRule.parse("all"))
    fold, *_ = make_folds(
        cohort.patients(cohort.slides), rule="leave-one-patient-out", n_teachers=2
    )
    tasks = plan_tasks([fold], models={KERNEL_RIDGE: config}, seeds=(0,))
    (tmp_path / "out").mkdir()
    report = EvaluationReport(folder=tmp_path / "out", cohort=cohort, split="patients")
    for task, judged in zip(tasks, judge_all(cohort, tasks), strict=True):
        report.add(task.fold, judged)
    report.write()
    shown = Console(file=io.StringIO(), width=100)
    report.show(shown, folder=tmp_path / "out")
    assert all(method in shown.file.getvalue() for method in (KERNEL_RIDGE, *BASELINES))
    summary = json.loads((tmp_path / "out/summary.json").read_text(), parse_constant=pytest.fail)
    assert set(summary["methods"]) == {KERNEL_RIDGE, *BASELINES}
    (place,) = find_runs(tmp_path / "out")
    run = read_run(place)
    assert not [finding for finding in audit_run(run, cohort) if finding.verdict == "leak"]
    table = predict_stored(open_predictor(run, cohort), cohort, "A1")
    assert np.isfinite(table.X).all()
