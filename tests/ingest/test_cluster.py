"""The same numbers from a cluster, whatever happens to its workers."""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spahgc.clusters import Cluster
from spahgc.errors import WorkerError
from spahgc.ingest import cluster, shards
from spahgc.ingest.embedding import embed_image_slide, embed_slides
from spahgc.ingest.fields import EmbeddingConfig, Field
from spahgc.ingest.networks.timm_networks import timm
from spahgc.store import drafts
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.ingest.conftest import with_image, write_noise
from tests.processes import at_once

N_SPOTS = 600


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network, so that the test is about the cluster."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    fields = (Field(), Field(side_um=60))
    return EmbeddingConfig(encoder="timm:test_vit", weights=path, fields=fields)


@pytest.fixture
def slide(tmp_path):
    path = write_noise(tmp_path / "slide.png", size=(2600, 2600))
    return with_image(build_slide(n_spots=N_SPOTS), path, size=(2600, 2600))


@pytest.fixture
def store(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(drafts, "SHARD_ROWS", 256)
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)
    return store


def expect_whole(store, slide, config, names):
    again = embed_image_slide(slide, config)
    assert verify_store(store.path, deep=True) == []
    for name, vectors in zip(names, again, strict=True):
        assert np.allclose(open_cohort(store.path)["A1"].read_embedding(name), vectors, atol=1e-5)


@pytest.mark.slow
def test_a_worker_killed_half_way_loses_no_shard_and_shows_none_twice(store, slide, tiny):
    done, told, killed = [], [], []

    def advance(n_spots):
        done.append(n_spots)
        if n_spots and not killed:  # the first shard is written: take one of the others' workers
            killed.append(True)
            victims = [int(pid) for pid in worker_pids()]
            os.kill(victims[0], signal.SIGKILL)

    report = embed_slides(
        store.path, config=tiny, cluster=Cluster(workers=2), advance=advance, tell=told.append
    )
    assert killed
    assert sum(done) == N_SPOTS
    assert told[0].startswith("Dask dashboard: http://127.0.0.1")
    (commit,) = [commit for commit in store.history() if "embed" in commit.message]
    assert commit.message == f"embed A1 with {', '.join(report.embeddings)}"
    expect_whole(store, slide, tiny, report.embeddings)


def worker_pids():
    """The processes that Dask's nannies look after, children of this one."""
    from distributed import get_client

    return get_client().run(os.getpid).values()


def embed_there(place, config):
    drafts.SHARD_ROWS = 256  # in this process, as in the one that made the store
    return embed_slides(place, config=config).embeddings


def test_two_processes_embedding_one_slide_leave_it_whole(store, slide, tiny):
    embedded = at_once(embed_there, [(store.path, tiny)] * 2)
    names = ("timm-test_vit", "timm-test_vit-60um")
    assert embedded == [names] * 2
    assert set(open_cohort(store.path)["A1"].entry.encoders) == set(names)
    expect_whole(store, slide, tiny, names)


def test_a_scheduler_that_is_not_there_is_one_line(store, tiny, monkeypatch):
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(WorkerError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        embed_slides(store.path, config=tiny, cluster=Cluster(scheduler="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("device", "gpu_each", "on_gpu"),
    [
        ("auto", True, True),
        ("cuda", True, True),
        ("cuda:1", False, True),
        ("cpu", False, False),
    ],
)
def test_shards_ask_for_the_gpus_that_their_device_is_one_of(
    monkeypatch, tiny, device, gpu_each, on_gpu
):
    """Workers that each see one GPU have no ``cuda:1``."""
    asked = {}
    monkeypatch.setattr(cluster, "connected", partial(remember, asked))
    monkeypatch.setattr(cluster, "run_ahead", lambda *_, **how: asked.update(how) or iter(()))
    task = shards.ShardTask(
        store="", slide="", rows=drafts.RowRange(0, 1), config=replace(tiny, device=device)
    )
    assert list(cluster.embed_on_dask(Cluster(), [task], shards.ignore, tell=shards.ignore)) == []
    assert (asked["gpu_each"], asked["on_gpu"]) == (gpu_each, on_gpu)


@contextmanager
def remember(asked, *_, **how):
    asked.update(how)
    yield SimpleNamespace(dashboard_link="")
