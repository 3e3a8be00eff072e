"""Open HDF5 files that hold all their data themselves, and no others.

A link, an array stored elsewhere or one put together from other files would let a file that
somebody sent read any file of this machine into the counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import h5py
import numpy as np

from spahgc.errors import SlideFormatError

_MOST_NESTED: Final = 32
_BUILT_IN_FILTERS: Final = {
    *(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32),
    *(h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_NBIT, h5py.h5z.FILTER_SCALEOFFSET),
    h5py.h5z.FILTER_LZF,
}
"""Any other is a library that HDF5 would look for and run because the file asks for it."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file, once it is known that nothing in it leads out of it.

    Raises
    ------
    SlideFormatError
        If it has a link that is not a plain one, an array that is stored in, or put together from,
        other files, or compressed by a plugin, or groups nested beyond reason.
    OSError
        If it cannot be opened as HDF5.
    """
    with h5py.File(path, "r") as file:
        for problem in _problems(file):
            raise SlideFormatError(
                f"{path}: {problem}, expected a file that holds all its data itself; write it "
                "again where it was made"
            )
        yield file


def _problems(file: h5py.File) -> Iterator[str]:
    """Walk every object, by links and by references, each once; nothing is read but headers."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", file["/"], 0)]
    while waiting:
        place, part, depth = waiting.pop()
        address = h5py.h5o.get_info(part.id).addr
        if address in seen:
            continue
        seen.add(address)
        if depth > _MOST_NESTED:
            yield f"{_shown(place)} lies more than {_MOST_NESTED} groups deep"
            continue
        if isinstance(part, h5py.Dataset):
            yield from _storage_problems(place, part)
        # how the oldest h5ad files name the categories of a column
        waiting.extend((f"{place}@{name}", file[ref], depth + 1) for name, ref in _references(part))
        if not isinstance(part, h5py.Group):
            continue
        for name in part:
            inner = f"{place}/{name}".lstrip("/")
            if problem := _link_problem(part, name):
                yield f"{_shown(inner)} {problem}"
            else:
                waiting.append((inner, part[name], depth + 1))


def _link_problem(group: h5py.Group, name: str) -> str:
    kind = group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type
    if kind == h5py.h5l.TYPE_HARD:
        return ""
    if kind == h5py.h5l.TYPE_EXTERNAL:
        return f"is a link to another file, {_shown(group.get(name, getlink=True).filename)}"
    if kind == h5py.h5l.TYPE_SOFT:
        return f"is a link to {_shown(group.get(name, getlink=True).path)}"
    return f"is a link of the unknown kind {kind}"


def _storage_problems(place: str, dataset: h5py.Dataset) -> Iterator[str]:
    if dataset.is_virtual:
        yield f"{_shown(place)} is put together from other datasets"
    elif dataset.external:
        yield f"{_shown(place)} is stored in another file, {_shown(dataset.external[0][0])}"
    created = dataset.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code = created.get_filter(number)[0]
        if code not in _BUILT_IN_FILTERS:
            yield f"{_shown(place)} is compressed by the plugin {code} and not by gzip or lzf"


def _references(part: Any) -> Iterator[tuple[str, h5py.Reference]]:  # noqa: ANN401  h5py is untyped
    for name in part.attrs:
        if part.attrs.get_id(name).get_type().get_class() == h5py.h5t.REFERENCE:
            for reference in np.ravel(part.attrs[name]):
                if reference:
                    yield name, reference


def _shown(name: str) -> str:
    return shorten(repr(name), 100)
