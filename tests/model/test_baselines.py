from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from spahgc.errors import MismatchError
from spahgc.metrics import score_genes
from spahgc.model.baselines import BASELINES, SpotTable, predict_baselines, smooth

N_SPOTS, N_FEATURES, N_GENES = 90, 12, 5
GENES = [f"G{number}" for number in range(N_GENES)]
WEIGHT_DG = np.random.default_rng(42).normal(size=(N_FEATURES, N_GENES))


def make_table(seed, *, slides=("A", "B", "C"), n_spots=N_SPOTS):
    """Spots in rows of one slide each; every gene is a linear map of the embedding plus noise."""
    generator = np.random.default_rng(seed)
    embeddings_SD = generator.normal(size=(n_spots, N_FEATURES)).astype(np.float32)
    slide_S = np.repeat(slides, n_spots // len(slides))
    noise_SG = generator.normal(scale=0.5, size=(n_spots, N_GENES))
    return SpotTable(
        embeddings_SD=embeddings_SD,
        slide_S=slide_S,
        neighbours_SQ=neighbours_in_a_row(slide_S),
        expression_SG=(5 + embeddings_SD @ WEIGHT_DG + noise_SG).astype(np.float32),
        log_depth_S=8.0 + embeddings_SD[:, 0] + generator.normal(scale=0.1, size=n_spots),
    )


def neighbours_in_a_row(slide_S):
    rows = np.arange(len(slide_S))
    near_SQ = np.stack([rows - 1, rows + 1], axis=1)
    inside_SQ = (near_SQ >= 0) & (near_SQ < len(rows))
    same_SQ = slide_S[np.clip(near_SQ, 0, len(rows) - 1)] == slide_S[:, None]
    return np.where(inside_SQ & same_SQ, near_SQ, -1)


@pytest.fixture(scope="module")
def train():
    return make_table(0)


@pytest.fixture(scope="module")
def test():
    return make_table(1, slides=("T",), n_spots=40)


@pytest.fixture(scope="module")
def predictions(train, test):
    return predict_baselines(train, test)


def mean_pcc(test, predicted_SG):
    return score_genes(test.expression_SG, predicted_SG, genes=GENES)["pcc"].mean()


def test_every_baseline_predicts_every_test_spot_in_order(predictions):
    assert tuple(predictions) == BASELINES
    for predicted_SG in predictions.values():
        assert predicted_SG.shape == (40, N_GENES)
        assert predicted_SG.dtype == np.float32
        assert np.isfinite(predicted_SG).all()


@pytest.mark.parametrize("hidden", ["not a number", "left out"])
def test_nothing_measured_on_the_test_slide_is_read(train, test, predictions, hidden):
    unknown = hidden == "not a number"
    blind = replace(
        test,
        expression_SG=np.full_like(test.expression_SG, np.nan) if unknown else None,
        log_depth_S=np.full_like(test.log_depth_S, np.nan) if unknown else None,
    )
    for name, predicted_SG in predict_baselines(train, blind).items():
        np.testing.assert_array_equal(predicted_SG, predictions[name])


def test_mean_predicts_the_training_mean(train, predictions):
    expected_G = train.expression_SG.mean(axis=0)
    np.testing.assert_allclose(predictions["mean"], np.tile(expected_G, (40, 1)), rtol=1e-5)


def test_ridge_finds_a_linear_signal(test, predictions):
    assert mean_pcc(test, predictions["ridge"]) > 0.95
    assert mean_pcc(test, predictions["ridge"]) > mean_pcc(test, predictions["50 nearest"]) > 0.3


def test_ridge_shrinks_to_the_mean_where_embeddings_say_nothing(train, test):
    shuffled_S = np.random.default_rng(0).permutation(N_SPOTS)
    noise = replace(train, expression_SG=train.expression_SG[shuffled_S])
    predictions = predict_baselines(noise, test)
    assert predictions["ridge"].std(axis=0).max() < 0.3 * train.expression_SG.std(axis=0).min()


def test_ridge_sees_what_only_the_neighbours_show(train, test):
    def told_by_neighbours(table):
        near_SQ = table.neighbours_SQ
        near_SD = table.embeddings_SD[np.where(near_SQ < 0, near_SQ.max(axis=1)[:, None], near_SQ)]
        return replace(table, expression_SG=(near_SD.mean(axis=1) @ WEIGHT_DG).astype(np.float32))

    told = told_by_neighbours(test)
    predictions = predict_baselines(told_by_neighbours(train), told)
    assert mean_pcc(told, predictions["ridge own|near"]) > 0.9
    assert mean_pcc(told, predictions["ridge"]) < 0.5


@pytest.mark.parametrize("k", [7, 50])
def test_nearest_average_the_most_similar_references(train, test, predictions, k):
    similarity_TR = cosine_similarity(test.embeddings_SD, train.embeddings_SD)
    nearest_TK = np.argsort(-similarity_TR, axis=1)[:, :k]
    expected_TG = train.expression_SG[nearest_TK].mean(axis=1)
    np.testing.assert_allclose(predictions[f"{k} nearest"], expected_TG, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in BASELINES if name.endswith(" smoothed")])
