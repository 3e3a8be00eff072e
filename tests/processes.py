"""Let several processes do one thing at the same moment, and never wait for them forever."""

import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

from spahgc.errors import SpahgcError

LONGEST_SECONDS = 180.0


def at_once(function: Callable[..., Any], work: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a function in as many processes as ``work`` is long, each with its arguments.

    Returns
    -------
    list
        What each gave, in the order of ``work``; an error of ours as it would be shown.

    Raises
    ------
    TimeoutError
        If one has not ended after `LONGEST_SECONDS`; all are killed then.
    RuntimeError
        If one failed in any other way; its traceback is in the text.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.store.writers"])  # imported once, not once a process
    ready = context.Barrier(len(work))
    running = []
    for arguments in work:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, ready, function, arguments))
        process.start()
        theirs.close()
        running.append((process, ours))
    until = time.monotonic() + LONGEST_SECONDS
    try:
        return [_outcome(ours, until - time.monotonic()) for _, ours in running]
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def _work(theirs: Any, ready: Any, function: Callable[..., Any], arguments: tuple) -> None:
    try:
        ready.wait(LONGEST_SECONDS)  # whoever is started first waits for the others
        theirs.send((True, function(*arguments)))
    except SpahgcError as error:
        theirs.send((True, f"{type(error).__name__}: {error}"))
    except Exception:  # noqa: BLE001  shown by the test
        theirs.send((False, traceback.format_exc()))


def _outcome(ours: Any, seconds: float) -> Any:
    if not ours.poll(max(seconds, 0)):
        raise TimeoutError(f"a process did not end within {LONGEST_SECONDS:.0f} s")
    is_well, outcome = ours.recv()
    if not is_well:
        raise RuntimeError(outcome)
    return outcome
