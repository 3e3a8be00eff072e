import numpy as np
import pytest

from spahgc.errors import MismatchError
from spahgc.model.features import (
    FeatureConfig,
    Reducer,
    fit_reducer,
    mean_of_near,
    side_by_side,
    standardise,
)

FIELDS = [np.random.default_rng(n).normal(3, 5, (20, 4)).astype(np.float32) for n in (1, 2)]


def join(fields, config):
    return side_by_side(iter(fields), config, sizes=[field.shape[1] for field in fields])


def test_plain_embeddings_stay_as_they_are_in_memory_of_their_own():
    joined_SD = join(FIELDS[:1], FeatureConfig())
    assert np.array_equal(joined_SD, FIELDS[0])
    assert not np.shares_memory(joined_SD, FIELDS[0])


def test_fields_of_view_lie_side_by_side_in_their_order():
    joined_SD = join(FIELDS, FeatureConfig())
    assert np.array_equal(joined_SD[:, :4], FIELDS[0])
    assert np.array_equal(joined_SD[:, 4:], FIELDS[1])


def test_the_signed_root_keeps_signs():
    joined_SD = join([np.array([[4, -9, 0]], np.float32)], FeatureConfig(signed_root=True))
    assert joined_SD.tolist() == [[2, -3, 0]]


def test_standardised_columns_have_mean_0_and_spread_1_and_constant_ones_become_0():
    values_SD = FIELDS[0].copy()
    values_SD[:, 2] = 7
    standard_SD = standardise(values_SD)
    np.testing.assert_allclose(standard_SD.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(standard_SD.std(axis=0), [1, 1, 0, 1], atol=1e-6)


def test_what_a_scanner_does_to_a_whole_slide_is_taken_away():
    config = FeatureConfig(standardise=True)
    np.testing.assert_allclose(
        join([3 * FIELDS[0] + 10], config), join(FIELDS[:1], config), atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (FeatureConfig(), True),
        (FeatureConfig(embeddings=("a", "b")), False),
        (FeatureConfig(signed_root=True), False),
        (FeatureConfig(standardise=True), False),
    ],
    ids=["one", "two", "root", "standard"],
)
def test_features_are_plain_where_the_store_has_them_as_they_are(config, plain):
    assert config.are_plain is plain


def test_all_components_keep_all_distances_up_to_one_scale():
    reducer = fit_reducer(FIELDS, n_components=9, seed=0)
    reduced_SP, original_SD = reducer.reduce(FIELDS[0]), FIELDS[0]
    ratio = [
        np.linalg.norm(reduced_SP[a] - reduced_SP[b])
        / np.linalg.norm(original_SD[a] - original_SD[b])
        for a, b in ((0, 1), (2, 9), (5, 17))
    ]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("n_spots", [1, 5])
def test_spots_that_all_look_the_same_are_reduced_to_nothing(n_spots):
    reducer = fit_reducer([np.full((n_spots, 3), 2, np.float32)], n_components=9, seed=0)
    assert np.array_equal(reducer.reduce(np.eye(3, dtype=np.float32)), np.zeros((3, 1)))


def test_directions_in_which_no_training_spot_differs_are_not_made_up():
    generator = np.random.default_rng(0)
    slides = [standardise(generator.normal(size=(n, 40)).astype(np.float32)) for n in (9, 12)]
    reducer = fit_reducer(slides, n_components=256, seed=0)
    assert len(reducer.components_PD) == 9 + 12 - 2, "each slide has a mean of its own"
    outside_SD = generator.normal(size=(5, 40)).astype(np.float32)
    rounded = [(each * generator.normal(1, 1e-7, each.shape)).astype(np.float32) for each in slides]
    other = fit_reducer(rounded, n_components=256, seed=0)
    first_S, second_S = (np.linalg.norm(r.reduce(outside_SD), axis=1) for r in (reducer, other))
    np.testing.assert_allclose(first_S, second_S, rtol=1e-5)


def test_a_reducer_is_read_back_as_it_was():
    reducer = fit_reducer(FIELDS, n_components=2, seed=0)
    again = Reducer.read(reducer.arrays())
    assert np.array_equal(again.reduce(FIELDS[1]), reducer.reduce(FIELDS[1]))


def test_features_of_another_size_are_refused():
    reducer = fit_reducer(FIELDS, n_components=2, seed=0)
    with pytest.raises(MismatchError, match="spots have 3 features, expected 4"):
        reducer.reduce(np.ones((5, 3), np.float32))


def test_neighbours_are_averaged_and_a_lone_spot_has_none():
    values_SP = np.array([[2, 0], [4, 2], [9, 9]], np.float32)
    near_SQ = np.array([[1, 2], [0, -1], [-1, -1]])
    assert mean_of_near(values_SP, near_SQ).tolist() == [[6.5, 5.5], [2, 0], [0, 0]]
