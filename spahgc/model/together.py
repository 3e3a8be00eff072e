"""Let several processes of this machine train one network, each on slides of its own."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from signal import Signals
from threading import Thread
from typing import Any, Final, TypeAlias, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from spahgc.errors import WorkerError
from spahgc.model.curves import curves_folder, show_curves
from spahgc.model.progress import Advance, ignore

Task = TypeVar("Task")
Result = TypeVar("Result")
Train: TypeAlias = Callable[[Task, Advance], Result]
"""Can be imported by name."""

_LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the processes."""

_SIGNALS: Final = {signal.value: signal.name for signal in Signals}

_EPOCHS: Final = "epochs"
_RESULT: Final = "result"
"""What the first process may tell of."""


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
        If one of them dies; the others are ended too, as they are when this process is.
    """
    told, tell = get_context("spawn").Pipe(duplex=False)
    meeting_point = open_meeting_point()
    processes = start_processes(
        _train_as_one,
        args=(n_processes, meeting_point.port, train, task, curves_folder(), tell),
        nprocs=n_processes,
        join=False,
        daemon=True,
        start_method="spawn",
    )
    tell.close()  # so that the pipe ends with those who write to it
    results: list[Result] = []
    try:
        is_over = False
        while not is_over:
            is_over = _join(processes)
            results += _hear(told, advance)
    except (ProcessRaisedException, ProcessExitedException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise WorkerError(
            f"one of {n_processes} training processes died ({reason}); go on from the last "
            "checkpoint with `--resume`, or begin again with fewer `--devices`"
        ) from error
    finally:
        for process in processes.processes:
            process.kill()  # Lightning puts off anything gentler to the end of a step
            process.join()
        told.close()
    return results[0]


def open_meeting_point() -> TCPStore:
    """Listen where the processes find each other, on loopback and from now on.

    A port that is free now need not be free when the first process has started.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    return TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _join(processes: ProcessContext) -> bool:
    """Wait a little, and tell whether all are done.

    Raises
    ------
    ProcessExitedException
        If one was killed, whatever became of the others for want of it.
    ProcessRaisedException
        If one raised an error.
    """
    _bury(processes, timeout=_LOOK_AGAIN)
    if any(one.exitcode for one in processes.processes):
        _bury(processes, timeout=0)  # whoever failed for want of another, failed after it
        for rank, one in enumerate(processes.processes):
            if one.exitcode is not None and one.exitcode < 0:
                name = _SIGNALS.get(-one.exitcode, str(-one.exitcode))
                told = f"process {rank} terminated with signal {name}"
                raise ProcessExitedException(told, rank, one.pid, one.exitcode, name)
    return bool(processes.join(timeout=0))


def _bury(processes: ProcessContext, *, timeout: float) -> None:
    """Let those that end within so many seconds have an exit code."""
    alive = {one.sentinel: one for one in processes.processes if one.exitcode is None}
    for sentinel in wait(list(alive), timeout):
        alive[sentinel].join()


def _hear(told: Connection, advance: Advance) -> Iterator[Any]:
    """Pass on what the first process told of epochs, and give the result where it told one."""
    for kind, value in _words(told):
        if kind == _EPOCHS:
            advance(value)
        else:
            yield value


def _words(told: Connection) -> Iterator[tuple[str, Any]]:
    while told.poll():
        try:
            yield told.recv()
        except (EOFError, OSError):  # it is gone, perhaps in the middle of a word
            return


def _train_as_one(
    rank: int,
    n_processes: int,
    port: int,
    train: Train[Task, Any],
    task: Task,
    curves: Path | None,
    tell: Connection,
) -> None:
    """Run in one of the processes: tell Lightning which one it is, and train."""
    Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # it is the parent that listens there
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // n_processes))
    if rank:
        tell.close()
        train(task, ignore)
        return
    with show_curves(curves):
        result = train(task, lambda n: tell.send((_EPOCHS, n)))
    tell.send((_RESULT, result))
    tell.close()


def _end_with_parent() -> None:
    """End this process once the one that started it is gone, be it by ``kill -9``."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
