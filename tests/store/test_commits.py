import getpass
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from spahgc.errors import DamagedStoreError, FormatVersionError, StoreError
from spahgc.store.commits import Commit
from spahgc.store.entries import SlideEntry
from spahgc.store.opening import create_store, open_store
from tests.processes import at_once


def entry(n_spots: int = 1) -> SlideEntry:
    return SlideEntry(
        group="tables/A",
        manifest="0" * 64,
        content="1" * 64,
        platform="st",
        patient=None,
        n_spots=n_spots,
        n_genes=1,
        microns_per_pixel=0.5,
        image=None,
    )


def adding(name):
    return lambda head: replace(head, slides={**head.slides, name: entry()})


def test_a_new_store_is_empty_and_opens_again(tmp_path):
    create_store(tmp_path / "data.zarr")
    assert open_store(tmp_path / "data.zarr").head == Commit()


def test_a_commit_is_read_back_as_it_was_made(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    made = store.commit(adding("A1"), message="ingest A1")
    assert open_store(store.path).head == made
    assert made.slides == {"A1": entry()}


def test_returning_the_head_commits_nothing(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    store.commit(lambda head: head, message="nothing")
    assert store.head.number == 0


def test_concurrent_commits_lose_nothing(tmp_path):
    path = create_store(tmp_path / "data.zarr").path
    names = [f"S{n}" for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: open_store(path).commit(adding(name), message=name), names))
    assert sorted(open_store(path).head.slides) == sorted(names)
    assert open_store(path).head.number == len(names)


def make_store(path):
    return create_store(path).head.number


def test_eight_processes_may_make_one_store(tmp_path):
    assert at_once(make_store, [(tmp_path / "data.zarr",)] * 8) == [0] * 8
    assert [item.name for item in tmp_path.iterdir()] == ["data.zarr"]


def test_a_folder_of_something_else_is_no_store(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for opens in (open_store, create_store):
        with pytest.raises(StoreError, match="is not a spahgc store"):
            opens(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_store_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(StoreError, match="spahgc ingest"):
        open_store(tmp_path / "none.zarr")


def test_a_newer_format_is_refused(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    document = json.loads((store.path / "zarr.json").read_text())
    document["attributes"]["spahgc"]["format"] = 2
    (store.path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match="has format 2"):
        open_store(store.path)


def test_a_damaged_commit_is_named(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    store.commit(adding("A1"), message="ingest A1")
    (store.path / "commits/00000001.json").write_text('{"slides": {"A1": {}}}')
    with pytest.raises(DamagedStoreError, match=r"commits/00000001\.json"):
        _ = store.head


def test_what_a_killed_commit_left_is_not_read(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    (store.path / "commits/00000001.json#1").write_text("half")
    assert store.head.number == 0
    store.commit(adding("A1"), message="ingest A1")
    assert list(store.head.slides) == ["A1"]


@pytest.mark.parametrize("error", [KeyError, OSError, ImportError])
def test_a_user_that_the_system_has_no_name_for_commits_as_a_number(tmp_path, monkeypatch, error):
    def refuse():
        raise error("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", refuse)
    monkeypatch.setattr(os, "getuid", lambda: 4711, raising=False)
    store = create_store(tmp_path / "data.zarr")
    assert store.commit(adding("A1"), message="ingest A1").made_by.startswith("uid4711@")
    monkeypatch.delattr(os, "getuid")
    assert store.commit(adding("B1"), message="ingest B1").made_by.startswith("unknown@")
    assert sorted(open_store(store.path).head.slides) == ["A1", "B1"]


def test_a_gap_in_the_history_is_named(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    for name in ("A1", "B1", "C1"):
        store.commit(adding(name), message=name)
    assert [commit.number for commit in store.history()] == [3, 2, 1]
    (store.path / "commits/00000002.json").unlink()
    with pytest.raises(DamagedStoreError, match=r"commits/00000002\.json is missing"):
        list(store.history())
