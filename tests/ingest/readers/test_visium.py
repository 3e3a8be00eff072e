"""Visium folders of every shape are read exactly, or refused in one clear line."""

import gzip
import json
import shutil
import string
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from scipy.io import mmread
from scipy.sparse import csc_matrix

from spahgc.demo.formats import VisiumSlide, write_visium
from spahgc.errors import ImageError, SlideFormatError
from spahgc.ingest.readers.visium import read_visium
from spahgc.ingest.readers.visium_counts import read_visium_counts

MICRONS_PER_PIXEL = 5.0


def build_truth(*, rows=5, columns=8, n_genes=4, counts=None, in_tissue=None, with_image=False):
    """Build a small capture area; its first barcode has the lowest place, not the lowest name."""
    rng = np.random.default_rng(5)
    array = np.array(
        [(row, column) for row in range(rows) for column in range(row % 2, columns, 2)]
    )
    drawn = rng.permutation(4**8)[: len(array)]
    barcodes = tuple("".join("ACGT"[n // 4**i % 4] for i in range(8)) + "-1" for n in drawn)
    in_tissue = rng.random(len(array)) < 0.6 if in_tissue is None else in_tissue
    if counts is None:
        counts = rng.poisson(1.0, (in_tissue.sum(), n_genes)).astype(np.uint32)
    centers = 15 + array[:, ::-1] * np.array([50, 50 * 3**0.5]) / MICRONS_PER_PIXEL
    size = np.ceil(centers.max(axis=0) + 15).astype(int)
    return VisiumSlide(
        barcodes=barcodes,
        array=array,
        centers=centers,
        in_tissue=in_tissue,
        counts=counts,
        gene_ids=tuple(f"ENSG{g:03d}" for g in range(counts.shape[1])),
        gene_symbols=tuple(f"S{g}" for g in range(counts.shape[1])),
        microns_per_pixel=MICRONS_PER_PIXEL,
        image=rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) if with_image else None,
    )


@pytest.fixture
def truth():
    return build_truth()


@pytest.fixture
def folder(tmp_path, truth):
    """A slide without pictures, in a folder of its own."""
    write_visium(tmp_path / "V1", truth)
    return tmp_path / "V1"


@pytest.fixture
def pictured(tmp_path):
    """A slide with its full-resolution image beside ``outs``."""
    write_visium(tmp_path / "P1", build_truth(with_image=True))
    return tmp_path / "P1"


def counts_path(folder):
    return folder / "outs" / "filtered_feature_bc_matrix.h5"


def positions_path(folder):
    return next((folder / "outs" / "spatial").glob("tissue_positions*"))


def read_rows(folder):
    return [line.split(",") for line in positions_path(folder).read_text().splitlines()]


def write_rows(folder, rows):
    positions_path(folder).write_text("".join(",".join(row) + "\n" for row in rows))


def change_h5(folder, **datasets):
    """Replace datasets of ``matrix``; ``features__id`` stands for ``features/id``."""
    with h5py.File(counts_path(folder), "r+") as file:
        for name, value in datasets.items():
            path = "matrix/" + name.replace("__", "/")
            if path in file:
                del file[path]
            if value is not None:
                file[path] = value


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


def assert_equals_truth(slide, truth):
    under_tissue = np.flatnonzero(truth.in_tissue)
    barcodes = [truth.barcodes[spot] for spot in under_tissue]
    assert set(slide.spots.index) == set(barcodes)
    row_of = [barcodes.index(barcode) for barcode in slide.spots.index]
    spot_of = under_tissue[row_of]
    assert np.array_equal(slide.counts.toarray(), truth.counts[row_of])
    assert np.array_equal(slide.centers, truth.centers[spot_of])
    assert np.array_equal(slide.spots[["array_row", "array_col"]], truth.array[spot_of])
    assert slide.spots["in_tissue"].all()
    assert tuple(slide.genes.index) == truth.gene_ids
    assert tuple(slide.genes["symbol"]) == truth.gene_symbols


# What is read


@pytest.mark.parametrize("matrix", ["h5", "mtx"])
@pytest.mark.parametrize("has_header", [True, False], ids=["header", "list"])
def test_counts_positions_and_genes_are_read_exactly(tmp_path, truth, matrix, has_header):
    write_visium(tmp_path, truth, matrix=matrix, has_header=has_header)
    slide = read_visium(tmp_path)
    assert_equals_truth(slide, truth)
    assert slide.counts.dtype == np.uint32
    assert slide.counts.has_canonical_format
    assert slide.spots["in_tissue"].dtype == bool


gene_ids = st.lists(
    st.text(string.ascii_letters + string.digits + "-._", min_size=1, max_size=8),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(data=st.data(), ids=gene_ids, matrix=st.sampled_from(["h5", "mtx"]), header=st.booleans())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the folder is made anew
)
def test_any_slide_written_is_read_back_exactly(tmp_path, data, ids, matrix, header):
    rows, columns = data.draw(st.integers(2, 5)), data.draw(st.integers(4, 9))
    n_array = sum(len(range(row % 2, columns, 2)) for row in range(rows))
    in_tissue = data.draw(npst.arrays(np.bool_, n_array).filter(np.any))
    elements = st.integers(0, 2**31 - 1) | st.just(0)
    shape = (int(in_tissue.sum()), len(ids))
    counts = data.draw(npst.arrays(np.uint32, shape, elements=elements).filter(np.any))
    truth = build_truth(rows=rows, columns=columns, counts=counts, in_tissue=in_tissue)
    symbols = tuple(data.draw(st.sampled_from(["A", "NA", "nan", "B"])) for _ in ids)
    truth = VisiumSlide(
        **{name: getattr(truth, name) for name in VisiumSlide.__slots__}
        | {"gene_ids": tuple(ids), "gene_symbols": symbols}
    )
    shutil.rmtree(tmp_path / "V", ignore_errors=True)
    write_visium(tmp_path / "V", truth, matrix=matrix, has_header=header)
    assert_equals_truth(read_visium(tmp_path / "V"), truth)


def test_outs_and_its_parent_give_the_same_slide(folder):
    parent, outs = read_visium(folder), read_visium(folder / "outs")
    assert parent.name == outs.name == "V1"
    assert parent.spots.equals(outs.spots)
    assert (parent.counts != outs.counts).nnz == 0


@pytest.mark.parametrize("prefix", ["", "GSM123_", "my.sample-"], ids=["none", "geo", "dotted"])
def test_a_flat_folder_with_prefixed_names_is_read(folder, tmp_path, truth, prefix):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (folder / "outs").rglob("*.*"):
        shutil.copy(path, flat / f"{prefix}{path.name}")
    slide = read_visium(flat)
    assert slide.name == "flat"
    assert_equals_truth(slide, truth)
    assert "scale factors: " in " ".join(texts(slide, "file"))


def test_a_prefixed_matrix_and_gzipped_positions_are_read(tmp_path, truth):
    write_visium(tmp_path / "V", truth, matrix="mtx")
    flat = tmp_path / "flat"
    (flat / "GSM1_spatial").mkdir(parents=True)
    for path in (tmp_path / "V" / "outs" / "filtered_feature_bc_matrix").iterdir():
        shutil.copy(path, flat / f"GSM1_{path.name}")
    packed = gzip.compress(positions_path(tmp_path / "V").read_bytes())
    (flat / "GSM1_spatial" / "GSM1_tissue_positions.csv.gz").write_bytes(packed)
    assert_equals_truth(read_visium(flat), truth)


def test_old_genes_tsv_of_two_columns_and_plain_files_are_read(tmp_path, truth):
    write_visium(tmp_path, truth, matrix="mtx")
    matrix = tmp_path / "outs" / "filtered_feature_bc_matrix"
    for path in list(matrix.iterdir()):
        content = gzip.decompress(path.read_bytes())
        path.unlink()
        path.with_suffix("").write_bytes(content)
    rows = (matrix / "features.tsv").read_text().splitlines()
    (matrix / "genes.tsv").write_text("".join(row.rsplit("\t", 1)[0] + "\n" for row in rows))
    (matrix / "features.tsv").unlink()
    assert_equals_truth(read_visium(tmp_path), truth)


def write_oldest_h5(folder, *genomes):
    """Turn the counts into Cell Ranger 2's layout: one group per genome."""
    with h5py.File(counts_path(folder)) as file:
        group = file["matrix"]
        parts = {
            name: group[name][:] for name in ("barcodes", "data", "indices", "indptr", "shape")
        }
        parts |= {"genes": group["features/id"][:], "gene_names": group["features/name"][:]}
    counts_path(folder).unlink()
    with h5py.File(counts_path(folder), "w") as file:
        for genome in genomes:
            for name, value in parts.items():
                file[f"{genome}/{name}"] = value


def test_the_oldest_h5_layout_is_read(folder, truth):
    write_oldest_h5(folder, "mm10")
    assert_equals_truth(read_visium(folder), truth)


def test_several_genomes_of_the_oldest_layout_need_a_choice(folder, truth):
    write_oldest_h5(folder, "hg19", "mm10")
    with pytest.raises(SlideFormatError, match="hg19, mm10; choose one with --genome"):
        read_visium(folder)
    assert_equals_truth(read_visium(folder, genome="mm10"), truth)


def test_several_genomes_of_one_matrix_need_a_choice(folder, truth):
    change_h5(folder, features__genome=np.array([b"hg", b"mm", b"hg", b"mm"]))
    with pytest.raises(SlideFormatError, match="hg, mm; choose one with --genome"):
        read_visium(folder)
    with pytest.raises(SlideFormatError, match="expected rn among them"):
        read_visium(folder, genome="rn")
    slide = read_visium(folder, genome="mm")
    assert list(slide.genes.index) == ["ENSG001", "ENSG003"]
    assert slide.counts.sum() == truth.counts[:, [1, 3]].sum()


def test_only_gene_expression_is_kept_and_the_rest_is_said(folder, truth):
    kinds = np.array([b"Gene Expression", b"Antibody Capture", b"Gene Expression", b"Custom"])
    change_h5(folder, features__feature_type=kinds)
    slide = read_visium(folder)
    assert list(slide.genes.index) == ["ENSG000", "ENSG002"]
    assert slide.counts.sum() == truth.counts[:, [0, 2]].sum()
    said = " ".join(texts(slide, "check"))
    assert "1 of type 'Antibody Capture'" in said
    assert "1 of type 'Custom'" in said


def test_repeated_symbols_are_kept_apart_by_id(folder, truth):
    change_h5(folder, features__name=np.array([b"A", b"B", b"A", b"C"]))
    slide = read_visium(folder)
    assert list(slide.genes["symbol"]) == ["A", "B", "A", "C"]
    assert slide.genes.index.is_unique
    assert slide.counts.shape[1] == truth.counts.shape[1]
    assert any("2 genes share their symbol" in text for text in texts(slide, "check"))


def test_whole_counts_stored_as_floats_are_read(folder, truth):
    with h5py.File(counts_path(folder)) as file:
        data = file["matrix/data"][:].astype(np.float64)
    change_h5(folder, data=data)
    assert_equals_truth(read_visium(folder), truth)


def test_stored_zeros_are_dropped_and_counts_of_the_same_gene_summed(folder):
    with h5py.File(counts_path(folder)) as file:
        n_spots = int(file["matrix/shape"][1])
    indptr = np.full(n_spots + 1, 5)
    indptr[0] = 0
    change_h5(folder, data=[3, 0, 4, 1, 0], indices=[2, 1, 2, 0, 3], indptr=indptr)
    slide = read_visium(folder)
    assert slide.counts.toarray()[0].tolist() == [1, 0, 7, 0]
    assert slide.counts.nnz == 2


def test_filtered_counts_go_before_raw_ones(folder, truth):
    shutil.copy(counts_path(folder), folder / "outs" / "raw_feature_bc_matrix.h5")
    counts_told = texts(read_visium(folder), "file")[0]
    assert counts_told.startswith("counts: outs/filtered_feature_bc_matrix.h5")
    assert "left aside: outs/raw_feature_bc_matrix.h5" in counts_told


def write_raw(folder, truth):
    """Replace the filtered counts by raw ones, one count at each array spot."""
    every = np.ones((len(truth.barcodes), 4), np.uint32)
    counts_path(folder).rename(folder / "outs" / "raw_feature_bc_matrix.h5")
    matrix = csc_matrix(every.T)
    with h5py.File(folder / "outs" / "raw_feature_bc_matrix.h5", "r+") as file:
        group = file["matrix"]
        for name in ("barcodes", "data", "indices", "indptr", "shape"):
            del group[name]
        group["barcodes"] = np.array([b.encode() for b in truth.barcodes])
        group["data"], group["indices"], group["indptr"] = (
            matrix.data,
            matrix.indices,
            matrix.indptr,
        )
        group["shape"] = np.array(matrix.shape)


def test_of_raw_counts_only_spots_under_tissue_are_kept(folder, truth):
    write_raw(folder, truth)
    slide = read_visium(folder)
    assert len(slide.spots) == truth.in_tissue.sum()
    n_left = (~truth.in_tissue).sum()
    assert f"{n_left} of {len(truth.barcodes)} spots are not under tissue" in " ".join(
        texts(slide, "check")
    )


def test_raw_counts_without_any_spot_under_tissue_are_refused(folder, truth):
    write_raw(folder, truth)
    write_rows(folder, [[row[0], "0", *row[2:]] for row in read_rows(folder)[1:]])
    with pytest.raises(SlideFormatError, match="expected some with in_tissue 1"):
        read_visium(folder)


def test_a_filtered_name_above_the_slide_does_not_make_raw_counts_filtered(tmp_path, truth):
    place = tmp_path / "filtered_feature_bc_matrices_all"
    write_visium(place, truth)
    write_raw(place, truth)
    assert len(read_visium(place).spots) == truth.in_tissue.sum()


def test_filtered_spots_off_the_tissue_are_kept_with_a_warning(folder, truth):
    rows = read_rows(folder)
    lost = next(row for row in rows[1:] if row[1] == "1")
    lost[1] = "0"
    write_rows(folder, rows)
    slide = read_visium(folder)
    assert len(slide.spots) == truth.in_tissue.sum()
    assert not slide.spots.loc[lost[0], "in_tissue"]
    assert any("1 of" in text and "not under tissue" in text for text in texts(slide, "warning"))


def test_a_list_with_a_header_keeps_its_first_spot(folder, truth):
    positions_path(folder).rename(folder / "outs" / "spatial" / "tissue_positions_list.csv")
    assert_equals_truth(read_visium(folder), truth)


def test_positions_without_a_header_keep_their_first_spot(tmp_path):
    truth = build_truth(in_tissue=np.arange(20) < 7)
    write_visium(tmp_path, truth, has_header=False)
    assert_equals_truth(read_visium(tmp_path), truth)
    assert truth.barcodes[0] in read_visium(tmp_path).spots.index


def test_both_sides_of_the_join_are_reported(folder, truth):
    rows = read_rows(folder)
    lost = next(row for row in rows[1:] if row[1] == "1")
    write_rows(folder, [row for row in rows if row is not lost])
    slide = read_visium(folder)
    n_spots = int(truth.in_tissue.sum())
    assert len(slide.spots) == n_spots - 1
    assert lost[0] not in slide.spots.index
    n_glass = int((~truth.in_tissue).sum())
    warning = next(text for text in texts(slide, "warning") if "only in the first" in text)
    assert f"only in the first: 1, only in the second: {n_glass}" in warning


def test_rows_join_by_barcode_whatever_the_order_of_the_positions(folder, truth):
    header, *rows = read_rows(folder)
    write_rows(folder, [header, *reversed(rows)])
    assert_equals_truth(read_visium(folder), truth)


def test_name_and_patient_may_be_stated(folder):
    slide = read_visium(folder, name="mine", patient="P7")
    assert (slide.name, slide.patient, slide.platform) == ("mine", "P7", "visium")
    assert read_visium(folder).patient is None


def test_a_folder_is_never_written_to(pictured):
    before = {path: path.stat().st_mtime_ns for path in pictured.rglob("*")}
    read_visium(pictured)
    assert {path: path.stat().st_mtime_ns for path in pictured.rglob("*")} == before


# Scale


def test_scale_comes_from_the_pitch_and_keeps_every_other_estimate(pictured):
    slide = read_visium(pictured)
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)
    assert set(slide.microns_per_pixel_sources) == {"pitch", "image", "spot_diameter_65um"}
    for value in slide.microns_per_pixel_sources.values():
        assert value == pytest.approx(MICRONS_PER_PIXEL)
    assert (slide.spot_diameter_um, slide.pitch_um) == (55.0, 100.0)
    assert not texts(slide, "warning")


def test_a_stated_scale_goes_first_and_a_disagreement_is_told(folder):
    slide = read_visium(folder, microns_per_pixel=4.0)
    assert slide.microns_per_pixel == 4.0
    assert list(slide.microns_per_pixel_sources)[:2] == ["stated", "pitch"]
    assert any("differ by 25%" in text and "pitch" in text for text in texts(slide, "warning"))


def test_a_wrong_spot_diameter_is_only_warned_of(folder):
    path = folder / "outs" / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps({"spot_diameter_fullres": 55 / MICRONS_PER_PIXEL}))
    slide = read_visium(folder)
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)
    assert any("differ by 18%" in text for text in texts(slide, "warning"))


