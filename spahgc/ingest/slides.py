"""Slide folders → store: read, write, embed; one bad slide never stops the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spahgc.errors import SpahgcError
from spahgc.ingest.fields import DEFAULT_FIELDS
from spahgc.ingest.patches import padded_share
from spahgc.ingest.tissue import with_tissue_fraction
from spahgc.schema import Finding, Slide
from spahgc.store.commits import Commit
from spahgc.store.gene_names import NamedGenes, named_genes, note_mixed, sample_named
from spahgc.store.opening import create_store, find_store
from spahgc.store.staging import add_slide, check_facts, find_twins, foresee
from spahgc.store.table import digest_slide


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
    """``kept``: the store already held this very slide. In a dry run, what would happen."""

    slide: Slide | None = None
    """What was read; None where it failed."""

    error: SpahgcError | None = None
    """Why it failed."""


def ingest_slides(
    pending: Iterable[PendingSlide],
    *,
    store: str | Path,
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
    found = find_store(store)  # a wrong place is told before a minute of reading
    named = {} if found is None else sample_named(found, found.head)
    for item in pending:
        try:
            slide = with_tissue_fraction(item.read())
            check_facts(slide)
            digests = digest_slide(slide)
            slide = _with_findings(slide, find_twins(_head(store), slide.name, digests), named)
            if dry_run:
                outcome = foresee(
                    _head(store), slide.name, digests, replace_existing=replace_existing
                )
            else:
                outcome = add_slide(
                    create_store(store), slide, replace_existing=replace_existing, digests=digests
                )
        except SpahgcError as error:
            yield IngestedSlide(name=item.name, outcome="failed", error=error)
        else:
            if (genes := named_genes(slide.genes.index)) is not None:
                named[slide.name] = genes
            yield IngestedSlide(name=slide.name, outcome=outcome, slide=slide)


def _head(where: str | Path) -> Commit:
    store = find_store(where)
    return Commit() if store is None else store.head


def _with_findings(
    slide: Slide, twins: Iterable[tuple[str, str]], named: Mapping[str, NamedGenes]
) -> Slide:
    """Add what can be said of any slide, whatever its format."""
    findings = [
        *slide.findings,
        *_border_findings(slide),
        *_twin_findings(twins),
        *_gene_findings(slide, named),
    ]
    return replace(slide, findings=tuple(findings))


def _border_findings(slide: Slide) -> Iterator[Finding]:
    if slide.image is None or slide.microns_per_pixel is None:
        return
    counts = {}
    for field in DEFAULT_FIELDS:
        side_px = field.side_um / slide.microns_per_pixel
        share_S = padded_share(slide.centers, size=slide.image.size, side_px=side_px)
        counts[f"{field.side_um:g}"] = int((share_S > 0).sum())
    if any(counts.values()):
        n_padded, widths = " / ".join(map(str, counts.values())), " / ".join(counts)
        text = f"{n_padded} of {len(slide.spots)} patches of {widths} µm leave the image"
        yield Finding(kind="check", text=text)


def _gene_findings(slide: Slide, named: Mapping[str, NamedGenes]) -> Iterator[Finding]:
    """Warn where the store has slides whose genes go by another kind of names."""
    own = named_genes(slide.genes.index)
    if own is None:
        return
    others = {name: genes for name, genes in named.items() if name != slide.name}
    if note := note_mixed({slide.name: own, **others}, of=slide.name):
        yield Finding(kind="warning", text=note)


def _twin_findings(twins: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Warn where the store has the same image or counts under another name."""
    for twin, what in twins:
        text = f"the store has the same {what} as slide {twin!r}"
        yield Finding(kind="warning", text=f"{text}: a test on one of them would know the other")
