import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.index import ReferenceIndex, training
from spahgc.store.index.blocks import search_on_dask
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZES = {"A1": 60, "A2": 1, "B1": 40, "B2": 30, "C1": 50}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    store = create_store(tmp_path_factory.mktemp("blocks") / "data.zarr")
    generator = np.random.default_rng(0)
    pool_UD = generator.normal(size=(40, 8)).astype(np.float32)  # so with equal vectors
    for name, n_spots in SIZES.items():
        add_slide(store, build_slide(name, n_spots=n_spots))
        draft = EmbeddingDraft(open_cohort(store.path)[name], "tiny", fingerprint={"w": 1}, size=8)
        for rows in draft.missing():
            draft.write(rows, pool_UD[generator.integers(0, 40, n_spots)])
        draft.commit()
    return open_cohort(store.path)


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(n_workers=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("slides_per_task", [1, 2, 8])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_blocks_on_a_cluster_find_what_one_process_finds(
    cohort, client, kind, slides_per_task, monkeypatch
):
    monkeypatch.setattr(training, "FEWEST_SPOTS", 100)
    ReferenceIndex.build(cohort, embedding="tiny", kind=kind, name=kind, min_recall=0)
    cohort = open_cohort(cohort.where)
    index = ReferenceIndex.build(cohort, embedding="tiny", kind=kind, name=kind, min_recall=0)
    rule = {"exclude_patients": ["C"]}
    found = search_on_dask(
        client,
        cohort,
        index,
        ["A1", "B2"],
        name=kind,
        k=70,
        slides_per_task=slides_per_task,
        **rule,
    )
    for asking, near in found.items():
        alone = index.search_slide(asking, k=70, **rule)
        assert near.slides == alone.slides
        for table in ("slide_SK", "spot_SK", "distance_SK"):
            ours, theirs = getattr(near, table), getattr(alone, table)
            if kind == "flat":
                assert np.array_equal(ours, theirs, equal_nan=True)
        assert (near.exists_SK.sum(axis=1) >= alone.exists_SK.sum(axis=1)).all()
