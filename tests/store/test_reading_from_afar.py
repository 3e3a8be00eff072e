"""A store is read over HTTP and S3 in few requests, by us and by AnnData alone."""

import anndata
import numpy as np
import pytest
import zarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

from spahgc.errors import StoreError
from spahgc.store.care import collect_garbage
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store, open_store
from spahgc.store.packing import pack_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.faulty import serve_folder, stand_before
from tests.servers import start_rclone_http

MOST_REQUESTS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("www")
    store = create_store(folder / "data.zarr")
    for n in range(5):
        add_slide(store, build_slide(f"A{n}", n_spots=5000 if n == 0 else 9, seed=n))
    embed_slide(folder / "data.zarr", "A0", size=8)
    pack_store(open_cohort(folder / "data.zarr"), folder / "data.zip")
    return folder


@pytest.mark.parametrize("name", ["data.zarr", "data.zip"])
def test_embeddings_are_read_over_http_in_few_requests(folder, name):
    expected = open_cohort(folder / "data.zarr")["A0"].read_embedding("lite0")
    with start_rclone_http(folder) as url, stand_before(url) as counted:
        slide = open_cohort(f"{counted.url}/{name}")["A0"]
        assert np.array_equal(slide.read_embedding("lite0"), expected)
        assert len(counted.requests) <= MOST_REQUESTS


def test_embeddings_are_read_over_s3_in_few_requests(folder, s3_place, seaweed, monkeypatch):
    expected = open_cohort(folder / "data.zarr")["A0"].read_embedding("lite0")
    copy_store(open_source(folder / "data.zarr"), s3_place)
    with stand_before(seaweed.endpoint) as counted:
        monkeypatch.setenv("AWS_ENDPOINT_URL", counted.url)
        slide = open_cohort(s3_place)["A0"]
        assert np.array_equal(slide.read_embedding("lite0"), expected)
        assert len(counted.requests) <= MOST_REQUESTS


def test_opening_a_store_costs_no_more_requests_for_more_slides(tmp_path):
    counts = []
    store = create_store(tmp_path / "data.zarr")
    for number in range(30):
        add_slide(store, build_slide(f"A{number}"))
        if number in {9, 29}:
            with serve_folder(tmp_path) as counted:
                _ = open_cohort(f"{counted.url}/data.zarr")["A0"].n_spots
                counts.append(len(counted.requests))
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("name", ["data.zarr", "data.zip"])
def test_what_can_only_be_read_is_not_written(folder, name):
    with serve_folder(folder) as server:
        place = f"{server.url}/{name}"
        slide = build_slide("B1")
        for write in (
            lambda: add_slide(open_store(place), slide),
            lambda: embed_slide(place, "A1"),
            lambda: remove_slide(open_store(place), "A1"),
            lambda: collect_garbage(place),
            lambda: copy_store(open_source(folder / "data.zarr"), place),
        ):
            with pytest.raises(StoreError, match=f"{name} can only be read; `spahgc store copy`"):
                write()


def test_a_slide_has_few_files(folder):
    files = [path for path in (folder / "data.zarr/tables/A0").rglob("*") if path.is_file()]
    assert len(files) <= 60


def test_anndata_reads_a_slide_over_http_by_itself(folder):
    expected = open_cohort(folder / "data.zarr")["A0"]
    with start_rclone_http(folder) as url:
        objects = HTTPStore.from_url(
            f"{url}/data.zarr/tables/A0", client_options={"allow_http": True}
        )
        table = anndata.read_zarr(zarr.open_group(ObjectStore(objects, read_only=True), mode="r"))
    assert (expected.read_counts() != table.X).nnz == 0
    assert np.array_equal(table.obsm["lite0"], expected.read_embedding("lite0"))
    assert table.obs.equals(expected.spots)
