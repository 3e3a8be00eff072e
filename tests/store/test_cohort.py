from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spahgc.errors import MismatchError, MissingError, StoreError
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide


def embed(store, name, *, weights=1):
    slide = open_cohort(store.path)[name]
    draft = EmbeddingDraft(slide, "lite0", fingerprint={"w": weights}, size=2)
    for rows in draft.missing():
        draft.write(rows, np.ones((rows.stop - rows.start, 2), np.float32))
    draft.commit()


def with_genes(name, genes):
    slide = build_slide(name, n_genes=len(genes))
    return replace(slide, genes=pd.DataFrame({"symbol": genes}, index=pd.Index(genes)))


@pytest.fixture
def store(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide("B1"))
    add_slide(store, build_slide("A1", seed=1))
    return store


def test_slides_are_listed_by_name(store):
    cohort = open_cohort(store.path)
    assert list(cohort.slides) == ["A1", "B1"]
    assert cohort.where == str(store.path)


def test_an_unknown_slide_is_refused_with_those_there_are(store):
    with pytest.raises(MissingError, match="no slide 'C1'; it has A1, B1"):
        open_cohort(store.path)["C1"]


def test_an_empty_store_says_that_it_is_empty(tmp_path):
    create_store(tmp_path / "data.zarr")
    with pytest.raises(MissingError, match="no slide 'C1'; it has none at all"):
        open_cohort(tmp_path / "data.zarr")["C1"]


def test_no_store_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(StoreError, match="does not exist; `spahgc ingest`"):
        open_cohort(tmp_path / "data.zarr")


def test_an_open_cohort_does_not_see_later_commits(store):
    cohort = open_cohort(store.path)
    add_slide(store, build_slide("C1"))
    assert list(cohort.slides) == ["A1", "B1"]
    assert list(open_cohort(store.path).slides) == ["A1", "B1", "C1"]


def test_only_embedded_slides_with_expression_are_usable(store):
    add_slide(store, build_slide("C1", n_genes=0))
    embed(store, "A1")
    embed(store, "C1")
    usable = open_cohort(store.path).usable("lite0")
    assert usable.names == ("A1",)
    assert usable.left_out == {
        "B1": "is not embedded as lite0, and has no full-resolution image",
        "C1": "has no expression",
    }


def test_a_slide_with_an_image_is_left_out_with_the_command_that_embeds_it(store):
    cohort = open_cohort(store.path)
    entry = replace(cohort.commit.slides["A1"], image="slides/A1.jpg")
    store.commit(lambda head: replace(head, slides={"A1": entry}), message="an image")
    left_out = open_cohort(store.path).usable("lite0").left_out
    assert left_out == {"A1": "is not embedded as lite0: run `spahgc embed --encoder lite0`"}


def test_patients_are_given_by_slide_and_may_be_unknown(store):
    add_slide(store, replace(build_slide("C1"), patient=None))
    cohort = open_cohort(store.path)
    assert cohort.patients(["C1", "A1"]) == {"C1": None, "A1": "A"}


def test_shared_genes_are_those_of_all_in_the_order_of_the_first(store):
    add_slide(store, with_genes("C1", ["Z", "G2", "G0", "Y"]))
    add_slide(store, with_genes("D1", ["G0", "Y", "Z", "G2", "Q"]))
    cohort = open_cohort(store.path)
    assert cohort.shared_genes(["C1", "D1"]) == ["Z", "G2", "G0", "Y"]
    assert cohort.shared_genes(["D1", "C1", "A1"]) == ["G0", "G2"]
    assert cohort.shared_genes(["B1"]) == ["G0", "G1", "G2"]


def test_slides_that_share_no_gene_are_refused_by_name(store):
    add_slide(store, with_genes("C1", ["ENSG1", "ENSG2"]))
    with pytest.raises(MismatchError, match="slides A1, C1 share no gene id"):
        open_cohort(store.path).shared_genes(["A1", "C1"])


def test_slides_embedded_in_one_way_share_a_fingerprint(store):
    embed(store, "A1")
    embed(store, "B1")
    cohort = open_cohort(store.path)
    record = cohort["A1"].embedding_record("lite0")
    assert cohort.fingerprint("lite0", ["A1", "B1"]) == record["fingerprint_digest"]


def test_slides_embedded_in_two_ways_are_refused_by_name(store):
    embed(store, "A1")
    embed(store, "B1", weights=2)
    with pytest.raises(MismatchError, match=r"slides A1 and B1 .*'lite0' made in different ways"):
        open_cohort(store.path).fingerprint("lite0", ["A1", "B1"])


def test_a_slide_without_the_embedding_has_no_fingerprint(store):
    embed(store, "A1")
    with pytest.raises(MissingError, match="slide B1 has no embedding 'lite0'"):
        open_cohort(store.path).fingerprint("lite0", ["A1", "B1"])
