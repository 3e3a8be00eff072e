"""Dask's workers: processes of this machine's, or those of a cluster that runs already."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, Final, TypeVar

from spahgc.allocator import KEPT_BY_A_CHILD
from spahgc.errors import WorkerError
from spahgc.urls import how_to_give, scheme_with_password

_ENVIRONMENT: Final = "distributed.nanny.pre-spawn-environ"
"""Dask's setting of what a worker finds in its environment; the user's own comes first."""

Task = TypeVar("Task")

AHEAD: Final = 2
"""Tasks per worker that are with the scheduler at a time."""

GPU: Final = "GPU"
"""Resource by which workers say that they have one, as ``dask worker --resources GPU=1`` does."""

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_LOOK: Final = 1.0
"""Seconds after which the workers are counted again, where no task has been finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Dask's workers are."""

    workers: int = 1
    """Processes to start on this machine; with several GPUs, each takes one in turn."""

    scheduler: str | None = None
    """Address of a Dask scheduler that runs already, instead."""


@contextmanager
def connected(cluster: Cluster, *, deaths: int, gpu_each: bool = False) -> Iterator[Any]:
    """Start the workers that are to be started, and give Dask's client of all of them.

    Workers started here keep the memory that they free, where the user's ``MALLOC_…`` say nothing
    else: Dask would have them give it back at once, which takes several times as long as embedding.

    Parameters
    ----------
    cluster
        Where they are.
    deaths
        Workers that may die over one task before it counts as failed.
    gpu_each
        Whether each worker started here shall see one of this machine's GPUs alone, in turn.

    Raises
    ------
    WorkerError
        If the scheduler cannot be reached.
    """
    import dask
    from distributed import Client

    settings: dict[str, Any] = {"distributed.scheduler.allowed-failures": deaths - 1}
    settings |= {f"{_ENVIRONMENT}.{name}": value for name, value in KEPT_BY_A_CHILD.items()}
    with dask.config.set(settings), ExitStack() as stack:
        if cluster.scheduler is None:
            started = _started(cluster.workers, gpus=_visible_gpus() if gpu_each else [])
            client = Client(stack.enter_context(started))
        else:
            client = _client_of(cluster.scheduler)
        yield stack.enter_context(client)


def run_ahead(
    client: Any,  # noqa: ANN401  dask has no types
    call: Callable[[Task], Any],
    tasks: Iterable[Task],
    *,
    on_gpu: bool,
) -> Iterator[tuple[int, Any]]:
    """Have workers do tasks; give each one's number, from 0, and future once it is done or failed.

    `AHEAD` tasks per worker are with the scheduler at a time: per worker that is there then, since
    those of a queue join one by one, and leave when their time is over.

    Parameters
    ----------
    client
        Dask's.
    call
        What a worker does with a task.
    tasks
        Taken from as workers get free.
    on_gpu
        Whether a task wants a GPU: where workers declare the resource `GPU`, only they get any, and
        one at a time for each that they declare.
    """
    from distributed import wait

    waiting = enumerate(tasks)
    running: dict[Any, int] = {}
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        with_gpu = [worker for worker in workers if on_gpu and worker["resources"].get(GPU)]
        needed = {GPU: 1} if with_gpu else None
        room = AHEAD * max(1, len(with_gpu or workers)) - len(running)
        for number, task in islice(waiting, max(0, room)):
            running[client.submit(call, task, pure=False, resources=needed)] = number
        if not running:
            return
        try:
            done = wait(list(running), timeout=_LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        for future in done:
            yield running.pop(future), future


def result_of(future: Any, *, of: str, then: str) -> Any:  # noqa: ANN401  dask has no types
    """Wait for what a worker makes.

    Parameters
    ----------
    future
        Dask's.
    of
        What one task is about, for the error: ``"shard"``.
    then
        How the error's last sentence goes on after "take fewer `--workers`".

    Raises
    ------
    WorkerError
        If as many workers died over it as `connected` was told.
    """
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WorkerError(
            f"workers died over one {of} ({error.last_worker.address} last), probably for want of "
            f"memory; take fewer `--workers`{then}"
        ) from error


def has_dask_cuda() -> bool:
    """Tell whether workers started here each get a GPU of their own from dask-cuda."""
    import torch

    return torch.cuda.is_available() and find_spec("dask_cuda") is not None


def _client_of(scheduler: str) -> Any:  # noqa: ANN401  dask has no types
    from distributed import Client

    if (scheme := scheme_with_password(scheduler)) is not None:
        raise WorkerError(how_to_give(scheme))
    try:
        return Client(scheduler)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkerError(
            f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler` and "
            "workers with `dask worker ADDRESS`, both from this environment"
        ) from error


def _visible_gpus() -> list[str]:
    """Name this machine's GPUs that this process sees, as `_VISIBLE` does."""
    import torch

    named = [gpu for gpu in os.environ.get(_VISIBLE, "").split(",") if gpu]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def _started(n_workers: int, *, gpus: list[str]) -> Any:  # noqa: ANN401  dask has no types
    from distributed import LocalCluster

    dashboard = "127.0.0.1:0"  # any free port, and not for the neighbours
    if has_dask_cuda():
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(n_workers=n_workers, dashboard_address=dashboard)

    how = {
        "threads_per_worker": 1,
        "dashboard_address": dashboard,
        "silence_logs": logging.ERROR,
    }
    if len(gpus) < 2:
        return LocalCluster(n_workers=n_workers, **how)

    class Workers(LocalCluster):
        """Processes that see one GPU each."""

        def new_worker_spec(self) -> Mapping[Any, Any]:
            ((number, spec),) = super().new_worker_spec().items()
            options = spec["options"]
            environment = {**options.get("env", {}), _VISIBLE: gpus[number % len(gpus)]}
            return {number: {**spec, "options": {**options, "env": environment}}}

    cluster = Workers(n_workers=0, **how)
    cluster.scale(n_workers)
    return cluster
