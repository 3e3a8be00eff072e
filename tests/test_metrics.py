import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from spahgc.errors import MismatchError
from spahgc.metrics import (
    FEWEST_UNITS,
    SCORES,
    bootstrap_interval,
    paired_difference,
    score_genes,
    spot_pcc,
    summarise,
)

GENES = [f"G{number}" for number in range(6)]


@pytest.fixture
def pair():
    generator = np.random.default_rng(0)
    measured_SG = generator.poisson(2.0, size=(40, 6)).astype(np.float32)
    return measured_SG, (measured_SG + generator.normal(size=(40, 6))).astype(np.float32)


@pytest.mark.parametrize(
    ("column", "reference"),
    [
        ("pcc", lambda y, p: pearsonr(y, p).statistic),
        ("spearman", lambda y, p: spearmanr(y, p).statistic),
        ("rmse", root_mean_squared_error),
        ("mae", mean_absolute_error),
        ("r2", r2_score),
    ],
    ids=["pcc", "spearman", "rmse", "mae", "r2"],
)
def test_each_score_agrees_with_the_library_one_gene_at_a_time(pair, column, reference):
    measured_SG, predicted_SG = pair
    expected_G = [reference(y, p) for y, p in zip(measured_SG.T, predicted_SG.T, strict=True)]
    scores = score_genes(measured_SG, predicted_SG, genes=GENES)
    assert list(scores.index) == GENES
    np.testing.assert_allclose(scores[column], expected_G, rtol=1e-5)


def test_concordance_punishes_an_offset_that_correlation_does_not_see():
    measured_SG = np.arange(5.0)[:, None]
    scores = score_genes(measured_SG, measured_SG + 2.0, genes=["G"])
    assert scores.loc["G", "pcc"] == pytest.approx(1.0)
    # 2·cov / (var + var + offset²) with var = cov = 2
    assert scores.loc["G", "ccc"] == pytest.approx(4 / (2 + 2 + 4))


@pytest.mark.parametrize("flat", ["measured", "predicted", "both"])
def test_constant_gene_has_no_correlation(pair, flat):
    measured_SG, predicted_SG = (array.copy() for array in pair)
    if flat != "predicted":
        measured_SG[:, 2] = 1.0
    if flat != "measured":
        predicted_SG[:, 2] = 3.0
    scores = score_genes(measured_SG, predicted_SG, genes=GENES)
    assert scores.loc["G2", ["pcc", "spearman"]].isna().all()
    assert scores.drop("G2").notna().all(axis=None)
    assert np.isnan(scores.loc["G2", "r2"]) == (flat != "predicted")
    assert np.isnan(scores.loc["G2", "ccc"]) == (flat == "both")


def test_rounding_noise_around_one_value_counts_as_constant(pair):
    measured_SG, predicted_SG = (array.copy() for array in pair)
    predicted_SG[:, 0] = np.float32(0.1)
    predicted_SG[::2, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    assert np.isnan(score_genes(measured_SG, predicted_SG, genes=GENES).loc["G0", "pcc"])


def test_integer_counts_can_be_scored():
    counts_SG = np.array([[0], [2], [4]], dtype=np.uint16)
    scores = score_genes(counts_SG, counts_SG[::-1].copy(), genes=["G"])
    assert scores.loc["G", "pcc"] == pytest.approx(-1.0)
    assert scores.loc["G", "mae"] == pytest.approx(8 / 3)


def test_single_spot_has_errors_but_no_correlation():
    scores = score_genes([[1.0, 2.0]], [[2.0, 4.0]], genes=["A", "B"])
    assert scores["pcc"].isna().all()
    assert scores["rmse"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("measured", "predicted", "genes"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), ["A", "B"]),
        (np.zeros((3, 2)), np.zeros((3, 2)), ["A"]),
        (np.zeros((0, 2)), np.zeros((0, 2)), ["A", "B"]),
    ],
    ids=["other genes", "too few names", "no spots"],
)
def test_arrays_that_do_not_fit_are_refused(measured, predicted, genes):
    with pytest.raises(MismatchError, match="expected"):
        score_genes(measured, predicted, genes=genes)


def test_value_that_is_no_number_is_refused_by_gene(pair):
    measured_SG, predicted_SG = (array.copy() for array in pair)
    predicted_SG[3, 4] = np.nan
    with pytest.raises(MismatchError, match=r"predicted .*G4"):
        score_genes(measured_SG, predicted_SG, genes=GENES)


def test_spot_correlation_runs_over_genes(pair):
    measured_SG, predicted_SG = (array.copy() for array in pair)
    measured_SG[7] = 0
    pcc_S = spot_pcc(measured_SG, predicted_SG)
    assert pcc_S.shape == (40,)
    assert np.isnan(pcc_S[7])
    assert pcc_S[0] == pytest.approx(pearsonr(measured_SG[0], predicted_SG[0]).statistic, rel=1e-5)


def test_spot_correlation_refuses_other_shapes():
    with pytest.raises(MismatchError, match=r"\(3, 2\).*\(3, 4\)"):
        spot_pcc(np.zeros((3, 2)), np.zeros((3, 4)))


