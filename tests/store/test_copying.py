"""Promise 6: a copy brings what is missing, whole, and never anything in the place of another."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest

from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    MismatchError,
    MissingError,
    SlideExistsError,
    StoreError,
)
from spahgc.index import ReferenceIndex
from spahgc.index.records import read_record
from spahgc.store import bringing, layout
from spahgc.store.bringing import bring_slide, ignore_bytes
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copy_plans import plan_copy
from spahgc.store.copying import copy_store, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import remove_slide, set_facts
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


def embed(place, name, embedding, *, weights="random", licence=None):
    slide = open_cohort(place)[name]
    notes = {} if licence is None else {"licence": licence}
    draft = EmbeddingDraft(slide, embedding, fingerprint={"w": weights}, size=3, notes=notes)
    for rows in draft.missing():
        draft.write(rows, np.full((rows.stop - rows.start, 3), len(weights), np.float32))
    draft.commit()


def digest_of(place):
    return open_cohort(place).commit.digest()


def indexed_in(place):
    """Say over which slides an index is that answers."""
    cohort = open_cohort(place)
    ReferenceIndex.open(cohort, embedding="lite0").search(
        np.ones((1, 4), np.float32), k=1, only_slides=["A1"], asked_by=None
    )
    return set(read_record(cohort, "lite0").slides)


def files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two slides as lite0 with an index over both, the first also as uni, which is bound."""
    place = tmp_path_factory.mktemp("template") / "data.zarr"
    for name in ("A1", "B1"):
        add_slide(create_store(place), build_slide(name))
        embed_slide(place, name)
    embed(place, "A1", "uni", licence="no redistribution")
    ReferenceIndex.build(open_cohort(place), embedding="lite0")
    return place


@pytest.fixture
def source(template, tmp_path):
    return shutil.copytree(template, tmp_path / "source.zarr")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target.zarr"


def test_a_copy_is_the_source_again(source, target):
    set_facts(open_store(source), "B1", {"tissue": "breast"})
    told = []
    report = copy_store(open_source(source), target, advance=told.append)
    assert report.outcomes == {"A1": "copied", "B1": "copied"}
    assert report.licences == {"uni": "no redistribution"}
    assert report.indexes == ("lite0",)
    assert report.n_bytes == sum(told) > 0
    assert digest_of(target) == digest_of(source)
    assert open_cohort(target).commit.slides["B1"].about == {"tissue": "breast"}
    assert verify_store(target, deep=True) == []
    assert indexed_in(target) == {"A1", "B1"}


def test_a_copy_made_again_brings_nothing(source, target):
    copy_store(open_source(source), target)
    before = files(target)
    report = copy_store(open_source(source), target)
    assert asdict(report) == {
        "outcomes": {"A1": "kept", "B1": "kept"},
        "n_bytes": 0,
        "licences": {},
        "indexes": (),
    }
    assert files(target) == before


def test_only_the_slides_and_embeddings_asked_for_are_brought(source, target):
    report = copy_store(open_source(source), target, slides=["A1"], encoders=["lite0"])
    assert report.outcomes == {"A1": "copied"}
    assert report.licences == {}
    slide = open_cohort(target)["A1"]
    assert set(slide.entry.encoders) == {"lite0"}
    assert slide.entry.licences == {}
    assert not (target / slide.entry.group / layout.EMBEDDINGS / "uni").exists()
    assert slide.entry.n_bytes == slide.manifest.n_bytes == report.n_bytes
    assert set(open_cohort(target).slides) == {"A1"}
    assert verify_store(target, deep=True) == []


def test_a_target_grows_by_the_embeddings_that_it_lacks(source, target):
    copy_store(open_source(source), target, encoders=["lite0"])
    plans = plan_copy(open_source(source), open_store(target).head)
    assert {p.slide.name: (p.outcome, p.embeddings) for p in plans} == {
        "A1": ("grown", ("uni",)),
        "B1": ("kept", ()),
    }
    told = []
    report = copy_store(open_source(source), target, advance=told.append)
    assert report.outcomes == {"A1": "grown", "B1": "kept"}
    assert report.licences == {"uni": "no redistribution"}
    assert report.n_bytes == sum(told) == plans[0].n_bytes
    assert digest_of(target) == digest_of(source)
    assert (open_cohort(target)["A1"].read_embedding("uni") == len("random")).all()
    assert verify_store(target, deep=True) == []


def test_what_the_target_has_beside_stays(source, target):
    add_slide(create_store(target), build_slide("C1"))
    copy_store(open_source(source), target, slides=["A1"], encoders=["lite0"])
    embed(target, "A1", "virchow")
    copy_store(open_source(source), target, slides=["A1"])
    assert set(open_cohort(target).slides) == {"A1", "C1"}
    assert set(open_cohort(target)["A1"].entry.encoders) == {"lite0", "uni", "virchow"}


@pytest.mark.parametrize("name", ["B1", "b1"])
def test_other_content_of_the_same_name_is_refused_with_nothing_brought(source, target, name):
    add_slide(create_store(target), build_slide(name, seed=9))
    before = files(target)
    with pytest.raises(SlideExistsError, match=f"the target has a slide '{name}' with other"):
        copy_store(open_source(source), target)
    assert files(target) == before
    assert copy_store(open_source(source), target, slides=["A1"]).outcomes == {"A1": "copied"}


