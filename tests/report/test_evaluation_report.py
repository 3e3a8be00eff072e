import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from spahgc.metrics import FEWEST_UNITS
from spahgc.model.baselines import BASELINES, WITH
from spahgc.model.evaluation import judge_all, plan_tasks
from spahgc.report.evaluation import EvaluationReport, compare_with_best, slide_table
from spahgc.report.pieces import read_judged, write_judged
from spahgc.store.run_record import KERNEL_RIDGE, PAPER
from spahgc.store.runs import read_run
from spahgc.store.splits import make_folds
from tests.model.conftest import DEFAULT_CONFIG, EMBEDDING, RUN_CONFIG, grow_store

SPLIT = "leave-one-slide-out"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return grow_store(tmp_path_factory.mktemp("report") / "data.zarr")


@pytest.fixture(scope="module")
def tasks(cohort):
    folds = make_folds(cohort.patients(cohort.slides), rule=SPLIT)[::2]
    return plan_tasks(folds, models={PAPER: RUN_CONFIG}, seeds=(1, 2))


@pytest.fixture(scope="module")
def results(cohort, tasks):
    return list(judge_all(cohort, tasks))


def new_report(folder, cohort):
    folder.mkdir(parents=True)
    return EvaluationReport(folder=folder, cohort=cohort, split=SPLIT)


@pytest.fixture(scope="module")
def report(cohort, tasks, results, tmp_path_factory):
    report = new_report(tmp_path_factory.mktemp("evaluations") / "first", cohort)
    for task, result in zip(tasks, results, strict=True):
        report.add(task.fold, result)
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
    of_run = (
        *("run.json", "weights.safetensors", "curve.csv", "scores.parquet", "trust.json"),
        "curve.png",
    )
    assert files == {
        "scores.parquet",
        "slides.parquet",
        "spots.parquet",
        "summary.json",
        "pictures/pcc-by-method.png",
        "pictures/genes-A1.png",
        "pictures/genes-B1.png",
        *(
            f"folds/{fold}/spahgc-paper-seed{seed}/{name}"
            for fold in ("1-A1", "2-B1")
            for seed in (1, 2)
            for name in of_run
        ),
    }


def test_every_picture_can_be_opened(report):
    for path in report.folder.rglob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300


def test_the_scores_of_all_folds_are_kept(written, results):
    expected = pd.concat([result.scores for result in results], ignore_index=True)
    pd.testing.assert_frame_equal(written, expected)


def test_a_folds_run_can_be_used_again(report, results):
    models = [result for result in results if result.run is not None]
    folders = sorted((report.folder / "folds").glob("*/*"))
    for folder, result in zip(folders, models, strict=True):
        assert read_run(folder).record == result.run.record


def test_the_summarys_numbers_are_those_of_the_scores(summary, written):
    by_slide = written.groupby(["method", "slide"])[["pcc", "rmse", "mae"]].mean()
    assert set(summary["methods"]) == set(written["method"])
    for method, row in summary["methods"].items():
        own = by_slide.loc[method]
        assert row["rmse"] == pytest.approx(own["rmse"].mean())
        assert row["mae"] == pytest.approx(own["mae"].mean())
        is_undefined = written.loc[written["method"] == method, "pcc"].isna()
        n_seeds = 2 if method == PAPER else 1
        assert row["undefined genes"] == is_undefined.sum() / n_seeds
        if is_undefined.all():
            assert row["mean"] is row["A1"] is row["B1"] is None
            assert row["mean, undefined as 0"] == 0
            continue
        for slide in ("A1", "B1"):
            assert row[slide] == pytest.approx(own.loc[slide, "pcc"])
        assert row["mean"] == pytest.approx(own["pcc"].mean())


def test_two_slides_have_no_interval_and_the_summary_says_why(summary):
    assert set(summary["intervals"]) == set(summary["methods"])
    assert all(interval == [None, None] for interval in summary["intervals"].values())
    assert summary["intervals_over"] == {"units": "2 patients", "fewest": FEWEST_UNITS}


def test_the_model_is_compared_with_the_best_baseline(summary, written):
    wide = written.pivot_table(index=["slide", "gene"], columns="method", values="pcc")
    means = written.groupby(["method", "slide"])["pcc"].mean().groupby("method").mean()
    best = means.drop(PAPER).idxmax()
    (found,) = summary["against_best_baseline"]
    assert (found["model"], found["baseline"]) == (PAPER, best)
    assert found["mean"] == pytest.approx((wide[PAPER] - wide[best]).mean())
    by_slide = (wide[PAPER] - wide[best]).groupby("slide").mean()
    assert found["by_slide"] == pytest.approx(by_slide.to_dict())
    assert found["n_units"] == 2
    assert found["low"] is found["high"] is found["p_value"] is None