def test_summary_reports_the_mean_with_and_without_undefined_genes():
    scores = pd.DataFrame(1.0, index=["A", "B", "C", "D"], columns=list(SCORES))
    scores["pcc"] = [0.2, 0.4, np.nan, 0.6]
    summary = summarise(scores)
    assert (summary.n_genes, summary.n_undefined) == (4, 1)
    assert summary.mean_pcc == pytest.approx(0.4)
    assert summary.mean_pcc_zero == pytest.approx(0.3)
    assert summary.mean_rmse == 1.0


def test_summary_of_only_undefined_genes_is_not_a_number():
    scores = score_genes(np.ones((3, 2)), np.ones((3, 2)), genes=["A", "B"])
    summary = summarise(scores)
    assert np.isnan(summary.mean_pcc)
    assert summary.mean_pcc_zero == 0.0
    assert summary.n_undefined == 2


def over_slides(values):
    return {f"C{number}": float(value) for number, value in enumerate(values)}


def test_interval_narrows_with_more_slides_and_repeats_with_the_seed():
    values = np.random.default_rng(1).normal(0.3, 0.1, size=400)
    few, many = (bootstrap_interval(over_slides(values[:n]), seed=0) for n in (25, 400))
    assert few[0] < values[:25].mean() < few[1]
    assert many[1] - many[0] < few[1] - few[0]
    # the normal approximation: 1.96 standard errors each way
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_interval(over_slides(values), seed=0) == many
    assert bootstrap_interval(over_slides(values), seed=1) != many


def test_interval_leaves_out_what_is_undefined():
    values = [0.5, np.nan] * FEWEST_UNITS
    assert bootstrap_interval(over_slides(values), seed=0) == (0.5, 0.5)
    assert np.isnan(bootstrap_interval(over_slides([np.nan] * 20), seed=0)).all()
    assert np.isnan(bootstrap_interval({}, seed=0)).all()


def test_no_interval_is_given_of_too_few_slides_or_patients():
    slides = over_slides(np.arange(20.0))
    few = dict(list(slides.items())[: FEWEST_UNITS - 1])
    assert np.isnan(bootstrap_interval(few, seed=0)).all()
    of_two_each = {name: f"patient {int(name[1:]) // 2}" for name in slides}
    of_four_each = {name: f"patient {int(name[1:]) // 4}" for name in slides}
    assert np.isfinite(bootstrap_interval(slides, units=of_two_each, seed=0)).all()
    assert np.isnan(bootstrap_interval(slides, units=of_four_each, seed=0)).all()
    difference = paired_difference(slides, dict.fromkeys(slides, 0.0), units=of_four_each, seed=0)
    assert (difference.n_units, difference.mean) == (5, 9.5)
    assert np.isnan([difference.low, difference.high, difference.p_value]).all()


def test_a_patients_slides_are_drawn_together():
    slides = over_slides(np.repeat(np.random.default_rng(3).normal(size=12), 8))
    units = {name: str(int(name[1:]) // 8) for name in slides}
    low, high = bootstrap_interval(slides, units=units, seed=0)
    alone = bootstrap_interval(slides, seed=0)
    assert high - low == pytest.approx(np.sqrt(8) * (alone[1] - alone[0]), rel=0.15)


def null_differences(generator, *, n_slides, n_genes=50):
    """Draw (slides, genes) differences of two equal methods; what is odd about a slide is odd about
    all of its genes."""
    of_slide = generator.normal(0, 0.02, (n_slides, 1))
    return of_slide + generator.normal(0, 0.05, (n_slides, n_genes))


def test_an_interval_of_equal_methods_seldom_excludes_zero():
    # benchmarks/interval_coverage.py: at 10 slides in 10 % of 2,000 simulations; with resampled
    # slide-gene pairs, as it was once done, in 50 %
    generator, n_times = np.random.default_rng(0), 300
    excluded = {"slides": 0, "pairs": 0}
    for _ in range(n_times):
        difference_FG = null_differences(generator, n_slides=FEWEST_UNITS)
        by_slide = over_slides(difference_FG.mean(axis=1))
        found = paired_difference(by_slide, dict.fromkeys(by_slide, 0.0), seed=0)
        low, high = bootstrap_interval(over_slides(difference_FG.ravel()), seed=0, n=200)
        excluded["slides"] += found.low > 0 or found.high < 0
        excluded["pairs"] += low > 0 or high < 0
    assert excluded["slides"] <= 0.12 * n_times
    assert excluded["pairs"] >= 0.35 * n_times


def test_paired_difference_tells_a_steady_gain_from_noise():
    generator = np.random.default_rng(2)
    first = generator.normal(0.2, 0.2, size=60)
    better, noise = (
        paired_difference(
            over_slides(first + generator.normal(gain, 0.01, 60)), over_slides(first), seed=0
        )
        for gain in (0.02, 0.0)
    )
    assert better.low > 0
    assert better.p_value < 0.001 < noise.p_value
    assert noise.low < 0 < noise.high
    assert better.mean == pytest.approx(np.mean(list(better.by_slide.values())))


def test_paired_difference_of_a_method_with_itself_is_none():
    slides = over_slides([0.1, 0.2] * FEWEST_UNITS)
    same = paired_difference({**slides, "odd": np.nan}, {**slides, "odd": 0.3}, seed=0)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert "odd" not in same.by_slide
    assert np.isnan(paired_difference({"C2": np.nan}, {"C2": 0.1}, seed=0).mean)
