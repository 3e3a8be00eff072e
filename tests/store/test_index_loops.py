import numpy as np
import pytest

from spahgc.store.index import loops


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("how", ["cosine", "l2", "l1"])
def test_the_distance_of_two_vectors_is_the_same_wherever_they_stand(size, how):
    measure = getattr(loops, f"{how}_distances")
    generator = np.random.default_rng(size)
    one_D, other_D = generator.normal(size=(2, size)).astype(np.float32)
    query_SD, vectors_UD = generator.normal(size=(2, 30, size)).astype(np.float32)
    query_SD[[3, 20]], vectors_UD[[0, 29]] = one_D, other_D
    found_P, turned_P = np.empty(4), np.empty(4)
    query_P, vector_P = np.array([3, 3, 20, 20]), np.array([0, 29, 29, 0])
    measure(query_SD, vectors_UD, query_P, vector_P, found_P)
    measure(vectors_UD, query_SD, vector_P, query_P, turned_P)
    assert len({*found_P, *turned_P}) == 1
    one_D, other_D = one_D.astype(np.float64), other_D.astype(np.float64)
    true = {
        "cosine": 1 - one_D @ other_D / np.linalg.norm(one_D) / np.linalg.norm(other_D),
        "l2": np.linalg.norm(one_D - other_D),
        "l1": np.abs(one_D - other_D).sum(),
    }
    assert found_P[0] == pytest.approx(true[how], rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_room_keeps_the_highest_ranks_of_rows_and_of_columns(n):
    rank_IJ = np.random.default_rng(n).integers(0, 60, (90, 130)).astype(np.float32)  # with ties
    for keep, table in ((loops.keep_for_rows, rank_IJ), (loops.keep_for_columns, rank_IJ.T)):
        n_queries = len(table)
        shape = (n_queries, n + 3)
        room = (
            np.empty(shape, np.float32),
            np.empty(shape, np.int32),
            np.zeros(n_queries, np.int64),
            np.full(n_queries, -np.inf, np.float32),
        )
        for start in range(0, n_queries, 50):
            keep(rank_IJ, 1000, room, n, start, min(start + 50, n_queries))
        loops.keep_no_more(room, n, 0, n_queries)
        assert (room[2] == n).all()
        assert np.array_equal(np.sort(room[0][:, :n]), np.sort(table, axis=1)[:, -n:])
        kept = np.take_along_axis(table, room[1][:, :n].astype(int) - 1000, axis=1)
        assert np.array_equal(kept, room[0][:, :n])
        assert all(len(set(row)) == n for row in room[1][:, :n].tolist())
