import errno
import os
from pathlib import Path

import pytest

from spahgc.errors import StoreError
from spahgc.store.durable import replacing, sync_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path):
    place = tmp_path / "made" / "out.txt"
    with replacing(place) as unfinished:
        unfinished.write_text("new")
        assert not place.exists()
        assert unfinished.name.startswith(".")
    assert (names(place.parent), place.read_text()) == (["out.txt"], "new")


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("fails", [None, KeyboardInterrupt, StoreError("damage"), OSError(28, "x")])
def test_what_was_there_goes_only_for_something_whole(tmp_path, is_folder, fails):
    def write(place, text):
        if is_folder:
            (place / "deep").mkdir(parents=True)
            place = place / "deep" / "file"
        place.write_text(text)

    place = tmp_path / "out"
    write(place, "old")
    if fails is None:
        with replacing(place) as unfinished:
            write(unfinished, "new")
    else:
        with pytest.raises(BaseException) as caught, replacing(place) as unfinished:  # noqa: PT012
            write(unfinished, "half")
            raise fails
        if isinstance(fails, OSError) and not isinstance(fails, StoreError):
            assert str(caught.value) == f"{place} cannot be written: x"
        else:
            assert caught.value is fails or caught.type is fails
    read = (place / "deep" / "file" if is_folder else place).read_text()
    assert read == ("new" if fails is None else "old")
    assert names(tmp_path) == ["out"]


def test_a_place_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="file/out cannot be written: Not a directory"),
        replacing(tmp_path / "file" / "out"),
    ):
        raise AssertionError


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    place = tmp_path / "out.h5ad"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    with (
        pytest.raises(StoreError, match=r"out\.h5ad is a folder, expected the place of a file"),
        replacing(place) as unfinished,
    ):
        unfinished.write_text("new")
    assert names(tmp_path) == ["out.h5ad"]
    assert (place / "notes.txt").read_text() == "mine"


def test_a_folder_that_nothing_can_take_the_place_of_stays(tmp_path, monkeypatch):
    place = tmp_path / "out"
    place.mkdir()
    (place / "file").write_text("old")
    rename = Path.rename

    def refuse_the_new_one(path, target):
        if path.name.startswith(".out.") and path.suffix != ".old":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(StoreError, match="out cannot be written"), replacing(place) as unfinished:
        unfinished.mkdir()
    assert names(tmp_path) == ["out"]
    assert (place / "file").read_text() == "old"


def test_a_folder_half_replaced_before_is_in_nobodys_way(tmp_path):
    for text in ("old", "new"):
        (tmp_path / ".out.zarr.old").mkdir(exist_ok=True)
        (tmp_path / ".out.zarr.old" / "file").write_text("of a writer that was killed")
        with replacing(tmp_path / "out.zarr") as unfinished:
            unfinished.mkdir()
            (unfinished / "file").write_text(text)
    assert (tmp_path / "out.zarr" / "file").read_text() == "new"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_made_to_last_is_no_error_but_a_broken_disk_is(
    tmp_path, monkeypatch, code
):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