def test_a_turned_and_mirrored_slide_has_the_same_scale(folder):
    header, *rows = read_rows(folder)
    turn = np.array([[-0.6, 0.8], [0.8, 0.6]])  # a mirror and a turn
    places = np.array([[float(row[5]), float(row[4])] for row in rows]) @ turn.T + 500
    for row, (x, y) in zip(rows, places, strict=True):
        row[4:] = [repr(float(y)), repr(float(x))]
    write_rows(folder, [header, *rows])
    slide = read_visium(folder)
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)
    assert any("mirrored" in text for text in texts(slide, "check"))


def test_without_scale_factors_the_slide_is_read_and_the_loss_is_told(pictured):
    (pictured / "outs" / "spatial" / "scalefactors_json.json").unlink()
    slide = read_visium(pictured)
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)
    warnings = " ".join(texts(slide, "warning"))
    assert "no scale factors found" in warnings
    assert "no tissue_hires_scalef tells its scale" in warnings
    assert slide.thumbnails["hires"].scale == 1.0  # made from the full image instead


def test_too_few_spots_for_a_pitch_leave_the_scale_unknown(tmp_path):
    write_visium(tmp_path, build_truth(rows=1, columns=4, in_tissue=np.array([True, True])))
    slide = read_visium(tmp_path)
    assert slide.microns_per_pixel is None
    assert any("give --mpp" in text for text in texts(slide, "warning"))
    assert read_visium(tmp_path, microns_per_pixel=0.5).microns_per_pixel == 0.5


