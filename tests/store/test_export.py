import json
from dataclasses import replace

import anndata
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from pyarrow import parquet

from spahgc.cli import cli
from spahgc.errors import DamagedStoreError, StoreError
from spahgc.ingest.readers.h5ad import read_h5ad_slide
from spahgc.store import export
from spahgc.store.cohort import open_cohort
from spahgc.store.export import as_table, export_slide
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("lab") / "data.zarr"
    store = create_store(place)
    add_slide(store, build_slide("A1", n_spots=9))
    add_slide(store, build_slide("B1", n_spots=1, n_genes=0))
    embed_slide(place, "A1")
    return place


@pytest.fixture
def slide(place):
    return open_cohort(place)["A1"]


def test_an_h5ad_export_holds_the_whole_slide(slide, tmp_path):
    written = anndata.read_h5ad(export_slide(slide, tmp_path, to="h5ad"))
    assert (slide.read_counts() != written.X).nnz == 0
    assert written.obs.equals(slide.spots)
    assert written.var.equals(slide.genes)
    assert np.array_equal(written.obsm["spatial"], slide.centers)
    assert np.array_equal(written.obsm["lite0"], slide.read_embedding("lite0"))
    pictures = written.uns["spatial"]["A1"]
    assert np.array_equal(pictures["images"]["hires"], slide.read_thumbnail().pixels)
    assert pictures["scalefactors"]["spot_diameter_fullres"] == pytest.approx(200)
    record = json.loads(written.uns["spahgc"])
    assert record["patient"] == "A"
    assert record["embeddings"]["lite0"]["fingerprint"] == {"weights": "random"}


def test_an_h5ad_export_is_what_anndata_reads_from_the_store_itself(slide, place, tmp_path):
    written = anndata.read_h5ad(export_slide(slide, tmp_path, to="h5ad"))
    stored = anndata.read_zarr(place / "tables" / "A1")
    assert written.X.dtype == stored.X.dtype
    assert written.obsm.keys() == stored.obsm.keys()
    assert written.uns["spatial"]["A1"].keys() == stored.uns["spatial"]["A1"].keys()


