"""The store is a SpatialData container, and so is each slide exported as one."""

import geopandas
import numpy as np
import pytest
import spatialdata
from spatialdata.models import ShapesModel, TableModel


@pytest.fixture(scope="module")
def store(folder):
    return spatialdata.read_zarr(folder / "data.zarr")


@pytest.fixture
def exported(folder, expected):
    return spatialdata.read_zarr(folder / "spatialdata" / f"{expected.name}.zarr")


def test_the_store_opens_with_a_table_for_each_slide(store, expected):
    expected.check(store.tables[expected.name])
    assert not list(store.images)
    assert not list(store.shapes)


def test_no_slide_is_missing_or_added(store, folder):
    assert set(store.tables) == {item.name for item in (folder / "expected").iterdir()}


def test_an_export_holds_the_slide(exported, expected):
    table = exported.tables["table"]
    TableModel().validate(table)
    expected.check(table)


def test_an_export_joins_each_spot_with_its_circle(exported, expected):
    circles = exported.shapes[expected.name]
    ShapesModel().validate(circles)
    assert isinstance(circles, geopandas.GeoDataFrame)
    assert np.array_equal(circles.get_coordinates(), expected.arrays["spatial"])
    matched, table = spatialdata.join_spatialelement_table(
        sdata=exported, spatial_element_names=expected.name, table_name="table", how="inner"
    )
    assert list(matched[expected.name].index) == list(table.obs["spot_id"])
    assert len(table) == len(expected.names["spots"])


def test_the_picture_and_the_circles_lie_over_each_other(exported, expected):
    picture = spatialdata.get_extent(exported[f"{expected.name}_hires_image"])
    circles = spatialdata.get_extent(exported[expected.name])
    for axis in ("x", "y"):
        assert picture[axis][0] <= circles[axis][0]
        assert circles[axis][1] <= picture[axis][1]
        assert picture[axis][1] < 2 * circles[axis][1]


def test_a_box_asked_of_an_export_holds_the_spots_in_it(exported, expected):
    centers = expected.arrays["spatial"]
    middle = np.median(centers, axis=0)
    part = spatialdata.bounding_box_query(
        exported,
        axes=("x", "y"),
        min_coordinate=[0, 0],
        max_coordinate=middle.tolist(),
        target_coordinate_system="global",
    )
    inside = (centers <= middle).all(axis=1)
    named = set(np.array(expected.names["spots"])[inside])
    assert named <= set(part.tables["table"].obs["spot_id"])
    assert len(part.tables["table"]) < len(centers)


def test_an_export_can_be_written_and_read_again(exported, expected, tmp_path):
    exported.write(tmp_path / "again.zarr")
    expected.check(spatialdata.read_zarr(tmp_path / "again.zarr").tables["table"])


def test_exports_of_several_slides_can_be_put_together(folder):
    slides = [spatialdata.read_zarr(item) for item in sorted((folder / "spatialdata").iterdir())]
    together = spatialdata.concatenate(slides, concatenate_tables=True, obs_names_make_unique=True)
    assert together.tables["table"].n_obs == sum(s.tables["table"].n_obs for s in slides)