@pytest.mark.parametrize("stated", [0.0, -1.0, float("nan"), float("inf")], ids=str)
def test_a_stated_scale_must_be_positive(folder, stated):
    with pytest.raises(SlideFormatError, match="expected a positive number"):
        read_visium(folder, microns_per_pixel=stated)


def test_an_odd_lattice_is_warned_of(folder):
    rows = read_rows(folder)
    for row in rows[1:]:
        row[3] = str(int(row[3]) + 1)
    write_rows(folder, rows)
    assert any("odd sum" in text for text in texts(read_visium(folder), "warning"))


def test_swapped_pixel_columns_are_warned_of(folder):
    header, *rows = read_rows(folder)
    write_rows(folder, [header, *([*row[:4], row[5], row[4]] for row in rows)])
    assert any("x and y look swapped" in text for text in texts(read_visium(folder), "warning"))


def test_swapped_array_columns_are_warned_of(folder):
    header, *rows = read_rows(folder)
    write_rows(folder, [header, *([*row[:2], row[3], row[2], *row[4:]] for row in rows)])
    warnings = " ".join(texts(read_visium(folder), "warning"))
    assert "array rows and columns are swapped" in warnings


# Pictures


def test_the_image_beside_outs_is_found_and_told(pictured):
    for folder in (pictured, pictured / "outs"):
        slide = read_visium(folder)
        assert slide.image.path.name == "image.tif"
        assert slide.image.reader == "openslide"
        assert any("full-resolution image: " in text for text in texts(slide, "file"))


