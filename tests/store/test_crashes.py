"""Promise 2: kill -9 at any moment leaves what was committed, and the next run finishes.

A few kills here; `make soak` sets SPAHGC_KILLS, of each operation on a folder.
"""

import os
import random
import shutil
import uuid

import anndata
import numpy as np
import pytest

from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.locations.opening import open_location
from tests.store import crashes

N_KILLS = int(os.environ.get("SPAHGC_KILLS", "2"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The store to be broken, and the one that is copied from."""
    folder = tmp_path_factory.mktemp("whole")
    crashes.fill(str(folder / "data.zarr"), str(folder / "other.zarr"))
    return folder / "data.zarr", folder / "other.zarr"


@pytest.fixture(scope="module")
def seconds(stores, tmp_path_factory):
    """How long each operation takes when nobody kills it."""
    times = {}
    for operation in crashes.OPERATIONS:
        place = tmp_path_factory.mktemp("timed") / "data.zarr"
        shutil.copytree(stores[0], place)
        times[operation] = crashes.run(operation, str(place), str(stores[1]))
    return times


def problems(place):
    """What is wrong but derived metadata, which gc writes anew."""
    found = verify_store(place, deep=True)
    return [problem for problem in found if "out of date" not in problem.text]


def check_what_can_be_seen(place, operation):
    assert problems(place) == []
    slides = open_cohort(place).slides
    assert {"A1", "B1"} <= slides.keys() <= {"A1", "B1", "C1"}
    versions = {seed: crashes.slide("A1", seed=seed).counts for seed in (crashes.OLD, crashes.NEW)}
    for name, slide in slides.items():
        counts = slide.read_counts()
        seeds = [seed for seed, version in versions.items() if (counts != version).nnz == 0]
        assert seeds == [crashes.OLD] or (name == "A1" and operation == "replace")
        assert len(slide.spots) == crashes.N_SPOTS
        assert np.isfinite(slide.centers).all()
        for embedding in slide.entry.encoders:
            assert np.array_equal(slide.read_embedding(embedding), crashes.vectors(name))


def check_what_others_see(place):
    """Readers that know nothing of commits open what has a zarr.json, and it is whole."""
    for document in place.glob("tables/*/zarr.json"):
        table = anndata.read_zarr(document.parent)
        assert table.shape == (crashes.N_SPOTS, 20)
        assert table.X.sum() > 0
        if "lite0" in table.obsm:
            assert (np.asarray(table.obsm["lite0"]) >= 1).all()


def check_finished(place, operation):
    slides = open_cohort(place).slides
    assert slides.keys() == {"A1", "B1"} | ({"C1"} if operation in {"ingest", "copy"} else set())
    assert ("lite0" in slides["B1"].entry.encoders) == (operation in {"embed", "copy"})
    newest = crashes.slide("A1", seed=crashes.NEW if operation == "replace" else crashes.OLD)
    assert (slides["A1"].read_counts() != newest.counts).nnz == 0
    collect_garbage(place, older_than=crashes.NOTHING_IS_SPARED)
    assert verify_store(place, deep=True) == []
    assert collect_garbage(place, older_than=crashes.NOTHING_IS_SPARED) == []


@pytest.mark.parametrize("n", range(N_KILLS))
@pytest.mark.parametrize("operation", crashes.OPERATIONS)
def test_a_store_survives_kills_at_any_moment(stores, seconds, tmp_path, operation, n):
    moments = random.Random(f"{operation} {n}")  # noqa: S311  moments, not secrets
    place = tmp_path / "data.zarr"
    shutil.copytree(stores[0], place)
    kill_after = moments.uniform(0, seconds[operation])
    crashes.run(operation, str(place), str(stores[1]), kill_after=kill_after)
    check_what_can_be_seen(place, operation)
    check_what_others_see(place)
    crashes.run(operation, str(place), str(stores[1]))
    check_what_can_be_seen(place, operation)
    check_finished(place, operation)
    shutil.rmtree(place)


def upload(folder, place):
    location = open_location(place)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            location.put(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.mark.parametrize("n", range(-(-N_KILLS // 4)))
@pytest.mark.parametrize("operation", crashes.OPERATIONS)
def test_a_bucket_survives_kills_at_any_moment(stores, s3_place, operation, n):
    moments = random.Random(f"{operation} {n}")  # noqa: S311  moments, not secrets
    whole, place = (f"{s3_place}-{uuid.uuid4().hex}" for _ in range(2))
    for target in (whole, place):
        upload(stores[0], target)
    seconds = crashes.run(operation, whole, str(stores[1]))
    crashes.run(operation, place, str(stores[1]), kill_after=moments.uniform(0, seconds))
    check_what_can_be_seen(place, operation)
    crashes.run(operation, place, str(stores[1]))
    check_what_can_be_seen(place, operation)
    check_finished(place, operation)
