import numpy as np
import pytest

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.lattice import (
    check_lattice,
    fit_lattice,
    hexagonal_microns_per_pixel,
    square_microns_per_pixel,
)


def square_array(columns=6, rows=5):
    return np.array([(c, r) for r in range(rows) for c in range(columns)], float)


def hexagonal_array(columns=12, rows=8):
    return np.array(
        [(c, r) for r in range(rows) for c in range(columns) if (c + r) % 2 == 0], float
    )


def placed(array_S2, *, step=(290, 290), turn=0.0, mirrored=False, offset=(300, 400)):
    angle = np.deg2rad(turn)
    rotation_22 = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip_22 = np.diag([1, -1]) if mirrored else np.eye(2)
    return array_S2 @ (rotation_22 @ flip_22 @ np.diag(step)).T + offset


@pytest.mark.parametrize("turn", [0, 3.5, -45, 90, 135, -170], ids=lambda turn: f"{turn}°")
@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "mirrored"])
def test_fit_finds_step_turn_and_mirroring(turn, mirrored):
    array_S2 = square_array()
    centers_S2 = placed(array_S2, step=(290, 300), turn=turn, mirrored=mirrored)
    fit = fit_lattice(array_S2, centers_S2)
    assert fit.column_step_px == pytest.approx(290)
    assert fit.row_step_px == pytest.approx(300)
    assert fit.rotation_degrees == pytest.approx(turn)
    assert fit.is_mirrored is mirrored
    assert fit.offset == pytest.approx([300, 400])
    assert fit.largest_residual_px == pytest.approx(0, abs=1e-6)


def test_residuals_are_distances_in_pixels():
    array_S2 = square_array(40, 40)
    noise_S2 = np.random.default_rng(0).normal(0, 10, array_S2.shape)
    fit = fit_lattice(array_S2, placed(array_S2) + noise_S2)
    assert fit.rms_residual_px == pytest.approx(np.sqrt(2) * 10, rel=0.05)
    assert fit.rms_residual_px < fit.largest_residual_px < 60


@pytest.mark.parametrize(
    "array_S2",
    [
        np.zeros((0, 2)),
        np.array([(0.0, 0), (1, 0)]),
        np.array([(0.0, 3), (1, 3), (2, 3), (5, 3)]),
        np.array([(0.0, 0), (1, 1), (2, 2)]),
    ],
    ids=["no spot", "two spots", "one row", "one diagonal"],
)
def test_slide_too_small_to_tell_has_no_fit(array_S2):
    assert fit_lattice(array_S2, placed(array_S2)) is None


def test_spots_without_pixels_are_left_out_of_the_fit():
    array_S2 = square_array()
    centers_S2 = placed(array_S2)
    centers_S2[3:7] = np.nan
    assert fit_lattice(array_S2, centers_S2).column_step_px == pytest.approx(290)
    assert fit_lattice(array_S2, np.full_like(centers_S2, np.nan)) is None


def test_pitch_tells_the_pixel_size():
    square = fit_lattice(square_array(), placed(square_array(), step=(280, 300)))
    assert square_microns_per_pixel(square) == pytest.approx(200 / 290)
    assert square_microns_per_pixel(square, pitch_um=145) == pytest.approx(0.5)
    array_S2 = hexagonal_array()
    hexagonal = fit_lattice(array_S2, placed(array_S2, step=(100, 173.2)))
    assert hexagonal_microns_per_pixel(hexagonal) == pytest.approx(0.5)
    assert hexagonal_microns_per_pixel(hexagonal, pitch_um=50) == pytest.approx(0.25)


def test_regular_slide_gets_one_check_and_no_warning():
    fit = fit_lattice(square_array(), placed(square_array(), turn=2))
    (finding,) = check_lattice(fit, name="C2", shape="square")
    assert finding.kind == "check"
    assert "pitch of 290.0 px, turned by 2.0°, not mirrored" in finding.text
    array_S2 = hexagonal_array()
    fit = fit_lattice(array_S2, placed(array_S2, step=(100, 173.2), mirrored=True))
    (finding,) = check_lattice(fit, name="C2", shape="hexagonal")
    assert "pitch of 200.0 px, turned by 0.0°, mirrored" in finding.text


def warnings_of(array_S2, centers_S2, shape="square"):
    findings = check_lattice(fit_lattice(array_S2, centers_S2), name="C2", shape=shape)
    return [finding.text for finding in findings if finding.kind == "warning"]


def test_swapped_pixel_columns_are_named():
    (text,) = warnings_of(square_array(), placed(square_array())[:, ::-1])
    assert "x and y look swapped" in text


@pytest.mark.parametrize("turn", [90, -88], ids=lambda turn: f"{turn}°")
def test_quarter_turn_is_named(turn):
    (text,) = warnings_of(square_array(), placed(square_array(), turn=turn))
    assert f"turned by {turn}°, about a quarter turn" in text


def test_stretched_coordinates_are_named():
    (text,) = warnings_of(square_array(), placed(square_array(), step=(290, 340)))
    assert "rows lie 1.17 column steps apart, expected 1.00" in text
    array_S2 = hexagonal_array()
    (text,) = warnings_of(array_S2, placed(array_S2, step=(100, 100)), "hexagonal")
    assert "rows lie 1.00 column steps apart, expected 1.73" in text


def test_spots_in_another_order_are_refused():
    array_S2 = square_array()
    shuffled_S2 = np.random.default_rng(1).permutation(placed(array_S2))
    fit = fit_lattice(array_S2, shuffled_S2)
    with pytest.raises(SlideFormatError, match="C2: the spots' pixel coordinates do not follow"):
        check_lattice(fit, name="C2", shape="square")


@pytest.mark.parametrize("step", [(290, 0), (0, 290), (0, 0)], ids=["row", "column", "point"])
def test_centers_on_one_line_are_refused(step):
    fit = fit_lattice(square_array(), placed(square_array(), step=step))
    for shape in ("square", "hexagonal"):
        with pytest.raises(SlideFormatError, match="C2: the spots' pixel coordinates"):
            check_lattice(fit, name="C2", shape=shape)