@pytest.mark.parametrize(
    "name", ["P1.tif", "P1_image.tif", "x_fullres.tif", "full_res_HE.tif", "tissue_image.tif"]
)
def test_an_image_of_another_obvious_name_is_found(pictured, name):
    (pictured / "image.tif").rename(pictured / name)
    assert read_visium(pictured).image.path.name == name


def test_an_image_named_after_the_slide_may_lie_beside_its_folder(pictured):
    (pictured / "image.tif").rename(pictured.with_name("P1.tif"))
    assert read_visium(pictured).image.path.name == "P1.tif"
    assert read_visium(pictured / "outs").image.path.name == "P1.tif"


def test_an_image_of_another_slide_beside_the_folder_is_not_taken(pictured):
    (pictured / "image.tif").rename(pictured.with_name("image.tif"))
    assert read_visium(pictured).image is None


@pytest.mark.parametrize(
    "name", ["cytassist_image.tiff", "aligned_tissue_image.tif", "detected_tissue_image.tif"]
)
def test_pictures_that_are_not_the_slide_are_never_taken(pictured, name):
    (pictured / "image.tif").rename(pictured / "outs" / "spatial" / name)
    shutil.copy(pictured / "outs" / "spatial" / name, pictured / name)
    assert read_visium(pictured).image is None