def many_slides(results, n_slides):
    """Give scores as if more slides of the same kind had been judged."""
    scores = pd.concat([result.scores for result in results[:3]], ignore_index=True)
    generator = np.random.default_rng(0)
    return pd.concat(
        [
            scores.assign(slide=f"S{n}", pcc=scores["pcc"] + generator.normal(0, 0.1))
            for n in range(n_slides)
        ],
        ignore_index=True,
    )


def test_an_interval_is_given_where_slides_are_enough(results):
    enough, few = (many_slides(results, n) for n in (FEWEST_UNITS, FEWEST_UNITS - 1))
    ((_, _, difference),) = compare_with_best(enough)
    assert difference.low <= difference.mean <= difference.high
    assert np.isnan(compare_with_best(few)[0][2].low)
    of_two = {f"S{n}": f"patient {n // 2}" for n in range(FEWEST_UNITS)}
    assert np.isnan(compare_with_best(enough, units=of_two)[0][2].low)


def test_a_second_model_is_no_baseline(results):
    scores = pd.concat([result.scores for result in results], ignore_index=True)
    other = scores[scores["method"] == PAPER].assign(method="other", pcc=0.99)
    compared = compare_with_best(pd.concat([scores, other]))
    assert [model for model, _, _ in compared] == ["other", PAPER]
    assert len({best for _, best, _ in compared}) == 1


def test_a_baseline_with_other_embeddings_is_a_baseline(results):
    scores = pd.concat([result.scores for result in results], ignore_index=True)
    other = scores[scores["method"] == "ridge"].assign(method=f"ridge{WITH}e", pcc=0.99)
    compared = compare_with_best(pd.concat([scores, other]))
    assert [(model, best) for model, best, _ in compared] == [(PAPER, f"ridge{WITH}e")]


def test_the_spread_over_seeds_is_stated(summary, written):
    means = (
        written.dropna(subset="seed")
        .groupby(["seed", "slide"])["pcc"]
        .mean()
        .groupby("seed")
        .mean()
    )
    assert summary["methods"][PAPER]["seeds"] == pytest.approx(means.std())
    assert summary["methods"]["ridge"]["seeds"] is None
    assert [row["seed"] for row in summary["seeds"]] == [1, 2]
    assert [row["pcc"] for row in summary["seeds"]] == pytest.approx(means.tolist())


def test_the_summary_says_what_was_done_and_how_to_read_it(summary, tasks, results):
    assert summary["split"] == SPLIT
    assert all("on both sides" in caveat for caveat in summary["caveats"])
    assert len(summary["caveats"]) == 2
    assert summary["store"].endswith("data.zarr")
    models = [pair for pair in zip(tasks, results, strict=True) if pair[1].run is not None]
    for run, (task, result) in zip(summary["runs"].values(), models, strict=True):
        assert run["test"] == list(task.fold.test)
        assert run["train"] == list(task.fold.train)
        assert run["validation"] == list(task.fold.validation)
        assert run["shared_patients"] == list(task.fold.shared_patients)
        assert run["n_genes"] == 6
        assert run["seed"] == task.seed
        assert run["panel_digest"] == result.run.record.panel_digest


def test_every_slide_method_and_seed_has_its_row(report, written):
    slides = pd.read_parquet(report.folder / "slides.parquet")
    assert len(slides) == len(written.groupby(["slide", "method", "seed"], dropna=False))
    row = slides[(slides["slide"] == "B1") & (slides["seed"] == 2)].iloc[0]
    own = written[(written["slide"] == "B1") & (written["seed"] == 2)]
    assert row["mean_pcc"] == pytest.approx(own["pcc"].mean())
    assert not {"low", "high"} & set(slides.columns)  # one slide has no interval
    assert row["shared_patients"] == "B"
    assert row["panel"] == own["panel"].iloc[0]
    spots = pd.read_parquet(report.folder / "spots.parquet")
    of_row = spots[(spots["slide"] == "B1") & (spots["seed"] == 2)]
    assert row["mean_spot_pcc"] == pytest.approx(of_row["pcc"].mean())


def test_a_finished_result_is_read_back_as_it_was(results, tmp_path):
    for place, result in enumerate(results[:3]):
        write_judged(result, tmp_path / str(place))
        read = read_judged(tmp_path / str(place))
        pd.testing.assert_frame_equal(read.scores, result.scores)
        pd.testing.assert_frame_equal(read.spots, result.spots)
        assert (read.run is None) == (result.run is None)
        for slide, predicted_SG in result.predictions.items():
            assert np.array_equal(read.predictions[slide], predicted_SG)
            assert np.array_equal(read.measured[slide], result.measured[slide], equal_nan=True)
    assert read_judged(tmp_path / "never") is None


