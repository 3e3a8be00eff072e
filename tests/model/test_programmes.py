import numpy as np
import pytest

from spahgc.model.programmes import Programmes, fit_programmes

N_GENES, N_PANEL = 60, 5


def draw_slide(seed, *, noise=1.0, n_spots=80):
    """Draw a hidden map, (S, A) genes that follow it, and a panel of the first five."""
    meaning_A = np.random.default_rng(7).normal(0, 1, N_GENES)
    own = np.random.default_rng(seed)
    hidden_S = own.normal(0, 1, n_spots)
    noise_SA = noise * own.normal(0, 1, (n_spots, N_GENES))
    wide_SA = (5 + hidden_S[:, None] * meaning_A + noise_SA).astype(np.float32)
    return hidden_S, wide_SA, wide_SA[:, :N_PANEL]


def fit(*slides, n_programmes=1):
    return fit_programmes(
        [wide_SA for _, wide_SA, _ in slides],
        [panel_SG for _, _, panel_SG in slides],
        n_programmes=n_programmes,
        seed=0,
    )


def test_the_first_programme_is_what_the_genes_share():
    programmes = fit(draw_slide(1), draw_slide(2))
    hidden_S, wide_SA, _ = draw_slide(3)
    assert abs(np.corrcoef(programmes.score(wide_SA)[:, 0], hidden_S)[0, 1]) > 0.95


def test_genes_told_from_programmes_have_less_noise_than_their_counts():
    programmes = fit(draw_slide(1), draw_slide(2))
    _, wide_SA, measured_SG = draw_slide(3, noise=1.5)
    _, _, true_SG = draw_slide(3, noise=0)
    told_SG = programmes.mean_G + programmes.express(programmes.score(wide_SA))
    assert np.mean((told_SG - true_SG) ** 2) < 0.3 * np.mean((measured_SG - true_SG) ** 2)


def test_programmes_tell_spots_apart_and_not_slides():
    first, second = draw_slide(1), draw_slide(2)
    brighter = (second[0], second[1] * 2 + 3, second[2])
    np.testing.assert_allclose(
        fit(first, brighter).loadings_AR, fit(first, second).loadings_AR, atol=1e-4
    )


def test_each_programme_is_weaker_than_the_one_before():
    programmes = fit(draw_slide(1), draw_slide(2), n_programmes=4)
    scores_SR = np.concatenate([programmes.score(draw_slide(n)[1]) for n in (1, 2)])
    spread_R = scores_SR.std(axis=0)
    assert spread_R[0] == pytest.approx(1, rel=1e-3)
    assert (np.diff(spread_R) < 0).all()


def test_a_gene_that_a_slide_does_not_list_says_nothing_there():
    programmes = fit(draw_slide(1), draw_slide(2))
    _, wide_SA, _ = draw_slide(3)
    unlisted_SA = wide_SA.copy()
    unlisted_SA[:, 4] = np.nan
    constant_SA = wide_SA.copy()
    constant_SA[:, 4] = 0
    assert np.array_equal(programmes.score(unlisted_SA), programmes.score(constant_SA))


def test_more_programmes_than_spots_are_not_to_be_had():
    slide = draw_slide(1, n_spots=6)
    assert fit(slide, n_programmes=50).loadings_AR.shape == (N_GENES, 5)  # the mean takes one


def test_expression_without_any_variation_has_no_programme():
    still_SA = np.ones((9, N_GENES), np.float32)
    programmes = fit_programmes([still_SA], [still_SA[:, :2]], n_programmes=3, seed=0)
    assert programmes.express(programmes.score(still_SA)).tolist() == np.zeros((9, 2)).tolist()
    assert programmes.mean_G.tolist() == [1, 1]


def test_programmes_are_read_back_as_they_were():
    programmes = fit(draw_slide(1), draw_slide(2), n_programmes=3)
    again = Programmes.read(programmes.arrays())
    _, wide_SA, _ = draw_slide(3)
    assert np.array_equal(
        again.express(again.score(wide_SA)), programmes.express(programmes.score(wide_SA))
    )