def test_the_cytassist_picture_is_refused_even_when_stated(pictured):
    path = pictured / "cytassist_image.tiff"
    (pictured / "image.tif").rename(path)
    with pytest.raises(SlideFormatError, match="CytAssist instrument's picture"):
        read_visium(pictured, image=path)


def test_two_likely_images_are_left_to_the_person(pictured):
    shutil.copy(pictured / "image.tif", pictured / "my_fullres.tif")
    slide = read_visium(pictured)
    assert slide.image is None
    assert any("could all be it" in text and "--image" in text for text in texts(slide, "warning"))
    assert read_visium(pictured, image=pictured / "my_fullres.tif").image is not None


def test_small_pictures_keep_their_scale(pictured):
    slide = read_visium(pictured)
    for name in ("hires", "lowres"):
        path = pictured / "outs" / "spatial" / f"tissue_{name}_image.png"
        with Image.open(path) as small:
            assert np.array_equal(slide.thumbnails[name].pixels, np.asarray(small))
        assert slide.thumbnails[name].scale == 1.0


def test_a_missing_small_picture_is_said_and_made_from_the_image(pictured):
    (pictured / "outs" / "spatial" / "tissue_hires_image.png").unlink()
    slide = read_visium(pictured)
    assert any("no hires image" in text for text in texts(slide, "warning"))
    width, height = slide.image.size
    assert slide.thumbnails["hires"].pixels.shape == (height, width, 3)


def test_a_gzipped_small_picture_is_read(pictured):
    path = pictured / "outs" / "spatial" / "tissue_hires_image.png"
    before = read_visium(pictured).thumbnails["hires"].pixels
    path.with_suffix(".png.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert np.array_equal(read_visium(pictured).thumbnails["hires"].pixels, before)


def test_a_damaged_small_picture_is_left_out_and_told(pictured):
    path = pictured / "outs" / "spatial" / "tissue_hires_image.png"
    path.write_bytes(path.read_bytes()[:300])
    warnings = texts(read_visium(pictured), "warning")
    assert any("tissue_hires_image.png cannot be read as a PNG" in text for text in warnings)


def test_without_any_picture_the_slide_is_read_and_told_not_to_be_embeddable(folder):
    slide = read_visium(folder)
    assert slide.image is None
    assert not slide.thumbnails
    assert any("cannot be embedded without --image" in text for text in texts(slide, "warning"))


def test_a_downscaled_image_is_refused_with_its_likely_scale(pictured, tmp_path):
    with Image.open(pictured / "image.tif") as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2))
    small.save(tmp_path / "small.png")
    with pytest.raises(
        SlideFormatError, match=r"a copy at about 0\.5\d* of its size, .*--rescale-image"
    ):
        read_visium(pictured, image=tmp_path / "small.png")
    for path in (pictured / "outs" / "spatial").glob("*.png"):
        path.unlink()
    with pytest.raises(
        SlideFormatError,
        match=rf"{small.width} x {small.height} px.*at 0\.5\d+ of its size at most",
    ):
        read_visium(pictured, image=tmp_path / "small.png")


def test_an_image_larger_than_the_small_pictures_imply_is_warned_of(pictured, tmp_path):
    with Image.open(pictured / "image.tif") as image:
        image.convert("RGB").resize((image.width * 2, image.height * 2)).save(tmp_path / "big.png")
    warnings = texts(read_visium(pictured, image=tmp_path / "big.png"), "warning")
    assert any("big.png has" in text and "imply" in text for text in warnings)


