"""Make the next items in a thread while the caller works on this one."""

from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], *, ahead: int = 16) -> Iterator[Item]:
    """Give ``items`` while a thread already makes the next ones."""
    queue: Queue[tuple[Item | None, BaseException | None]] = Queue(maxsize=ahead)
    stopped = Event()

    def fill() -> None:
        try:
            for item in items:
                queue.put((item, None))
                if stopped.is_set():
                    return
            queue.put((None, None))
        except BaseException as error:  # noqa: BLE001  raised again below, in the caller's thread
            queue.put((None, error))

    thread = Thread(target=fill, name="spahgc-patches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for a place in a full queue
            with suppress(Empty):
                queue.get(timeout=0.05)
