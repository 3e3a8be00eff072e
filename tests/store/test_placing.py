"""Where nothing can be renamed: a place is filled by those who claimed it, and never twice."""

from contextlib import contextmanager
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest

from spahgc.store import table
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.locations.opening import open_location
from spahgc.store.locations.remote import RemoteLocation
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide


class KilledError(BaseException):
    """What a writer does not survive: nothing of ours catches it."""


@contextmanager
def killed_at(method, word):
    """Kill writers where they call a method for a key with that word in it."""
    real = getattr(RemoteLocation, method)

    def call(location, key, *rest):
        if word in key:
            raise KilledError
        return real(location, key, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteLocation, method, call)
        with pytest.raises(KilledError):
            yield


@pytest.fixture(autouse=True)
def in_one_second(monkeypatch):
    """Let the same slide, put again, be the same version: its second is part of it."""
    now = datetime.now(UTC)
    monkeypatch.setattr(table, "datetime", Mock(now=lambda _zone: now))


def put(place, *, seed):
    return add_slide(open_store(place), build_slide("A1", seed=seed), replace_existing=True)


def check(place, *, seed, group):
    found = open_cohort(place)["A1"]
    assert found.entry.group == group
    assert (found.read_counts() != build_slide(seed=seed).counts).nnz == 0
    assert verify_store(place, deep=True) == []


def test_a_writer_killed_before_it_looked_has_claimed_nothing(s3_place):
    """It claimed the place of the version that it was to replace."""
    create_store(s3_place)
    put(s3_place, seed=1)
    before = open_cohort(s3_place)["A1"]
    with killed_at("list_files", "tables/A1"):
        put(s3_place, seed=2)
    assert put(s3_place, seed=2) == "replaced"
    check(s3_place, seed=2, group="tables/A1.v2")
    assert (before.read_counts() != build_slide(seed=1).counts).nnz == 0


def test_what_a_killed_writer_claimed_is_filled_by_the_next_one_of_that_version(s3_place):
    create_store(s3_place)
    for method, word in (("list_files", "tables/A1"), ("put_if_absent", "X/indices/c/0")):
        with killed_at(method, word):
            put(s3_place, seed=1)
    location = open_location(s3_place)
    halves = {file.key: file.changed for file in location.list_files("tables/A1")}
    assert halves
    assert put(s3_place, seed=1) == "added"
    check(s3_place, seed=1, group="tables/A1")
    whole = {file.key: file.changed for file in location.list_files("tables/A1")}
    assert halves.items() < whole.items()
    assert list(location.list_files("staging/claims")) == []


def test_what_a_killed_writer_claimed_is_left_alone_by_other_versions(s3_place):
    create_store(s3_place)
    with killed_at("put_if_absent", "X/indices/c/0"):
        put(s3_place, seed=1)
    assert put(s3_place, seed=2) == "added"
    check(s3_place, seed=2, group="tables/A1.v2")
