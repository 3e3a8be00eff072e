"""An embedding in the making may be held by several processes at once."""

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError, MismatchError
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft, commit_drafts
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZE = 4


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    place = tmp_path / "data.zarr" if request.param == "folder" else "s3_place"
    if place == "s3_place":
        place = request.getfixturevalue(place)
    add_slide(create_store(place), build_slide("A1"))
    return place


def begin(place):
    slide = open_cohort(place)["A1"]
    return EmbeddingDraft(slide, "lite0", fingerprint={"weights": "random"}, size=SIZE)


def fill(draft):
    for rows in draft.missing():
        draft.write(rows, np.ones((rows.stop - rows.start, SIZE), np.float32))


def interrupt(monkeypatch, draft, method, other):
    """Let another writer finish just before the draft's ``method`` is called for the first time."""
    whole = getattr(draft, method)

    def after_the_other(*arguments):
        monkeypatch.undo()
        other.commit()
        return whole(*arguments)

    monkeypatch.setattr(draft, method, after_the_other)


@pytest.mark.parametrize("moment", ["_array", "_place_whole", "_is_placed"])
def test_a_writer_may_finish_while_another_does(place, moment):
    slow, fast = begin(place), begin(place)
    fill(slow)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, slow, moment, fast)
        slow.commit()
    expect_whole(place)


def test_a_shard_written_after_another_writer_finished_is_forgotten(place):
    slow, fast = begin(place), begin(place)
    rows = next(slow.missing())
    fill(fast)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, slow, "_array", fast)
        slow.write(rows, np.ones((rows.stop - rows.start, SIZE), np.float32))
    slow.commit()
    expect_whole(place)


def test_a_draft_that_lacks_rows_is_not_committed(place):
    with pytest.raises(DamagedStoreError, match="is not whole yet"):
        begin(place).commit()
    assert open_cohort(place)["A1"].entry.encoders == {}


def test_what_a_slower_writer_was_writing_is_no_part_of_it(tmp_path):
    place = tmp_path / "data.zarr"
    add_slide(create_store(place), build_slide("A1"))
    draft = begin(place)
    fill(draft)
    (staged,) = (place / "staging").glob("*~lite0~*")
    (staged / "c" / "0" / ".0.half").write_bytes(b"half")
    draft.commit()
    assert not list(place.rglob(".0.half"))
    expect_whole(place)


def expect_whole(place):
    slide = open_cohort(place)["A1"]
    assert (slide.read_embedding("lite0") == 1).all()
    assert [commit.message for commit in slide.store.history()][:2].count(
        "embed A1 with lite0"
    ) == 1
    assert verify_store(place, deep=True) == []
    staged = slide.store.location.list_files("staging")
    assert not [found.key for found in staged if "~lite0~" in found.key]


def test_what_another_left_in_its_place_is_not_taken_for_it(tmp_path):
    place = tmp_path / "data.zarr"
    add_slide(create_store(place), build_slide("A1"))
    draft = begin(place)
    (place / draft._place).mkdir(parents=True)
    with pytest.raises(MismatchError, match=r"left by a writer with other settings; .*store gc"):
        draft.commit()
    assert open_cohort(place)["A1"].entry.encoders == {}


def test_embeddings_that_are_done_together_are_committed_together(place):
    slide = open_cohort(place)["A1"]
    drafts = [
        EmbeddingDraft(slide, name, fingerprint={"of": name}, size=SIZE, notes={"licence": licence})
        for name, licence in [("wide", "MIT"), ("narrow", None)]
    ]
    fill(drafts[0])
    with pytest.raises(DamagedStoreError, match="'narrow' is not whole yet"):
        commit_drafts(drafts)
    assert open_cohort(place)["A1"].entry.encoders == {}  # all or none
    fill(drafts[1])
    commit_drafts(drafts)
    commit_drafts(drafts)  # another process had them too
    entry = open_cohort(place)["A1"].entry
    assert entry.encoders == {draft.name: draft.digest for draft in drafts}
    assert entry.licences == {"wide": "MIT"}
    messages = [commit.message for commit in slide.store.history()]
    assert messages == ["embed A1 with wide, narrow", "ingest A1"]
    assert verify_store(place, deep=True) == []


def test_a_draft_under_a_name_that_was_taken_meanwhile_is_told_what_to_do(place):
    slide = open_cohort(place)["A1"]
    mine = begin(place)
    fill(mine)
    other = EmbeddingDraft(slide, mine.name, fingerprint={"weights": "others"}, size=SIZE)
    fill(other)
    other.commit()
    with pytest.raises(MismatchError, match=r"made in another way .*`--name`.*`--recompute`"):
        mine.commit()
