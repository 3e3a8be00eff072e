"""Whatever slides are called and in whatever order they come: what was committed stays."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spahgc.errors import MismatchError, SlideExistsError, SlideFormatError
from spahgc.index import ReferenceIndex
from spahgc.store import layout, staging
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.drafts import EmbeddingDraft, RowRange
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide

NOW = timedelta(seconds=-5)
"""Nothing is spared."""


class KilledError(BaseException):
    """What a writer does not survive: nothing of ours catches it."""


def die(*_, **__):
    raise KilledError


def add(place, name, *, seed):
    """Add a slide as did a spahgc that refused no name for looking like a version."""
    with patch.object(layout, "check_new_slide_name", layout.check_slide_name):
        return add_slide(open_store(place), build_slide(name, seed=seed), replace_existing=True)


def be_killed_adding(place, name, *, seed):
    """Leave what a writer leaves that is killed just before its commit."""
    untidied = patch.object(staging, "may_be_named", lambda *_: True)
    with patch("spahgc.store.commits.Store.commit", die), untidied, pytest.raises(KilledError):
        add(place, name, seed=seed)


def check_whole(held):
    """Compare slides that readers hold, by name and seed, with what was committed."""
    for (name, seed), slide in held.items():
        assert (slide.read_counts() != build_slide(name, seed=seed).counts).nnz == 0
        found = slide.manifest.problems(slide.store.location, slide.entry.group, deep=True)
        assert [text for text in found if "zarr.json is out of date" not in text] == []


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_place")
    return tmp_path / "data.zarr"


@settings(max_examples=int(os.environ.get("SPAHGC_ORDERS", "30")), deadline=None)
@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "remove", "killed", "gc", "gc at once"]),
            st.sampled_from(["C2", "C2.v2", "C2.v2.v2", "C2.v3", "c2", "p1", "p1.visium"]),
        ),
        min_size=2,
        max_size=10,
    )
)
def test_no_committed_slide_is_lost_whatever_the_names_and_the_order(tmp_path_factory, acts):
    place = create_store(tmp_path_factory.mktemp("names") / "data.zarr").path
    held = {}
    for seed, (what, name) in enumerate(acts):
        slides = open_store(place).head.catalogue
        if what == "gc":
            assert collect_garbage(place) == []
        elif what == "gc at once":
            collect_garbage(place, older_than=NOW)  # readers of older versions have let go
            held = {
                (known, seed): slide
                for (known, seed), slide in held.items()
                if known in slides and slides[known] == slide.entry
            }
        elif what == "remove" and name in slides:
            remove_slide(open_store(place), name)
        elif slides.spelled_like(name) not in {None, name}:
            with pytest.raises(SlideExistsError):
                add(place, name, seed=seed)
        elif what == "killed":
            be_killed_adding(place, name, seed=seed)
        elif what == "add":
            add(place, name, seed=seed)
            held[name, seed] = open_cohort(place)[name]
        check_whole(held)
        assert verify_store(place, deep=True) == []


def test_replacing_a_slide_spares_one_that_is_called_like_its_next_version(place):
    create_store(place)
    for seed, name in enumerate(["C2", "C2.v2", "p1.visium"]):
        add(place, name, seed=seed)
    held = {(name, seed): open_cohort(place)[name] for seed, name in enumerate(["C2", "C2.v2"])}
    held["p1.visium", 2] = open_cohort(place)["p1.visium"]
    for seed, name in enumerate(["C2", "p1.visium", "C2.v2"], start=7):
        assert add(place, name, seed=seed) == "replaced"
        held[name, seed] = open_cohort(place)[name]
    check_whole(held)
    assert {name: slide.entry.group for name, slide in open_cohort(place).slides.items()} == {
        "C2": "tables/C2.v3",
        "C2.v2": "tables/C2.v2.v2",
        "p1.visium": "tables/p1.visium.v2",
    }
    remove_slide(open_store(place), "C2.v2")
    check_whole(held)
    collect_garbage(place, older_than=NOW)
    assert list(open_cohort(place).slides) == ["C2", "p1.visium"]
    assert verify_store(place, deep=True) == []


@pytest.mark.parametrize("name", ["C2.v2", "C2.V2", "scan.v10", "C2.v2.v3"])
def test_a_new_slide_that_is_called_like_a_version_is_refused(tmp_path, name):
    store = create_store(tmp_path / "data.zarr")
    with pytest.raises(SlideFormatError, match=rf"{name}.* cannot name a slide: .*`--name`"):
        add_slide(store, build_slide(name))
    assert store.head.slides == {}
    for other in ("C2.visium", "C2.v", "C2.v2b", "v2"):
        assert add_slide(store, build_slide(other)) == "added"


def test_a_slide_that_is_called_like_a_version_already_is_read_replaced_copied_and_removed(
    tmp_path,
):
    place = create_store(tmp_path / "data.zarr").path
    add(place, "C2.v2", seed=0)
    again = build_slide("C2.v2", seed=1)
    assert add_slide(open_store(place), build_slide("C2.v2")) == "kept"
    assert add_slide(open_store(place), again, replace_existing=True) == "replaced"
    assert (open_cohort(place)["C2.v2"].read_counts() != again.counts).nnz == 0
    copy_store(open_source(place), tmp_path / "copy.zarr")
    assert verify_store(tmp_path / "copy.zarr", deep=True) == []
    assert list(remove_slide(open_store(place), "C2.v2").slides) == []
    with pytest.raises(SlideFormatError, match="later version of a slide 'C2'"):
        add_slide(open_store(place), again)


def test_writers_of_slides_that_may_want_the_same_place_take_turns(tmp_path):
    """One took what the other had placed and not committed yet for a killed writer's."""
    place = create_store(tmp_path / "data.zarr").path
    names = ["C2", "C2.v2"]
    for name in names:
        add(place, name, seed=0)
    for seed in range(1, 4):
        collect_garbage(place, older_than=NOW)
        with (
            patch.object(layout, "check_new_slide_name", layout.check_slide_name),
            ThreadPoolExecutor(2) as pool,
        ):
            slides = [build_slide(name, seed=seed) for name in names]
            adding = [
                pool.submit(add_slide, open_store(place), slide, replace_existing=True)
                for slide in slides
            ]
        assert [future.result() for future in adding] == ["replaced", "replaced"]
        check_whole({(name, seed): open_cohort(place)[name] for name in names})


