import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spahgc.index import ReferenceIndex
from spahgc.model import graph_cache
from spahgc.model.graph import GraphConfig, build_graph
from spahgc.model.graph_cache import cached_graph, graphs_folder
from spahgc.model.spots import SlideSpots, nearest_others
from spahgc.schema import CLOSE, NEAR, REFER, REFERENCE, TARGET


def draw_spots(name, n_spots):
    generator = np.random.default_rng([n_spots, *name.encode()])
    centers_S2 = generator.normal(size=(n_spots, 2))
    return SlideSpots(
        name=name,
        spot_names=tuple(map(str, range(n_spots))),
        embedding_SD=generator.normal(size=(n_spots, 5)).astype(np.float32),
        centers_S2=centers_S2,
        near_SQ=nearest_others(centers_S2, 6),
        expression_SG=generator.gamma(1, size=(n_spots, 3)).astype(np.float32),
    )


TARGET_SPOTS = draw_spots("A", 20)
REFERENCES = {"B": draw_spots("B", 15), "C": draw_spots("C", 9)}


class Searching:
    """A search that counts how often it was needed."""

    def __init__(self, target=TARGET_SPOTS, references=REFERENCES):
        self.calls = 0
        self.target, self.references = target, references

    def __call__(self):
        self.calls += 1
        vectors = {name: spots.embedding_SD for name, spots in self.references.items()}
        return ReferenceIndex.of_vectors(vectors).search(
            self.target.embedding_SD, k=7, only_slides=vectors
        )


@pytest.fixture(autouse=True)
def _keep_small_graphs(monkeypatch):
    monkeypatch.setattr(graph_cache, "FEWEST_PAIRS", 0)


def build(folder, search, *, config=None, searched_in="flat cosine"):
    return cached_graph(
        search.target,
        search.references,
        search,
        config=config or GraphConfig(),
        searched_in=searched_in,
        folder=folder,
    )


def assert_same(one, other):
    for node_type, keys in [(TARGET, ("x", "y", "near", "refer")), (REFERENCE, ("x", "y"))]:
        for key in keys:
            assert torch.equal(one[node_type][key], other[node_type][key])
    for edge_type in (NEAR, REFER, CLOSE):
        assert torch.equal(one[edge_type].edge_index, other[edge_type].edge_index)


def test_a_graph_is_built_once_and_then_the_same(tmp_path):
    search = Searching()
    plain = build_graph(TARGET_SPOTS, search(), REFERENCES, config=GraphConfig())
    for _ in range(3):
        assert_same(build(tmp_path, search), plain)
    assert search.calls == 2
    assert len(list(tmp_path.iterdir())) == 1


def change(spots, field):
    changed = getattr(spots, field).copy()
    changed.flat[0] += 1e-3 if changed.dtype.kind == "f" else 0
    return replace(spots, **{field: changed})


@pytest.mark.parametrize(
    "other",
    [
        {"config": GraphConfig(n_close=2)},
        {"searched_in": "flat l1"},
        {"target": change(TARGET_SPOTS, "embedding_SD")},
        {"target": change(TARGET_SPOTS, "centers_S2")},
        {"references": {**REFERENCES, "B": change(REFERENCES["B"], "embedding_SD")}},
        {"references": {**REFERENCES, "B": change(REFERENCES["B"], "expression_SG")}},
        {"references": {"B": REFERENCES["B"]}},
        {"references": {"B": REFERENCES["B"], "D": REFERENCES["C"]}},
    ],
    ids=["settings", "metric", "target", "places", "looks", "expression", "fewer", "renamed"],
)
def test_a_changed_input_is_a_changed_key(tmp_path, other):
    build(tmp_path, Searching())
    slides = {key: other.pop(key) for key in ("target", "references") if key in other}
    search = Searching(**slides)
    build(tmp_path, search, **other)
    assert search.calls == 1
    assert len(list(tmp_path.iterdir())) == 2


def spoil(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-40])
    elif how == "no arrays":
        path.write_bytes(struct.pack("<Q", 2) + b"{}")
    elif how == "far node":
        size = struct.unpack("<Q", content[:8])[0]
        place = json.loads(content[8 : 8 + size])["refer_TK"]["data_offsets"][0] + 8 + size
        path.write_bytes(content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :])
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut", "no arrays", "far node", "empty"])
def test_a_damaged_file_is_built_anew(tmp_path, how):
    search = Searching()
    plain = build(tmp_path, search)
    spoil(next(tmp_path.iterdir()), how)
    assert_same(build(tmp_path, search), plain)
    build(tmp_path, search)
    assert search.calls == 2


def test_a_place_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    search = Searching()
    build(tmp_path / "file", search)
    build(tmp_path / "file", search)
    assert search.calls == 2


def test_graphs_not_used_for_longest_make_room(tmp_path, monkeypatch):
    searches = [Searching(target=replace(TARGET_SPOTS, name=name)) for name in "XYZ"]
    for age, search in enumerate(searches[:2]):
        build(tmp_path, search)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (100 + age, 100 + age))
    build(tmp_path, searches[0])  # the older one, used again
    size = newest.stat().st_size
    monkeypatch.setattr(graph_cache, "MOST_BYTES", 2 * size + size // 2)
    build(tmp_path, searches[2])
    assert not newest.exists()
    assert len(list(tmp_path.iterdir())) == 2
    build(tmp_path, searches[0])
    assert [search.calls for search in searches] == [1, 1, 1]


def test_small_graphs_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "FEWEST_PAIRS", 10**6)
    build(tmp_path, Searching())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_CACHE_HOME": "/cache"}, Path("/cache/spahgc/graphs")),
        ({"HOME": "/home/me"}, Path("/home/me/.cache/spahgc/graphs")),
        ({"SPAHGC_CACHE": "/mine", "XDG_CACHE_HOME": "/cache"}, Path("/mine/graphs")),
        ({"SPAHGC_CACHE": "off"}, None),
        ({"SPAHGC_CACHE": "none"}, None),
        ({"SPAHGC_CACHE": "OFF"}, None),
        ({"SPAHGC_CACHE": ""}, None),
    ],
    ids=str,
)
def test_the_environment_says_where_graphs_are_kept(monkeypatch, variables, folder):
    for name in ("SPAHGC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert graphs_folder() == folder
