"""Slide folders → store: read, write, embed; one bad slide never stops the others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spahgc.errors import SpahgcError
from spahgc.schema import Slide
from spahgc.store.commits import create_store, open_store
from spahgc.store.staging import add_slide


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSlide:
    """A slide that is about to be read."""

    name: str
    """For messages; the slide itself may spell it otherwise."""

    read: Callable[[], Slide]
    """Reads it; raises a `SpahgcError` where it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IngestedSlide:
    """What became of one slide."""

    name: str
    """Of the slide."""

    outcome: Literal["added", "kept", "replaced", "failed"]
    """``kept``: the store already held this very slide."""

    slide: Slide | None = None
    """What was read; None where it failed."""

    error: SpahgcError | None = None
    """Why it failed."""


def ingest_slides(
    pending: Iterable[PendingSlide], *, store: Path, replace_existing: bool = False
) -> Iterator[IngestedSlide]:
    """Read slides one after the other and commit each on its own.

    The store is made when the first slide has been read, so that nothing is left behind where
    none can be.

    Parameters
    ----------
    pending
        Slides to read.
    store
        Where the store lies, or shall lie.
    replace_existing
        Put a slide in the place of one of the same name with other content.

    Yields
    ------
    IngestedSlide
        As each is done; a slide that cannot be read or stored is ``failed``.
    """
    if store.exists():
        open_store(store)  # a wrong place is told before a minute of reading
    for item in pending:
        try:
            slide = item.read()
            outcome = add_slide(create_store(store), slide, replace_existing=replace_existing)
        except SpahgcError as error:
            yield IngestedSlide(name=item.name, outcome="failed", error=error)
        else:
            yield IngestedSlide(name=slide.name, outcome=outcome, slide=slide)
