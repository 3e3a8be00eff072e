"""Slide folders → store: read, write, embed; one bad slide never stops the others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spahgc.errors import SpahgcError
from spahgc.ingest.tissue import with_tissue_fraction
from spahgc.schema import Finding, Slide
from spahgc.store.commits import create_store, open_store
from spahgc.store.staging import add_slide, find_twins


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

    outcome: Literal["added", "kept", "replaced", "failed", "read"]
    """``kept``: the store already held this very slide; ``read``: nothing was to be written."""

    slide: Slide | None = None
    """What was read; None where it failed."""

    error: SpahgcError | None = None
    """Why it failed."""


def ingest_slides(
    pending: Iterable[PendingSlide],
    *,
    store: Path,
    replace_existing: bool = False,
    dry_run: bool = False,
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
    dry_run
        Read and check, and write nothing.

    Yields
    ------
    IngestedSlide
        As each is done; a slide that cannot be read or stored is ``failed``.
    """
    if store.exists():
        open_store(store)  # a wrong place is told before a minute of reading
    for item in pending:
        try:
            slide = _warned_of_twins(with_tissue_fraction(item.read()), store)
            outcome: Literal["added", "kept", "replaced", "read"] = "read"
            if not dry_run:
                outcome = add_slide(create_store(store), slide, replace_existing=replace_existing)
        except SpahgcError as error:
            yield IngestedSlide(name=item.name, outcome="failed", error=error)
        else:
            yield IngestedSlide(name=slide.name, outcome=outcome, slide=slide)


def _warned_of_twins(slide: Slide, store: Path) -> Slide:
    """Warn where the store has the same image or counts under another name."""
    if not store.exists():
        return slide
    warnings = tuple(
        Finding(
            kind="warning",
            text=f"the store has the same {what} as slide {twin!r}: a test on one of them would "
            "know the other",
        )
        for twin, what in find_twins(open_store(store).head, slide)
    )
    return replace(slide, findings=(*slide.findings, *warnings))