def test_a_missing_stated_image_is_an_image_error(folder, tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.tif does not exist"):
        read_visium(folder, image=tmp_path / "nowhere.tif")


# What is refused


def test_a_missing_folder_is_refused_by_name(tmp_path):
    with pytest.raises(SlideFormatError, match="nowhere does not exist"):
        read_visium(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(SlideFormatError, match="is a file, expected a Space Ranger folder"):
        read_visium(counts_path(folder))


def test_an_empty_folder_is_told_all_that_is_missing(tmp_path):
    with pytest.raises(SlideFormatError, match=r"no counts.*no spot positions"):
        read_visium(tmp_path)


def test_missing_counts_are_named(folder):
    counts_path(folder).unlink()
    with pytest.raises(
        SlideFormatError, match=r"no counts, expected filtered_feature_bc_matrix\.h5"
    ):
        read_visium(folder)


def test_missing_positions_are_named(folder):
    positions_path(folder).unlink()
    with pytest.raises(SlideFormatError, match=r"no spot positions, expected spatial/tissue_posit"):
        read_visium(folder)


def test_files_of_several_slides_in_one_folder_are_refused(folder):
    shutil.copy(counts_path(folder), folder / "outs" / "B_filtered_feature_bc_matrix.h5")
    with pytest.raises(SlideFormatError, match="expected the files of one slide"):
        read_visium(folder)


def write_probes(folder, **parts):
    """Turn the four genes into probes of three, the last of which the file does not include."""
    ids = {"gene_id": [b"GA", b"GB", b"GA", b"GC"], "gene_name": [b"A", b"B", b"A", b"C"]}
    included = {"filtered_probes": np.array([True, True, True, False])}
    named = {key: np.array(value) for key, value in ids.items()} | included | parts
    change_h5(folder, **{f"features__{key}": value for key, value in named.items()})
    counts_path(folder).rename(folder / "outs" / "raw_probe_bc_matrix.h5")


def test_counts_of_probes_are_refused_by_name_and_by_content(folder):
    write_probes(folder)
    with pytest.raises(SlideFormatError, match=r"only counts of probes .*--sum-probes"):
        read_visium(folder)
    (folder / "outs" / "raw_probe_bc_matrix.h5").rename(counts_path(folder))
    with pytest.raises(SlideFormatError, match=r"counts probes, expected genes; .*--sum-probes"):
        read_visium(folder)


def test_probes_are_added_up_by_gene_where_the_file_includes_them(folder):
    before = read_visium(folder).counts.toarray()
    write_probes(folder)
    slide = read_visium(folder, sum_probes=True)
    assert list(slide.genes.index) == ["GA", "GB"]
    assert list(slide.genes["symbol"]) == ["A", "B"]
    assert np.array_equal(
        slide.counts.toarray(), np.stack([before[:, [0, 2]].sum(1), before[:, 1]], 1)
    )
    assert any("3 probes added up to 2 genes" in text for text in texts(slide, "inferred"))
    left = f"1 probes with {before[:, 3].sum()} counts left out"
    assert any(left in text for text in texts(slide, "check"))


def test_probes_without_a_flag_are_included_by_their_target_set_or_else_all(folder):
    write_probes(folder, filtered_probes=None, target_sets__set=np.array([0, 1, 3]))
    slide = read_visium(folder, sum_probes=True)
    assert list(slide.genes.index) == ["GA", "GB", "GC"]
    with h5py.File(folder / "outs" / "raw_probe_bc_matrix.h5", "r+") as file:
        del file["matrix/features/target_sets"]
    assert read_visium(folder, sum_probes=True).counts.sum() > slide.counts.sum()


@pytest.mark.parametrize("content", [b"", b"not an hdf5 file", None], ids=["empty", "text", "cut"])
def test_a_damaged_h5_is_refused_by_name(folder, content):
    path = counts_path(folder)
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(
        SlideFormatError, match=r"filtered_feature_bc_matrix\.h5: found a file that"
    ):
        read_visium(folder)


def test_another_hdf5_file_is_refused(folder):
    counts_path(folder).unlink()
    with h5py.File(counts_path(folder), "w") as file:
        file["X"] = np.zeros(3)
    with pytest.raises(SlideFormatError, match="found X, expected the group 'matrix'"):
        read_visium(folder)


@pytest.mark.parametrize("part", ["barcodes", "data", "indptr", "shape", "features__id"])
def test_an_h5_with_a_missing_part_is_refused(folder, part):
    change_h5(folder, **{part: None})
    with pytest.raises(SlideFormatError, match="a part is missing"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("indices", lambda values: values + 4),
        ("indices", lambda values: values - 4),
        ("indptr", lambda values: values[:-1]),
        ("indptr", lambda values: values[::-1]),
        ("data", lambda values: values[:-1]),
    ],
    ids=["beyond the genes", "negative", "too short", "backwards", "cut data"],
)
def test_an_inconsistent_h5_is_refused(folder, part, change):
    with h5py.File(counts_path(folder)) as file:
        values = file[f"matrix/{part}"][:]
    change_h5(folder, **{part: change(values)})
    with pytest.raises(SlideFormatError, match="data, indices and indptr do not fit"):
        read_visium(folder)


def test_an_h5_that_states_another_shape_is_refused(folder):
    change_h5(folder, shape=np.array([9, 9]))
    with pytest.raises(SlideFormatError, match="its shape states 9 spots and 9 features"):
        read_visium(folder)


@pytest.mark.parametrize("bad", [0.5, -1.0, np.nan, 2.0**40], ids=str)
def test_counts_that_are_no_counts_are_refused(folder, bad):
    with h5py.File(counts_path(folder)) as file:
        data = file["matrix/data"][:].astype(np.float64)
    data[2] = bad
    change_h5(folder, data=data)
    with pytest.raises(SlideFormatError, match="among the counts, expected whole numbers"):
        read_visium(folder)


def test_repeated_barcodes_of_the_counts_are_refused(folder):
    with h5py.File(counts_path(folder)) as file:
        barcodes = file["matrix/barcodes"][:]
    barcodes[1] = barcodes[0]
    change_h5(folder, barcodes=barcodes)
    with pytest.raises(SlideFormatError, match="found 1 barcodes more than once"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("rule", "genes"),
    [("sum", ["A", "B", "C"]), ("first", ["A", "B", "C"]), ("suffix", ["A", "B", "A-1", "C"])],
)
def test_repeated_gene_ids_follow_one_rule(folder, rule, genes):
    before = read_visium(folder).counts.toarray()
    change_h5(folder, features__id=np.array([b"A", b"B", b"A", b"C"]))
    slide = read_visium(folder, duplicate_genes=rule)
    expected = {
        "sum": np.stack([before[:, 0] + before[:, 2], before[:, 1], before[:, 3]], axis=1),
        "first": before[:, [0, 1, 3]],
        "suffix": before,
    }
    assert list(slide.genes.index) == genes
    assert np.array_equal(slide.counts.toarray(), expected[rule])
    assert any("several columns" in text for text in texts(slide, "warning"))


def test_versions_of_ensembl_ids_are_cut_before_duplicates_are_resolved(folder):
    ids = [b"ENSG00000141510.12", b"ENSG00000141510.3", b"ENSMUSG00000000001.4", b"C"]
    change_h5(folder, features__id=np.array(ids))
    slide = read_visium(folder)
    assert list(slide.genes.index) == ["ENSG00000141510", "ENSMUSG00000000001", "C"]
    assert any("version suffixes" in text for text in texts(slide, "inferred"))


def test_counts_that_are_all_zero_are_refused(folder):
    with h5py.File(counts_path(folder)) as file:
        data = file["matrix/data"][:]
    change_h5(folder, data=np.zeros_like(data))
    with pytest.raises(SlideFormatError, match="found no count above 0"):
        read_visium(folder)


def test_counts_without_gene_expression_are_refused(folder):
    change_h5(folder, features__feature_type=np.array([b"Antibody Capture"] * 4))
    with pytest.raises(SlideFormatError, match="found no feature of type 'Gene Expression'"):
        read_visium(folder)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
def test_a_gzipped_file_that_breaks_off_is_refused_by_name(tmp_path, truth, name):
    write_visium(tmp_path, truth, matrix="mtx")
    path = tmp_path / "outs" / "filtered_feature_bc_matrix" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SlideFormatError, match=f"{name}: found a file that cannot be read"):
        read_visium(tmp_path)


