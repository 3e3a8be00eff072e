import numpy as np
import pytest

from spahgc.lattices import find_rings, fit_lattice, parity_of, recognise_lattice

SECOND_STEP = (21.61, 24.06)
"""Pixels from column to column and from row to row, as on real 2k arrays."""
ONE, BOTH = (dict.fromkeys(("square", "staggered", "hexagonal"), n) for n in (1, 2))


def square_array(columns=12, rows=10):
    return np.array([(c, r) for r in range(rows) for c in range(columns)], float)


def second_array(columns=range(2, 66), rows=range(2, 63)):
    """Every place of a 2k array; column and row add up to an even number."""
    return np.array([(c, r) for c in columns for r in rows if (c + r) % 2 == 0], float)


def placed(array_S2, step, *, turn=0.0, mirrored=False, jitter=0.0):
    angle = np.deg2rad(turn)
    turn_22 = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip_22 = np.diag([1, -1]) if mirrored else np.eye(2)
    noise_S2 = np.random.default_rng(3).normal(0, jitter, array_S2.shape) if jitter else 0
    return array_S2 @ (turn_22 @ flip_22 @ np.diag(step)).T + 500 + noise_S2


def recognised(array_S2, step, **how):
    return recognise_lattice(array_S2, fit_lattice(array_S2, placed(array_S2, step, **how)))


@pytest.mark.parametrize("turn", [0, 3, 90, 180, -135], ids=lambda turn: f"{turn}°")
@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "mirrored"])
def test_each_lattice_is_recognised_however_it_lies_in_the_image(turn, mirrored):
    how = {"turn": turn, "mirrored": mirrored, "jitter": 1.0}
    assert recognised(second_array(), SECOND_STEP, **how) == "staggered"
    assert recognised(square_array(), (73, 73), **how) == "square"
    assert recognised(second_array(), (50, 86.6), **how) == "hexagonal"


def test_a_2k_array_with_rows_and_columns_swapped_is_still_one():
    assert recognised(second_array()[:, ::-1], SECOND_STEP[::-1]) == "staggered"


@pytest.mark.parametrize("n_spots", [7, 20, 400], ids=lambda n: f"{n} spots")
def test_any_part_of_a_2k_array_is_recognised_and_moved_ids_as_well(n_spots):
    generator = np.random.default_rng(n_spots)
    part_S2 = generator.permutation(second_array())[:n_spots]
    for moved in ((0, 0), (1, 0), (-70, -3)):
        assert recognised(part_S2 + moved, SECOND_STEP, jitter=0.5) == "staggered"
    corner_S2 = second_array(range(4, 8), range(4, 8))
    assert recognised(corner_S2, SECOND_STEP, jitter=0.3) == "staggered"


def test_a_few_stray_spots_do_not_hide_a_2k_array():
    array_S2 = second_array(range(20, 40), range(20, 40))
    array_S2[:15, 0] += 1
    assert parity_of(array_S2) == (185, 200)
    assert recognised(array_S2, SECOND_STEP, jitter=1.0) == "staggered"


def test_decimal_coordinates_are_rounded_before_their_sum_is_judged():
    array_S2 = second_array(range(20, 40), range(20, 40))
    wobble_S2 = np.random.default_rng(0).uniform(-0.2, 0.2, array_S2.shape)
    assert parity_of(array_S2 + wobble_S2) == (200, 200)


def test_a_2k_array_without_pixels_is_told_by_its_ids_unless_they_are_few():
    assert recognise_lattice(second_array(range(10, 20), range(10, 20)), None) == "staggered"
    assert recognise_lattice(second_array(range(10, 14), range(10, 14)), None) == "square"
    assert recognise_lattice(square_array(), None) == "square"
    assert recognise_lattice(np.zeros((0, 2)), None) == "square"


def test_every_other_spot_of_a_1k_array_is_no_2k_array():
    thinned_S2 = second_array(range(2, 33), range(2, 35))
    assert recognised(thinned_S2, (73, 73), jitter=3.0) == "square"
    larger_S2 = second_array()  # than a 1k array can be, in an image that was stretched
    assert recognised(larger_S2, (73, 73)) == "staggered"


def test_few_spots_of_one_parity_on_a_1k_array_are_no_2k_array():
    diagonal_S2 = np.array([(3, 3), (4, 4), (5, 5), (4, 2), (5, 3), (3, 5), (4, 6)], float)
    assert recognised(diagonal_S2, (73, 73), jitter=1.0) == "square"


def rings(array_S2, step, n_rings, *, lattice=None, keep_array=True, **how):
    centers_S2 = placed(array_S2, step, **how)
    array = array_S2.astype(np.int64) if keep_array else None
    return find_rings(array, centers_S2, lattice=lattice, n_rings=n_rings)


