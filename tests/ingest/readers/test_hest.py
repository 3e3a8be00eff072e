import json

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.hest import HestFiles, find_hest, read_hest

PITCH_PX = 80.0
SIZE = (700, 640)  # width, height
FACTS = {
    "id": "TENX1",
    "patient": "Patient 2",
    "organ": "Breast",
    "disease_state": "Cancer",
    "st_technology": "Visium",
    "dataset_title": "Breast cancer, two blocks",
    "inter_spot_dist": 100.0,
    "spot_diameter": 55.0,
    "pixel_size_um_estimated": 1.25,
    "pixel_size_um_embedded": 0.5,
    "fullres_px_width": SIZE[0],
    "fullres_px_height": SIZE[1],
}


def lattice(technology="Visium", *, pitch_px=PITCH_PX, rows=6, columns=5):
    if technology == "Visium":
        row, column = np.nonzero(np.add.outer(np.arange(rows), np.arange(2 * columns)) % 2 == 0)
        step = [pitch_px / 2, pitch_px * np.sqrt(3) / 2]
    else:
        row, column = (at.ravel() for at in np.indices((rows, columns)))
        step = [pitch_px, pitch_px]
    return row, column, np.stack([column, row], axis=1) * step + [90.25, 80.5]


def make(folder, name="TENX1", *, facts=FACTS, places=None, counts=None, image=True):
    """Write one slide as the collection does."""
    row, column, centers = lattice() if places is None else places
    n = len(row)
    counts = np.random.default_rng(0).poisson(2, (n, 3)) if counts is None else counts
    adata = anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {
                "in_tissue": np.ones(n, bool),
                "pxl_col_in_fullres": centers[:, 0],
                "pxl_row_in_fullres": centers[:, 1],
                "array_row": row,
                "array_col": column,
                "total_counts": counts.sum(axis=1).astype(np.float32),
            },
            index=[f"{x:03}x{y:03}" for x, y in zip(column, row, strict=True)],
        ),
        var=pd.DataFrame(index=[f"G{i}" for i in range(counts.shape[1])]),
        obsm={"spatial": centers},
    )
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": np.full((64, 70, 3), 200, np.uint8)},
            "scalefactors": {
                "tissue_downscaled_fullres_scalef": 0.1,
                "spot_diameter_fullres": 55 / 1.25,
            },
        }
    }
    for part in ("st", "wsis", "metadata"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(folder / "st" / f"{name}.h5ad")
    if image:
        write_image(folder / "wsis" / f"{name}.tif")
    if facts is not None:
        (folder / "metadata" / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def write_image(path, *, microns_per_pixel=1.25, size=SIZE):
    tifffile.imwrite(
        path,
        np.full((size[1], size[0], 3), 220, np.uint8),
        tile=(64, 64),
        photometric="rgb",
        bigtiff=True,
        resolution=(10_000 / microns_per_pixel,) * 2,
        resolutionunit="CENTIMETER",
    )


def read_only(folder, **options):
    (files,) = find_hest(folder)
    return read_hest(files, **options)


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


def test_slides_are_found_with_what_was_downloaded(tmp_path):
    make(tmp_path, "TENX2", image=False, facts=None)
    make(tmp_path, "TENX1")
    (tmp_path / "st" / "._TENX1.h5ad").write_bytes(b"")
    assert find_hest(tmp_path) == [
        HestFiles(
            name="TENX1",
            table=tmp_path / "st" / "TENX1.h5ad",
            image=tmp_path / "wsis" / "TENX1.tif",
            metadata=tmp_path / "metadata" / "TENX1.json",
        ),
        HestFiles(name="TENX2", table=tmp_path / "st" / "TENX2.h5ad"),
    ]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", r"no slide found, expected st/ID\.h5ad"),
        ("gone", "gone does not exist, expected one that holds"),
    ],
    ids=["empty", "missing"],
)
def test_folder_without_slides_is_named(tmp_path, folder, message):
    with pytest.raises(SlideFormatError, match=message):
        find_hest(tmp_path / folder)


def test_slide_is_read_with_its_metadata(tmp_path):
    slide = read_only(make(tmp_path))
    _, _, centers = lattice()
    assert (slide.name, slide.platform) == ("TENX1", "hest")
    assert (slide.patient, slide.tissue) == ("Patient 2", "Breast, Cancer")
    assert (slide.pitch_um, slide.spot_diameter_um) == (100, 55)
    assert np.array_equal(slide.centers, centers)
    assert slide.counts.dtype == np.uint32
    assert (slide.image.size, slide.image.reader) == (SIZE, "openslide")
    assert set(slide.thumbnails) == {"hires", "lowres"}
    assert slide.microns_per_pixel == pytest.approx(1.25)
    assert any("Patient 2" in text and "two blocks" in text for text in texts(slide, "inferred"))


def test_every_pixel_size_is_kept_and_the_embedded_one_contradicts_nothing(tmp_path):
    slide = read_only(make(tmp_path))
    expected = {"pitch": 1.25, "metadata_estimated": 1.25, "image": 1.25}
    expected |= {"metadata_embedded": 0.5, "spot_diameter": 1.25}
    assert slide.microns_per_pixel_sources == {
        key: pytest.approx(value) for key, value in expected.items()
    }
    (warning,) = texts(slide, "warning")
    assert "µm per pixel differ by 60%" in warning
    assert "metadata_embedded" in warning


