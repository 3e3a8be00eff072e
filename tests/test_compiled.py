import threading

import pytest
from numba import njit

from spahgc import compiled
from spahgc.compiled import on_threads


def test_where_nothing_compiled_can_be_kept_loops_run_all_the_same(monkeypatch):
    def nowhere(*, cache=False, **settings):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**settings)

    monkeypatch.setattr(compiled, "njit", nowhere)
    assert compiled.compiled(lambda number: number + 1)(2) == 3


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize(("n_rows", "at_once"), [(0, 3), (1, 3), (7, 3), (9, 3), (9, 100)])
def test_threads_do_every_row_once(n_rows, at_once, n_threads):
    done, lock = [], threading.Lock()

    def work(start, stop):
        with lock:
            done.extend(range(start, stop))
        assert stop - start <= at_once

    on_threads(work, n_rows, at_once=at_once, n_threads=n_threads)
    assert sorted(done) == list(range(n_rows))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_what_a_thread_raises_reaches_the_caller(n_threads):
    def work(start, stop):
        if start:
            raise ValueError(f"rows {start} to {stop}")

    with pytest.raises(ValueError, match="rows 2 to 4"):
        on_threads(work, 4, at_once=2, n_threads=n_threads)
