import json
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.h5ad import read_h5ad_slide
from spahgc.ingest.readers.st import find_sections, read_st
from spahgc.ingest.readers.visium import read_visium
from spahgc.store.cohort import open_cohort
from spahgc.store.export import export_slide
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

KEPT = (
    *("name", "microns_per_pixel", "pitch_um", "spot_diameter_um"),
    *("patient", "section", "tissue"),
)


def built(_):
    slide = build_slide(n_spots=12)
    centers = slide.spots[["array_col", "array_row"]].to_numpy() * 317.3 + 150.5
    return replace(
        slide,
        centers=centers,
        microns_per_pixel=200 / 317.3,
        pitch_um=200.0,
        section="1",
        tissue="breast, right",
    )


def real_st(real_slides):
    sections = find_sections(real_slides / "her2st")
    return read_st(next(files for files in sections if files.name == "C5"))


def real_visium(real_slides):
    return read_visium(real_slides / "visium" / "brain_cytassist", patient="M 1")


def exported(slide, folder):
    store = folder / "data.zarr"
    add_slide(create_store(store), slide)
    return export_slide(open_cohort(store)[slide.name], folder, to="h5ad")


@pytest.fixture
def path(tmp_path):
    return exported(built(None), tmp_path)


def warnings_of(slide):
    return [finding.text for finding in slide.findings if finding.kind == "warning"]


@pytest.mark.parametrize("make", [built, real_st, real_visium])
def test_an_exported_slide_is_read_back_as_it_was(make, tmp_path, request):
    slide = make(request.getfixturevalue("real_slides") if make is not built else None)
    again = read_h5ad_slide(exported(slide, tmp_path))
    assert {key: getattr(again, key) for key in KEPT} == {key: getattr(slide, key) for key in KEPT}
    assert np.array_equal(again.centers, slide.centers)
    assert again.counts.dtype == slide.counts.dtype
    assert (again.counts != slide.counts).nnz == 0
    pd.testing.assert_frame_equal(again.spots, slide.spots, check_index_type=False)
    pd.testing.assert_frame_equal(again.genes, slide.genes, check_index_type=False)
    assert again.thumbnails.keys() == slide.thumbnails.keys()
    for name, picture in slide.thumbnails.items():
        assert np.array_equal(again.thumbnails[name].pixels, picture.pixels)
        assert again.thumbnails[name].scale == picture.scale
    assert warnings_of(again) == ["no image: the slide cannot be embedded"]


def test_what_is_stated_goes_before_what_an_export_says(path):
    slide = read_h5ad_slide(
        path, microns_per_pixel=0.65, pitch_um=210.0, patient="Q", spot_diameter_um=90.0
    )
    assert (slide.microns_per_pixel, slide.pitch_um, slide.spot_diameter_um) == (0.65, 210, 90)
    assert (slide.patient, slide.section) == ("Q", "1")


def test_a_scale_that_contradicts_the_lattice_is_refused(path):
    table = anndata.read_h5ad(path)
    table.obsm["spatial"] *= 2
    table.write_h5ad(path)
    with pytest.raises(SlideFormatError, match=r"differ by 50%: .*\(export\).*\(pitch\); give"):
        read_h5ad_slide(path)


def test_a_slide_of_unknown_scale_is_read_back_without_one(tmp_path):
    slide = replace(built(None), microns_per_pixel=None, pitch_um=None, spot_diameter_um=None)
    again = read_h5ad_slide(exported(slide, tmp_path))
    assert (again.microns_per_pixel, again.pitch_um, again.spot_diameter_um) == (None,) * 3


@pytest.mark.parametrize(
    "record",
    [
        "no JSON",
        "[1]",
        json.dumps({"microns_per_pixel": "wide"}),
        json.dumps({"pitch_um": -1}),
        json.dumps({"spot_diameter_um": True}),
        '{"microns_per_pixel": NaN}',
        json.dumps({"patient": ["C"]}),
        "[" * 100_000,
    ],
)
def test_a_record_that_is_none_is_left_out_and_told(path, record):
    with h5py.File(path, "a") as file:
        del file["uns/spahgc"]
        file["uns/spahgc"] = record
    slide = read_h5ad_slide(path, pitch_um=200)
    assert slide.patient is None
    assert slide.microns_per_pixel == pytest.approx(200 / 317.3)
    (told,) = [text for text in warnings_of(slide) if "no record of spahgc" in text]
    assert "\n" not in told


def test_what_a_prediction_keeps_under_the_same_name_is_passed_over(path):
    with h5py.File(path, "a") as file:
        del file["uns/spahgc"]
        file.create_group("uns/spahgc")["run"] = "abc"
    assert read_h5ad_slide(path).patient is None