def test_spot_diameter_is_that_of_the_true_spot(tmp_path):
    slide = read_only(make(tmp_path))
    assert slide.microns_per_pixel_sources["spot_diameter"] == pytest.approx(1.25)  # not 65/55 off


def test_vendors_tissue_flag_is_kept_and_doubted(tmp_path):
    slide = read_only(make(tmp_path))
    assert slide.spots["in_tissue"].all()
    assert any("does not tell tissue from glass" in text for text in texts(slide, "check"))
    assert "total_counts" in slide.spots


def test_missing_parts_are_told_and_tolerated(tmp_path):
    slide = read_only(make(tmp_path, image=False, facts=None))
    assert (slide.patient, slide.tissue, slide.image) == (None, None, None)
    assert slide.microns_per_pixel == pytest.approx(1.25)  # Visium's pitch, by its lattice
    assert list(slide.thumbnails) == ["hires"]
    warnings = "; ".join(texts(slide, "warning"))
    assert "no image" in warnings
    assert "no metadata" in warnings


@pytest.mark.parametrize(
    "facts",
    [{}, {"patient": None, "organ": ""}, {"patient": float("nan"), "inter_spot_dist": "far"}],
    ids=["none", "null", "NaN"],
)
def test_empty_metadata_leave_the_patient_unknown(tmp_path, facts):
    slide = read_only(make(tmp_path, facts=facts))
    assert (slide.patient, slide.tissue) == (None, None)
    assert slide.microns_per_pixel == pytest.approx(1.25)


@pytest.mark.parametrize(("value", "patient"), [(3, "3"), (3.0, "3"), (" P1 ", "P1")], ids=str)
def test_patient_may_be_a_number(tmp_path, value, patient):
    assert read_only(make(tmp_path, facts={"patient": value})).patient == patient


def test_patient_and_pixel_size_given_win(tmp_path):
    slide = read_only(make(tmp_path), patient="P7", microns_per_pixel=1.2)
    assert (slide.patient, slide.microns_per_pixel) == ("P7", 1.2)


def test_technology_tells_the_pitch_where_nothing_else_does(tmp_path):
    facts = {"st_technology": "Spatial Transcriptomics"}
    places = lattice("ST")
    slide = read_only(make(tmp_path, facts=facts, places=places, image=False))
    assert (slide.pitch_um, slide.spot_diameter_um) == (200, 100)
    assert slide.microns_per_pixel == pytest.approx(200 / PITCH_PX)


def test_square_lattice_without_metadata_has_no_pixel_size_of_its_own(tmp_path):
    slide = read_only(make(tmp_path, facts=None, places=lattice("ST")))
    assert slide.microns_per_pixel_sources == {"image": pytest.approx(1.25)}
    assert any("give --pitch-um" in text for text in texts(slide, "warning"))
    assert read_only(tmp_path, pitch_um=104).microns_per_pixel == pytest.approx(104 / PITCH_PX)


def test_estimate_that_contradicts_the_lattice_is_refused_unless_stated(tmp_path):
    make(tmp_path, facts=FACTS | {"pixel_size_um_estimated": 0.5})
    with pytest.raises(SlideFormatError, match=r"TENX1: .*differ by 60%.*--mpp"):
        read_only(tmp_path)
    assert read_only(tmp_path, microns_per_pixel=1.25).microns_per_pixel == 1.25


def test_image_of_another_size_than_the_metadata_say_is_a_warning(tmp_path):
    make(tmp_path)
    write_image(tmp_path / "wsis" / "TENX1.tif", size=(720, 640))
    slide = read_only(tmp_path)
    assert any("state 700 x 640 px, the image has 720" in text for text in texts(slide, "warning"))


def test_image_of_another_slide_is_refused(tmp_path):
    make(tmp_path)
    write_image(tmp_path / "wsis" / "TENX1.tif", size=(200, 180))
    with pytest.raises(SlideFormatError, match=r"spots lie outside TENX1\.tif of 200 x 180 px"):
        read_only(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"], ids=["empty", "cut", "list", "NUL"])
def test_broken_metadata_are_named(tmp_path, content):
    make(tmp_path)
    (tmp_path / "metadata" / "TENX1.json").write_text(content, encoding="utf-8")
    with pytest.raises(SlideFormatError, match=r"TENX1\.json: found .*expected .*JSON") as caught:
        read_only(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_is_left_as_it_was(tmp_path):
    make(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    read_only(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    technology=st.sampled_from(["Visium", "Spatial Transcriptomics"]),
    pitch_px=st.floats(10, 500),
    shape=st.tuples(st.integers(2, 6), st.integers(2, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_written_is_read_back(tmp_path, technology, pitch_px, shape, seed):
    places = lattice(technology, pitch_px=pitch_px, rows=shape[0], columns=shape[1])
    row, column, centers = places
    counts = np.random.default_rng(seed).integers(0, 2**24, (len(row), 4))
    facts = {"st_technology": technology}
    slide = read_only(make(tmp_path, facts=facts, places=places, counts=counts, image=False))
    assert np.array_equal(slide.counts.toarray(), counts)
    assert np.abs(slide.centers - centers).max() < 1e-6
    assert (
        slide.spots[["array_row", "array_col"]].to_numpy().tolist()
        == np.stack([row, column], axis=1).tolist()
    )
    assert slide.microns_per_pixel == pytest.approx(slide.pitch_um / pitch_px)
