import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from spahgc.errors import MismatchError
from spahgc.metrics import (
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


def test_interval_narrows_with_more_genes_and_repeats_with_the_seed():
    values = np.random.default_rng(1).normal(0.3, 0.1, size=400)
    few, many = (bootstrap_interval(values[:n], seed=0) for n in (25, 400))
    assert few[0] < values[:25].mean() < few[1]
    assert many[1] - many[0] < few[1] - few[0]
    # the normal approximation: 1.96 standard errors each way
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_interval(values, seed=0) == many
    assert bootstrap_interval(values, seed=1) != many


def test_interval_leaves_out_what_is_undefined():
    assert bootstrap_interval([0.5, np.nan, 0.5], seed=0) == (0.5, 0.5)
    assert np.isnan(bootstrap_interval([np.nan, np.nan], seed=0)).all()
    assert np.isnan(bootstrap_interval([], seed=0)).all()


def test_interval_over_columns_is_around_the_mean_of_column_means():
    # two panels that share no gene: columns weigh the same however many genes they have
    values = np.full((110, 2), np.nan)
    values[:100, 0], values[100:, 1] = 0.0, 1.0
    low, high = bootstrap_interval(values, seed=0)
    assert low == high == 0.5


def test_paired_difference_tells_a_steady_gain_from_noise():
    generator = np.random.default_rng(2)
    first_N = generator.normal(0.2, 0.2, size=60)
    better = paired_difference(first_N + generator.normal(0.02, 0.01, 60), first_N, seed=0)
    noise = paired_difference(first_N + generator.normal(0.0, 0.01, 60), first_N, seed=0)
    assert better.low > 0
    assert better.p_value < 0.001 < noise.p_value
    assert noise.low < 0 < noise.high


def test_paired_difference_of_a_method_with_itself_is_none():
    same = paired_difference([0.1, 0.2, np.nan], [0.1, 0.2, 0.3], seed=0)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert np.isnan(paired_difference([np.nan], [0.1], seed=0).mean)
