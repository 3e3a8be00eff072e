from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.model.spots import expression_of
from spahgc.model.trust import (
    FLAGGED_BELOW,
    _tiles,
    find_trust,
    judge_genes,
    judge_slide,
    judge_spots,
    nearness_of,
    spot_error,
)
from spahgc.store.confidence import FEWEST_HELD_OUT


@pytest.fixture(scope="module")
def slides(finished_either):
    return {name: finished_either.teaching.read(name) for name in ("A1", "B2")}


def repeated(slides, n_slides):
    """Give slides under other names, as if more of the same kind had been held out."""
    spots = list(slides.values())
    return {str(n): replace(spots[n % len(spots)], name=str(n)) for n in range(n_slides)}


def noisy(slides, *, noise, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: expression_of(s) + generator.normal(0, noise, expression_of(s).shape)
        for name, s in slides.items()
    }


def test_a_genes_score_is_the_mean_over_held_out_slides(slides, finished_either):
    genes = finished_either.teaching.panel.genes
    predicted = noisy(slides, noise=1.0)
    found = judge_genes(slides, predicted, genes=genes)
    for place, gene in enumerate(genes):
        each = [
            np.corrcoef(expression_of(s)[:, place], predicted[name][:, place])[0, 1]
            for name, s in slides.items()
        ]
        assert found.loc[gene, "cv_pcc"] == pytest.approx(np.mean(each))
    assert (found["cv_slides"] == 2).all()


def test_intervals_hold_the_score_and_narrow_where_slides_agree(slides, finished_either):
    genes = finished_either.teaching.panel.genes
    slides = repeated(slides, FEWEST_HELD_OUT)
    good = judge_genes(slides, noisy(slides, noise=0.05), genes=genes)
    poor = judge_genes(slides, noisy(slides, noise=2.0), genes=genes)
    for found in (good, poor):
        assert (found["cv_low"] <= found["cv_pcc"]).all()
        assert (found["cv_pcc"] <= found["cv_high"]).all()
    width = (good["cv_high"] - good["cv_low"]).mean(), (poor["cv_high"] - poor["cv_low"]).mean()
    assert width[0] < width[1] / 2


def test_a_gene_has_no_interval_where_too_few_slides_or_patients_were_held_out(
    slides, finished_either
):
    genes = finished_either.teaching.panel.genes
    few, enough = (repeated(slides, n) for n in (FEWEST_HELD_OUT - 1, FEWEST_HELD_OUT))
    found = judge_genes(few, noisy(few, noise=1.0), genes=genes)
    assert found["cv_pcc"].notna().all()
    assert found[["cv_low", "cv_high"]].isna().all(axis=None)
    of_two = {name: f"patient {place // 2}" for place, name in enumerate(enough)}
    found = judge_genes(enough, noisy(enough, noise=1.0), genes=genes, units=of_two)
    assert found[["cv_low", "cv_high"]].isna().all(axis=None)
    assert (found["cv_slides"] == FEWEST_HELD_OUT).all()


def test_a_gene_is_held_to_the_slides_that_list_it(slides, finished_either):
    genes = finished_either.teaching.panel.genes
    slides = repeated(slides, FEWEST_HELD_OUT)
    unlisted = replace(slides["1"], expression_SG=slides["1"].expression_SG.copy())
    unlisted.expression_SG[:, 4] = np.nan
    found = judge_genes({**slides, "1": unlisted}, noisy(slides, noise=1.0), genes=genes)
    assert found["cv_low"].isna().tolist() == [place == 4 for place in range(6)]


def test_a_genes_worst_and_best_slide_stand_beside_its_mean(slides, finished_either):
    genes = finished_either.teaching.panel.genes
    predicted = {**noisy(slides, noise=0.05), "B2": noisy(slides, noise=2.0)["B2"]}
    found = judge_genes(slides, predicted, genes=genes)
    of_one = {
        name: judge_genes({name: spots}, predicted, genes=genes)["cv_pcc"]
        for name, spots in slides.items()
    }
    pd.testing.assert_series_equal(found["cv_worst"], of_one["B2"], check_names=False)
    pd.testing.assert_series_equal(found["cv_best"], of_one["A1"], check_names=False)