def shown(report, folder, *, width=160):
    page = io.StringIO()
    report.show(Console(file=page, width=width), folder=folder)
    return page.getvalue()


def test_the_screen_shows_methods_verdict_caveat_and_places(report, summary, tmp_path):
    text = shown(report, tmp_path / "moved")
    digests = dict.fromkeys(run["panel_digest"] for run in summary["runs"].values())
    assert f"{SPLIT}, panel heg:6 ({', '.join(digests)}), 2 folds, seeds 1, 2" in text
    assert "ridge own|near smoothed" in text
    difference = summary["against_best_baseline"][0]
    by_slide = ", ".join(f"{name} {value:+.3f}" for name, value in difference["by_slide"].items())
    said = " ".join(text.split())
    assert f"SpaHGC (paper) minus {difference['baseline']}: {difference['mean']:+.3f}" in said
    assert f"of 2 slides ({by_slide})" in said
    assert f"no interval is given for 2 patients: at least {FEWEST_UNITS} are needed" in said
    assert f"{difference['baseline']} is the best of {len(BASELINES)} baselines by these" in said
    assert "Note: slides of one patient (A) on both sides" in text
    assert "values: log1p of counts per 10000, predicted" in text
    assert " sd" in text
    assert f"scores: {tmp_path}/moved/scores.parquet" in text


def test_pictures_are_named_where_they_lie_now(report, tmp_path):
    moved = tmp_path / "runs [2024]"
    shutil.copytree(report.folder, moved)
    text = shown(report, moved, width=80)
    assert f"picture: {moved}/pictures/genes-A1.png" in text.splitlines()
    assert f"summary: {moved}/summary.json" in text.splitlines()


def without_correlation(result):
    return replace(result, scores=result.scores.assign(pcc=np.nan))


def test_a_slide_on_which_no_gene_has_a_correlation_is_still_reported(
    cohort, tasks, results, tmp_path
):
    report = new_report(tmp_path / "report", cohort)
    for place in (0, 2):
        fold = replace(tasks[place].fold, shared_patients=())
        report.add(fold, without_correlation(results[place]))
    report.write()
    text = (report.folder / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["methods"][PAPER]["mean"] is None
    assert summary["against_best_baseline"][0]["p_value"] is None
    assert summary["caveats"] == []
    assert not (report.folder / "pictures/genes-A1.png").exists()
    assert "Note: SpaHGC (paper) minus" in shown(report, report.folder)


def test_a_patient_of_very_many_slides_has_a_folder_too(cohort, tasks, results, tmp_path):
    report = new_report(tmp_path / "report", cohort)
    long = "+".join(f"section-{n:04d}" for n in range(100))
    report.add(replace(tasks[0].fold, name=long), results[0])
    (folder,) = (report.folder / "folds").iterdir()
    assert folder.name.startswith("1-section-0000+section-0001")
    assert read_run(folder / "spahgc-paper-seed1").record.test == ("A1",)


def test_a_table_of_slides_counts_undefined_genes(results):
    scores = results[2].scores
    table = slide_table(scores, results[2].spots).set_index("method")
    assert table.loc["mean", "n_undefined"] == 6
    assert np.isnan(table.loc["mean", "mean_pcc"])
    assert table.loc["mean", "mean_pcc_zero"] == 0


def test_the_default_preset_is_reported_beside_the_papers_and_baselines_of_either(cohort, tmp_path):
    (fold, *_) = make_folds(cohort.patients(cohort.slides), rule=SPLIT)
    models = {KERNEL_RIDGE: DEFAULT_CONFIG, PAPER: RUN_CONFIG}
    tasks = plan_tasks([fold], models=models, seeds=(0,))
    report = new_report(tmp_path / "both", cohort)
    for task, judged in zip(tasks, judge_all(cohort, tasks), strict=True):
        report.add(task.fold, judged)
    report.write()
    summary = json.loads((report.folder / "summary.json").read_text(), parse_constant=pytest.fail)
    of_paper = [f"{name}{WITH}{EMBEDDING}" for name in BASELINES]
    assert set(summary["methods"]) == {KERNEL_RIDGE, PAPER, *BASELINES, *of_paper}
    assert {told["model"] for told in summary["against_best_baseline"]} == {KERNEL_RIDGE, PAPER}
    runs = {place.rpartition("/")[2]: read_run(report.folder / place) for place in report.runs}
    assert list(runs["kernel-ridge-on-gene-programs-seed0"].record.train) == ["A2", "B1", "B2"]
    assert runs["kernel-ridge-on-gene-programs-seed0"].record.committee is not None
    assert list(runs["spahgc-paper-seed0"].record.train) == ["B1", "B2"]
    assert (report.folder / "pictures/genes-A1.png").stat().st_size > 1000
