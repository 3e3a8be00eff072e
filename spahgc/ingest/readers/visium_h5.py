"""Read a matrix from Space Ranger's HDF5 files, of every version, in bounded memory.

Dimension letters in this file:

S spots, F features (genes, probes and whatever else was counted), N stored counts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.hdf5 import open_hdf5
from spahgc.ingest.readers.unpacking import check_stored

_BLOCK: Final = 1 << 22  # stored counts read at once
_LARGEST_COUNT: Final = np.iinfo(np.uint32).max
_COLUMNS: Final = {"id": "id", "symbol": "name", "type": "feature_type", "genome": "genome"}
_PROBE_COLUMNS: Final = {**_COLUMNS, "id": "gene_id", "symbol": "gene_name"}


class RawMatrix(NamedTuple):
    """A file's content before anything is left out."""

    barcodes: list[str]
    """S barcodes, as written."""

    features: pd.DataFrame
    """F rows with ``id``, ``symbol`` and, where the file tells, ``type`` and ``genome``; of
    probes ``id`` is the gene's, and ``is_included`` says which of them count."""

    matrix: csr_matrix
    """(S, F) uint32."""

    is_probes: bool
    """Whether the features are probes, several of which belong to one gene."""


def read_h5(path: Path, *, genome: str | None) -> RawMatrix:
    """Read a matrix; one spot's counts lie together in the file, and stay so.

    Parameters
    ----------
    genome
        Which genome to read, where the file has a group for each.

    Raises
    ------
    SlideFormatError
        If the parts of the file do not fit together, or counts are no whole numbers.
    KeyError, OSError
        If a part of the file is missing or cannot be read.
    """
    with open_hdf5(path) as file:
        check_stored(path, file)
        if "matrix" in file:
            group = file["matrix"]
            is_probes = "gene_id" in group["features"] or "probe_region" in group["features"]
            features = _features(group["features"], is_probes=is_probes)
        else:
            is_probes = False
            group, features = _oldest_layout(path, file, genome)
        barcodes = _texts(group["barcodes"])
        shape = (len(barcodes), len(features))
        stated = tuple(int(n) for n in group["shape"][:])[::-1]
        if stated != shape:
            raise SlideFormatError(
                f"{path}: its shape states {stated[0]} spots and {stated[1]} features, found "
                f"{shape[0]} barcodes and {shape[1]} features, expected the same"
            )
        return RawMatrix(barcodes, features, _read_csr(path, group, shape), is_probes)


def chosen_genome(path: Path, genomes: list[str], genome: str | None) -> str:
    """Return the genome to keep of those a file has.

    Raises
    ------
    SlideFormatError
        If there are several and none was chosen, or the chosen one is not among them.
    """
    if genome is None and len(genomes) == 1:
        return genomes[0]
    if genome in genomes:
        return genome
    found = ", ".join(sorted(genomes))
    if genome is None:
        raise SlideFormatError(f"{path}: found the genomes {found}; choose one with --genome")
    raise SlideFormatError(f"{path}: found the genomes {found}, expected {genome} among them")


def whole_numbers(path: Path, data_N: NDArray[Any]) -> NDArray[np.uint32]:
    """Return counts as integers, without a copy where they already are 32-bit ones.

    Raises
    ------
    SlideFormatError
        If one is negative, fractional, not a number, or too large.
    """
    is_count_N = (data_N >= 0) & (data_N <= _LARGEST_COUNT)
    if not np.issubdtype(data_N.dtype, np.integer):
        is_count_N &= np.floor(data_N) == data_N
    if not is_count_N.all():
        raise SlideFormatError(
            f"{path}: found {data_N[~is_count_N][0]} among the counts, expected whole numbers "
            "from 0; give the counts before any normalisation"
        )
    return data_N.view(np.uint32) if data_N.dtype == np.int32 else data_N.astype(np.uint32)


