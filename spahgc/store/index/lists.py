"""Inverted lists: vectors sorted to their nearest centroid, so that a search looks at few.

Dimension letters in this file:

S spots or queries, D embedding size, C centroids, M bytes of a code, N spots proposed
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import FAISS_METRIC, Metric, check_size
from spahgc.store.index.library import faiss
from spahgc.store.index.pieces import Nearest, merge_nearest
from spahgc.store.index.shares import Arrays, Read, SlideRange

ITERATIONS: Final = 10
"""Of k-means."""

PER_CENTROID: Final = 48
"""Training vectors of each centroid; faiss asks for 39 or more."""

MOST_LISTS: Final = 4096


def lists_for(n_spots: int) -> int:
    """Choose C: about twice the root, so that finding lists and scanning them cost the same."""
    return max(1, min(MOST_LISTS, round(2 * n_spots**0.5), n_spots // PER_CENTROID))


def bytes_for(size: int) -> int:
    """Choose M: one byte for every eight numbers, where they divide evenly."""
    return max(m for m in range(1, max(1, size // 8) + 1) if size % m == 0)


def train_lists(
    sample_SD: NDArray[np.float32], *, metric: Metric, n_lists: int, n_bytes: int | None
) -> dict[str, NDArray[Any]]:
    """Learn what all slides share.

    Returns
    -------
    dict
        ``centroids`` (C, D) float32; with ``n_bytes`` also ``codebooks`` (M, 256, D / M) float32.
    """
    size = sample_SD.shape[1]
    kmeans = faiss.Kmeans(
        *(size, n_lists),
        niter=ITERATIONS,
        spherical=metric == "cosine",
        seed=0,
        min_points_per_centroid=1,  # else it warns of few
        max_points_per_centroid=PER_CENTROID,
    )
    kmeans.train(sample_SD)
    centroids_CD = kmeans.centroids
    if n_bytes is None:
        return {"centroids": centroids_CD}
    residual_SD = sample_SD - centroids_CD[_nearest_list(sample_SD, centroids_CD, metric)]
    quantizer = faiss.ProductQuantizer(size, n_bytes, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.max_points_per_centroid = PER_CENTROID
    quantizer.cp.niter = ITERATIONS
    quantizer.train(residual_SD)
    codebooks = faiss.vector_to_array(quantizer.centroids).reshape(n_bytes, 256, -1)
    return {"centroids": centroids_CD, "codebooks": codebooks}


def encode_lists(
    vectors_SD: NDArray[np.float32], shared: Arrays, *, metric: Metric
) -> dict[str, NDArray[Any]]:
    """Sort one slide's spots: ``lists`` (S,) int32, and maybe ``codes`` (S, M) uint8."""
    centroids_CD = shared["centroids"]
    list_S = _nearest_list(vectors_SD, centroids_CD, metric)
    lists = {"lists": list_S.astype(np.int32)}
    if "codebooks" not in shared:
        return lists
    residual_SD = vectors_SD - centroids_CD[list_S]
    return {**lists, "codes": _quantizer(shared["codebooks"]).compute_codes(residual_SD)}


