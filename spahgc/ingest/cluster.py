"""Embed shards on a Dask cluster: one of this machine's, or one that runs already."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeAlias

import torch

from spahgc.clusters import Cluster, connected, result_of, run_ahead
from spahgc.ingest.shards import Advance, FinishedShard, ShardTask, embed_shards, ignore

Tell: TypeAlias = Callable[[str], None]
"""Told, in a line for people, what they may want to know while a run goes on."""

DEATHS: Final = 5
"""Workers that may die over one shard before the run gives up."""


def embed_on_dask(
    cluster: Cluster, tasks: Iterable[ShardTask], advance: Advance, *, tell: Tell
) -> Iterator[FinishedShard]:
    """Embed shards on a cluster and give each once its worker has written it.

    A worker that dies takes no shard with it: the shard is given to another, and written again.

    Raises
    ------
    WorkerError
        If `DEATHS` workers died over one shard, or the scheduler cannot be reached.
    """
    tasks = list(tasks)
    devices = {task.config.device for task in tasks}
    gpu_each = devices <= {"auto", "cuda"}
    on_gpu = not devices <= {"cpu", "mps"}
    with connected(cluster, deaths=DEATHS, gpu_each=gpu_each) as client:
        tell(f"Dask dashboard: {client.dashboard_link}")
        embed = partial(_embed_shard, threads=_threads_each(cluster))
        for _, future in run_ahead(client, embed, tasks, on_gpu=on_gpu):
            done: FinishedShard = result_of(
                future, of="shard", then=", and the next run goes on with what is missing"
            )
            advance(done.task.rows.stop - done.task.rows.start)
            yield done


def _threads_each(cluster: Cluster) -> int | None:
    """Share this machine's cores; on others each worker was started as its owner wanted."""
    if cluster.scheduler is not None:
        return None
    return max(1, (os.cpu_count() or 1) // cluster.workers)


def _embed_shard(task: ShardTask, *, threads: int | None) -> FinishedShard:
    if threads is not None:
        torch.set_num_threads(threads)
    (done,) = embed_shards([task], ignore)
    return done
