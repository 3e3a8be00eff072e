import json
import uuid
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from spahgc.errors import MismatchError, StoreError
from spahgc.report.predictions import check_places, write_prediction

GENES = ["G1", "G2", "HLA-A"]


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    spots = [f"{n}x1" for n in range(4)]
    return anndata.AnnData(
        X=generator.random((4, 3), dtype=np.float32),
        obs=pd.DataFrame(
            {
                "array_row": [0, 0, 1, 1],
                "reference_similarity": [0.9, 0.8, 0.7, 0.2],
                "nearness": [0.9, 0.5, 0.1, 0.0],
                "unlike_references": [False, False, False, True],
            },
            index=spots,
        ),
        var=pd.DataFrame({"cv_pcc": [0.5, np.nan, 0.1]}, index=GENES),
        obsm={"spatial": np.array([[10.0, 20], [110, 20], [10, 120], [110, 120]])},
        uns={
            "spahgc": {
                "slide": "C5",
                "references": ["C2", "C3"],
                "spot_diameter_px": 50.0,
                "notes": ["4 spots only"],
            }
        },
    )


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_anndata_is_read_back_as_it_was(table, tmp_path, suffix):
    place = write_prediction(table, tmp_path / f"C5{suffix}")
    read = anndata.read_h5ad(place) if suffix == ".h5ad" else anndata.read_zarr(str(place))
    assert np.array_equal(read.X, table.X)
    assert np.array_equal(read.obsm["spatial"], table.obsm["spatial"])
    assert list(read.obs_names) == list(table.obs_names)
    assert read.obs["unlike_references"].tolist() == [False, False, False, True]
    assert read.var["cv_pcc"].equals(table.var["cv_pcc"])
    assert read.uns["spahgc"]["slide"] == "C5"
    assert [item.name for item in tmp_path.iterdir()] == [f"C5{suffix}"]


def test_parquet_has_a_row_per_spot_and_a_column_per_gene(table, tmp_path):
    place = write_prediction(table, tmp_path / "C5.parquet")
    frame = pd.read_parquet(place)
    assert frame["slide"].tolist() == ["C5"] * 4
    assert frame["spot"].tolist() == list(table.obs_names)
    assert frame[["x", "y"]].to_numpy().tolist() == table.obsm["spatial"].tolist()
    assert np.array_equal(frame[GENES].to_numpy(), table.X)
    assert frame["unlike_references"].tolist() == [False, False, False, True]
    told = pq.read_schema(place).metadata
    assert json.loads(told[b"spahgc"])["references"] == ["C2", "C3"]
    assert json.loads(told[b"spahgc.genes"])["G2"] == {"cv_pcc": None}


def test_geojson_has_what_qupath_reads(table, tmp_path):
    place = write_prediction(table, tmp_path / "C5.geojson")
    document = json.loads(place.read_text(), parse_constant=pytest.fail)
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == 4
    for row, feature in enumerate(document["features"]):
        assert feature["type"] == "Feature"
        assert uuid.UUID(feature["id"])
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["name"] == table.obs_names[row]
        assert all(type(value) is float for value in properties["measurements"].values())
        assert properties["measurements"]["HLA-A"] == pytest.approx(table.X[row, 2], abs=1e-5)
        assert properties["measurements"]["nearness"] == table.obs["nearness"].iloc[row]
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        centre, radius = table.obsm["spatial"][row], 25
        distance = np.linalg.norm(np.array(ring) - centre, axis=1)
        np.testing.assert_allclose(distance, radius, atol=0.02)
    kinds = [f["properties"]["classification"]["name"] for f in document["features"]]
    assert kinds == ["predicted", "predicted", "predicted", "unlike references"]


def test_the_same_spot_keeps_its_id(table, tmp_path):
    first = write_prediction(table, tmp_path / "1.geojson").read_text()
    table.X += 1
    second = write_prediction(table, tmp_path / "2.geojson").read_text()
    ids = [[f["id"] for f in json.loads(text)["features"]] for text in (first, second)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 4


def test_spots_without_places_cannot_be_drawn(table, tmp_path):
    table.obsm["spatial"][2] = np.nan
    with pytest.raises(MismatchError, match="C5 has spots without places"):
        write_prediction(table, tmp_path / "C5.geojson")
    assert list(tmp_path.iterdir()) == []


def test_the_slides_name_goes_where_the_path_says(table, tmp_path):
    place = write_prediction(table, tmp_path / "maps/{slide}.parquet")
    assert place == tmp_path / "maps/C5.parquet"
    assert place.exists()


def test_a_suffix_that_says_no_format_is_refused_before_anything_is_predicted():
    with pytest.raises(MismatchError, match=r"C5.csv.*one of .h5ad, .zarr, .parquet, .geojson"):
        check_places([Path("C5.csv")], slides=["C5"])


def test_several_slides_need_several_places():
    with pytest.raises(MismatchError, match=r"one place for 2 slides; put \{slide\}"):
        check_places([Path("out.h5ad")], slides=["C4", "C5"])
    check_places([Path("{slide}.h5ad"), Path("{slide}/x.geojson")], slides=["C4", "C5"])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".parquet", ".geojson"])
def test_an_older_prediction_is_replaced(table, tmp_path, suffix):
    place = tmp_path / f"C5{suffix}"
    write_prediction(table, place)
    table.uns["spahgc"]["notes"] = ["anew"]
    write_prediction(table, place)
    assert [item.name for item in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".parquet", ".geojson"])
def test_a_place_that_cannot_be_written_is_one_error(table, tmp_path, suffix):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        write_prediction(table, tmp_path / f"file/C5{suffix}")
    assert "\n" not in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