@pytest.mark.parametrize("name", ["features.tsv.gz", "barcodes.tsv.gz"])
def test_a_matrix_without_the_file_beside_it_is_refused(tmp_path, truth, name):
    write_visium(tmp_path, truth, matrix="mtx")
    (tmp_path / "outs" / "filtered_feature_bc_matrix" / name).unlink()
    with pytest.raises(SlideFormatError, match=r"matrix\.mtx\.gz alone, expected"):
        read_visium(tmp_path)


def test_a_matrix_that_does_not_fit_its_lists_is_refused(tmp_path, truth):
    write_visium(tmp_path, truth, matrix="mtx")
    path = tmp_path / "outs" / "filtered_feature_bc_matrix" / "barcodes.tsv.gz"
    path.write_bytes(gzip.compress(b"AAAA-1\n"))
    with pytest.raises(SlideFormatError, match=r"expected 4 features x 1 barcodes"):
        read_visium(tmp_path)


def test_a_genome_cannot_be_chosen_from_a_matrix_folder(tmp_path, truth):
    write_visium(tmp_path, truth, matrix="mtx")
    with pytest.raises(SlideFormatError, match="names no genome"):
        read_visium(tmp_path, genome="mm10")


def test_repeated_barcodes_of_the_positions_are_refused(folder):
    rows = read_rows(folder)
    rows[2][0] = rows[1][0]
    write_rows(folder, rows)
    with pytest.raises(SlideFormatError, match=f"barcode.*{rows[1][0]}.*expected each once"):
        read_visium(folder)


def test_two_spots_at_one_place_of_the_array_are_refused(folder):
    rows = read_rows(folder)
    rows[2][2:4] = rows[1][2:4]
    write_rows(folder, rows)
    with pytest.raises(SlideFormatError, match="array row and column that another spot has too"):
        read_visium(folder)


def test_counts_and_positions_of_different_slides_are_refused(folder):
    write_rows(folder, [["Z" + row[0], *row[1:]] for row in read_rows(folder)[1:]])
    with pytest.raises(
        SlideFormatError, match=r"none of the \d+ barcodes.*expected the same slide"
    ):
        read_visium(folder)


def test_a_header_in_another_order_is_refused(folder):
    rows = [[*row[:4], row[5], row[4]] for row in read_rows(folder)]
    write_rows(folder, rows)
    with pytest.raises(SlideFormatError, match=r"its header is barcode,.*pxl_row_in_fullres, exp"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (1, "2", "0 or 1"),
        (1, "", "0 or 1"),
        (2, "1.5", "a whole number"),
        (2, "-1", "a whole number"),
        (3, "left", "a number"),
        (4, "here", "a number"),
        (5, "inf", "a finite number"),
    ],
    ids=["tissue 2", "tissue empty", "row 1.5", "row -1", "col text", "pixel text", "pixel inf"],
)
def test_a_wrong_value_among_the_positions_is_named(folder, column, value, expected):
    rows = read_rows(folder)
    rows[3][column] = value
    write_rows(folder, rows)
    with pytest.raises(SlideFormatError, match=f"{value}.*{rows[3][0]}, expected {expected}"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("value", "found"),
    [("-3", "negative pixel coordinates"), ("nan", "no pixel coordinates"), ("", "no pixel")],
    ids=["negative", "nan", "empty"],
)
def test_spots_without_a_place_in_the_image_are_refused_only_under_tissue(folder, value, found):
    rows = read_rows(folder)
    glass = next(row for row in rows[1:] if row[1] == "0")
    glass[4] = value
    write_rows(folder, rows)
    assert glass[0] not in read_visium(folder).spots.index
    tissue = next(row for row in rows[1:] if row[1] == "1")
    tissue[5] = value
    write_rows(folder, rows)
    with pytest.raises(SlideFormatError, match=f"1 of .* have {found}.*{tissue[0]}"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "found no spot"),
        ("a,b,c\n", "found 3 columns in spot row 1"),
        ("\xff", "found no text"),
    ],
    ids=["empty", "three columns", "not text"],
)
def test_positions_that_are_no_table_are_refused(folder, content, found):
    positions_path(folder).write_bytes(content.encode("latin-1"))
    with pytest.raises(SlideFormatError, match=found):
        read_visium(folder)


