from dataclasses import replace
from functools import partial

import pytest

from spahgc.errors import SlideFormatError, StoreError
from spahgc.ingest.slides import PendingSlide, ingest_slides
from spahgc.store.cohort import open_cohort
from tests.conftest import build_slide


def pend(slide):
    return PendingSlide(name=slide.name, read=lambda: slide)


def fail(name):
    def read():
        raise SlideFormatError(f"{name} is broken")

    return PendingSlide(name=name, read=read)


def warnings(done):
    """What is said of twins."""
    found = [finding.text for finding in done.slide.findings if finding.kind == "warning"]
    return [text for text in found if text.startswith("the store has")]


def test_no_store_is_made_where_no_slide_can_be_read(tmp_path):
    (done,) = ingest_slides([fail("A1")], store=tmp_path / "data.zarr")
    assert done.outcome == "failed"
    assert not (tmp_path / "data.zarr").exists()


def test_a_wrong_place_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    item = PendingSlide(name="A1", read=partial(pytest.fail, "must not be read"))
    with pytest.raises(StoreError, match="is not a spahgc store"):
        list(ingest_slides([item], store=tmp_path))


def test_a_dry_run_reads_everything_and_writes_nothing(tmp_path):
    store = tmp_path / "data.zarr"
    (done,) = ingest_slides([pend(build_slide())], store=store, dry_run=True)
    assert done.outcome == "added"
    assert not store.exists()


def test_a_dry_run_says_what_would_happen_to_slides_that_are_there(tmp_path):
    store = tmp_path / "data.zarr"
    list(ingest_slides([pend(build_slide(seed=0))], store=store))

    def foresee(slide, **how):
        (done,) = ingest_slides([pend(slide)], store=store, dry_run=True, **how)
        return done.outcome

    assert foresee(build_slide(seed=0)) == "kept"
    assert foresee(build_slide(seed=1)) == "failed"
    assert foresee(build_slide(seed=1), replace_existing=True) == "replaced"
    assert foresee(replace(build_slide(), name="../x")) == "failed"
    assert open_cohort(store).commit.number == 1


def test_patches_that_leave_the_image_are_counted(tmp_path, pictured_slide):
    (done,) = ingest_slides([pend(pictured_slide)], store=tmp_path / "data.zarr")
    counted = "0 / 5 / 8 / 9 of 9 patches of 77 / 154 / 308 / 616 µm leave the image"
    assert counted in [f.text for f in done.slide.findings]


def test_the_same_counts_under_another_name_are_warned_of_and_the_warning_is_kept(tmp_path):
    store = tmp_path / "data.zarr"
    first = build_slide("A1")
    twin = replace(first, name="B1", patient="B")
    (_, done) = ingest_slides([pend(first), pend(twin)], store=store)
    assert done.outcome == "added"
    (text,) = warnings(done)
    assert "same counts as slide 'A1'" in text
    stored = open_cohort(store)["B1"].record["findings"]
    assert any("same counts as slide 'A1'" in finding["text"] for finding in stored)


def test_the_same_image_under_another_name_is_warned_of(tmp_path, pictured_slide):
    other = replace(build_slide("B1", n_spots=9, seed=1), image=pictured_slide.image)
    (_, done) = ingest_slides([pend(pictured_slide), pend(other)], store=tmp_path / "data.zarr")
    assert [text for text in warnings(done) if "same image as slide 'A1'" in text]


def test_slides_of_their_own_are_not_warned_of(tmp_path):
    slides = [build_slide("A1", seed=0), build_slide("B1", seed=1)]
    for done in ingest_slides(map(pend, slides), store=tmp_path / "data.zarr"):
        assert warnings(done) == []
    for done in ingest_slides(map(pend, slides), store=tmp_path / "data.zarr"):
        assert (done.outcome, warnings(done)) == ("kept", [])


def test_a_slide_whose_genes_go_by_other_names_than_the_stores_is_warned_of(tmp_path):
    store = tmp_path / "data.zarr"
    ids = [f"ENSG{n:011d}" for n in range(3)]
    visium = replace(build_slide("V1", seed=1), genes=build_slide().genes.set_axis(ids))
    done = list(ingest_slides([pend(build_slide("A1")), pend(visium)], store=store))
    (again,) = ingest_slides([pend(build_slide("A2", seed=2))], store=store)

    def told(done):
        return [f.text for f in done.slide.findings if "--gene-ids" in f.text]

    assert told(done[0]) == []
    assert told(done[1])[0].startswith(
        "slide V1 names genes by Ensembl ids (ENSG00000000000), slide A1 by symbols (G0): "
    )
    assert "slide V1 names genes by Ensembl ids" in told(again)[0]
    assert "slide A2 by symbols (G0)" in told(again)[0]