LATTICES = {
    "square 4": (square_array(), (73, 73), ONE, 4, 73),
    "square 8": (square_array(), (73, 73), BOTH, 8, 73 * 2**0.5),
    "staggered 4": (second_array(range(20), range(20)), SECOND_STEP, ONE, 4, 32.34),
    "staggered 8": (second_array(range(20), range(20)), SECOND_STEP, BOTH, 8, 48.12),
    "hexagonal": (second_array(range(20), range(20)), (50, 86.6), ONE, 6, 100),
}


@pytest.mark.parametrize("known", [True, False], ids=["by array", "by distance"])
@pytest.mark.parametrize("case", LATTICES)
def test_near_are_all_spots_of_a_ring_or_none_of_them(case, known):
    array_S2, step, n_rings, n_near, radius = LATTICES[case]
    table_SQ, ring = rings(array_S2, step, n_rings, keep_array=known, turn=7, jitter=1e-6)
    assert table_SQ.shape[1] == ring.n_near == n_near
    assert ring.radius_px == pytest.approx(radius, rel=0.005)
    centers_S2 = placed(array_S2, step)
    far_SS = np.linalg.norm(centers_S2[:, None] - centers_S2[None], axis=2)
    np.fill_diagonal(far_SS, np.inf)
    expected = [set(np.flatnonzero(row < 1.01 * radius)) for row in far_SS]
    found = [set(row[row >= 0]) for row in table_SQ]
    assert found == expected
    n_there_S = (table_SQ >= 0).sum(axis=1)
    assert n_there_S.max() == n_near  # in the middle
    assert n_there_S.min() < n_near  # at the edge
    assert all((row[:n] >= 0).all() for row, n in zip(table_SQ, n_there_S, strict=True))


def test_spots_printed_off_their_place_have_the_neighbours_of_their_place():
    array_S2 = square_array(20, 20)
    exact_SQ, _ = rings(array_S2, (73, 73), ONE)
    moved_SQ, ring = rings(array_S2, (73, 73), ONE, jitter=12)
    assert np.array_equal(np.sort(exact_SQ), np.sort(moved_SQ))
    assert ring.radius_px == pytest.approx(73, rel=0.02)


def test_a_hole_and_a_spot_by_itself_have_fewer_neighbours_and_never_farther_ones():
    array_S2 = square_array(5, 5)
    hole = 12
    array_S2 = np.vstack([np.delete(array_S2, hole, axis=0), [(30, 30)]])
    table_SQ, _ = rings(array_S2, (73, 73), ONE)
    assert (table_SQ[-1] == -1).all()
    beside = 7
    assert (table_SQ[beside] >= 0).sum() == 3


def test_order_of_the_spots_does_not_matter():
    array_S2, step = second_array(range(12), range(12)), SECOND_STEP
    order = np.random.default_rng(1).permutation(len(array_S2))
    plain_SQ, _ = rings(array_S2, step, BOTH)
    shuffled_SQ, _ = rings(array_S2[order], step, BOTH)
    for row, spot in enumerate(order):
        here = shuffled_SQ[row]
        assert set(order[here[here >= 0]]) == set(plain_SQ[spot][plain_SQ[spot] >= 0])


def test_a_lattice_that_was_recorded_is_not_guessed_again():
    few_S2 = second_array(range(4), range(2))  # too few to tell
    assert rings(few_S2, (50, 50), ONE)[1].lattice == "square"
    table_SQ, ring = rings(few_S2, (50, 50), ONE, lattice="staggered")
    assert (ring.lattice, ring.n_near) == ("staggered", 4)
    assert (table_SQ >= 0).any()


def test_scattered_and_too_few_spots_lie_on_no_lattice():
    scattered_S2 = np.random.default_rng(0).uniform(0, 1000, (300, 2))
    assert find_rings(None, scattered_S2, lattice=None, n_rings=ONE) is None
    assert find_rings(None, np.zeros((20, 2)), lattice=None, n_rings=ONE) is None
    for n_spots in (0, 1, 2):
        array_S2 = np.arange(2 * n_spots).reshape(n_spots, 2)
        assert find_rings(array_S2, array_S2 * 1.0, lattice=None, n_rings=ONE) is None


def test_places_too_far_apart_to_be_numbered_are_left_to_distances():
    array_S2 = square_array(6, 6).astype(np.int64)
    array_S2[0] = (2**60, -(2**60))
    table_SQ, ring = find_rings(array_S2, square_array(6, 6) * 50, lattice=None, n_rings=ONE)
    assert ring == ("square", 4, pytest.approx(50))
    assert set(table_SQ[0][table_SQ[0] >= 0]) == {1, 6}
