"""Folders in the making: one that is killed half-way is gone on with, or leaves nothing."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from spahgc.errors import MismatchError, StoreError
from spahgc.store.durable import IS_WINDOWS, sync_tree, write_durably

PLAN: Final = "plan.json"
WORK: Final = "work"
"""What a later attempt goes on from; not part of what is made."""
MOST_CHANGED: Final = 6
"""Settings named where an attempt cannot be gone on with."""


@contextmanager
def unfinished_folder(
    path: Path, *, plan: Mapping[str, Any], resume: bool = False
) -> Iterator[Path]:
    """Give a hidden folder that takes the place of ``path`` when the block ends well.

    What the block puts into the folder's ``work`` is for a later attempt: where the block is
    killed or fails with something there, the folder stays for it, else it goes.

    Parameters
    ----------
    path
        What is to be made; nothing may be there.
    plan
        What is being made, as JSON can spell it: an attempt goes on only with the same.
    resume
        Whether to go on from what an earlier attempt left, where there is anything.

    Raises
    ------
    StoreError
        If something is at ``path``, an earlier attempt is and is not to be resumed, another process
        is at it, or it cannot be written.
    MismatchError
        If the earlier attempt had another plan.
    """
    check_free(path)
    unfinished = path.absolute().with_name(f".{path.name}.unfinished")
    with _alone(unfinished, path):
        with _cannot_be_made(path):
            _begin(unfinished, path, plan=json.loads(json.dumps(plan)), resume=resume)
        try:
            yield unfinished
            with _cannot_be_made(path):
                (unfinished / PLAN).unlink()
                shutil.rmtree(unfinished / WORK)
                sync_tree(unfinished)
                unfinished.rename(path)
        except BaseException:
            if not (unfinished / WORK).is_dir() or not any((unfinished / WORK).iterdir()):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise


def check_free(path: Path) -> None:
    """Refuse a place where something is, or where nobody may make a folder.

    Raises
    ------
    StoreError
        If it is one.
    """
    with _cannot_be_made(path):
        if path.exists() or path.is_symlink():
            raise StoreError(f"{path} exists; name another place")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{path} cannot be made: you may not write to {folder}")


def _begin(unfinished: Path, path: Path, *, plan: dict[str, Any], resume: bool) -> None:
    if (unfinished / PLAN).exists() and any((unfinished / WORK).iterdir()):
        if not resume:
            raise StoreError(
                f"{path} was begun and not finished; go on with `--resume`, or remove {unfinished}"
            )
        before = _read_plan(unfinished)
        if before != plan:
            changed = sorted(k for k in {**before, **plan} if before.get(k) != plan.get(k))
            n_more = len(changed) - MOST_CHANGED
            named = ", ".join(changed[:MOST_CHANGED]) + (f" and {n_more} more" * (n_more > 0))
            raise MismatchError(
                f"{path} was begun with other settings ({named}); give the "
                f"same ones to `--resume`, or remove {unfinished}"
            )
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / WORK).mkdir(parents=True)
    write_durably(unfinished / PLAN, json.dumps(plan).encode())


def _read_plan(unfinished: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = dict(json.loads((unfinished / PLAN).read_bytes()))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{unfinished / PLAN} cannot be read ({error}), so nobody knows what was begun; "
            f"remove {unfinished}"
        ) from error
    return plan


@contextmanager
def _alone(unfinished: Path, path: Path) -> Iterator[None]:
    lock_path = unfinished.with_suffix(".lock")
    lock = FileLock(lock_path, timeout=0)
    was_there = lock_path.parent.exists()
    with _cannot_be_made(path):
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(f"another process is making {path}; name another place") from None
    try:
        yield
    finally:
        if IS_WINDOWS:  # what is open there cannot be removed, so nobody's is taken away
            lock.release()
            with suppress(PermissionError):
                lock_path.unlink(missing_ok=True)
        else:
            lock_path.unlink(missing_ok=True)  # while it is held, so that nobody's is taken away
            lock.release()
        if not was_there:
            with suppress(OSError):  # something was made in it
                lock_path.parent.rmdir()


@contextmanager
def _cannot_be_made(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror or error}") from error
