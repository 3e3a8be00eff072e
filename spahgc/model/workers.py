"""Judge several tasks at once on Dask: one task = one model on one fold."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from spahgc.clusters import Cluster, connected, result_of, run_ahead
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
    devices = {task.config.training.device for task in tasks}
    gpu_each, on_gpu = devices <= {"auto", "cuda"}, not devices <= {"cpu", "mps"}
    cluster = Cluster(workers=workers, scheduler=scheduler)
    with connected(cluster, deaths=DEATHS, gpu_each=gpu_each) as client:
        call = partial(_judge, cohort.where, cohort.commit.number)
        waiting: dict[int, Any] = {}
        following = 0
        for number, future in run_ahead(client, call, tasks, on_gpu=on_gpu):
            waiting[number] = future
            while following in waiting:
                done = waiting.pop(following)  # the cluster may forget it then
                judged: Judged = result_of(done, of="model", then=" and go on with `--resume`")
                following += 1
                yield judged


def _judge(where: str, commit: int, task: Task) -> Judged:
    return judge(open_cohort(where, commit=commit), task)