class InvertedLists:
    """The lists of all slides of an index, in memory: half-precision vectors, or codes.

    Within a list spots lie in the order of the slides, so that the spots of slides that may not
    answer are stepped over as a range and never looked at one by one.
    """

    def __init__(
        self, shared: Arrays, pieces: Mapping[str, Arrays], *, read: Read, metric: Metric
    ) -> None:
        """Fill the lists; without codes every slide is read once."""
        centroids_CD = shared["centroids"]
        self._metric = metric
        self._quantizer = _flat(centroids_CD, metric)
        size = (self._quantizer, centroids_CD.shape[1], len(centroids_CD))
        if "codebooks" in shared:
            codebooks = shared["codebooks"]
            self._lists = faiss.IndexIVFPQ(*size, len(codebooks), 8, FAISS_METRIC[metric])
            faiss.copy_array_to_vector(codebooks.ravel(), self._lists.pq.centroids)
            self._lists.is_trained = True
            self._add_codes(pieces)
        else:
            half = faiss.ScalarQuantizer.QT_fp16
            self._lists = faiss.IndexIVFScalarQuantizer(*size, half, FAISS_METRIC[metric], False)
            self._lists.is_trained = True
            self._add_vectors(pieces, read)
        self._lists.ntotal = sum(len(piece["lists"]) for piece in pieces.values())
        if "codebooks" not in shared:
            self._lists.make_direct_map()  # so that a spot's vector is found again

    def propose(
        self, query_SD: NDArray[np.float32], ranges: Sequence[SlideRange], n: int, *, effort: int
    ) -> Nearest:
        """Look for the nearest ``n`` spots of some ranges in the ``effort`` nearest lists."""
        check_size(query_SD, self._lists.d, owner="the index")
        best: Nearest | None = None
        for start, stop in ranges:
            chosen = faiss.IDSelectorRange(start, stop, True)  # ids are sorted in a list
            how = faiss.SearchParametersIVF(nprobe=effort, sel=chosen)
            score_SN, spot_SN = self._lists.search(query_SD, n, params=how)
            found = Nearest(-score_SN if self._metric == "cosine" else score_SN, spot_SN)
            best = found if best is None else merge_nearest(best, found)
        return best or Nearest.nobody(len(query_SD), n)

    def vectors(self, spot_P: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give (P, D) vectors of some spots from half precision; not of codes."""
        vectors_PD: NDArray[np.float32] = self._lists.reconstruct_batch(spot_P)
        return vectors_PD

    def _add_vectors(self, pieces: Mapping[str, Arrays], read: Read) -> None:
        lists = self._lists.invlists
        list_N = np.concatenate([piece["lists"] for piece in pieces.values()])
        n_C = np.bincount(list_N, minlength=lists.nlist)
        for place, length in enumerate(n_C.tolist()):  # room at once: growing would double it
            lists.resize(place, length)
            lists.resize(place, 0)
        start = 0
        for name, piece in pieces.items():
            vectors_SD = read(name)
            spot_S = np.arange(start, start + len(vectors_SD))
            list_S = piece["lists"].astype(np.int64)
            arrays = (faiss.swig_ptr(array) for array in (vectors_SD, spot_S, list_S))
            self._lists.add_core(len(vectors_SD), *arrays)
            start += len(vectors_SD)

    def _add_codes(self, pieces: Mapping[str, Arrays]) -> None:
        list_S = np.concatenate([piece["lists"] for piece in pieces.values()])
        codes_SM = np.concatenate([piece["codes"] for piece in pieces.values()])
        order = np.argsort(list_S, kind="stable")
        bounds = np.searchsorted(list_S[order], np.arange(self._lists.nlist + 1))
        for place in np.flatnonzero(np.diff(bounds)).tolist():
            spots = order[bounds[place] : bounds[place + 1]]
            codes = np.ascontiguousarray(codes_SM[spots])
            self._lists.invlists.add_entries(
                place, len(spots), faiss.swig_ptr(spots), faiss.swig_ptr(codes)
            )


def _flat(vectors_CD: NDArray[np.float32], metric: Metric) -> Any:  # noqa: ANN401
    index = faiss.IndexFlat(vectors_CD.shape[1], FAISS_METRIC[metric])
    index.add(np.ascontiguousarray(vectors_CD))
    return index


def _nearest_list(
    vectors_SD: NDArray[np.float32], centroids_CD: NDArray[np.float32], metric: Metric
) -> NDArray[np.int64]:
    nearest_S1: NDArray[np.int64] = faiss.knn(
        vectors_SD, np.ascontiguousarray(centroids_CD), 1, metric=FAISS_METRIC[metric]
    )[1]
    return nearest_S1[:, 0]


def _quantizer(codebooks: NDArray[np.float32]) -> Any:  # noqa: ANN401
    n_bytes, _, part = codebooks.shape
    quantizer = faiss.ProductQuantizer(n_bytes * part, n_bytes, 8)
    faiss.copy_array_to_vector(codebooks.ravel(), quantizer.centroids)
    return quantizer
