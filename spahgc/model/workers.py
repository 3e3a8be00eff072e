"""Judge several tasks at once on Dask: one task = one model on one fold."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from spahgc.errors import WorkerError
from spahgc.model.evaluation import Task, judge
from spahgc.model.judged import Judged
from spahgc.store.cohort import Cohort, open_cohort


def judge_on_dask(
    cohort: Cohort, tasks: Sequence[Task], *, workers: int = 0, scheduler: str | None = None
) -> Iterator[Judged]:
    """Judge tasks on a cluster and give the results in the order of the tasks.

    Parameters
    ----------
    cohort
        The store; each worker opens it by itself, at the same commit.
    tasks
        What to judge.
    workers
        Processes of a cluster on this machine.
    scheduler
        Address of a running Dask scheduler, instead of ``workers``; it must see the store under
        the same name.

    Raises
    ------
    WorkerError
        If the scheduler cannot be reached, or workers died over one task.
    """
    with ExitStack() as stack:
        client = stack.enter_context(_connected(stack, workers=workers, scheduler=scheduler))
        where, commit = cohort.where, cohort.commit.number
        running = [client.submit(_judge, where, commit, task, pure=False) for task in tasks]
        for place, future in enumerate(running):
            result = _result(future)
            running[place] = None  # the cluster may forget it
            yield result


def _connected(stack: ExitStack, *, workers: int, scheduler: str | None) -> Any:  # noqa: ANN401
    from distributed import Client, LocalCluster

    if scheduler is None:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
        return Client(stack.enter_context(cluster))
    try:
        return Client(scheduler)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkerError(
            f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler` and "
            "workers with `dask worker ADDRESS`, both from this environment"
        ) from error


def _result(future: Any) -> Judged:  # noqa: ANN401  dask has no types
    from distributed import KilledWorker

    try:
        judged: Judged = future.result()
    except KilledWorker as error:
        raise WorkerError(
            f"workers died over one model ({error.last_worker.address} last), probably for want "
            "of memory; take fewer `--workers` and go on with `--resume`"
        ) from error
    return judged


def _judge(where: str, commit: int, task: Task) -> Judged:
    return judge(open_cohort(where, commit=commit), task)
