import itertools
import threading

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from spahgc import compiled
from spahgc.compiled import move_four, on_threads


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float64])
def test_four_neighbours_move_from_any_place_to_any_place(dtype):
    @njit
    def move(to_N, to, from_N, at):
        move_four(to_N, np.uintp(to), from_N, np.uintp(at))

    from_N = np.arange(1, 12).astype(dtype)
    for at, to in itertools.product(range(8), range(8)):
        to_N = np.zeros(11, dtype)
        move(to_N, to, from_N, at)
        expected_N = np.zeros(11, dtype)
        expected_N[to : to + 4] = from_N[at : at + 4]
        assert np.array_equal(to_N, expected_N)
    within_N = from_N.copy()
    move(within_N, 3, within_N, 6)  # one of them is read and written
    assert within_N.tolist() == [1, 2, 3, 7, 8, 9, 10, 8, 9, 10, 11]
    from_N.flags.writeable = False
    to_N = np.zeros(4, dtype)
    move(to_N, 0, from_N, 7)
    assert to_N.tolist() == [8, 9, 10, 11]
    others = [np.zeros(4, np.int8), np.zeros((4, 1), dtype), np.zeros(8, dtype)[::2], from_N]
    for other_N in others:  # another type, two dimensions, gaps, not to be written
        with pytest.raises(TypingError, match="move_four cannot move"):
            move(other_N, 0, from_N, 0)