def test_pixels_that_follow_no_lattice_are_refused(folder):
    header, *rows = read_rows(folder)
    rng = np.random.default_rng(0)
    for row in rows:
        row[4:] = [str(n) for n in rng.integers(0, 1000, 2)]
    write_rows(folder, [header, *rows])
    with pytest.raises(SlideFormatError, match="do not follow their array coordinates"):
        read_visium(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "found no JSON"),
        ("[1]", "found a list"),
        ('{"tissue_hires_scalef": "0.1"}', "expected a positive number"),
        ('{"tissue_hires_scalef": 0}', "expected a positive number"),
        ('{"spot_diameter_fullres": NaN}', "expected a positive number"),
    ],
    ids=["cut", "list", "text", "zero", "nan"],
)
def test_wrong_scale_factors_are_refused(folder, content, found):
    (folder / "outs" / "spatial" / "scalefactors_json.json").write_text(content)
    with pytest.raises(SlideFormatError, match=found):
        read_visium(folder)


def test_all_problems_of_a_folder_come_in_one_line(folder):
    counts_path(folder).write_bytes(b"")
    positions_path(folder).write_text("")
    with pytest.raises(SlideFormatError) as caught:
        read_visium(folder)
    message = str(caught.value)
    assert "filtered_feature_bc_matrix.h5" in message
    assert "tissue_positions.csv" in message
    assert "\n" not in message


# Real slides


def read_positions_plainly(path: Path, *, has_header: bool) -> pd.DataFrame:
    return pd.read_csv(
        path, header=0 if has_header else None, index_col=0, float_precision="round_trip"
    )


@pytest.mark.real
def test_a_real_slide_of_space_ranger_1_is_read(real_slides):
    folder = real_slides / "visium" / "muscle_2dpi"
    slide = read_visium(folder / "outs")
    spatial = folder / "outs" / "spatial"
    plain = read_positions_plainly(spatial / "tissue_positions_list.csv", has_header=False)
    assert (slide.name, slide.counts.shape) == ("muscle_2dpi", (982, 33217))
    assert np.array_equal(slide.centers, plain.loc[slide.spots.index, [5, 4]])
    with h5py.File(folder / "outs" / "filtered_feature_bc_matrix.h5") as file:
        assert slide.counts.sum(dtype=np.int64) == file["matrix/data"][:].sum(dtype=np.int64)
        assert list(slide.spots.index) == list(file["matrix/barcodes"].asstr()[:])
    assert slide.microns_per_pixel == pytest.approx(0.36055, abs=1e-4)
    assert set(slide.thumbnails) == {"lowres"}


@pytest.mark.real
def test_a_real_cytassist_slide_of_space_ranger_3_is_read(real_slides):
    folder = real_slides / "visium" / "brain_cytassist"
    slide = read_visium(folder)
    spatial = folder / "spatial"
    plain = read_positions_plainly(spatial / "tissue_positions.csv", has_header=True)
    assert slide.counts.shape == (2898, 19465)
    assert np.array_equal(slide.centers, plain.loc[slide.spots.index].iloc[:, [4, 3]])
    with gzip.open(folder / "filtered_feature_bc_matrix" / "matrix.mtx.gz") as file:
        assert (slide.counts != mmread(file).T.tocsr()).nnz == 0
    assert slide.microns_per_pixel == pytest.approx(4.678, abs=1e-3)
    assert any("spot_diameter_65um" in text for text in texts(slide, "warning"))


@pytest.mark.real
def test_a_real_slide_whose_counts_are_floats_is_read(real_slides):
    slide = read_visium(real_slides / "visium" / "scanpy_lymph" / "1.0.0", name="lymph")
    assert slide.counts.shape == (100, 100)
    assert slide.counts.dtype == np.uint32
    assert slide.microns_per_pixel_sources["spot_diameter_65um"] == pytest.approx(
        slide.microns_per_pixel, rel=1e-4
    )
    assert slide.thumbnails["hires"].pixels.shape == (2000, 2000, 3)


@pytest.mark.real
def test_a_real_probe_matrix_is_refused_or_added_up(real_slides):
    folder = real_slides / "visium" / "scanpy_lymph" / "2.1.0"
    with pytest.raises(SlideFormatError, match="only counts of probes"):
        read_visium(folder)
    summed = read_visium_counts(folder / "raw_probe_bc_matrix.h5", probes=True)
    with h5py.File(folder / "raw_probe_bc_matrix.h5") as file:
        group = file["matrix"]
        gene = group["features/gene_id"].asstr()[:]
        included = group["features/filtered_probes"][:]
        shape = group["shape"][:]
        plain = csc_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=shape)
    table = pd.DataFrame(plain.toarray()[included]).groupby(gene[included]).sum()
    assert np.array_equal(summed.matrix.toarray().T, table.loc[summed.genes.index])
    assert len(summed.genes) == 671