def test_smoothed_is_the_mean_over_a_spot_and_its_neighbours(test, predictions, name):
    plain_SG = predictions[name.removesuffix(" smoothed")]
    np.testing.assert_allclose(predictions[name][0], plain_SG[:2].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(predictions[name][7], plain_SG[6:9].mean(axis=0), rtol=1e-4)


def test_spot_without_neighbours_is_smoothed_to_itself():
    values_SG = np.array([[1.0], [5.0]])
    np.testing.assert_array_equal(smooth(values_SG, np.array([[-1, -1], [0, -1]])), [[1.0], [3.0]])


def test_slide_of_lone_spots_has_predictions(train, test):
    alone = replace(test, neighbours_SQ=np.full((40, 6), -1))
    predictions = predict_baselines(train, alone)
    np.testing.assert_allclose(predictions["ridge"], predictions["ridge smoothed"], rtol=1e-6)
    assert np.isfinite(predictions["ridge own|near"]).all()


def test_depth_alone_gives_every_gene_the_same_map(test, predictions):
    map_TG = predictions["depth alone"].astype(np.float64)
    standard_TG = (map_TG - map_TG.mean(axis=0)) / map_TG.std(axis=0)
    np.testing.assert_allclose(standard_TG, np.tile(standard_TG[:, :1], N_GENES), atol=1e-3)
    assert np.corrcoef(standard_TG[:, 0], test.log_depth_S)[0, 1] > 0.95


def test_depth_alone_spreads_each_gene_as_depth_explains_it(train, predictions):
    strength = abs(
        np.mean([np.corrcoef(gene_S, train.log_depth_S)[0, 1] for gene_S in train.expression_SG.T])
    )
    ratio_G = predictions["depth alone"].std(axis=0) / train.expression_SG.std(axis=0)
    # the predicted depth spreads about as far as the true one: the signal is nearly noiseless
    np.testing.assert_allclose(ratio_G, strength, rtol=0.25)


def test_depth_that_never_changes_predicts_the_mean(train, test):
    flat = replace(train, log_depth_S=np.full(N_SPOTS, 7.0))
    predictions = predict_baselines(flat, test)
    np.testing.assert_allclose(predictions["depth alone"], predictions["mean"], rtol=1e-6)


def test_gene_that_never_changes_is_predicted_as_it_is(train, test):
    expression_SG = train.expression_SG.copy()
    expression_SG[:, 2] = 1.5
    predictions = predict_baselines(replace(train, expression_SG=expression_SG), test)
    for predicted_SG in predictions.values():
        np.testing.assert_allclose(predicted_SG[:, 2], 1.5, rtol=1e-5)


def test_panel_of_one_gene_keeps_its_column(train, test):
    one = replace(train, expression_SG=train.expression_SG[:, :1])
    assert {array.shape for array in predict_baselines(one, test).values()} == {(40, 1)}


def test_fewer_references_than_neighbours_asked_for_are_all_used(test):
    few = make_table(2, n_spots=6)
    predictions = predict_baselines(few, test)
    np.testing.assert_allclose(predictions["50 nearest"], predictions["mean"], rtol=1e-5)
    np.testing.assert_allclose(predictions["7 nearest"], predictions["mean"], rtol=1e-5)


def test_penalty_is_chosen_on_groups_left_out(train, test):
    # each slide's spots are copies of one spot: only a fold that leaves slides out sees that the
    # embedding, here nothing but the slide's mark, predicts nothing
    generator = np.random.default_rng(3)
    slide_S = np.repeat([f"S{number}" for number in range(12)], 10)
    marks_SD = np.repeat(generator.normal(size=(12, N_FEATURES)), 10, axis=0).astype(np.float32)
    level_SG = np.repeat(generator.normal(size=(12, N_GENES)), 10, axis=0).astype(np.float32)
    marked = SpotTable(
        embeddings_SD=marks_SD + generator.normal(scale=0.01, size=marks_SD.shape).astype("f4"),
        slide_S=slide_S,
        neighbours_SQ=neighbours_in_a_row(slide_S),
        expression_SG=level_SG,
        log_depth_S=level_SG[:, 0].astype(np.float64),
    )
    mixed = replace(marked, groups_S=np.tile(["one", "two"], 60))
    by_slide = predict_baselines(marked, test)["ridge"].std()
    by_mixture = predict_baselines(mixed, test)["ridge"].std()
    assert by_slide < 0.3 * by_mixture


@pytest.mark.parametrize("slides", [("A", "B", "C"), ("A",)], ids=["slides", "stretches"])
def test_one_patient_falls_back_to_slides_then_stretches(test, slides):
    lone = replace(make_table(0, slides=slides), groups_S=np.repeat("P1", N_SPOTS))
    assert mean_pcc(test, predict_baselines(lone, test)["ridge"]) > 0.9


def test_same_seed_repeats_every_prediction(train, test, predictions):
    for name, predicted_SG in predict_baselines(train, test, seed=0).items():
        np.testing.assert_array_equal(predicted_SG, predictions[name])


def test_half_precision_embeddings_are_welcome(train, test, predictions):
    half = [
        replace(table, embeddings_SD=table.embeddings_SD.astype("f2")) for table in (train, test)
    ]
    rounded = predict_baselines(*half)
    np.testing.assert_allclose(rounded["ridge"], predictions["ridge"], atol=0.02)
    np.testing.assert_allclose(rounded["ridge own|near"], predictions["ridge own|near"], atol=0.02)


def test_training_spots_without_expression_are_refused(train, test):
    with pytest.raises(MismatchError, match="training table has none"):
        predict_baselines(replace(train, expression_SG=None), test)


def test_embeddings_of_another_encoder_are_refused(train, test):
    other = replace(test, embeddings_SD=test.embeddings_SD[:, :7])
    with pytest.raises(MismatchError, match="7 features, training embeddings 12"):
        predict_baselines(train, other)


def test_tables_with_a_missing_row_are_refused(train, test):
    with pytest.raises(MismatchError, match="one row per spot"):
        predict_baselines(replace(train, expression_SG=train.expression_SG[1:]), test)
    with pytest.raises(MismatchError, match="one row per spot"):
        predict_baselines(train, replace(test, neighbours_SQ=test.neighbours_SQ[1:]))


def test_embeddings_that_are_all_the_same_are_refused(train, test):
    same = replace(train, embeddings_SD=np.ones_like(train.embeddings_SD))
    with pytest.raises(MismatchError, match="all 90 training embeddings are the same"):
        predict_baselines(same, test)
