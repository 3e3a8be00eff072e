"""Arrays are read by Zarr, or by zarrs where it is installed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from spahgc.store import committed
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


@pytest.fixture
def slide(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, build_slide("A1"))
    embed_slide(store.path, "A1")
    return open_cohort(store.path)["A1"]


def test_threads_that_read_leave_the_settings_of_zarr_alone(slide):
    pytest.importorskip("zarrs")
    before = zarr.config.get("codec_pipeline.path")
    expected = slide.read_embedding("lite0")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(slide.read_embedding, ["lite0"] * 64))
    assert all(np.array_equal(one, expected) for one in found)
    assert zarr.config.get("codec_pipeline.path") == before


def test_zarrs_reads_where_it_is_installed_and_zarr_elsewhere(slide, monkeypatch):
    zarrs = pytest.importorskip("zarrs")
    read, used = zarrs.ZarrsCodecPipeline.read, []

    def recorded(pipeline, *arguments, **named):
        used.append(pipeline)
        return read(pipeline, *arguments, **named)

    monkeypatch.setattr(zarrs.ZarrsCodecPipeline, "read", recorded)
    fast = slide.read_embedding("lite0")
    assert used
    used.clear()
    monkeypatch.setattr(committed, "find_spec", lambda _: None)
    assert np.array_equal(open_cohort(slide.store.path)["A1"].read_embedding("lite0"), fast)
    assert not used
