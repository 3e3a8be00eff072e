"""The demo's files are those that the true instruments and studies write."""

import gzip
import hashlib
import json

import h5py
import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image
from scipy.io import mmread

from spahgc.demo.formats import VisiumSlide, write_demo_slides, write_visium

TINY = 0.35


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_slides(tmp_path_factory.mktemp("demo"), scale=TINY)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_counts(study, name):
    return pd.read_csv(study / "ST-cnts" / f"{name}.tsv.gz", sep="\t", index_col=0)


def read_selection(study, name):
    return pd.read_csv(study / "ST-spotfiles" / f"{name}_selection.tsv", sep="\t")


def small_visium(**changes):
    array = np.array([(row, column) for row in range(4) for column in range(row % 2, 6, 2)])
    truth = {
        "barcodes": tuple(f"{'ACGT'[n % 4] * 15}{'ACGT'[n // 4]}-1" for n in range(12)),
        "array": array,
        "centers": 10 + array[:, ::-1] * (5.0, 8.66),
        "in_tissue": np.arange(12) % 3 > 0,
        "counts": np.arange(24, dtype=np.uint32).reshape(8, 3) % 5,
        "gene_ids": ("G1", "G2", "G3"),
        "gene_symbols": ("ONE", "TWO", "TWO"),
        "microns_per_pixel": 10.0,
    }
    return VisiumSlide(**(truth | changes))


def test_the_same_seed_writes_the_same_bytes(demo, tmp_path):
    write_demo_slides(tmp_path, scale=TINY)
    assert digests(tmp_path) == digests(demo.root)


def test_another_seed_writes_other_slides_with_the_same_genes(demo, tmp_path):
    other = write_demo_slides(tmp_path, seed=1, scale=TINY)
    own, others = digests(demo.root), digests(tmp_path)
    assert own.keys() == others.keys()
    drawn = [name for name in own if not name.endswith(".json")]  # sizes do not depend on it
    assert all(own[name] != others[name] for name in drawn)
    genes = [read_counts(folder.st_study, "A1").columns for folder in (demo, other)]
    assert genes[0].equals(genes[1])


def test_readme_says_that_the_slides_are_synthetic(demo):
    assert "synthetic" in (demo.root / "README.txt").read_text(encoding="utf-8").lower()


def test_there_are_three_patients_on_two_platforms_and_one_bare_image(demo):
    assert demo.st_slides == ("A1", "A2", "B1", "B2")
    assert [folder.name for folder in demo.visium_slides] == ["C1", "C2"]
    with Image.open(demo.image) as image:
        assert image.format == "JPEG"
        assert min(image.size) > 800


def test_tiny_slides_still_have_some_thirty_to_sixty_spots(demo):
    n_spots = [len(read_counts(demo.st_study, name)) for name in demo.st_slides]
    for folder in demo.visium_slides:
        with h5py.File(folder / "outs" / "filtered_feature_bc_matrix.h5") as file:
            n_spots.append(int(file["matrix/shape"][1]))
    assert all(30 <= n <= 60 for n in n_spots)


def test_both_platforms_share_their_gene_ids(demo):
    genes = set(read_counts(demo.st_study, "A1").columns)
    with h5py.File(demo.visium_slides[0] / "outs" / "filtered_feature_bc_matrix.h5") as file:
        ids = set(file["matrix/features/id"].asstr()[:])
    assert ids == genes
    assert len(genes) == 200


def test_st_counts_have_spot_ids_in_rows_below_an_empty_header_cell(demo):
    with gzip.open(demo.st_study / "ST-cnts" / "A1.tsv.gz", "rt") as lines:
        assert next(lines).startswith("\t")
    counts = read_counts(demo.st_study, "A1")
    assert counts.index.str.fullmatch(r"\d+x\d+").all()
    assert counts.index.is_unique
    assert (counts.dtypes == np.int64).all()


def test_a_few_st_spots_are_only_in_the_selection_file(demo):
    for name in demo.st_slides:
        selection = read_selection(demo.st_study, name)
        ids = selection["x"].astype(str) + "x" + selection["y"].astype(str)
        counted = read_counts(demo.st_study, name).index
        assert counted.isin(ids).all()
        assert 1 <= (~ids.isin(counted)).sum() <= 3


