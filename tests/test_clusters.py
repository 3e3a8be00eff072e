"""Workers that Dask starts on this machine."""

import itertools
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from spahgc.allocator import KEPT_BY_A_CHILD
from spahgc.clusters import Cluster, connected, result_of, run_ahead
from spahgc.errors import WorkerError

QUIET = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,
}


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


def meet(task, folder, n_workers):
    """Come to a place, and wait there until so many processes have come."""
    place = folder / f"{task}-{os.getpid()}"
    place.touch()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if len({path.name.partition("-")[2] for path in folder.iterdir()}) >= n_workers:
            return True
        time.sleep(0.05)
    return False


def results(ran):
    return [future.result() for _, future in ran]


def test_workers_that_join_late_get_tasks_too(tmp_path):
    """As those of a queue do: one is there at first, the others come while it works."""
    with LocalCluster(n_workers=1, **QUIET) as late, Client(late) as client:
        ran = run_ahead(client, partial(meet, folder=tmp_path, n_workers=3), range(8), on_gpu=False)
        threading.Timer(0.5, late.scale, [3]).start()
        assert results(ran) == [True] * 8
    assert len({path.name.partition("-")[2] for path in tmp_path.iterdir()}) == 3


def test_a_worker_that_leaves_takes_no_task_with_it():
    with LocalCluster(n_workers=2, **QUIET) as cluster, Client(cluster) as client:
        ran = run_ahead(client, doze, range(12), on_gpu=False)
        first = [next(ran), next(ran)]
        cluster.scale(1)
        assert sorted(task for task, _ in [*first, *ran]) == list(range(12))


def doze(task):
    time.sleep(0.1)
    return task


def test_two_tasks_a_worker_are_with_the_scheduler_and_no_more():
    taken = []

    def tasks():
        for task in range(9):
            taken.append(task)
            yield task

    with LocalCluster(n_workers=2, **QUIET) as cluster, Client(cluster) as client:
        for n_done, _ in enumerate(run_ahead(client, doze, tasks(), on_gpu=False)):
            assert len(taken) <= min(9, 4 + n_done)
    assert taken == list(range(9))


def span(task):
    began = time.monotonic()
    time.sleep(0.2)
    return os.getpid(), began, time.monotonic()


def test_where_workers_declare_a_gpu_they_alone_get_tasks_one_at_a_time(tmp_path):
    """Under any name, and whatever number of threads they have."""
    options = ("--resources", "GPU=1", "--nthreads", "4", "--name", "SLURM-7-a")
    with (
        LocalCluster(n_workers=1, **QUIET) as cluster,
        Client(cluster) as client,
        worker_of(cluster, *options),
    ):
        client.wait_for_workers(2, timeout=60)
        spans = results(run_ahead(client, span, range(4), on_gpu=True))
        assert len({pid for pid, _, _ in spans}) == 1
        spans.sort(key=lambda found: found[1])
        assert all(a[2] <= b[1] for a, b in itertools.pairwise(spans))
        found = results(run_ahead(client, span, range(12), on_gpu=False))
        assert len({pid for pid, _, _ in found}) == 2


@contextmanager
def worker_of(cluster, *options):
    """Start one as a user would."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
    process = subprocess.Popen(
        [*command, "--no-dashboard", *options],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def visible(_):
    time.sleep(0.2)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("named", "each"), [("", {"0", "1"}), ("3,GPU-5a", {"3", "GPU-5a"})], ids=["all", "named"]
)
def test_workers_started_here_see_one_gpu_each(monkeypatch, named, each):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with connected(Cluster(workers=2), deaths=2, gpu_each=True) as client:
        client.wait_for_workers(2, timeout=60)
        assert set(results(run_ahead(client, visible, range(6), on_gpu=True))) == each
    with connected(Cluster(workers=1), deaths=2, gpu_each=False) as client:
        assert results(run_ahead(client, visible, range(1), on_gpu=True)) == [named]
