"""What Windows refuses is not asked for: simulated here, as far as its refusals are known to us."""

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store import durable, opening, run_folders
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.editing import remove_slide
from spahgc.store.export import export_slide
from spahgc.store.locations import folder
from spahgc.store.locations.folder import FolderLocation
from spahgc.store.opening import create_store
from spahgc.store.packing import pack_store
from spahgc.store.run_folders import unfinished_folder
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


def is_open(path):
    """Whether this process has a file open."""
    wanted = path.stat()
    for descriptor in range(256):
        with suppress(OSError):  # no such descriptor
            if os.path.samestat(os.fstat(descriptor), wanted):
                return True
    return False


@pytest.fixture
def refusals(monkeypatch):
    """Refuse to open folders, to sync what is open for reading, to rename onto anything."""
    opens, fsync, rename, unlink = os.open, os.fsync, Path.rename, Path.unlink

    def open_file(path, *arguments, **options):
        if not isinstance(path, int) and Path(os.fsdecode(path)).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, *arguments, **options)

    def sync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)

    def rename_to_nothing(path, target):
        if Path(target).exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path), 183, str(target))
        return rename(path, target)

    def unlink_closed(path, *options, **named):
        # filelock itself does otherwise on Windows; other threads come and go
        if path.suffix == ".lock" and path.exists() and is_open(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return unlink(path, *options, **named)

    monkeypatch.setattr(shutil, "_use_fd_functions", False, raising=False)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename_to_nothing)
    monkeypatch.setattr(Path, "unlink", unlink_closed)


@pytest.fixture
def windows(monkeypatch, refusals):
    for module in (durable, opening, run_folders):
        monkeypatch.setattr(module, "IS_WINDOWS", True)


def test_these_refusals_stop_a_writer_that_does_not_know_of_them(tmp_path, refusals):
    with pytest.raises(StoreError):
        create_store(tmp_path / "data.zarr")


def test_a_store_is_filled_changed_and_handed_on_in_spite_of_them(tmp_path, windows):
    place = tmp_path / "data.zarr"
    place.mkdir()  # where an empty folder is, a rename fails
    store = create_store(place)
    assert add_slide(store, build_slide("A1")) == "added"
    embed_slide(place, "A1")
    before = open_cohort(place)["A1"]
    assert add_slide(store, build_slide("A1", seed=1), replace_existing=True) == "replaced"
    add_slide(store, build_slide("B1"))
    remove_slide(store, "B1")
    assert (before.read_counts() != build_slide("A1").counts).nnz == 0
    collect_garbage(place, older_than=timedelta(seconds=-5))
    assert verify_store(place, deep=True) == []
    copy_store(open_source(place), tmp_path / "copy.zarr")
    assert verify_store(tmp_path / "copy.zarr", deep=True) == []
    pack_store(open_cohort(place), tmp_path / "data.zip")
    assert verify_store(tmp_path / "data.zip", deep=True) == []
    for _ in range(2):
        export_slide(open_cohort(place)["A1"], tmp_path, to="spatialdata", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "A1.zarr",
        "copy.zarr",
        "data.zarr",
        "data.zip",
    ]


def test_a_run_is_made_in_spite_of_them(tmp_path, windows):
    with unfinished_folder(tmp_path / "run", plan={}) as unfinished:
        np.save(unfinished / "weights.npy", np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert np.load(tmp_path / "run" / "weights.npy").sum() == 3


def test_a_folder_that_was_filled_meanwhile_is_opened_and_stays(tmp_path, windows, monkeypatch):
    place = tmp_path / "data.zarr"
    place.mkdir()
    rmdir = Path.rmdir

    def too_late(path):
        if path == place:
            shutil.copytree(other.path, place, dirs_exist_ok=True)
        rmdir(path)

    other = create_store(tmp_path / "other.zarr")
    add_slide(other, build_slide("A1"))
    monkeypatch.setattr(Path, "rmdir", too_late)
    assert list(create_store(place).head.slides) == ["A1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zarr", "other.zarr"]


def test_a_commit_is_put_where_hard_links_are_an_invalid_request(tmp_path, windows, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Incorrect function", None, 1)

    monkeypatch.setattr(os, "link", refuse)
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide())
    assert not store.put_if_absent("commits/00000001.json", b"another")
    assert verify_store(store.path, deep=True) == []


def test_names_given_back_in_another_case_are_no_links(tmp_path, monkeypatch):
    """Windows gives the case in which a folder was made, whatever it is asked for."""
    location = FolderLocation(tmp_path)
    (tmp_path / "tables").mkdir()
    realpath = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: realpath(path).replace("/c2", "/C2"))
    with pytest.raises(DamagedStoreError, match="a link leads elsewhere"):
        location.path_of("tables/c2")
    monkeypatch.setattr(folder, "normcase", lambda path: os.fspath(path).lower())
    assert location.path_of("tables/c2") == location.path_of("tables") / "c2"


def test_a_key_that_leads_to_another_drive_is_refused(tmp_path, monkeypatch):
    """As ``C:/notes.txt`` does on Windows, where such a part replaces all before it."""
    location = FolderLocation(tmp_path)
    monkeypatch.setattr(folder, "check_key", lambda key, **_: Path(f"/{key}"))
    with pytest.raises(DamagedStoreError, match="leads elsewhere"):
        location.read("notes.txt")