@pytest.mark.parametrize(("name", "microns_per_pixel"), [("A1", 1.1), ("B1", 1.0)])
def test_st_spots_lie_200_microns_apart_and_inside_the_image(demo, name, microns_per_pixel):
    selection = read_selection(demo.st_study, name)
    slope = np.polyfit(selection["x"], selection["pixel_x"], 1)[0]
    assert slope * microns_per_pixel == pytest.approx(200, abs=3)
    assert (selection["new_x"].round() == selection["x"]).all()
    assert selection["x"].max() < 33
    assert selection["y"].max() < 35
    with Image.open(demo.st_study / "ST-imgs" / name[0] / name / f"{name}.jpg") as image:
        width, height = image.size
    assert selection["pixel_x"].between(0, width).all()
    assert selection["pixel_y"].between(0, height).all()


def test_st_labels_name_a_tissue_for_every_spot_of_a_first_section(demo):
    labels = pd.read_csv(demo.st_study / "ST-pat" / "lbl" / "A1_labeled_coordinates.tsv", sep="\t")
    assert list(labels) == ["Row.names", "x", "y", "pixel_x", "pixel_y", "label"]
    assert len(labels) == len(read_selection(demo.st_study, "A1"))
    assert len(set(labels["label"])) > 1


def test_visium_positions_are_a_true_hexagonal_array(demo):
    table = pd.read_csv(demo.visium_slides[0] / "outs" / "spatial" / "tissue_positions.csv")
    assert ((table["array_row"] + table["array_col"]) % 2 == 0).all()
    assert set(table["in_tissue"]) == {0, 1}
    row = table[table["array_row"] == 0]["pxl_col_in_fullres"].diff().dropna() * 0.9
    np.testing.assert_allclose(row, 100)
    rows = table.groupby("array_row")["pxl_row_in_fullres"].first().diff().dropna() * 0.9
    np.testing.assert_allclose(rows, 86.6, atol=0.01)


def test_openslide_opens_the_visium_image_with_its_levels_and_pixel_size(demo):
    with openslide.OpenSlide(demo.visium_slides[0] / "image.tif") as image:
        assert image.level_count >= 2
        assert image.level_downsamples[1] == pytest.approx(2, abs=0.01)
        assert float(image.properties["openslide.mpp-x"]) == pytest.approx(0.9)
        corner = np.asarray(image.read_region((0, 0), 0, (8, 8)))
        assert corner[..., :3].min() > 220


def test_small_visium_images_and_spot_diameter_have_the_stated_scale(demo):
    outs = demo.visium_slides[0] / "outs" / "spatial"
    factors = json.loads((outs / "scalefactors_json.json").read_text())
    with openslide.OpenSlide(demo.visium_slides[0] / "image.tif") as image:
        width = image.dimensions[0]
    for name in ("hires", "lowres"):
        with Image.open(outs / f"tissue_{name}_image.png") as small:
            assert small.width == pytest.approx(width * factors[f"tissue_{name}_scalef"], abs=1)
    assert factors["spot_diameter_fullres"] * 0.9 == pytest.approx(65)


def test_visium_counts_are_sorted_by_barcode_and_positions_are_not(tmp_path):
    write_visium(tmp_path, small_visium())
    with h5py.File(tmp_path / "outs" / "filtered_feature_bc_matrix.h5") as file:
        barcodes = list(file["matrix/barcodes"].asstr()[:])
    table = pd.read_csv(tmp_path / "outs" / "spatial" / "tissue_positions.csv")
    assert barcodes == sorted(barcodes)
    assert list(table["barcode"]) != sorted(table["barcode"])


def test_matrix_folder_and_h5_hold_the_same_counts(tmp_path):
    write_visium(tmp_path / "h5", small_visium())
    write_visium(tmp_path / "mtx", small_visium(), matrix="mtx")
    folder = tmp_path / "mtx" / "outs" / "filtered_feature_bc_matrix"
    with gzip.open(folder / "matrix.mtx.gz") as file:
        dense = mmread(file).toarray()
    with h5py.File(tmp_path / "h5" / "outs" / "filtered_feature_bc_matrix.h5") as file:
        group = file["matrix"]
        assert group["shape"][:].tolist() == [3, 8]
        for spot in range(8):
            inside = slice(group["indptr"][spot], group["indptr"][spot + 1])
            column = np.zeros(3, int)
            column[group["indices"][inside]] = group["data"][inside]
            assert column.tolist() == dense[:, spot].tolist()


def test_a_positions_list_has_no_header(tmp_path):
    write_visium(tmp_path, small_visium(), has_header=False)
    listed = tmp_path / "outs" / "spatial" / "tissue_positions_list.csv"
    assert listed.read_text().split(",")[0].endswith("-1")
    assert not (tmp_path / "outs" / "spatial" / "tissue_positions.csv").exists()
