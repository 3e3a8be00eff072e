import numpy as np
import pytest

from spahgc.model.scoring import mean_pcc, score_listed


def test_the_mean_correlation_leaves_out_what_has_none():
    measured_SG = np.array([[0, 1, np.nan, 5], [1, 0, 2, 5], [2, 2, 3, 5]], np.float32)
    predicted_SG = np.array([[1, 5, 0, 1], [2, 4, 0, 2], [3, 6, 0, 3]], np.float32)
    assert mean_pcc(measured_SG, predicted_SG) == pytest.approx(1.0)  # of the first two
    assert mean_pcc(measured_SG[:, 2:], predicted_SG[:, 2:]) == 0
    assert mean_pcc(measured_SG[:, [2]], predicted_SG[:, [2]]) == 0


def test_a_gene_that_a_slides_files_do_not_list_is_not_scored():
    measured_SG = np.array([[0, np.nan, 5], [1, np.nan, 4], [2, np.nan, 3]], np.float32)
    scores = score_listed(measured_SG, measured_SG[:, ::-1], genes=("A", "B", "C"))
    assert list(scores.index) == ["A", "C"]
    assert list(scores["pcc"]) == pytest.approx([-1, -1])
