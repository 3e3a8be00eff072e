"""Arrays of an index in the store: plain .npy, checked before a byte of them is believed."""

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.commits import Store


def write_array(store: Store, index: str, array: NDArray[Any]) -> str:
    """Put one array of an index into the store, and return its sha256."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return store.put_blob(partial(layout.index_part_key, index), content.getvalue())


def read_array(
    store: Store, index: str, digest: str, *, shape: Sequence[int | None], dtype: str
) -> NDArray[Any]:
    """Read one array of an index by its sha256.

    Parameters
    ----------
    store, index, digest
        Where it lies.
    shape
        That it must have; None for any length.
    dtype
        That it must have, as ``<f4``.

    Raises
    ------
    DamagedStoreError
        If it is missing, damaged, or another array than was asked for.
    """
    content = io.BytesIO(store.read_blob(partial(layout.index_part_key, index), digest))
    try:
        npy.read_magic(content)
        found, is_fortran, found_dtype = npy.read_array_header_1_0(content)
    except ValueError as error:
        raise _foreign(store, index, str(error)) from None
    fits = len(found) == len(shape) and all(
        wanted in {None, size} for wanted, size in zip(shape, found, strict=True)
    )
    if not fits or is_fortran or found_dtype != np.dtype(dtype):
        raise _foreign(store, index, f"{found_dtype} {found}, expected {dtype} {tuple(shape)}")
    numbers = content.read()
    if len(numbers) != int(np.prod(found)) * found_dtype.itemsize:
        raise _foreign(store, index, f"{len(numbers)} bytes for {found_dtype} {found}")
    return np.frombuffer(numbers, found_dtype).reshape(found)


def _foreign(store: Store, index: str, problem: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{store.where}: an array of the index {index!r} cannot be read ({problem}); "
        "`spahgc index build --retrain` makes it anew"
    )