def test_a_gene_without_score_has_none_and_no_interval(slides, finished_either):
    genes = finished_either.teaching.panel.genes
    predicted = noisy(slides, noise=1.0)
    constant = {name: np.where(np.arange(6) == 2, 0.5, p) for name, p in predicted.items()}
    unlisted = {n: replace(s, expression_SG=s.expression_SG.copy()) for n, s in slides.items()}
    unlisted["A1"].expression_SG[:, 4] = np.nan
    found = judge_genes(unlisted, constant, genes=genes)
    assert found.iloc[2][["cv_pcc", "cv_low", "cv_high"]].isna().all()
    assert found["cv_slides"].tolist() == [2, 2, 0, 2, 1, 2]


def test_where_every_prediction_is_constant_no_gene_has_a_score_and_none_an_interval(
    slides, finished_either
):
    genes = finished_either.teaching.panel.genes
    constant = {name: np.ones_like(expression_of(s)) for name, s in slides.items()}
    found = judge_genes(slides, constant, genes=genes)
    assert found[["cv_pcc", "cv_low", "cv_high"]].isna().all(axis=None)
    assert (found["cv_slides"] == 0).all()


def test_nothing_held_out_means_nothing_known(finished_either):
    trust = find_trust(finished_either.teaching, held_out={})
    assert trust.genes["cv_pcc"].isna().all()
    assert (trust.genes["cv_slides"] == 0).all()
    assert np.isnan(trust.error_B).all()
    assert len(trust.nearness_Q) > 100


def test_the_runs_trust_comes_from_slides_held_out_of_training_not_its_test(finished_either):
    record = finished_either.run.record
    held_out = record.validation or tuple(record.train)
    assert sorted(finished_either.run.trust.slides) == sorted(held_out)
    assert "A1" in held_out
    assert set(record.test) == {"B2"}


def test_held_out_spots_are_flagged_as_often_as_promised(finished_either):
    teaching, trust = finished_either.teaching, finished_either.run.trust
    asking = ({**teaching.spots, "A1": teaching.read("A1")}).values()
    near_S = np.concatenate(
        [nearness_of(teaching, spots, teaching.read_looks(spots.name)) for spots in asking]
    )
    judged = judge_spots(trust, near_S)
    assert judged["unlike_references"].mean() == pytest.approx(FLAGGED_BELOW, abs=0.03)
    assert judged["nearness"].min() == 0
    assert judged["nearness"].max() == 1
    order = np.argsort(near_S)
    assert (np.diff(judged["nearness"].to_numpy()[order]) >= 0).all()


def test_a_slide_is_noted_where_far_more_spots_are_flagged_than_on_held_out_slides(finished_either):
    trust = replace(finished_either.run.trust, flagged_share=0.04)
    flags = pd.DataFrame({"unlike_references": [True] * 7 + [False] * 93})
    assert judge_slide(trust, flags) is None
    assert judge_slide(trust, pd.concat([flags, flags[:4]])).startswith("11% of its spots")


def test_nearness_is_the_mean_cosine_to_the_nearest_references(finished_either):
    teaching = finished_either.teaching
    spots = teaching.read("B2")
    found = nearness_of(teaching, spots, teaching.read_looks("B2"))
    references = np.concatenate([*map(teaching.read_looks, teaching.train)]).astype(float)
    unit_RD = references / np.linalg.norm(references, axis=1, keepdims=True)
    looks_SD = teaching.read_looks("B2")
    asked_SD = looks_SD / np.linalg.norm(looks_SD, axis=1, keepdims=True)
    expected_S = np.sort(asked_SD @ unit_RD.T, axis=1)[:, -10:].mean(axis=1)
    np.testing.assert_allclose(found, expected_S, atol=1e-5)


def test_a_spots_error_is_in_standard_deviations_of_its_genes(slides):
    spots = slides["B2"]
    measured_SG = expression_of(spots).astype(float)
    shifted_SG = measured_SG + 2 * measured_SG.std(axis=0)
    np.testing.assert_allclose(spot_error(spots, shifted_SG), 2, rtol=1e-5)


def test_a_spot_by_itself_does_not_undo_the_tiles_of_all_others(slides):
    spots = slides["B2"]
    alone_SQ = spots.near_SQ.copy()
    alone_SQ[0] = -1
    assert np.array_equal(_tiles(replace(spots, near_SQ=alone_SQ)), _tiles(spots))
    assert len(np.unique(_tiles(spots))) < len(spots.near_SQ)
