"""Let several processes of this machine train one network, each on slides of its own."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from spahgc.errors import WorkerError
from spahgc.model.curves import curves_folder, show_curves
from spahgc.model.fitted import Advance, ignore

Task = TypeVar("Task")
Result = TypeVar("Result")
Train: TypeAlias = Callable[[Task, Advance], Result]
"""Can be imported by name."""

_LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the processes."""


def train_together(
    train: Train[Task, Result], task: Task, *, n_processes: int, advance: Advance
) -> Result:
    """Call ``train`` in several processes that Lightning takes for one (DDP over loopback).

    Parameters
    ----------
    train
        Called in every process.
    task
        What it is called with.
    n_processes
        How many.
    advance
        Told how many more epochs are done.

    Returns
    -------
    Result
        What the first process made; all have the same weights.

    Raises
    ------
    WorkerError
        If one of them dies.
    """
    told = get_context("spawn").Queue()
    processes = start_processes(
        _train_as_one,
        args=(n_processes, _free_port(), train, task, curves_folder(), told),
        nprocs=n_processes,
        join=False,
        start_method="spawn",
    )
    results: list[Result] = []
    try:
        is_over = False
        while not is_over:
            is_over = processes.join(timeout=_LOOK_AGAIN)
            while not told.empty():
                kind, value = told.get()
                if kind == "epochs":
                    advance(value)
                else:
                    results.append(value)
    except (ProcessRaisedException, ProcessExitedException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise WorkerError(
            f"one of {n_processes} training processes died ({reason}); train with fewer `--devices`"
        ) from error
    finally:
        for process in processes.processes:
            process.terminate()
    return results[0]


def _train_as_one(
    rank: int,
    n_processes: int,
    port: int,
    train: Train[Task, Any],
    task: Task,
    curves: Path | None,
    told: Any,  # noqa: ANN401  a queue; its class has no public name
) -> None:
    """Run in one of the processes: tell Lightning which one it is, and train."""
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // n_processes))
    is_first = rank == 0
    tell: Advance = (lambda n: told.put(("epochs", n))) if is_first else ignore
    with show_curves(curves if is_first else None):
        result = train(task, tell)
    if is_first:
        told.put(("result", result))
        told.close()
        told.join_thread()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
