"""Promise 3: whatever happens to a file of a store, it is found, and never read as numbers.

Some damages here; `make soak` sets SPAHGC_DAMAGES.
"""

import os
import random
import shutil
from typing import NamedTuple

import numpy as np
import pytest

from spahgc.errors import SpahgcError
from spahgc.index import ReferenceIndex
from spahgc.store import layout
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.store.crashes import NOTHING_IS_SPARED

N_DAMAGES = int(os.environ.get("SPAHGC_DAMAGES", "60"))
DAMAGES = ("flip", "truncate", "delete", "swap")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of which every file is needed."""
    place = tmp_path_factory.mktemp("lab") / "data.zarr"
    store = create_store(place)
    for n, name in enumerate(("A1", "B1", "C.2")):
        add_slide(store, build_slide(name, n_spots=300, n_genes=40, seed=n))
        embed_slide(place, name, size=16, seed=n)
    ReferenceIndex.build(open_cohort(place), embedding="lite0")
    collect_garbage(place, older_than=NOTHING_IS_SPARED)
    return place


@pytest.fixture(scope="module")
def expected(place):
    return read_everything(place)


def read_everything(place):
    """Read all that a user can ask for: numbers by name, or the error that came instead."""
    found = {}
    try:
        cohort = open_cohort(place)
        names = list(cohort.slides)
    except SpahgcError as error:
        return {"store": error}
    for name in names:
        slide = cohort[name]
        for what, read in {
            "counts": lambda s=slide: s.read_counts().toarray(),
            "spots": lambda s=slide: s.spots.reset_index().to_numpy(object),
            "genes": lambda s=slide: s.genes.reset_index().to_numpy(object),
            "centers": lambda s=slide: s.centers,
            "lite0": lambda s=slide: s.read_embedding("lite0"),
            "picture": lambda s=slide: s.read_thumbnail().pixels,
            "record": lambda s=slide: np.array(sorted(map(str, s.record.items()))),
            "patient": lambda s=slide: np.array(s.patient),
        }.items():
            found[name, what] = attempt(read)
    found["index"] = attempt(lambda: search(cohort))
    return found


def search(cohort):
    index = ReferenceIndex.open(cohort, embedding="lite0")
    asked = np.random.default_rng(5).random((7, 16), dtype=np.float32)
    return index.search(asked, k=3, only_slides=list(cohort.slides), asked_by=None).distance_SK


def attempt(read):
    try:
        return read()
    except SpahgcError as error:
        return error


class Damage(NamedTuple):
    """One thing that happened to a store."""

    kind: str
    key: str
    other: str | None = None


def damage(place, files, moments):
    """Do something to a file that changes what a reader would find in it."""
    kind = moments.choice(DAMAGES)
    file = moments.choice(files)
    content = file.read_bytes()
    key = file.relative_to(place).as_posix()
    if kind == "delete" or not content:
        file.unlink()
        return Damage("delete", key)
    if kind == "truncate":
        file.write_bytes(content[: moments.randrange(len(content))])
        return Damage(kind, key)
    if kind == "flip":
        changed = bytearray(content)
        changed[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
        file.write_bytes(changed)
        return Damage(kind, key)
    other = moments.choice([it for it in files if it.read_bytes() != content])
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return Damage(kind, key, other.relative_to(place).as_posix())


def names_it(problems, done):
    """Whether the problems name what was damaged: of a slide the slide and the key in it."""
    for key in filter(None, (done.key, done.other)):
        folder, _, rest = key.partition("/")
        if folder == layout.TABLES and "/" in rest:
            slide, _, key_in_slide = rest.partition("/")
            if (f"slide {slide}", key_in_slide) in problems:
                return True
        elif any(key in text for _, text in problems):
            return True
    return False


def found_by(place, *, deep):
    try:
        problems = verify_store(place, deep=deep)
    except SpahgcError as error:
        return {("store", str(error))}
    return {(problem.owner, problem.text) for problem in problems}


def with_keys(problems):
    """Split ``X/data/c/0 is missing`` into owner and key."""
    return {(owner, text.split(" ")[0]) for owner, text in problems} | problems


def same(found, wanted):
    return set(found) == set(wanted) and all(
        isinstance(found[key], SpahgcError) or np.array_equal(found[key], wanted[key])
        for key in wanted
    )


@pytest.mark.parametrize("n", range(N_DAMAGES))
def test_every_damage_is_found_named_and_never_read(place, expected, tmp_path, n):
    moments = random.Random(n)  # noqa: S311  places, not secrets
    damaged = tmp_path / "data.zarr"
    shutil.copytree(place, damaged)
    files = sorted(path for path in damaged.rglob("*") if path.is_file() and path.suffix != ".lock")
    done = damage(damaged, files, moments)
    deep = with_keys(found_by(damaged, deep=True))
    assert names_it(deep, done), (done, deep)
    if done.kind in {"truncate", "delete"}:
        plain = with_keys(found_by(damaged, deep=False))
        assert names_it(plain, done), (done, plain)
    found = read_everything(damaged)
    assert "store" in found or same(found, expected), done
    shutil.rmtree(damaged)


def test_an_intact_store_has_no_problems(place, expected):
    assert verify_store(place, deep=True) == []
    assert not any(isinstance(it, SpahgcError) for it in expected.values())


def test_two_files_of_one_size_that_were_exchanged_are_found(place, tmp_path):
    copy = tmp_path / "data.zarr"
    shutil.copytree(place, copy)
    shards = [copy / "tables" / name / "obsm" / "lite0" / "c" / "0" / "0" for name in ("A1", "B1")]
    first, second = (shard.read_bytes() for shard in shards)
    assert len(first) == len(second)
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)
    found = {problem.owner for problem in verify_store(copy, deep=True)}
    assert found == {"slide A1", "slide B1"}
    assert verify_store(copy) == []  # sizes tell nothing
    for name in ("A1", "B1"):
        with pytest.raises(SpahgcError, match=f"{name}/obsm/lite0/c/0/0 is damaged"):
            open_cohort(copy)[name].read_embedding("lite0")
