"""Dask's workers: processes of this machine's, or those of a cluster that runs already."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from spahgc.allocator import KEPT_BY_A_CHILD
from spahgc.errors import WorkerError
from spahgc.urls import how_to_give, scheme_with_password

_ENVIRONMENT: Final = "distributed.nanny.pre-spawn-environ"
"""Dask's setting of what a worker finds in its environment; the user's own comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Dask's workers are."""

    workers: int = 1
    """Processes to start on this machine; with several GPUs, each takes one in turn."""

    scheduler: str | None = None
    """Address of a Dask scheduler that runs already, instead."""


@contextmanager
def connected(cluster: Cluster, *, deaths: int) -> Iterator[Any]:
    """Start the workers that are to be started, and give Dask's client of all of them.

    Workers started here keep the memory that they free, where the user's ``MALLOC_…`` say nothing
    else: Dask would have them give it back at once, which takes several times as long as embedding.

    Parameters
    ----------
    cluster
        Where they are.
    deaths
        Workers that may die over one task before it counts as failed.

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
            client = Client(stack.enter_context(_started(cluster.workers)))
        else:
            client = _client_of(cluster.scheduler)
        yield stack.enter_context(client)


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


def _started(n_workers: int) -> Any:  # noqa: ANN401  dask has no types
    from distributed import LocalCluster

    dashboard = "127.0.0.1:0"  # any free port, and not for the neighbours
    if has_dask_cuda():
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(n_workers=n_workers, dashboard_address=dashboard)
    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        dashboard_address=dashboard,
        silence_logs=logging.ERROR,
    )
