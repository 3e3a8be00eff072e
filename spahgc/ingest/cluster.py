"""Embed shards on a Dask cluster: one of this machine's, or one that runs already."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch

from spahgc.clusters import Cluster, connected, has_dask_cuda, result_of
from spahgc.ingest.shards import Advance, FinishedShard, ShardTask, embed_shards, ignore

Tell: TypeAlias = Callable[[str], None]
"""Told, in a line for people, what they may want to know while a run goes on."""

AHEAD: Final = 2
"""Tasks per worker that the scheduler holds at a time."""

DEATHS: Final = 5
"""Workers that may die over one shard before the run gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a worker has of its machine."""

    threads: int | None
    """Of a forward pass; None leaves them as the worker was started."""

    takes_turns: bool
    """Whether workers share the GPUs by their number; dask-cuda does it by itself."""


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
    from distributed import as_completed

    waiting = iter(tasks)
    with connected(cluster, deaths=DEATHS) as client:
        tell(f"Dask dashboard: {client.dashboard_link}")
        place = _Place(threads=_threads_each(cluster), takes_turns=not has_dask_cuda())
        n_ahead = AHEAD * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))

        def submit(task: ShardTask) -> Any:  # noqa: ANN401  dask has no types
            return client.submit(_embed_shard, task, place, pure=False)

        running = as_completed(
            submit(task) for _, task in zip(range(n_ahead), waiting, strict=False)
        )
        for future in running:
            done: FinishedShard = result_of(
                future, of="shard", then=", and the next run goes on with what is missing"
            )
            advance(done.task.rows.stop - done.task.rows.start)
            if (following := next(waiting, None)) is not None:
                running.add(submit(following))
            yield done


def _threads_each(cluster: Cluster) -> int | None:
    """Share this machine's cores; on others each worker was started as its owner wanted."""
    if cluster.scheduler is not None:
        return None
    return max(1, (os.cpu_count() or 1) // cluster.workers)


def _embed_shard(task: ShardTask, place: _Place) -> FinishedShard:
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    own = _on_own_device(task) if place.takes_turns else task
    (done,) = embed_shards([own], ignore)
    return replace(done, task=task)


def _on_own_device(task: ShardTask) -> ShardTask:
    """Give the workers of one machine its GPUs in turn."""
    from distributed import get_worker

    n_gpus, number = torch.cuda.device_count(), get_worker().name
    if task.config.device not in {"auto", "cuda"} or n_gpus < 2 or not isinstance(number, int):
        return task
    return replace(task, config=replace(task.config, device=f"cuda:{number % n_gpus}"))
