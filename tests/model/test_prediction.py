from dataclasses import replace

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError, MissingError, StoreError
from spahgc.model.prediction import (
    open_predictor,
    predict_new,
    predict_stored,
    write_prediction,
)
from spahgc.store.cohort import open_cohort
from spahgc.store.index import build_index
from spahgc.store.run_folders import unfinished_folder
from spahgc.store.runs import read_run, write_run
from tests.model.conftest import (
    EMBEDDING,
    FINGERPRINT,
    copy_store,
    draw_tissue,
    grow_store,
    put_slide,
    with_counts,
)


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """The run as it is read back."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with unfinished_folder(folder, plan={}) as unfinished:
        write_run(finished.run, unfinished)
    return read_run(folder)


@pytest.fixture(scope="module")
def predictor(run, grown):
    return open_predictor(run, grown)


@pytest.fixture
def store(grown, tmp_path):
    """A copy of the store, to be changed."""
    return copy_store(grown, tmp_path / "copy.zarr").store


@pytest.fixture(scope="module")
def table(predictor):
    return predict_stored(predictor, "B2")


def bare(slide):
    """Give the slide as an image alone would."""
    return replace(slide, counts=csr_matrix((len(slide.spots), 0)), genes=slide.genes[:0])


def test_a_run_read_back_predicts_what_it_predicted_in_training(table, finished):
    np.testing.assert_allclose(table.X, finished.predictions["B2"], rtol=0, atol=1e-6)


def test_a_prediction_lies_where_scanpy_looks_for_it(table, run, grown):
    slide = grown["B2"]
    assert table.X.dtype == np.float32
    assert table.obs.equals(slide.spots)
    assert np.array_equal(table.obsm["spatial"], slide.centers)
    assert tuple(table.var_names) == run.record.panel
    expected = run.scores.set_index("gene")["pcc"]
    np.testing.assert_array_equal(table.var["test_pcc"], expected[list(table.var_names)])
    assert table.uns["spahgc"]["train"] == ["A2", "B1"]
    assert table.uns["spahgc"]["units"] == "log1p of counts per 10000, predicted"


def test_a_run_that_tested_nothing_claims_no_correlation(run, grown):
    untested = open_predictor(replace(run, scores=None), grown)
    assert "test_pcc" not in predict_stored(untested, "B2").var


@pytest.mark.parametrize("name", ["A2", "B1"])
def test_a_training_slide_is_refused(predictor, name):
    with pytest.raises(MismatchError, match=f"slide {name} taught this run.*tested on B2"):
        predict_stored(predictor, name)


def test_an_unknown_slide_is_refused_with_those_there_are(predictor):
    with pytest.raises(MissingError, match="no slide 'Z9'; it has A1, A2, B1, B2"):
        predict_stored(predictor, "Z9")


def test_a_slides_own_expression_is_not_read(run, store, table):
    slide, embedding_SD = draw_tissue("B2")
    put_slide(store, with_counts(slide, seed=1), embedding_SD)
    build_index(open_cohort(store.path), embedding=EMBEDDING)
    again = predict_stored(open_predictor(run, open_cohort(store.path)), "B2")
    assert np.array_equal(again.X, table.X)


def test_an_image_in_no_store_is_predicted_as_the_same_slide_stored(predictor, table):
    slide, embedding_SD = draw_tissue("B2")
    new = predict_new(predictor, bare(slide), embedding_SD)
    assert np.array_equal(new.X, table.X)
    assert list(new.obs_names) == list(table.obs_names)


def test_a_slide_the_run_never_heard_of_borrows_from_all_like_a_new_image(run, store):
    slide, embedding_SD = draw_tissue("C1")
    put_slide(store, bare(slide), embedding_SD)
    predictor = open_predictor(run, open_cohort(store.path))
    stored = predict_stored(predictor, "C1")
    assert np.array_equal(stored.X, predict_new(predictor, slide, embedding_SD).X)


def test_a_new_image_may_have_the_name_of_a_training_slide(predictor):
    slide, embedding_SD = draw_tissue("C1")
    named = replace(slide, name="A2")
    first, second = (predict_new(predictor, s, embedding_SD).X for s in (slide, named))
    assert np.array_equal(first, second)


def test_embeddings_may_be_read_only_or_of_double_precision(predictor, table):
    slide, embedding_SD = draw_tissue("B2")
    embedding_SD.setflags(write=False)
    for given in (embedding_SD, embedding_SD.astype(np.float64)):
        assert np.array_equal(predict_new(predictor, slide, given).X, table.X)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param((32, 8), r"B2 \(new image\) has 32 embeddings for 33 spots", id="rows"),
        pytest.param((33, 9), "vectors of 9 numbers, slide A2 of 8", id="columns"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(predictor, shape, message):
    slide, _ = draw_tissue("B2")
    with pytest.raises(MismatchError, match=message):
        predict_new(predictor, slide, np.ones(shape, np.float32))


def test_a_reference_slide_that_changed_is_refused(run, store):
    slide, embedding_SD = draw_tissue("A2")
    put_slide(store, with_counts(slide, seed=1), embedding_SD)
    build_index(open_cohort(store.path), embedding=EMBEDDING)
    with pytest.raises(MismatchError, match=r"slide A2 .*not the one this run.*`spahgc train`"):
        open_predictor(run, open_cohort(store.path))


def test_a_reference_slide_that_is_gone_is_refused(run, store):
    store.commit(
        lambda head: replace(head, slides={n: e for n, e in head.slides.items() if n != "A2"}),
        message="drop A2",
    )
    with pytest.raises(MissingError, match="no slide 'A2'"):
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
        predict_stored(predictor, "C1")


def test_a_store_without_an_index_names_the_command(run, tmp_path):
    cohort = grow_store(tmp_path / "data.zarr", index=False)
    with pytest.raises(MissingError, match="spahgc index build"):
        open_predictor(run, cohort)


def test_a_prediction_is_written_and_read_by_anndata(table, tmp_path):
    write_prediction(table, tmp_path / "B2.h5ad")
    read = anndata.read_h5ad(tmp_path / "B2.h5ad")
    assert np.array_equal(read.X, table.X)
    assert np.array_equal(read.obsm["spatial"], table.obsm["spatial"])
    assert np.array_equal(read.var["test_pcc"], table.var["test_pcc"])
    assert list(read.obs_names) == list(table.obs_names)
    assert read.uns["spahgc"]["embedding"] == "tiny"
    assert [item.name for item in tmp_path.iterdir()] == ["B2.h5ad"]


def test_an_older_prediction_is_replaced(table, tmp_path):
    (tmp_path / "B2.h5ad").write_text("old")
    write_prediction(table, tmp_path / "B2.h5ad")
    assert anndata.read_h5ad(tmp_path / "B2.h5ad").shape == table.shape


@pytest.mark.parametrize("place", ["folder", "file/B2.h5ad", "nowhere/B2.h5ad"])
def test_a_place_that_cannot_be_written_is_one_error(table, tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=f"{place} cannot be written") as caught:
        write_prediction(table, tmp_path / place)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError])
def test_a_writer_that_is_stopped_leaves_nothing(table, tmp_path, monkeypatch, error):
    def stop_half_way(_, path, **__):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", stop_half_way)
    with pytest.raises(error):
        write_prediction(table, tmp_path / "B2.h5ad")
    assert list(tmp_path.iterdir()) == []
