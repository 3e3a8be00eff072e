"""Positions are compared with the arrays that 10x prints."""

import numpy as np
import pandas as pd
import pytest

from spahgc.demo.visium import VisiumSlide, write_visium
from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium import read_visium
from spahgc.ingest.readers.visium_array import VISIUM, check_array, pitch_scale, square_bins

STEP_PX = np.array([100.0, 100 * 3**0.5])  # of a column and of a row, at 0.5 µm per pixel


def full_array(n_rows, n_columns):
    array = [(row, column) for row in range(n_rows) for column in range(row % 2, n_columns, 2)]
    table = pd.DataFrame(array, columns=["array_row", "array_col"])
    places = table[["array_col", "array_row"]].to_numpy() * STEP_PX + 300
    return table.assign(x=places[:, 0], y=places[:, 1])


def findings_of(positions, kind):
    findings = []
    check_array("V1", positions, VISIUM, findings)
    return [finding.text for finding in findings if finding.kind == kind]


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "told"),
    [
        (78, 128, "4992 of the 4992 positions of a 6.5 mm capture area are listed"),
        (128, 224, "14336 of the 14336 positions of a 11 mm capture area are listed"),
    ],
    ids=["6.5 mm", "11 mm"],
)
def test_a_whole_array_is_told_and_warned_of_nothing(n_rows, n_columns, told):
    positions = full_array(n_rows, n_columns)
    assert findings_of(positions, "check")[0] == told
    assert not findings_of(positions, "warning")
    assert pitch_scale(positions, VISIUM) == pytest.approx(0.5)


def test_a_few_missing_positions_are_warned_of_and_a_cut_out_is_only_told():
    positions = full_array(78, 128)
    lost = "4991 of the 4992 positions of a 6.5 mm capture area are listed"
    assert findings_of(positions[1:], "warning") == [lost]
    assert not findings_of(positions[positions["array_row"] < 30], "warning")


def test_rows_and_columns_beyond_every_array_are_warned_of():
    warnings = findings_of(full_array(140, 230), "warning")
    assert "array rows reach 139 and columns 229, expected at most 127 and 223" in warnings[0]


def test_more_positions_than_an_array_holds_are_warned_of():
    positions = full_array(78, 128)
    odd = positions.assign(array_col=positions["array_col"] ^ 1)
    odd["x"] = odd["array_col"] * STEP_PX[0] + 300
    warnings = findings_of(pd.concat([positions, odd]), "warning")
    assert warnings[0].startswith("9984 of the 4992 positions")
    assert "4992 of 9984 spots have an odd sum of array row and column" in warnings[1]


def test_square_bins_may_lie_at_odd_places():
    place = np.stack(np.indices((5, 6))[::-1], axis=-1).reshape(-1, 2)
    positions = pd.DataFrame(place, columns=["array_col", "array_row"])
    positions[["x", "y"]] = place * 32.0
    findings = []
    check_array("H1", positions, square_bins(8), findings)
    assert [finding.kind for finding in findings] == ["check"]
    assert pitch_scale(positions, square_bins(8)) == pytest.approx(0.25)


def test_spots_all_at_one_place_are_refused():
    positions = full_array(8, 10).assign(x=5.0, y=5.0)
    assert pitch_scale(positions, VISIUM) is None
    with pytest.raises(SlideFormatError, match="on one line of the image"):
        check_array("V1", positions, VISIUM, [])


def test_a_whole_11_mm_slide_is_read(tmp_path):
    positions = full_array(128, 224)
    generator = np.random.default_rng(0)
    in_tissue = generator.random(len(positions)) < 0.1
    slide = VisiumSlide(
        barcodes=tuple(f"{n:016b}-1" for n in range(len(positions))),
        array=positions[["array_row", "array_col"]].to_numpy(),
        centers=positions[["x", "y"]].to_numpy(),
        in_tissue=in_tissue,
        counts=generator.poisson(1.0, (in_tissue.sum(), 3)).astype(np.uint32) + np.uint32(1),
        gene_ids=("A", "B", "C"),
        gene_symbols=("a", "b", "c"),
        microns_per_pixel=0.5,
    )
    write_visium(tmp_path, slide)
    read = read_visium(tmp_path)
    assert np.array_equal(read.centers, slide.centers[in_tissue])
    assert np.array_equal(read.counts.toarray(), slide.counts)
    assert read.spots["array_row"].max() == 127
