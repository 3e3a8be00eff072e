import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from spahgc.metrics import paired_difference
from spahgc.model.evaluation import evaluate_folds
from spahgc.report.evaluation import EvaluationReport, compare_with_best, method_of
from spahgc.store.runs import read_run
from spahgc.store.splits import make_folds
from tests.model.conftest import RUN_CONFIG, grow_store, small_networks

SPLIT = "leave-one-slide-out"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    cohort = grow_store(tmp_path_factory.mktemp("report") / "data.zarr")
    folds = make_folds(cohort.patients(cohort.slides), rule=SPLIT)[::2]
    with small_networks():
        return list(evaluate_folds(cohort, folds, config=RUN_CONFIG))


def new_report(folder, results):
    folder.mkdir(parents=True)
    cohort = results[0].finished.teaching.cohort
    return EvaluationReport(folder=folder, cohort=cohort, split=SPLIT)


def add(report, result, *, scores=None, caveat="on both sides"):
    report.add(
        result.finished.run,
        result.scores if scores is None else scores,
        predicted=result.finished.predictions,
        measured=result.finished.measured,
        caveat=caveat,
    )


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    report = new_report(tmp_path_factory.mktemp("evaluations") / "first", results)
    for result in results:
        add(report, result)
    report.write()
    return report


@pytest.fixture(scope="module")
def summary(report):
    return json.loads((report.folder / "summary.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def written(report):
    return pd.read_parquet(report.folder / "scores.parquet")


def test_everything_has_its_place(report):
    files = {
        path.relative_to(report.folder).as_posix()
        for path in report.folder.rglob("*")
        if path.is_file()
    }
    of_run = ("run.json", "weights.safetensors", "curve.csv", "scores.parquet", "curve.png")
    assert files == {
        "scores.parquet",
        "summary.json",
        "pictures/pcc-by-method.png",
        "pictures/genes-A1.png",
        "pictures/genes-B1.png",
        *(f"folds/1-A1/{name}" for name in of_run),
        *(f"folds/2-B1/{name}" for name in of_run),
    }


def test_every_picture_can_be_opened(report):
    for path in report.folder.rglob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300


def test_the_scores_of_all_folds_are_kept(written, results):
    expected = pd.concat([result.scores for result in results], ignore_index=True)
    pd.testing.assert_frame_equal(written, expected)


def test_a_folds_run_can_be_used_again(report, results):
    for folder, result in zip(sorted((report.folder / "folds").iterdir()), results, strict=True):
        assert read_run(folder).record == result.finished.run.record


def test_the_summarys_numbers_are_those_of_the_scores(summary, written):
    by_slide = written.groupby(["method", "slide"])[["pcc", "rmse", "mae"]].mean()
    assert set(summary["methods"]) == set(written["method"])
    for method, row in summary["methods"].items():
        own = by_slide.loc[method]
        assert row["rmse"] == pytest.approx(own["rmse"].mean())
        assert row["mae"] == pytest.approx(own["mae"].mean())
        is_undefined = written.loc[written["method"] == method, "pcc"].isna()
        assert row["undefined genes"] == is_undefined.sum()
        if is_undefined.all():
            assert row["mean"] is row["A1"] is row["B1"] is None
            assert row["mean, undefined as 0"] == 0
            continue
        for slide in ("A1", "B1"):
            assert row[slide] == pytest.approx(own.loc[slide, "pcc"])
        assert row["mean"] == pytest.approx(own["pcc"].mean())


def test_a_methods_interval_holds_its_mean(summary):
    assert summary["intervals"]["mean"] == [None, None]
    for method, (low, high) in summary["intervals"].items():
        if method != "mean":
            assert low < summary["methods"][method]["mean"] < high


def test_the_model_is_compared_with_the_best_baseline(summary, written):
    wide = written.pivot_table(index=["slide", "gene"], columns="method", values="pcc")
    means = written.groupby(["method", "slide"])["pcc"].mean().groupby("method").mean()
    best = means.drop("SpaHGC").idxmax()
    found = summary["model_against_best_baseline"]
    assert (found["model"], found["baseline"]) == ("SpaHGC", best)
    assert found["mean"] == pytest.approx((wide["SpaHGC"] - wide[best]).mean())
    assert found["low"] < found["mean"] < found["high"]
    expected = paired_difference(wide["SpaHGC"], wide[best], seed=0)
    assert found["p_value"] == pytest.approx(expected.p_value)


def test_the_summary_says_what_was_done_and_how_to_read_it(summary, results):
    assert summary["split"] == SPLIT
    assert summary["caveats"] == ["on both sides"]
    assert summary["store"].endswith("data.zarr")
    for fold, result in zip(summary["folds"], results, strict=True):
        assert fold["test"] == list(result.fold.test)
        assert fold["train"] == list(result.fold.train)
        assert fold["validation"] == list(result.fold.validation)
        assert fold["n_genes"] == 6
        assert fold["panel_digest"] == result.finished.run.record.panel_digest


def shown(report, folder, *, width=160):
    page = io.StringIO()
    report.show(Console(file=page, width=width), folder=folder)
    return page.getvalue()


def test_the_screen_shows_methods_verdict_caveat_and_places(report, tmp_path):
    text = shown(report, tmp_path / "moved")
    assert f"{SPLIT}, panel heg:6, 2 folds" in text
    assert "ridge own|near smoothed" in text
    assert "SpaHGC minus" in text
    assert "Note: on both sides" in text
    assert f"scores: {tmp_path}/moved/scores.parquet" in text


def test_pictures_are_named_where_they_lie_now(report, tmp_path):
    moved = tmp_path / "runs [2024]"
    shutil.copytree(report.folder, moved)
    text = shown(report, moved, width=80)
    assert f"picture: {moved}/pictures/genes-A1.png" in text.splitlines()
    assert f"summary: {moved}/summary.json" in text.splitlines()


def test_a_slide_on_which_no_gene_has_a_correlation_is_still_reported(results, tmp_path):
    report = new_report(tmp_path / "report", results)
    scores = results[0].scores.assign(pcc=np.nan)
    add(report, results[0], scores=scores, caveat=None)
    report.write()
    text = (report.folder / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["methods"]["SpaHGC"]["mean"] is None
    assert summary["model_against_best_baseline"]["p_value"] is None
    assert summary["caveats"] == []
    assert not (report.folder / "pictures/genes-A1.png").exists()
    assert "Note: SpaHGC minus" in shown(report, report.folder)


def test_a_patient_of_very_many_slides_has_a_folder_too(results, tmp_path):
    report = new_report(tmp_path / "report", results)
    long = "+".join(f"section-{n:04d}" for n in range(100))
    scores = results[0].scores.assign(fold=long)
    add(report, results[0], scores=scores)
    (folder,) = (report.folder / "folds").iterdir()
    assert folder.name.startswith("1-section-0000+section-0001")
    assert read_run(folder).record.test == ("A1",)


def test_the_model_is_what_is_no_baseline(results):
    scores = results[0].scores
    assert method_of(scores.iloc[::-1]) == "SpaHGC"
    renamed = replace(results[0], scores=scores.replace({"method": {"SpaHGC": "other"}}))
    assert compare_with_best(renamed.scores)[0] == "other"
