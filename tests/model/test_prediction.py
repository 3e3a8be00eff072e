from dataclasses import replace

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError, MissingError
from spahgc.index import ReferenceIndex
from spahgc.model.feature_index import why_no_index
from spahgc.model.prediction import open_predictor, predict_new, predict_stored
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.run_folders import unfinished_folder
from spahgc.store.runs import read_run, write_run
from spahgc.store.staging import add_slide
from tests.model.conftest import (
    EMBEDDING,
    FINGERPRINT,
    RUN_CONFIG,
    copy_store,
    draw_tissue,
    grow_store,
    put_slide,
    with_counts,
    without_gene,
)


@pytest.fixture(scope="module")
def run(finished_either, tmp_path_factory):
    """The run as it is read back."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with unfinished_folder(folder, plan={}) as unfinished:
        write_run(finished_either.run, unfinished)
    return read_run(folder)


@pytest.fixture(scope="module")
def predictor(run, grown):
    return open_predictor(run, grown)


@pytest.fixture
def store(grown, tmp_path):
    """A copy of the store, to be changed."""
    return copy_store(grown, tmp_path / "copy.zarr").store


@pytest.fixture(scope="module")
def table(predictor, grown):
    return predict_stored(predictor, grown, "B2")


def bare(slide):
    """Give the slide as an image alone would."""
    return replace(slide, counts=csr_matrix((len(slide.spots), 0)), genes=slide.genes[:0])


def test_a_run_read_back_predicts_what_it_predicted_in_training(table, finished_either):
    np.testing.assert_allclose(table.X, finished_either.predictions["B2"], rtol=0, atol=1e-6)


def test_a_prediction_lies_where_scanpy_looks_for_it(table, run, grown):
    slide = grown["B2"]
    assert table.X.dtype == np.float32
    assert table.obs[list(slide.spots)].equals(slide.spots)
    assert np.array_equal(table.obsm["spatial"], slide.centers)
    assert tuple(table.var_names) == run.record.panel
    expected = run.scores.set_index("gene")["pcc"]
    np.testing.assert_array_equal(table.var["test_pcc"], expected[list(table.var_names)])
    assert table.uns["spahgc"]["train"] == list(run.record.train)
    relative = ", relative within the slide: compare its spots, not slides"
    expected = relative if run.record.committee is not None else ""  # the paper's standardises none
    assert table.uns["spahgc"]["units"] == f"log1p of counts per 10000, predicted{expected}"


@pytest.mark.filterwarnings(
    "ignore:Use `squidpy.pl.spatial_scatter`:FutureWarning",  # scanpy's own drawing goes away
    "ignore:The set_bad function:PendingDeprecationWarning",  # which scanpy calls
)
@pytest.mark.parametrize("origin", ["stored", "image alone"])
def test_scanpy_draws_a_prediction_over_its_picture_as_it_is(predictor, grown, origin, tmp_path):
    slide, embedding_SD = draw_tissue("B2")
    if origin == "stored":
        predicted = predict_stored(predictor, grown, "B2")
    else:
        alone = replace(bare(slide), spot_diameter_um=None)
        predicted = predict_new(predictor, alone, [embedding_SD])
    predicted.write_h5ad(tmp_path / "B2.h5ad")
    read = anndata.read_h5ad(tmp_path / "B2.h5ad")
    (axes,) = sc.pl.spatial(read, color=read.var_names[0], show=False)
    (picture,), (circles,) = axes.images, axes.collections
    assert np.array_equal(picture.get_array(), slide.thumbnails["hires"].pixels)
    assert axes.yaxis_inverted()  # rows of the picture count from its top
    boxes = [path.get_extents() for path in circles.get_paths()]
    scale = slide.thumbnails["hires"].scale
    drawn = sorted(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in boxes)
    np.testing.assert_allclose(drawn, sorted(map(tuple, slide.centers * scale)), atol=1e-6)
    wide = 100 / 0.5 if origin == "stored" else 100  # the spot's true width, or that of a step
    np.testing.assert_allclose([box.width for box in boxes], wide * scale, rtol=1e-3)
    plt.close("all")


@pytest.mark.parametrize("named", [["A2", "B1"], ["B1"], []], ids=["by both", "by one", "by none"])
def test_a_prediction_names_genes_by_symbol_as_training_slides_do(run, store, named):
    for name in ("A2", "B1"):
        slide, embedding_SD = draw_tissue(name)
        symbols = [f"SYM-{gene}" for gene in slide.genes.index]
        genes = slide.genes.assign(symbol=symbols) if name in named else slide.genes[[]]
        put_slide(store, replace(slide, genes=genes), embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    cohort = open_cohort(store.path)
    train = {name: cohort[name].entry.content for name in ("A2", "B1")}
    predictor = open_predictor(replace(run, record=replace(run.record, train=train)), cohort)
    predicted = predict_stored(predictor, cohort, "B2")
    expected = [f"SYM-{gene}" if named else gene for gene in run.record.panel]
    assert list(predicted.var["symbol"]) == expected


@pytest.mark.parametrize(("n_spots", "is_small"), [(29, True), (30, False)])
def test_a_slide_too_small_to_standardise_is_noted(predictor, run, n_spots, is_small):
    slide, embedding_SD = draw_tissue("B2")
    part = replace(bare(slide), spots=slide.spots[:n_spots], centers=slide.centers[:n_spots])
    notes = predict_new(predictor, part, [embedding_SD[:n_spots]]).uns["spahgc"]["notes"]
    is_noted = any(f"it has {n_spots} spots, fewer than 30" in note for note in notes)
    assert is_noted == (is_small and run.record.committee is not None)


def test_every_gene_and_spot_says_how_far_to_believe_it(table, run):
    pd.testing.assert_frame_equal(
        table.var[["cv_pcc", "cv_low", "cv_high", "cv_slides", "cv_worst", "cv_best"]],
        run.trust.genes,
        check_names=False,
    )
    assert table.obs["nearness"].between(0, 1).all()
    assert table.obs["unlike_references"].dtype == bool
    assert table.uns["spahgc"]["references"] == list(run.record.train)
    assert any("on both sides" in note for note in table.uns["spahgc"]["notes"])


def test_a_run_without_trust_claims_none(run, grown):
    bare_run = replace(run, trust=None)
    table = predict_stored(open_predictor(bare_run, grown), grown, "B2")
    assert "cv_pcc" not in table.var
    assert "nearness" not in table.obs


def test_an_image_far_coarser_than_the_training_images_is_noted(predictor):
    slide, embedding_SD = draw_tissue("C1")
    coarse = replace(bare(slide), microns_per_pixel=1.5)
    notes = predict_new(predictor, coarse, [embedding_SD]).uns["spahgc"]["notes"]
    assert any("1.5 µm per pixel, the training images at most 0.5" in note for note in notes)
    fine = predict_new(predictor, bare(slide), [embedding_SD]).uns["spahgc"]["notes"]
    assert not any("per pixel" in note for note in fine)


def test_spots_of_another_world_are_flagged_and_the_slide_with_them(predictor):
    slide, embedding_SD = draw_tissue("C1")
    strange = predict_new(predictor, bare(slide), [embedding_SD[:, ::-1] * (-1) ** np.arange(8)])
    assert strange.obs["unlike_references"].mean() > 0.5
    assert any("look unlike every reference" in n for n in strange.uns["spahgc"]["notes"])


def test_a_run_that_tested_nothing_claims_no_correlation(run, grown):
    untested = open_predictor(replace(run, scores=None), grown)
    assert "test_pcc" not in predict_stored(untested, grown, "B2").var


@pytest.mark.parametrize("name", ["A2", "B1"])
def test_a_training_slide_is_refused(predictor, grown, name):
    with pytest.raises(MismatchError, match=f"slide {name} taught this run.*tested on B2"):
        predict_stored(predictor, grown, name)


def test_an_unknown_slide_is_refused_with_those_there_are(predictor, grown):
    with pytest.raises(MissingError, match="no slide 'Z9'; it has A1, A2, B1, B2"):
        predict_stored(predictor, grown, "Z9")


def test_a_slides_own_expression_is_not_read(run, store, table):
    slide, embedding_SD = draw_tissue("B2")
    put_slide(store, with_counts(slide, seed=1), embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    again = predict_stored(
        open_predictor(run, open_cohort(store.path)), open_cohort(store.path), "B2"
    )
    assert np.array_equal(again.X, table.X)


def test_an_image_in_no_store_is_predicted_as_the_same_slide_stored(predictor, table):
    slide, embedding_SD = draw_tissue("B2")
    new = predict_new(predictor, bare(slide), [embedding_SD])
    assert np.array_equal(new.X, table.X)
    assert list(new.obs_names) == list(table.obs_names)


def test_a_slide_the_run_never_heard_of_borrows_from_all_like_a_new_image(run, store):
    slide, embedding_SD = draw_tissue("C1")
    put_slide(store, bare(slide), embedding_SD)
    predictor = open_predictor(run, open_cohort(store.path))
    stored = predict_stored(predictor, predictor.teaching.cohort, "C1")
    assert np.array_equal(stored.X, predict_new(predictor, slide, [embedding_SD]).X)


def test_a_new_image_may_have_the_name_of_a_training_slide(predictor):
    slide, embedding_SD = draw_tissue("C1")
    named = replace(slide, name="A2")
    first, second = (predict_new(predictor, s, [embedding_SD]).X for s in (slide, named))
    assert np.array_equal(first, second)


def test_embeddings_may_be_read_only_or_of_double_precision(predictor, table):
    slide, embedding_SD = draw_tissue("B2")
    embedding_SD.setflags(write=False)
    for given in (embedding_SD, embedding_SD.astype(np.float64)):
        assert np.array_equal(predict_new(predictor, slide, [given]).X, table.X)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param((32, 8), r"B2 \(new image\) has 32 embeddings for 33 spots", id="rows"),
        pytest.param(
            (33, 9), "of 9 numbers, slide A2 of 8|have 9 features, expected 8", id="columns"
        ),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(predictor, shape, message):
    slide, _ = draw_tissue("B2")
    with pytest.raises(MismatchError, match=message):
        predict_new(predictor, slide, [np.ones(shape, np.float32)])


def test_a_reference_slide_that_changed_is_refused(run, store):
    slide, embedding_SD = draw_tissue("A2")
    put_slide(store, with_counts(slide, seed=1), embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    with pytest.raises(MismatchError, match=r"slide A2 .*not the one this run.*`spahgc train`"):
        open_predictor(run, open_cohort(store.path))


def test_a_reference_slide_that_is_gone_is_refused(run, store):
    store.commit(
        lambda head: replace(head, slides={n: e for n, e in head.slides.items() if n != "A2"}),
        message="drop A2",
    )
    with pytest.raises(MissingError, match=r"no slide A2, which .*`--references STORE`"):
        open_predictor(run, open_cohort(store.path))


def test_references_embedded_in_another_way_are_refused(run, tmp_path):
    cohort = grow_store(tmp_path / "data.zarr", fingerprint={**FINGERPRINT, "patch_um": 56.0})
    with pytest.raises(MismatchError, match=r"'tiny' .*made in another way.*`spahgc train`"):
        open_predictor(run, cohort)


def test_a_slide_embedded_in_another_way_is_refused(run, store):
    slide, embedding_SD = draw_tissue("C1")
    put_slide(store, slide, embedding_SD, fingerprint={**FINGERPRINT, "patch_um": 56.0})
    predictor = open_predictor(run, open_cohort(store.path))
    with pytest.raises(MismatchError, match="slide C1 was embedded in another way"):
        predict_stored(predictor, predictor.teaching.cohort, "C1")


def test_without_an_index_that_fits_a_slide_is_predicted_the_same(run, store, table, tmp_path):
    put_slide(store, with_counts(draw_tissue("B2")[0], seed=1), draw_tissue("B2")[1])
    stale = open_cohort(store.path)
    assert why_no_index(stale, run.record.train, RUN_CONFIG.features) == (
        "the index 'tiny' is stale: slide B2 changed since"
    )
    bare = grow_store(tmp_path / "data.zarr", index=False)
    for cohort in (stale, bare):
        assert np.array_equal(predict_stored(open_predictor(run, cohort), cohort, "B2").X, table.X)


def test_weights_of_another_network_are_one_line(run, grown):
    torn = {name: weight[..., :-1] for name, weight in run.weights.items()}
    for weights in (torn, {}, {**run.weights, "more": np.zeros(2, np.float32)}):
        with pytest.raises(
            MismatchError, match=r"weights are of another (network|model)"
        ) as caught:
            open_predictor(replace(run, weights=weights), grown)
        assert "\n" not in str(caught.value)


def test_a_slide_of_the_same_counts_is_not_borrowed_from(run, store):
    slide, _ = draw_tissue("A2")
    put_slide(store, replace(slide, name="C9"), draw_tissue("C9")[1][:25])
    cohort = open_cohort(store.path)
    table = predict_stored(open_predictor(run, cohort), cohort, "C9")
    references = [name for name in run.record.train if name != "A2"]
    assert table.uns["spahgc"]["references"] == references


def test_a_run_borrows_from_another_store_of_the_same_encoder(run, tmp_path, grown):
    elsewhere = create_store(tmp_path / "elsewhere.zarr")
    for name in ("D1", "D2"):
        put_slide(elsewhere, *draw_tissue(name))
    put_slide(elsewhere, without_gene(draw_tissue("D3")[0], "G0"), draw_tissue("D3")[1])
    other = open_cohort(elsewhere.path)
    everywhere = replace(run, record=replace(run.record, panel=("G0", *run.record.panel[1:])))
    predictor = open_predictor(everywhere, other, references=[other])
    table = predict_stored(predictor, grown, "B2")
    assert table.uns["spahgc"]["references"] == ["D1", "D2"]  # D3 lacks a gene
    own = predict_stored(predictor, other, "D1")
    assert own.uns["spahgc"]["references"] == ["D2"]


def test_several_stores_may_be_borrowed_from_at_once(run, tmp_path, grown):
    elsewhere = create_store(tmp_path / "elsewhere.zarr")
    put_slide(elsewhere, *draw_tissue("A2", seed=4))
    predictor = open_predictor(run, grown, references=[open_cohort(elsewhere.path), grown])
    slide, embedding_SD = draw_tissue("X1")
    names = predict_new(predictor, slide, [embedding_SD]).uns["spahgc"]["references"]
    assert sorted(names) == ["A1", "A2", f"A2 of {grown.where}", "B1", "B2"]


def test_a_store_nothing_can_be_borrowed_from_says_why_of_each_slide(run, tmp_path):
    elsewhere = create_store(tmp_path / "elsewhere.zarr")
    put_slide(elsewhere, *draw_tissue("D1"), fingerprint={**FINGERPRINT, "patch_um": 56.0})
    add_slide(elsewhere, draw_tissue("D2")[0])
    cohort = open_cohort(elsewhere.path)
    with pytest.raises(MismatchError, match=r"D1 has .*another way; D2 has no embedding 'tiny'"):
        open_predictor(run, cohort, references=[cohort])


def test_a_slide_whose_near_spots_reach_elsewhere_than_in_training_is_told_once(predictor):
    slide, embedding_SD = draw_tissue("new")
    alike = predict_new(predictor, bare(slide), [embedding_SD]).uns["spahgc"]["notes"]
    assert not any("near spots" in note for note in alike)
    reach = max(ring["radius_um"] for ring in predictor.run.record.rings.values())
    wide = replace(bare(slide), centers=2 * slide.centers)
    notes = predict_new(predictor, wide, [embedding_SD]).uns["spahgc"]["notes"]
    (note,) = [note for note in notes if "near spots" in note]
    assert f"(8) reach {2 * reach:.0f} µm, those of the training slides {reach:.0f} µm" in note


def test_a_run_of_a_version_without_rings_predicts_from_the_six_nearest(run, grown):
    record = replace(run.record, near={}, rings={})
    old = open_predictor(replace(run, record=record), grown)
    assert old.teaching.near is None
    assert old.teaching.read("B2").near_SQ.shape == (33, 6)
    table = predict_stored(old, grown, "B2")
    assert not any("near spots" in note for note in table.uns["spahgc"]["notes"])


def test_a_run_keeps_which_spots_were_near_and_how_far_they_reach(run):
    assert run.record.near == {"square": 8, "staggered": 8}
    assert set(run.record.rings) == set(run.record.train)
    for ring in run.record.rings.values():
        assert (ring["lattice"], ring["n_near"]) == ("square", 8)
        assert ring["radius_um"] > 0
