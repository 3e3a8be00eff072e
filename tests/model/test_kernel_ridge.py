import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as Exact

from spahgc.model import kernel_ridge
from spahgc.model.kernel_ridge import KernelRidge, fit_kernel_ridge

GENERATOR = np.random.default_rng(0)
FEATURES_NP = GENERATOR.normal(0, 1, (60, 3)).astype(np.float32)
OUTPUTS_NR = np.stack([np.sin(FEATURES_NP[:, 0]), FEATURES_NP[:, 1]], axis=1).astype(np.float32)
ASKED_SP = GENERATOR.normal(0, 1, (15, 3)).astype(np.float32)


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1])
def test_every_penalty_gives_what_scikit_learn_gives(penalty):
    _, ridge = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(10, penalty), seed=0)
    exact = Exact(alpha=penalty * len(FEATURES_NP), kernel="rbf", gamma=ridge.gamma)
    expected_SR = exact.fit(FEATURES_NP, OUTPUTS_NR).predict(ASKED_SP)
    np.testing.assert_allclose(ridge.predict(ASKED_SP), expected_SR, atol=2e-4)


def test_a_few_landmarks_come_close(monkeypatch):
    (exact,) = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(1e-2,), seed=0)
    monkeypatch.setattr(kernel_ridge, "MOST_LANDMARKS", 30)
    (close,) = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(1e-2,), seed=0)
    assert len(close.landmarks_MP) == 30
    difference = np.abs(close.predict(ASKED_SP) - exact.predict(ASKED_SP)).mean()
    assert difference < 0.1 * np.abs(OUTPUTS_NR).mean()


def test_spots_of_the_same_looks_do_no_harm():
    twice_NP, outputs_NR = np.tile(FEATURES_NP, (2, 1)), np.tile(OUTPUTS_NR, (2, 1))
    (ridge,) = fit_kernel_ridge(twice_NP, outputs_NR, penalties=(1e-3,), seed=0)
    (once,) = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(1e-3,), seed=0)
    assert np.isfinite(ridge.predict(ASKED_SP)).all()
    assert np.corrcoef(ridge.predict(ASKED_SP)[:, 0], once.predict(ASKED_SP)[:, 0])[0, 1] > 0.98


def test_spots_that_all_look_the_same_get_one_prediction():
    same_NP = np.ones((8, 3), np.float32)
    (ridge,) = fit_kernel_ridge(same_NP, OUTPUTS_NR[:8], penalties=(1e-6,), seed=0)
    np.testing.assert_allclose(
        ridge.predict(same_NP[:2]), np.tile(OUTPUTS_NR[:8].mean(axis=0), (2, 1)), atol=1e-4
    )


def test_blocks_change_nothing(monkeypatch):
    (ridge,) = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(1e-2,), seed=0)
    whole_SR = ridge.predict(ASKED_SP)
    monkeypatch.setattr(kernel_ridge, "BLOCK", 4)
    np.testing.assert_allclose(ridge.predict(ASKED_SP), whole_SR, atol=1e-6)


def test_a_regression_is_read_back_as_it_was():
    (ridge,) = fit_kernel_ridge(FEATURES_NP, OUTPUTS_NR, penalties=(1e-2,), seed=0)
    assert np.array_equal(
        KernelRidge.read(ridge.arrays()).predict(ASKED_SP), ridge.predict(ASKED_SP)
    )
