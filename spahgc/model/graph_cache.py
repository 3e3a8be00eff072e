"""Keep the edges of large graphs on disk, under a digest of everything they follow from."""

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch_geometric.data import HeteroData

from spahgc.cache import cache_folder
from spahgc.index import Neighbors
from spahgc.model.graph import Edges, GraphConfig, assemble_graph, find_edges
from spahgc.model.spots import SlideSpots, expression_of

FEWEST_PAIRS: Final = 2_000_000
"""Pairs of a target and a reference spot from which keeping pays: below, digesting and reading
take as long as searching (benchmarks/graph_building.py)."""

MOST_BYTES: Final = 2**30
"""Of kept graphs, some thousands of them; where there are more, those not used for longest go."""

VERSION: Final = 1
"""Of how edges are found and kept; part of every key."""


def graphs_folder() -> Path | None:
    """Give the folder to keep graphs in, None where the user wants none kept."""
    kept = cache_folder()
    return None if kept is None else kept / "graphs"


def cached_graph(
    target: SlideSpots,
    references: Mapping[str, SlideSpots],
    search: Callable[[], Neighbors],
    *,
    config: GraphConfig,
    searched_in: str,
    folder: Path | None = None,
) -> HeteroData:
    """Build a graph, or put it together from edges that were found before.

    Parameters
    ----------
    target, references, config
        As for `spahgc.model.graph.build_graph`.
    search
        Finds the target's neighbours on ``references``; not called where the edges are kept.
    searched_in
        Whatever decides what ``search`` finds beside the slides' own arrays: metric and kind.
    folder
        Where to keep edges; by default `graphs_folder`.
    """
    folder = folder or graphs_folder()
    n_references = sum(len(spots.embedding_SD) for spots in references.values())
    if folder is None or len(target.embedding_SD) * n_references < FEWEST_PAIRS:
        return assemble_graph(target, references, find_edges(target, search(), references, config))
    path = folder / f"{digest_inputs(target, references, config, searched_in)}.safetensors"
    edges = _read_edges(path, target, references)
    if edges is None:
        edges = find_edges(target, search(), references, config)
        if edges.slides == tuple(sorted(references)):  # as they will be counted when read
            _write_edges(path, edges)
    return assemble_graph(target, references, edges)


def digest_inputs(
    target: SlideSpots,
    references: Mapping[str, SlideSpots],
    config: GraphConfig,
    searched_in: str,
) -> str:
    """Digest everything that decides a graph's edges: a changed input is a changed key.

    The arrays themselves are digested rather than the commit and the fold they come from, so that
    the key holds for features that no store keeps, and a commit elsewhere changes nothing.
    """
    digest = blake2b(repr((VERSION, asdict(config), searched_in, target.name)).encode())
    for array in (target.embedding_SD, target.centers_S2, target.near_SQ):
        _digest_array(digest, array)
    for name in sorted(references):
        digest.update(name.encode())
        _digest_array(digest, references[name].embedding_SD)
        _digest_array(digest, expression_of(references[name]))
    return digest.hexdigest()[:64]


def _digest_array(digest: blake2b, array: NDArray[np.generic]) -> None:
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)


def _write_edges(path: Path, edges: Edges) -> None:
    """Keep edges whole or not at all; where the place cannot be written, nothing is kept."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    arrays = {
        "node_R2": edges.node_R2,
        "near_TQ": edges.near_TQ,
        "refer_TK": edges.refer_TK,
        "close_RC": edges.close_RC,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        small = {name: array.astype(np.int32) for name, array in arrays.items()}
        save_file(small, unfinished)
        unfinished.replace(path)
        _prune(path.parent)
    except (OSError, SafetensorError):
        if unfinished.exists():
            unfinished.unlink()


def _prune(folder: Path) -> None:
    """Delete what was not used for longest, what a killed process left unfinished with it."""
    n_bytes = 0
    files = [(path.stat(), path) for path in folder.iterdir()]
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns, reverse=True):
        n_bytes += status.st_size
        if n_bytes > MOST_BYTES:
            path.unlink(missing_ok=True)


def _read_edges(
    path: Path, target: SlideSpots, references: Mapping[str, SlideSpots]
) -> Edges | None:
    """Read edges that fit these slides, None where there are none, or damaged ones."""
    with suppress(OSError):  # it may be another's, or not be there
        os.utime(path)  # used now: `_prune` spares it
    try:
        arrays = {name: array.astype(np.int64) for name, array in load_file(path).items()}
        slides = tuple(sorted(references))
        edges = Edges(slides=slides, **arrays)
    except (OSError, SafetensorError, TypeError):
        return None
    n_targets, n_nodes = len(target.embedding_SD), len(edges.node_R2)
    fits = (
        edges.node_R2.shape == (n_nodes, 2)
        and n_nodes > 0
        and _within(edges.node_R2[:, 0], len(slides), least=0)
        and _within(edges.near_TQ, n_targets)
        and _within(edges.refer_TK, n_nodes)
        and _within(edges.close_RC, n_nodes)
        and len(edges.near_TQ) == len(edges.refer_TK) == n_targets
        and len(edges.close_RC) == n_nodes
    )
    if not fits:
        return None
    n_spots = np.array([len(references[name].embedding_SD) for name in slides])
    spot_R = edges.node_R2[:, 1]
    return edges if ((spot_R >= 0) & (spot_R < n_spots[edges.node_R2[:, 0]])).all() else None


def _within(table: NDArray[np.int64], stop: int, *, least: int = -1) -> bool:
    return not table.size or bool(table.min() >= least and table.max() < stop)
