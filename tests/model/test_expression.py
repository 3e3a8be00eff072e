import numpy as np
import pytest
from scipy.sparse import csr_matrix

from spahgc.model.expression import log_depth, normalise
from tests.model.conftest import draw_counts


@pytest.fixture(scope="module")
def slides():
    return draw_counts()


def test_normalising_equals_scaling_then_log_of_one_plus(slides):
    counts_SG = slides["A"].toarray().astype(np.float64)
    expected_SG = np.log1p(counts_SG / counts_SG.sum(axis=1, keepdims=True) * 1e4)
    normalised = normalise(slides["A"])
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.toarray(), expected_SG, rtol=1e-5)


def test_library_size_can_be_chosen(slides):
    scaled_SG = np.expm1(normalise(slides["A"], target_sum=100.0).toarray())
    np.testing.assert_allclose(scaled_SG.sum(axis=1), 100.0, rtol=1e-4)


def test_spot_without_counts_stays_zero_and_leaves_its_neighbours_alone():
    counts = csr_matrix(np.array([[0, 0], [1, 3], [0, 0], [5, 0]], dtype=np.uint32))
    normalised_SG = normalise(counts, target_sum=4.0).toarray()
    expected_SG = np.log1p([[0, 0], [1, 3], [0, 0], [4, 0]])
    np.testing.assert_allclose(normalised_SG, expected_SG, rtol=1e-6)


def test_slide_without_any_count_normalises_to_zero():
    assert normalise(csr_matrix((3, 2), dtype=np.uint32)).nnz == 0


def test_stored_zeros_do_not_shift_the_entries():
    counts = csr_matrix(([0, 2, 0, 6], ([0, 1, 2, 2], [0, 1, 0, 1])), shape=(3, 2))
    normalised_SG = normalise(counts, target_sum=1.0).toarray()
    np.testing.assert_allclose(normalised_SG, np.log1p([[0, 0], [0, 1], [0, 1]]), rtol=1e-6)


def test_normalising_leaves_the_counts_as_they_were(slides):
    before_SG = slides["A"].toarray()
    normalise(slides["A"])
    np.testing.assert_array_equal(slides["A"].toarray(), before_SG)


def test_log_depth_is_the_log_of_all_counts_of_a_spot():
    counts = csr_matrix(np.array([[0, 0], [1, 3]], dtype=np.uint8))
    np.testing.assert_allclose(log_depth(counts), np.log([1, 5]))


def test_depth_of_small_integers_does_not_wrap_around():
    counts = csr_matrix(np.full((1, 3), 200, dtype=np.uint8))
    np.testing.assert_allclose(log_depth(counts), np.log([601]))
