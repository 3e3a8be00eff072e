import numpy as np
import pandas as pd
import pytest

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.scales import agreed_scales, lattice_scale


def agree(estimates, **options):
    findings = []
    return agreed_scales("A1", estimates, findings, **options), findings


def test_first_known_estimate_is_taken_and_all_are_kept():
    scales, findings = agree({"stated": None, "pitch": 0.5, "image": 0.51})
    assert list(scales.items()) == [("pitch", 0.5), ("image", 0.51)]
    (finding,) = findings
    assert (finding.kind, finding.text) == ("inferred", "0.5000 µm per pixel, taken from: pitch")


@pytest.mark.parametrize(("other", "kinds"), [(0.52, 1), (0.56, 2)], ids=["4 %", "12 %"])
def test_difference_above_a_twentieth_is_a_warning(other, kinds):
    _, findings = agree({"pitch": 0.5, "image": other})
    assert len(findings) == kinds


def test_contradiction_is_refused_unless_the_user_decides():
    with pytest.raises(SlideFormatError, match=r"A1: .*differ by 60%.*--mpp"):
        agree({"pitch": 0.5, "image": 0.8})
    scales, findings = agree({"stated": 0.5, "pitch": 0.8})
    assert next(iter(scales)) == "stated"
    assert findings[-1].kind == "warning"


def test_doubtful_estimate_contradicts_nothing_and_is_doubted_alone():
    _, findings = agree({"pitch": 0.5, "tag": 2.0}, doubtful={"tag"})
    assert [finding.kind for finding in findings] == ["inferred", "warning"]
    _, findings = agree({"pitch": None, "tag": 2.0}, doubtful={"tag"})
    assert findings[0].kind == "warning"
    assert "check it, or give --mpp" in findings[0].text


def test_nothing_known_is_a_warning_and_a_bad_number_an_error():
    scales, findings = agree({"stated": None})
    assert scales == {}
    assert "give --mpp" in findings[0].text
    with pytest.raises(SlideFormatError, match="expected positive numbers"):
        agree({"stated": float("nan")})


def spots(row, column):
    return pd.DataFrame({"array_row": row, "array_col": column})


def test_shape_of_the_lattice_decides_which_pitch_is_meant():
    row, column = np.nonzero(np.add.outer(np.arange(4), np.arange(8)) % 2 == 0)
    centers = np.stack([column * 25, row * 25 * np.sqrt(3)], axis=1)
    assert lattice_scale("A1", spots(row, column), centers, None, []) == (
        pytest.approx(2.0),
        100,
    )
    row, column = (at.ravel() for at in np.indices((4, 5)))
    centers = np.stack([column, row], axis=1) * 50.0
    assert lattice_scale("A1", spots(row, column), centers, None, []) == (None, None)
    assert lattice_scale("A1", spots(row, column), centers, 200, []) == (pytest.approx(4.0), 200)


def test_spots_without_a_lattice_are_told():
    findings = []
    centers = np.zeros((2, 2))
    assert lattice_scale("A1", spots([0, 0], [0, 2]), centers, 100, findings) == (None, 100)
    assert "fewer than three spots" in findings[-1].text
    assert lattice_scale("A1", pd.DataFrame(index=[0, 1]), centers, None, findings) == (None, None)
    assert "was not checked" in findings[-1].text
