"""Visium HD is read at any bin size, and pooling keeps every count."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spahgc.demo.visium import HdBins, write_visium_hd
from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium import read_visium

MICRONS_PER_PIXEL = 0.25


def build_bins(bin_um=8, *, rows=7, columns=10, n_genes=3, seed=3, shares=0.7):
    """Build bins that lie turned by a few degrees on their image."""
    generator = np.random.default_rng(seed)
    turn = np.deg2rad(4)
    place = np.stack(np.indices((rows, columns))[::-1], axis=-1) + 0.5  # column, row
    step = bin_um / MICRONS_PER_PIXEL
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    in_tissue = generator.random((rows, columns)) < shares
    in_tissue[0, 0] = True
    counts = generator.poisson(0.8, (rows, columns, n_genes)).astype(np.uint32)
    counts[0, 0, 0] = 5
    return HdBins(
        bin_um=bin_um,
        counts=counts * in_tissue[..., None],
        in_tissue=in_tissue,
        centers=place * step @ rotation.T + 400,
        gene_ids=tuple(f"ENSG{g:03d}" for g in range(n_genes)),
        gene_symbols=tuple(f"S{g}" for g in range(n_genes)),
        microns_per_pixel=MICRONS_PER_PIXEL,
    )


def pool_plainly(bins, factor):
    """Pool bins one by one: counts by place, and the mean center of all bins there."""
    counts, centers, tissue = {}, {}, {}
    for row, column in np.ndindex(bins.in_tissue.shape):
        place = (row // factor, column // factor)
        counts[place] = counts.get(place, 0) + bins.counts[row, column].astype(np.int64)
        centers.setdefault(place, []).append(bins.centers[row, column])
        tissue[place] = tissue.get(place, False) | bool(bins.in_tissue[row, column])
    return {
        place: (counts[place], np.mean(centers[place], axis=0)) for place in counts if tissue[place]
    }


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


@pytest.fixture
def truth():
    return build_bins()


@pytest.fixture
def folder(tmp_path, truth):
    """A slide in bins of 2, 8 and 16 µm."""
    small, large = build_bins(2, seed=4), build_bins(16, rows=4, columns=5, seed=5)
    write_visium_hd(tmp_path / "H1", [small, truth, large])
    return tmp_path / "H1"


def bin_folder(folder, bin_um=8):
    return folder / "outs" / "binned_outputs" / f"square_{bin_um:03d}um"


def change_positions(folder, change, bin_um=8):
    path = bin_folder(folder, bin_um) / "spatial" / "tissue_positions.parquet"
    table = pq.read_table(path).to_pandas()
    pq.write_table(pa.Table.from_pandas(change(table), preserve_index=False), path)


def assert_is(slide, bins):
    tissue = bins.in_tissue
    assert np.array_equal(slide.counts.toarray(), bins.counts[tissue])
    assert np.array_equal(slide.centers, bins.centers[tissue])
    rows, columns = np.nonzero(tissue)
    assert np.array_equal(slide.spots["array_row"], rows)
    assert np.array_equal(slide.spots["array_col"], columns)
    first = f"s_{bins.bin_um:03d}um_{rows[0]:05d}_{columns[0]:05d}-1"
    assert slide.spots.index[0] == first
    assert (slide.pitch_um, slide.spot_diameter_um) == (bins.bin_um, bins.bin_um)


def test_bins_of_the_size_asked_for_are_read_exactly(folder, truth):
    slide = read_visium(folder, bin_um=8)
    assert_is(slide, truth)
    assert (slide.name, slide.platform) == ("H1", "visium")
    assert slide.counts.dtype == np.uint32
    assert slide.counts.has_canonical_format


def test_by_default_bins_of_16_um_are_read_and_the_others_told(folder):
    slide = read_visium(folder)
    assert slide.pitch_um == 16
    assert "bins of 2, 8, 16 µm: those of 16 µm are read" in texts(slide, "file")[0]
    shutil.rmtree(bin_folder(folder, 16))
    assert read_visium(folder).pitch_um == 8
    shutil.rmtree(bin_folder(folder, 8))
    assert read_visium(folder).pitch_um == 2


@pytest.mark.parametrize("part", [".", "outs", "outs/binned_outputs"])
def test_any_folder_above_the_bins_gives_the_same_slide(folder, truth, part):
    slide = read_visium(folder / part, bin_um=8)
    assert slide.name == "H1"
    assert_is(slide, truth)


def test_the_folder_of_one_bin_size_is_read_alone(folder, truth, tmp_path):
    slide = read_visium(bin_folder(folder))
    assert slide.name == "H1"
    assert_is(slide, truth)
    for name in ("square_008um", "GSM1_square_008um", "renamed"):
        shutil.copytree(bin_folder(folder), tmp_path / "alone" / name)
        slide = read_visium(tmp_path / "alone" / name)
        assert slide.name == name
        assert_is(slide, truth)


def test_scale_is_the_stated_one_and_the_pitch_agrees(folder):
    slide = read_visium(folder, bin_um=8)
    assert slide.microns_per_pixel == MICRONS_PER_PIXEL
    assert list(slide.microns_per_pixel_sources) == ["scale_factors", "pitch"]
    assert slide.microns_per_pixel_sources["pitch"] == pytest.approx(MICRONS_PER_PIXEL)
    assert any("on a square lattice" in text and "4.0°" in text for text in texts(slide, "check"))


def test_a_stated_scale_that_contradicts_the_pitch_is_refused_unless_told(folder):
    path = bin_folder(folder) / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"microns_per_pixel": 0.5}))
    with pytest.raises(SlideFormatError, match=r"differ by 50%.*scale_factors.*--mpp"):
        read_visium(folder, bin_um=8)
    assert read_visium(folder, bin_um=8, microns_per_pixel=0.25).microns_per_pixel == 0.25


def test_without_scale_factors_the_pitch_tells_the_scale(folder):
    (bin_folder(folder) / "spatial" / "scalefactors_json.json").unlink()
    slide = read_visium(folder, bin_um=8)
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)


@given(data=st.data())
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the folder is made anew
)
def test_pooling_keeps_every_count_and_puts_centers_in_the_middle(tmp_path, data):
    rows, columns = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    factor, seed = data.draw(st.integers(2, 5)), data.draw(st.integers(0, 99))
    bins = build_bins(2, rows=rows, columns=columns, seed=seed, shares=data.draw(st.floats(0, 1)))
    shutil.rmtree(tmp_path / "H", ignore_errors=True)
    write_visium_hd(tmp_path / "H", [bins])
    slide = read_visium(tmp_path / "H", pool_um=2 * factor)
    expected = pool_plainly(bins, factor)
    assert slide.counts.sum() == bins.counts.sum()
    places = list(zip(slide.spots["array_row"], slide.spots["array_col"], strict=True))
    assert places == sorted(expected)
    for place, counts, center in zip(places, slide.counts.toarray(), slide.centers, strict=True):
        assert np.array_equal(counts, expected[place][0])
        assert center == pytest.approx(expected[place][1], abs=1e-9)
    assert slide.spots["in_tissue"].all()


def test_pooled_bins_carry_their_own_size_in_name_and_measures(folder, truth):
    slide = read_visium(folder, bin_um=8, pool_um=24)
    assert slide.spots.index[0] == "s_024um_00000_00000-1"
    assert (slide.pitch_um, slide.spot_diameter_um) == (24, 24)
    assert slide.microns_per_pixel == MICRONS_PER_PIXEL
    told = f"{truth.in_tissue.sum()} bins of 8 µm pooled to {len(slide.spots)} of 24 µm"
    assert any(told in text for text in texts(slide, "check"))


def test_the_largest_bins_that_fit_are_pooled(folder):
    for pool_um, taken in ((32, 16), (24, 8), (6, 2), (16, 16)):
        told = texts(read_visium(folder, pool_um=pool_um), "file")[0]
        assert f"those of {taken} µm are read" in told


def test_counts_too_large_for_32_bits_when_pooled_are_refused(tmp_path, truth):
    counts = truth.counts.copy()
    counts[0, :2, 0] = 2**31 - 1
    counts[1, :2, 0] = 2**31 - 1
    tissue = truth.in_tissue.copy()
    tissue[:2, :2] = True
    write_visium_hd(tmp_path, [replace(truth, counts=counts, in_tissue=tissue)])
    with pytest.raises(SlideFormatError, match="larger than 32 bits"):
        read_visium(tmp_path, pool_um=16)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"bin_um": 4}, "found bins of 2, 8, 16 µm, expected 4 µm among them"),
        ({"pool_um": 3}, "of which 3 µm is no multiple"),
        ({"pool_um": 0}, "of which 0 µm is no multiple"),
        ({"bin_um": 8, "pool_um": 12}, "of which 12 µm is no multiple"),
    ],
    ids=["no such bins", "no multiple", "zero", "no multiple of those"],
)
def test_bins_that_cannot_be_had_are_refused_with_those_that_can(folder, asked, found):
    with pytest.raises(SlideFormatError, match=found):
        read_visium(folder, **asked)


def test_bins_whose_barcodes_are_at_other_places_are_refused(folder):
    change_positions(folder, lambda table: table.assign(array_row=table["array_row"] + 1))
    with pytest.raises(SlideFormatError, match=r"found the bin s_008um_.* where the array row"):
        read_visium(folder, bin_um=8)


def test_scale_factors_of_another_bin_size_are_refused(folder):
    here, other = (bin_folder(folder, um) / "spatial" / "scalefactors_json.json" for um in (8, 16))
    shutil.copy(other, here)
    with pytest.raises(SlideFormatError, match="state bins of 16 µm, expected 8 µm"):
        read_visium(folder, bin_um=8)


def test_positions_of_another_bin_size_are_refused(folder):
    here, other = (
        bin_folder(folder, um) / "spatial" / "tissue_positions.parquet" for um in (8, 16)
    )
    shutil.copy(other, here)
    with pytest.raises(SlideFormatError, match=r"none of the \d+ barcodes"):
        read_visium(folder, bin_um=8)


def test_swapped_pixel_columns_are_warned_of(folder):
    names = {
        "pxl_row_in_fullres": "pxl_col_in_fullres",
        "pxl_col_in_fullres": "pxl_row_in_fullres",
    }
    change_positions(folder, lambda table: table.rename(columns=names))
    slide = read_visium(folder, bin_um=8)
    assert any("x and y look swapped" in text for text in texts(slide, "warning"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda table: table.drop(columns="array_col"), "expected array_col too"),
        (lambda table: table.iloc[:0], "found no spot"),
        (lambda table: table.assign(barcode=1.5), "found barcodes of type floating"),
        (lambda table: pd.concat([table, table[:1]]), "a barcode that another spot has too"),
        (lambda table: table.assign(array_row=-1), "expected a whole number from 0"),
        (lambda table: table.assign(in_tissue="yes"), "expected a number"),
        (lambda table: table.assign(pxl_row_in_fullres=np.inf), "expected a finite number"),
        (lambda table: table.assign(pxl_row_in_fullres=np.nan), "have no pixel coordinates"),
    ],
    ids=["column", "empty", "barcodes", "twice", "negative row", "flag", "inf", "nan"],
)
def test_wrong_parquet_positions_are_refused(folder, change, found):
    change_positions(folder, change)
    with pytest.raises(SlideFormatError, match=found):
        read_visium(folder, bin_um=8)


def test_a_broken_parquet_is_refused_by_name(folder):
    path = bin_folder(folder) / "spatial" / "tissue_positions.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        SlideFormatError, match=r"tissue_positions\.parquet: found a file that"
    ) as e:
        read_visium(folder, bin_um=8)
    assert "\n" not in str(e.value)


def test_counts_of_wider_integers_are_read_block_by_block(folder, truth, monkeypatch):
    monkeypatch.setattr("spahgc.ingest.readers.visium_h5._BLOCK", 7)
    with h5py.File(bin_folder(folder) / "filtered_feature_bc_matrix.h5", "r+") as file:
        for name, kind in (("data", np.int64), ("indices", np.uint64), ("indptr", np.uint64)):
            values = file[f"matrix/{name}"][:].astype(kind)
            del file[f"matrix/{name}"]
            chunks = None if name == "indptr" else (3,)
            file.create_dataset(f"matrix/{name}", data=values, chunks=chunks)
    slide = read_visium(folder, bin_um=8)
    assert_is(slide, truth)
    assert slide.counts.indices.dtype == np.int32
