"""Judge several tasks at once on Dask: one task = one model on one fold."""

from collections.abc import Iterator, Sequence
from typing import Final

from spahgc.clusters import Cluster, connected, result_of
from spahgc.model.evaluation import Task, judge
from spahgc.model.judged import Judged
from spahgc.store.cohort import Cohort, open_cohort

DEATHS: Final = 4
"""Workers that may die over one model before the run gives up."""


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
    with connected(Cluster(workers=workers, scheduler=scheduler), deaths=DEATHS) as client:
        where, commit = cohort.where, cohort.commit.number
        running = [client.submit(_judge, where, commit, task, pure=False) for task in tasks]
        for place, future in enumerate(running):
            judged: Judged = result_of(future, of="model", then=" and go on with `--resume`")
            running[place] = None  # the cluster may forget it
            yield judged


def _judge(where: str, commit: int, task: Task) -> Judged:
    return judge(open_cohort(where, commit=commit), task)