def _features(group: Any, *, is_probes: bool) -> pd.DataFrame:  # noqa: ANN401  h5py is untyped
    columns = _PROBE_COLUMNS if is_probes else _COLUMNS
    needed = {columns["id"], *(() if is_probes else (columns["symbol"],))}
    features = pd.DataFrame(
        {
            column: _texts(group[name])
            for column, name in columns.items()
            if name in group or name in needed
        }
    )
    if not is_probes:
        return features
    if "symbol" not in features:
        features["symbol"] = features["id"]
    return features.assign(is_included=_included_probes(group, len(features)))


def _included_probes(group: Any, n_probes: int) -> NDArray[np.bool_]:  # noqa: ANN401
    """Return which probes Space Ranger counts: flagged, or else of a target set, or else all."""
    if "filtered_probes" in group:
        return np.asarray(group["filtered_probes"][:], dtype=np.bool_)
    if "target_sets" not in group:
        return np.ones(n_probes, dtype=np.bool_)
    is_included_F = np.zeros(n_probes, dtype=np.bool_)
    for indices in group["target_sets"].values():
        is_included_F[indices[:]] = True
    return is_included_F


def _oldest_layout(path: Path, file: Any, genome: str | None) -> tuple[Any, pd.DataFrame]:  # noqa: ANN401
    """Return the group of one genome, and its genes; Cell Ranger 2 had one group for each."""
    genomes = [name for name, group in file.items() if "genes" in getattr(group, "keys", dict)()]
    if not genomes:
        found = ", ".join(sorted(file)) or "nothing"
        raise SlideFormatError(f"{path}: found {found}, expected the group 'matrix'")
    chosen = chosen_genome(path, genomes, genome)
    group = file[chosen]
    features = {"id": _texts(group["genes"]), "symbol": _texts(group["gene_names"])}
    return group, pd.DataFrame(features).assign(genome=chosen)


def _texts(dataset: Any) -> list[str]:  # noqa: ANN401
    if dataset.dtype.kind == "S":  # h5py's own decoding of these takes ten times as long
        return [text.decode() for text in dataset[:].tolist()]
    return [str(text) for text in dataset.asstr()[:]]


def _read_csr(path: Path, group: Any, shape: tuple[int, int]) -> csr_matrix:  # noqa: ANN401
    indptr = np.asarray(group["indptr"][:])
    data, indices = group["data"], group["indices"]
    is_sound = (
        len(indptr) == shape[0] + 1
        and indptr[0] == 0
        and indptr[-1] == len(data) == len(indices) <= shape[0] * shape[1]
        and bool((np.diff(indptr.astype(np.int64)) >= 0).all())
    )
    if not is_sound:
        raise _unfitting(path, shape)
    pointer: Any = np.int32 if len(data) <= np.iinfo(np.int32).max else np.int64
    data_N = np.empty(len(data), np.uint32)
    indices_N = np.empty(len(data), pointer)
    for block in _blocks(data):
        data_N[block] = whole_numbers(path, data[block])
    for block in _blocks(indices):
        part = indices[block]
        if part.min() < 0 or part.max() >= shape[1]:
            raise _unfitting(path, shape)
        indices_N[block] = part
    return csr_matrix((data_N, indices_N, indptr.astype(pointer)), shape=shape)


def _blocks(dataset: Any) -> Iterator[slice]:  # noqa: ANN401
    """Give slices of whole HDF5 chunks, since a chunk cut in two is unpacked twice."""
    chunk = dataset.chunks[0] if dataset.chunks else 1
    block = -(-_BLOCK // chunk) * chunk
    for start in range(0, len(dataset), block):
        yield slice(start, min(start + block, len(dataset)))


def _unfitting(path: Path, shape: tuple[int, int]) -> SlideFormatError:
    return SlideFormatError(
        f"{path}: its data, indices and indptr do not fit {shape[0]} spots and {shape[1]} "
        "features, expected one compressed column per spot; copy the file again"
    )