def test_a_spot_of_unknown_width_is_drawn_as_wide_as_spots_are_apart(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    for name, n_spots in (("A1", 9), ("A2", 1)):
        add_slide(store, replace(build_slide(name, n_spots=n_spots), spot_diameter_um=None))
    widths = []
    for name in ("A1", "A2"):
        slide = open_cohort(store.path)[name]
        exported = anndata.read_h5ad(export_slide(slide, tmp_path, to="h5ad"))
        stored = anndata.read_zarr(store.path / "tables" / name)
        for table in (exported, stored):
            factors = table.uns["spatial"][name]["scalefactors"]
            widths.append(factors.get("spot_diameter_fullres"))
    assert widths == [100, 100, None, None]  # a spot alone has none beside it


def test_an_h5ad_export_can_be_ingested_again(slide, tmp_path):
    again = read_h5ad_slide(export_slide(slide, tmp_path, to="h5ad"), microns_per_pixel=0.5)
    assert (again.counts != slide.read_counts()).nnz == 0
    assert np.array_equal(again.centers, slide.centers)


def test_a_container_has_a_table_whose_rows_name_their_circles(slide, tmp_path):
    written = export_slide(slide, tmp_path, to="spatialdata")
    table = anndata.read_zarr(written / "tables" / "table")
    circles = parquet.read_table(written / "shapes" / "A1" / "shapes.parquet").to_pandas()
    assert (slide.read_counts() != table.X).nnz == 0
    assert list(table.obs["spot_id"]) == list(circles.index) == list(slide.spots.index)
    assert set(table.obs["region"]) == {"A1"}
    assert table.uns["spatialdata_attrs"]["region"] == "A1"
    assert set(circles["radius"]) == {100.0}  # spots are 100 µm wide, a pixel is 0.5 µm
    found = np.array([np.frombuffer(point[5:], "<f8") for point in circles["geometry"]])
    assert np.array_equal(found, slide.centers)


def test_a_container_shows_the_picture_in_full_resolution_pixels(slide, tmp_path):
    root = zarr.open_group(export_slide(slide, tmp_path, to="spatialdata"), mode="r")
    image = root["images/A1_hires_image"]
    assert np.array_equal(np.moveaxis(image["s0"][:], 0, -1), slide.read_thumbnail("hires").pixels)
    (scale,) = image.attrs["ome"]["multiscales"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([1, 10, 10])  # the picture has a tenth of the pixels


def test_columns_that_are_there_already_keep_their_values(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    slide = build_slide("A1")
    spots = slide.spots.assign(region="tumour")
    add_slide(store, replace(slide, spots=spots))
    stored = open_cohort(tmp_path / "data.zarr")["A1"]
    table = anndata.read_zarr(export_slide(stored, tmp_path, to="spatialdata") / "tables" / "table")
    assert set(table.obs["region"]) == {"tumour"}
    assert table.uns["spatialdata_attrs"]["region_key"] == "region_"


def test_spots_without_places_are_exported_without_circles(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    slide = build_slide("A1")
    add_slide(store, replace(slide, centers=np.full_like(slide.centers, np.nan), thumbnails={}))
    stored = open_cohort(tmp_path / "data.zarr")["A1"]
    written = export_slide(stored, tmp_path, to="spatialdata")
    assert sorted(item.name for item in written.iterdir()) == ["tables", "zarr.json"]
    assert zarr.open_group(written, mode="r")["tables/table"].attrs["region"] is None


def test_a_slide_of_one_spot_and_no_gene_can_be_exported(place, tmp_path):
    slide = open_cohort(place)["B1"]
    written = export_slide(slide, tmp_path, to="spatialdata")
    assert anndata.read_zarr(written / "tables" / "table").shape == (1, 0)
    assert anndata.read_h5ad(export_slide(slide, tmp_path, to="h5ad")).shape == (1, 0)


def test_circles_touch_where_no_width_is_known(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, replace(build_slide("A1"), spot_diameter_um=None))
    stored = open_cohort(tmp_path / "data.zarr")["A1"]
    written = export_slide(stored, tmp_path, to="spatialdata")
    circles = parquet.read_table(written / "shapes" / "A1" / "shapes.parquet")
    assert set(circles["radius"].to_pylist()) == {50.0}  # spots lie 100 pixels apart


@pytest.mark.parametrize("to", ["h5ad", "spatialdata"])
def test_an_earlier_export_is_kept_unless_told(slide, tmp_path, to):
    first = export_slide(slide, tmp_path, to=to)
    with pytest.raises(StoreError, match=f"{first.name} exists already; .*--overwrite"):
        export_slide(slide, tmp_path, to=to)
    assert export_slide(slide, tmp_path, to=to, overwrite=True) == first
    assert [item.name for item in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("to", ["h5ad", "spatialdata"])
def test_a_failed_export_leaves_the_earlier_one(slide, tmp_path, monkeypatch, to):
    first = export_slide(slide, tmp_path, to=to)

    def break_off(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", break_off)
    monkeypatch.setattr(export, "write_container", break_off)
    with pytest.raises(StoreError, match=f"{first.name} cannot be written: No space left"):
        export_slide(slide, tmp_path, to=to, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == [first.name]
    assert first.stat().st_size > 0


def test_damage_is_never_exported(tmp_path):
    place = tmp_path / "data.zarr"
    add_slide(create_store(place), build_slide("A1"))
    embed_slide(place, "A1")
    shard = place / "tables" / "A1" / "obsm" / "lite0" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedStoreError, match="tables/A1/obsm/lite0"):
        export_slide(open_cohort(place)["A1"], tmp_path / "out", to="h5ad")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_all_or_those_named(place, tmp_path):
    def run(*arguments):
        command = ["store", "export", *arguments, "--store", str(place)]
        return CliRunner().invoke(cli, command, prog_name="spahgc")

    one = run("A1", "--to", "spatialdata", str(tmp_path / "one"))
    assert one.stdout == f"A1: {tmp_path}/one/A1.zarr\n"
    every = run("--all", "--to", "h5ad", str(tmp_path / "all"), "--json")
    assert json.loads(every.stdout) == {
        name: f"{tmp_path}/all/{name}.h5ad" for name in ("A1", "B1")
    }
    nothing = run("--to", "h5ad", str(tmp_path / "none"))
    assert nothing.exit_code == 2
    assert "name the slides to export, or give `--all`" in nothing.stderr
    unknown = run("Z9", "A1", "--to", "h5ad", str(tmp_path / "none"))
    assert "has no slide 'Z9'" in unknown.stderr
    assert not (tmp_path / "none").exists()


def test_a_table_shares_nothing_with_the_slide(slide):
    table = as_table(slide)
    table.obs["new"] = 1
    assert "new" not in slide.spots
