from types import SimpleNamespace

from spahgc.report.runs import spell_rings


def record(**rings):
    return SimpleNamespace(rings=rings)


SQUARE = {"lattice": "square", "n_near": 8, "radius_um": 282.9}
NEAREST = {"lattice": None, "n_near": 6, "radius_um": None}


def test_near_spots_are_spelled_once_for_slides_alike():
    told = spell_rings(
        [record(C2=SQUARE, C3=SQUARE), record(C3=SQUARE, A1={**SQUARE, "n_near": 4})]
    )
    assert told == [
        "8 spots on a square lattice, within 283 µm: C2, C3",
        "4 spots on a square lattice, within 283 µm: A1",
    ]


def test_near_spots_of_no_lattice_and_unknown_reach_are_spelled_as_such():
    assert spell_rings([record(C2=NEAREST)]) == ["the 6 nearest spots: C2"]
    assert spell_rings([record()]) == []
