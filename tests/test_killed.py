"""Kill a command at random moments: nothing half-written is seen, and the next run finishes.

A few here; `make soak` sets SPAHGC_KILLS, so many times the command is killed until it is done.
"""

import os
import random
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest

from spahgc.demo.formats import write_demo_slides
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort

N_KILLS = int(os.environ.get("SPAHGC_KILLS", "2"))
MOST_TRIES = 5
"""Then the command is left alone."""
LONGEST_SECONDS = 300
"""Of one command, however slow the machine; more is a hang."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_demo_slides(
        tmp_path_factory.mktemp("demo") / "slides", seed=5, scale=0.35
    ).st_study


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """What comes of the command when nobody kills it, and how many seconds it takes."""
    store = tmp_path_factory.mktemp("whole") / "data.zarr"
    began = time.monotonic()
    finish(start(study, store))
    return open_cohort(store), time.monotonic() - began


def start(study, store):
    command = [
        sys.executable,
        "-m",
        "spahgc.cli",
        "ingest",
        "st",
        str(study),
        "--store",
        str(store),
        "--patch-um=112",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    try:
        _, said = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, said.decode()


def kill_after(process, moment, store):
    """Kill some time after the store appeared: before that, there is nothing to break."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while process.poll() is None and not store.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(moment)
    if process.poll() is None:
        process.kill()
    process.communicate()


def check_what_can_be_seen(store):
    assert verify_store(store, deep=True) == [] or only_derived_metadata_is_old(store)
    for name, slide in open_cohort(store).slides.items():
        table = anndata.read_zarr(str(store / slide.entry.group))
        assert table.n_obs == slide.n_spots
        assert (slide.read_counts() != table.X).nnz == 0
        for embedding in slide.entry.encoders:
            assert np.isfinite(slide.read_embedding(embedding)).all(), name
        if "lite0" in table.obsm:
            assert np.isfinite(table.obsm["lite0"]).all(), name


def only_derived_metadata_is_old(store):
    return all("is out of date" in problem.text for problem in verify_store(store, deep=True))


@pytest.mark.slow
@pytest.mark.parametrize("n", range(N_KILLS))
def test_ingest_and_embed_survive_being_killed_at_any_moment(study, whole, tmp_path, n):
    expected, seconds = whole
    moments = random.Random(n)  # noqa: S311  moments, not secrets
    store = tmp_path / "killed.zarr"
    for _ in range(MOST_TRIES):
        process = start(study, store)
        kill_after(process, moments.uniform(0, seconds), store)
        if store.exists():
            check_what_can_be_seen(store)
        if process.returncode == 0:
            break
    else:
        finish(start(study, store))
    assert verify_store(store, deep=True) == []
    finished = open_cohort(store)
    assert list(finished.slides) == list(expected.slides)
    for name, slide in finished.slides.items():
        assert slide.entry.group == f"tables/{name}"
        same = np.array_equal(slide.read_embedding("lite0"), expected[name].read_embedding("lite0"))
        assert same, name
