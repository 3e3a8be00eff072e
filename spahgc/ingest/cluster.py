"""Embed shards on a Dask cluster: one of this machine's, or one that runs already."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from spahgc.ingest.shards import Advance, FinishedShard, ShardTask, embed_shards, ignore


def embed_on_dask(
    workers: int, scheduler: str | None, tasks: Iterable[ShardTask], advance: Advance
) -> Iterator[FinishedShard]:
    """Embed shards on a cluster, two tasks a worker in flight; give each once it is written."""
    from distributed import Client, LocalCluster, as_completed

    pending = list(tasks)
    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster)
        client = stack.enter_context(Client(address))
        ahead = 2 * max(1, len(client.scheduler_info()["workers"]))
        running = as_completed(
            [client.submit(_embed_shard, task, pure=False) for task in pending[:ahead]]
        )
        waiting = iter(pending[ahead:])
        for future in running:
            done: FinishedShard = future.result()
            advance(done.task.rows.stop - done.task.rows.start)
            if (following := next(waiting, None)) is not None:
                running.add(client.submit(_embed_shard, following, pure=False))
            yield done


def _embed_shard(task: ShardTask) -> FinishedShard:
    (done,) = embed_shards([task], ignore)
    return done