def test_the_longest_name_can_be_replaced(tmp_path):
    place = create_store(tmp_path / "data.zarr").path
    for seed in (0, 1):
        add(place, "x" * 128, seed=seed)
    check_whole({("x" * 128, 1): open_cohort(place)["x" * 128]})


def test_a_slide_is_not_lost_when_its_writer_is_stopped_just_after_the_commit(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    with patch.object(type(store), "point_at", die), pytest.raises(KilledError):
        add_slide(store, build_slide())
    check_whole({("A1", 0): open_cohort(store.path)["A1"]})
    assert add_slide(store, build_slide()) == "kept"
    collect_garbage(store.path)
    assert verify_store(store.path, deep=True) == []


def draft(place, name):
    return EmbeddingDraft(open_cohort(place)["A1"], name, fingerprint={"w": name}, size=4)


def test_an_embedding_that_differs_from_another_in_case_only_is_refused(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide())
    late = draft(store.path, "LITE0")
    (shard,) = late.missing()
    late.write(shard, build_vectors(shard))
    embed_slide(store.path, "A1")
    with pytest.raises(MismatchError, match=r"has an embedding 'lite0', and 'Lite0' differs"):
        draft(store.path, "Lite0")
    with pytest.raises(MismatchError, match=r"has an embedding 'lite0', and 'LITE0' differs"):
        late.commit()
    assert list(store.head.slides["A1"].encoders) == ["lite0"]
    assert verify_store(store.path, deep=True) == []


def build_vectors(rows: RowRange):
    return np.ones((rows.stop - rows.start, 4), np.float32)


@pytest.mark.parametrize("name", ["Spatial", "nul", "COM1.lite0"])
def test_an_embedding_or_index_of_a_name_that_is_kept_is_refused(tmp_path, name):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide())
    embed_slide(store.path, "A1")
    with pytest.raises(SlideFormatError, match="cannot name an embedding"):
        draft(store.path, name)
    with pytest.raises(SlideFormatError, match="cannot name an embedding"):
        ReferenceIndex.build(open_cohort(store.path), embedding="lite0", name=name)


def test_an_index_that_differs_from_another_in_case_only_is_refused(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide())
    embed_slide(store.path, "A1")
    ReferenceIndex.build(open_cohort(store.path), embedding="lite0", name="near")
    with pytest.raises(MismatchError, match="has an index 'near', and 'Near' differs"):
        ReferenceIndex.build(open_cohort(store.path), embedding="lite0", name="Near")
    assert list(store.head.indexes) == ["near"]


def test_an_embedding_is_not_copied_beside_one_that_differs_in_case_only(tmp_path):
    for folder, name in (("one.zarr", "lite0"), ("other.zarr", "Lite0")):
        place = create_store(tmp_path / folder).path
        add_slide(open_store(place), build_slide())
        made = draft(place, name)
        for rows in made.missing():
            made.write(rows, build_vectors(rows))
        made.commit()
    before = open_cohort(tmp_path / "one.zarr").commit
    with pytest.raises(SlideExistsError, match=r"'lite0', and 'Lite0' differs .* `--encoders`"):
        copy_store(open_source(tmp_path / "other.zarr"), tmp_path / "one.zarr")
    assert open_cohort(tmp_path / "one.zarr").commit == before


def test_names_that_differ_in_case_only_are_read_where_they_are_there_already(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide())
    embed_slide(store.path, "A1")
    with (
        patch("spahgc.store.drafts.refuse_like"),
        patch("spahgc.store.placed.refuse_like"),
    ):
        made = draft(store.path, "Lite0")
        for rows in made.missing():
            made.write(rows, build_vectors(rows))
        made.commit()
    slide = open_cohort(store.path)["A1"]
    assert sorted(slide.entry.encoders) == ["Lite0", "lite0"]
    assert slide.read_embedding("Lite0").sum() == slide.n_spots * 4
    assert list(draft(store.path, "Lite0").missing()) == []
