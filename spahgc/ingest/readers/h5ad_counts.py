"""Raw counts of an h5ad file, wherever in it they are.

Letters: S spots, G genes, N stored counts.
"""

import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, cast

import h5py
import numpy as np
from anndata import OldFormatWarning
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.genes import tidy_counts
from spahgc.ingest.readers.unpacking import check_stored
from spahgc.schema import Finding

_TOO_LARGE: Final = 2.0**32  # exact in every float type, as the largest uint32 is not
_PEEKED: Final = 1 << 20  # values looked at before a whole matrix is read
_BLOCK_VALUES: Final = 1 << 24  # of a dense matrix, read at once: 64 to 128 MB


def read_element(element: Any) -> Any:  # noqa: ANN401  whatever the file holds there
    """Read one element of the file as anndata does.

    Raises
    ------
    SlideFormatError
        If it is damaged, claims more than the file can hold, or is of a kind that this anndata
        does not know.
    """
    check_stored(Path(element.file.filename), element)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OldFormatWarning)  # old files are welcome
            return read_elem(element)
    except MemoryError:
        raise
    except Exception as error:  # anndata's own error has no public name
        reason = shorten(" ".join(str(error).split()), 160)
        raise SlideFormatError(
            f"{element.file.filename}: {element.name.lstrip('/')} cannot be read ({reason}), "
            "expected what anndata writes; write the file again with a current anndata"
        ) from error


def find_counts(
    file: h5py.File, layer: str | None, findings: list[Finding]
) -> tuple[str, h5py.Group]:
    """Find the raw counts: a named layer, or else ``layers/counts``, ``raw/X``, ``X``.

    Parameters
    ----------
    layer
        Name of a layer, ``X`` or ``raw``; None takes the first place that holds whole numbers.
    findings
        Gets which place was taken, and which was passed over.

    Returns
    -------
    tuple[str, h5py.Group]
        The name of the place, and the group that holds the genes' table ``var`` for it.

    Raises
    ------
    SlideFormatError
        If there is no such layer, or nothing that holds counts.
    """
    names = [f"layers/{name}" for name in file.get("layers", {})]
    places = [place for place in ("layers/counts", "raw/X", "X") if place in file]
    if layer is not None:
        place = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        if place not in file:
            raise SlideFormatError(
                f"{file.filename}: no layer {layer!r}, found {_listed([*names, *places])}; name "
                "one of them with --counts-layer"
            )
        places = [place]
    strange = {place: _first_strange(file[place]) for place in places}
    taken = next((place for place in places if strange[place] is None), None)
    if taken is None:
        found = ", ".join(f"{value:g} in {place}" for place, value in strange.items())
        raise SlideFormatError(
            f"{file.filename}: found {found or 'no matrix'}, which looks normalised, expected raw "
            f"counts (whole numbers from 0); name the layer that holds them with --counts-layer, "
            f"there is {_listed(names)}"
        )
    findings.append(Finding(kind="file", text=f"counts: {taken}"))
    for place in places[: places.index(taken)]:
        text = f"{place} holds {strange[place]:g}, so it holds no counts and was passed over"
        findings.append(Finding(kind="warning", text=text))
    return taken, file["raw"] if taken == "raw/X" else file


def read_counts(file: h5py.File, place: str, *, n_spots: int, n_genes: int) -> csr_matrix:
    """Read one matrix as (S, G) uint32, without ever holding it dense.

    Raises
    ------
    SlideFormatError
        If it holds anything but counts, or has another shape.
    """
    element = file[place]
    if isinstance(element, h5py.Dataset):
        _check_shape(file, place, element.shape, (n_spots, n_genes))
        return _read_dense(element)
    matrix = read_element(element)
    if not issparse(matrix):
        raise SlideFormatError(f"{file.filename}: {place} is no matrix, expected spots × genes")
    sparse = cast("csr_matrix", matrix)
    _check_shape(file, place, sparse.shape, (n_spots, n_genes))
    sparse.check_format(full_check=True)
    counts = csr_matrix(sparse)
    counts.data = _whole_numbers(element, counts.data)
    return tidy_counts(counts)


def _check_shape(
    file: h5py.File, place: str, found: tuple[int, ...], expected: tuple[int, int]
) -> None:
    if found != expected:
        raise SlideFormatError(
            f"{file.filename}: {place} is {' x '.join(map(str, found))}, expected {expected[0]} "
            f"spots x {expected[1]} genes as obs and var list"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"


def _first_strange(element: Any) -> float | None:  # noqa: ANN401  h5py is untyped
    """Return a value near the start of a matrix that is no count."""
    if isinstance(element, h5py.Dataset):
        rows = max(1, _PEEKED // max(1, element.shape[-1])) if element.ndim == 2 else 0
        values_N = np.ravel(element[:rows, :_PEEKED]) if rows else np.empty(0)
    else:
        values_N = element["data"][:_PEEKED]
    strange_N = values_N[~_is_count(values_N)]
    return float(strange_N[0]) if len(strange_N) else None


def _is_count(values_N: NDArray[Any]) -> NDArray[np.bool_]:
    return (values_N >= 0) & (values_N < _TOO_LARGE) & (np.floor(values_N) == values_N)


def _whole_numbers(element: Any, values_N: NDArray[Any]) -> NDArray[np.uint32]:  # noqa: ANN401
    is_count_N = _is_count(values_N)
    if not is_count_N.all():
        raise SlideFormatError(
            f"{element.file.filename}: found {values_N[~is_count_N][0]:g} in "
            f"{element.name.lstrip('/')}, expected raw counts (whole numbers from 0); name the "
            "layer that holds them with --counts-layer"
        )
    return values_N.astype(np.uint32)


def _read_dense(element: h5py.Dataset) -> csr_matrix:
    rows = max(1, _BLOCK_VALUES // max(1, element.shape[1]))
    starts = range(0, element.shape[0], rows)
    parts = [csr_matrix(_whole_numbers(element, element[at : at + rows])) for at in starts]
    return tidy_counts(csr_matrix(vstack(parts, format="csr", dtype=np.uint32)))
