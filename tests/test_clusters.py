"""Workers that Dask starts on this machine."""

import os
import resource
import signal
import sys

import dask
import distributed  # noqa: F401  it brings its settings
import numpy as np
import pytest

from spahgc.allocator import KEPT_BY_A_CHILD
from spahgc.clusters import Cluster, connected, result_of
from spahgc.errors import WorkerError


def environment():
    return {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def count_faults():
    """Count the pages that come anew where 80 MiB are taken again and again."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(80 * 2**20, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_workers_keep_the_memory_they_free_as_far_as_the_user_has_not_decided(monkeypatch):
    for name in KEPT_BY_A_CHILD:
        monkeypatch.delenv(name, raising=False)
    before = dask.config.get("distributed.nanny.pre-spawn-environ").copy()
    with connected(Cluster(workers=1), deaths=2) as client:
        assert client.submit(environment).result() == KEPT_BY_A_CHILD
        assert client.submit(count_faults).result() < 20 * 80 * 2**20 / 4096 / 20
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    with connected(Cluster(workers=1), deaths=2) as client:
        assert client.submit(environment).result() == {**KEPT_BY_A_CHILD, "MALLOC_ARENA_MAX": "3"}
    assert dask.config.get("distributed.nanny.pre-spawn-environ") == before


def test_a_task_that_kills_its_worker_is_one_clear_error():
    with connected(Cluster(workers=1), deaths=1) as client:
        deadly = client.submit(die, pure=False)
        with pytest.raises(WorkerError, match=r"^workers died over one slide \(tcp://.* or so$"):
            result_of(deadly, of="slide", then=" or so")
