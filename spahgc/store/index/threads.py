"""Share compiled loops among threads, as many as faiss may use."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spahgc.store.index.library import faiss


def on_threads(work: Callable[[int, int], None], n_rows: int, *, at_once: int) -> None:
    """Call ``work(start, stop)`` for all rows, at most ``at_once`` of them in a call."""
    starts = range(0, n_rows, at_once)
    stops = [min(start + at_once, n_rows) for start in starts]
    with ThreadPoolExecutor(min(faiss.omp_get_max_threads(), max(len(starts), 1))) as pool:
        list(pool.map(work, starts, stops))  # the list raises what a thread raised
