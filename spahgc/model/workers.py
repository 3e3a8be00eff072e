"""Judge several tasks at once on Dask: one task = one model on one fold."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

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

    """
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.ERROR,
                )
            )
        client = stack.enter_context(Client(address))
        where, commit = cohort.where, cohort.commit.number
        running = [client.submit(_judge, where, commit, task, pure=False) for task in tasks]
        for place, future in enumerate(running):
            result: Judged = future.result()
            running[place] = None  # the cluster may forget it
            yield result


def _judge(where: str, commit: int, task: Task) -> Judged:
    return judge(open_cohort(where, commit=commit), task)
