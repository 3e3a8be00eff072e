"""Processes whose disk is full, or whose folders cannot be written, whoever runs them."""

import ctypes
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection

from spahgc.errors import SpahgcError
from tests.processes import LONGEST_SECONDS
from tests.store import crashes

_OVERRIDE = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root writes to and reads what nobody may."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]


class _Rights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def give_up_override() -> None:
    """Obey the permissions of files, as everybody but root does."""
    library = ctypes.CDLL(None, use_errno=True)
    header, rights = _Header(0x20080522, 0), (_Rights * 2)()
    if library.capget(ctypes.byref(header), rights):
        raise OSError(ctypes.get_errno(), "capget")
    rights[0].effective &= ~_OVERRIDE
    if library.capset(ctypes.byref(header), rights):
        raise OSError(ctypes.get_errno(), "capset")


def fill_disk(n_bytes: int) -> None:
    """Let no file grow beyond so many bytes: the write fails as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def attempt(operation: str, place: str, other: str, hinder: Callable[[], None]) -> str:
    """Do one thing in a process of its own that is hindered, and say what came of it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([crashes.__name__])
    theirs, ours = context.Pipe()
    arguments = (operation, place, other, hinder, theirs)
    process = context.Process(target=_work, args=arguments)
    process.start()
    theirs.close()
    if not ours.poll(LONGEST_SECONDS):
        process.kill()
    outcome = ours.recv()  # EOFError of one that was killed
    process.join()
    return outcome


def _work(
    operation: str, place: str, other: str, hinder: Callable[[], None], told: Connection
) -> None:
    hinder()
    try:
        crashes.OPERATIONS[operation](place, other)
    except (SpahgcError, OSError) as error:
        told.send(f"{type(error).__name__}: {error}")
    else:
        told.send("done")