def test_another_embedding_of_the_same_name_is_refused_with_nothing_brought(source, target):
    add_slide(create_store(target), build_slide("A1"))
    embed(target, "A1", "uni", weights="other")
    before = files(target)
    with pytest.raises(SlideExistsError, match=r"A1: the target has another embedding .* 'uni'"):
        copy_store(open_source(source), target)
    assert files(target) == before
    copy_store(open_source(source), target, encoders=["lite0"])
    assert (open_cohort(target)["A1"].read_embedding("uni") == len("other")).all()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"slides": ["A1", "Z9"]}, r"has no slide 'Z9'; it has A1, B1"),
        ({"encoders": ["lite0", "none"]}, r"has an embedding 'none'; there are lite0, uni"),
        ({"slides": ["B1"], "encoders": ["uni"]}, r"has an embedding 'uni'; there are lite0"),
    ],
)
def test_what_the_source_lacks_is_an_error_and_no_target_is_made(source, target, wish, message):
    with pytest.raises(MissingError, match=message):
        copy_store(open_source(source), target, **wish)
    assert not target.exists()


def test_a_source_is_known_by_its_digest(source):
    digest = digest_of(source)
    assert open_source(source, digest=f"sha256:{digest}").commit.digest() == digest
    assert open_source(source, digest=digest).commit.digest() == digest
    with pytest.raises(MismatchError, match=f"has the digest sha256:{digest}, asked for was"):
        open_source(source, digest="sha256:" + "0" * 64)
    set_facts(open_store(source), "A1", {"tissue": "breast"})
    with pytest.raises(MismatchError, match="nothing was copied"):
        open_source(source, digest=f"sha256:{digest}")


def break_after(monkeypatch, n_files):
    """Let the source give so many files and fail then; each file it gives is counted."""
    given = []
    read = bringing.read_file

    def read_or_fail(slide, key):
        if len(given) >= n_files:
            raise StoreError("the line is dead")
        given.append((slide.name, key))
        return read(slide, key)

    monkeypatch.setattr(bringing, "read_file", read_or_fail)
    return given


@pytest.mark.parametrize("is_bucket", [False, True], ids=["folder", "s3"])
def test_a_copy_that_broke_goes_on_where_it_was(source, target, is_bucket, request, monkeypatch):
    place = request.getfixturevalue("s3_place") if is_bucket else target
    with monkeypatch.context() as patch:
        given = break_after(patch, 12)
        with pytest.raises(StoreError, match="the line is dead"):
            copy_store(open_source(source), place)
        assert dict(open_cohort(place).slides) == {}
        assert len(given) >= 12
    with monkeypatch.context() as patch:
        again = break_after(patch, 10_000)
        copy_store(open_source(source), place)
        assert not set(given) & set(again)
    assert digest_of(place) == digest_of(source)
    assert verify_store(place, deep=True) == []
    assert {entry.group for entry in open_cohort(place).commit.slides.values()} == {
        "tables/A1",
        "tables/B1",
    }


def test_an_embedding_that_broke_on_its_way_goes_on_too(source, target, monkeypatch):
    copy_store(open_source(source), target, encoders=["lite0"])
    with monkeypatch.context() as patch:
        break_after(patch, 1)
        with pytest.raises(StoreError, match="the line is dead"):
            copy_store(open_source(source), target)
    assert set(open_cohort(target)["A1"].entry.encoders) == {"lite0"}
    assert verify_store(target, deep=True) == []
    copy_store(open_source(source), target)
    assert digest_of(target) == digest_of(source)


def test_damage_in_the_source_is_found_and_not_passed_on(source, target):
    (source / "tables/B1/X/data/c/0").write_bytes(b"no counts")
    with pytest.raises(DamagedStoreError, match="tables/B1/X/data"):
        copy_store(open_source(source), target)
    assert set(open_cohort(target).slides) == {"A1"}


@pytest.mark.parametrize(
    "wish", [{"slides": ["A1"]}, {"encoders": ["uni"]}], ids=["slide", "embedding"]
)
def test_an_index_comes_once_all_that_it_is_over_has_come(source, target, wish):
    assert copy_store(open_source(source), target, **wish).indexes == ()
    assert dict(open_cohort(target).commit.indexes) == {}
    assert copy_store(open_source(source), target).indexes == ("lite0",)
    assert digest_of(target) == digest_of(source)
    assert indexed_in(target) == {"A1", "B1"}


def test_a_stale_index_and_one_of_the_same_name_stay_where_they_are(source, target):
    copy_store(open_source(source), target, slides=["A1"])
    ReferenceIndex.build(open_cohort(target), embedding="lite0")
    mine = open_cohort(target).commit.indexes
    assert copy_store(open_source(source), target).indexes == ()
    assert open_cohort(target).commit.indexes == mine
    add_slide(open_store(source), build_slide("B1", seed=9), replace_existing=True)
    other = target.with_name("other.zarr")
    assert copy_store(open_source(source), other).indexes == ()


def test_an_index_record_that_is_none_is_refused(source, target):
    store = open_store(source)
    digest = store.put_document(lambda d: layout.index_key("lite0", d), {"slides": 3})
    store.commit(lambda head: head.with_index("lite0", digest), message="forged")
    with pytest.raises(DamagedStoreError, match="the record of index 'lite0' is none"):
        copy_store(open_source(source), target)


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_embeddings_are_not_copied_to_what_took_the_place_of_their_slide(tmp_path, what):
    """They were made for other spots, or for the same spots of another image."""
    stores = [create_store(tmp_path / name) for name in ("one.zarr", "other.zarr")]
    for store in stores:
        add_slide(store, build_slide("A1"))
    embed_slide(stores[0].path, "A1")
    (plan,) = plan_copy(open_source(stores[0].path), stores[1].head)
    if what == "replaced":
        add_slide(stores[1], build_slide("A1", seed=1), replace_existing=True)
    else:
        remove_slide(stores[1], "A1")
    with pytest.raises(CommitConflictError, match=r"A1 .* was replaced or removed .* again"):
        bring_slide(plan, stores[1], ignore_bytes)
    assert stores[1].head.number == 2
    assert verify_store(stores[1].path, deep=True) == []
