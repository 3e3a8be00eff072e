"""Lists of faiss on this machine: files of the user's cache, never taken from a store.

faiss trusts what it reads, so a store carries no file of faiss: what a trained index needs is made
again from the store's embeddings wherever this machine has not made it before.
"""

import uuid
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from spahgc.cache import cache_folder
from spahgc.index.faiss_library import faiss


class LocalLists:
    """Files of one trained index of one store; where the user keeps no cache there are none."""

    def __init__(self, where: str, trained_id: str) -> None:
        """Name the store and what was trained for it."""
        cache = cache_folder()
        key = sha256(f"{where}\n{trained_id}".encode()).hexdigest()[:32]
        self._folder: Path | None = None if cache is None else cache / "indexes" / key

    def read_trained(self, *, kind: str, size: int, n_lists: int) -> Any:  # noqa: ANN401
        """Read the empty lists, or None where there are none that fit."""
        found = self._read("trained.faiss", faiss.read_index)
        wanted = faiss.IndexIVFPQ if kind == "ivfpq" else faiss.IndexIVFScalarQuantizer
        fits = isinstance(found, wanted) and (found.d, found.nlist) == (size, n_lists)
        return found if fits else None

    def write_trained(self, trained: Any) -> None:  # noqa: ANN401
        """Keep empty lists, in place of others."""
        self._write("trained.faiss", faiss.write_index, trained)

    def read_part(self, trained: Any, content: str, n_spots: int) -> Any:  # noqa: ANN401
        """Read one slide's lists, or None where these spots were not sorted yet."""
        lists = self._read(_part_name(content), _read_lists)
        if lists is None:
            return None
        part = faiss.clone_index(trained)
        part.replace_invlists(lists, True)  # which frees them with the index
        part.ntotal = lists.compute_ntotal()
        return part if part.ntotal == n_spots else None

    def write_part(self, content: str, part: Any) -> None:  # noqa: ANN401
        """Keep one slide's lists, their centroids left out.

        ``content`` digests the centroids and the slide's embeddings.
        """
        self._write(_part_name(content), _write_lists, part)

    def keep_only(self, contents: Iterable[str]) -> None:
        """Delete the files of slides that are no longer in the index."""
        if self._folder is None or not self._folder.is_dir():
            return
        wanted = {"trained.faiss", *map(_part_name, contents)}
        for path in self._folder.glob("*.faiss"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def _read(self, name: str, read: Callable[[str], Any]) -> Any:  # noqa: ANN401
        if self._folder is None or not (self._folder / name).is_file():
            return None
        try:
            return read(str(self._folder / name))
        except RuntimeError:  # cut off by a crash or a full disk: made again
            return None

    def _write(self, name: str, write: Callable[[Any, str], None], lists: Any) -> None:  # noqa: ANN401
        """Keep a file whole or not at all; where it cannot be written, nothing is kept."""
        if self._folder is None:
            return
        unfinished = self._folder / f".{name}.{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(lists, str(unfinished))
            unfinished.replace(self._folder / name)
        except (OSError, RuntimeError):  # faiss raises the latter, as on a full disk
            if unfinished.exists():
                unfinished.unlink()


def digest_centroids(trained: Any) -> str:  # noqa: ANN401
    """Digest what slides are sorted by."""
    centroids_CD = trained.quantizer.reconstruct_n(0, trained.nlist)
    return sha256(centroids_CD.tobytes()).hexdigest()


def _read_lists(path: str) -> Any:  # noqa: ANN401
    return faiss.read_InvertedLists(faiss.FileIOReader(path))


def _write_lists(part: Any, path: str) -> None:  # noqa: ANN401
    faiss.write_InvertedLists(part.invlists, faiss.FileIOWriter(path))


def _part_name(content: str) -> str:
    return f"{sha256(content.encode()).hexdigest()[:32]}.faiss"
