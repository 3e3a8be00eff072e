"""Promise 4: a full disk or a read-only folder is a clear error, and the store is as before."""

import random
import shutil
from functools import partial

import pytest

from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.packing import pack_store
from tests.store import crashes
from tests.store.hindrances import attempt, fill_disk, give_up_override

WRITING = ["ingest", "embed", "copy", "replace"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    crashes.fill(str(folder / "data.zarr"), str(folder / "other.zarr"))
    return folder / "data.zarr", folder / "other.zarr"


@pytest.fixture
def place(stores, tmp_path):
    return shutil.copytree(stores[0], tmp_path / "data.zarr")


def files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("operation", WRITING)
def test_a_full_disk_leaves_the_store_as_it_was(stores, place, operation):
    sizes = random.Random(operation)  # noqa: S311  sizes, not secrets
    before = open_cohort(place).commit
    for n_bytes in (0, 200, sizes.randrange(1000, 20_000)):
        outcome = attempt(operation, str(place), str(stores[1]), partial(fill_disk, n_bytes))
        assert "File too large" in outcome, (n_bytes, outcome)
        assert "\n" not in outcome
        assert outcome.startswith(("StoreError: ", "OSError: "))
        assert str(place) in outcome
        after = open_cohort(place).commit
        assert (after.number, after.digest()) == (before.number, before.digest())
        assert verify_store(place, deep=True) == []
    assert attempt(operation, str(place), str(stores[1]), int) == "done"
    assert verify_store(place, deep=True) == []
    assert open_cohort(place).commit.number > before.number


@pytest.mark.parametrize("operation", [*WRITING, "gc"])
def test_a_folder_that_cannot_be_written_stays_as_it_was(stores, place, operation):
    before = files(place)
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        outcome = attempt(operation, str(place), str(stores[1]), give_up_override)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert "ermission denied" in outcome
    assert "\n" not in outcome
    assert files(place) == before


def test_a_folder_that_cannot_be_written_is_read_and_packed(place, tmp_path):
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert set(open_cohort(place).slides) == {"A1", "B1"}
        assert verify_store(place, deep=True) == []
        pack_store(open_cohort(place), tmp_path / "data.zip")
    finally:
        for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
