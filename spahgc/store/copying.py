"""Bring slides from one store into another: only what is missing, and only what is whole."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from spahgc.errors import MismatchError, SlideExistsError
from spahgc.store.bringing import Advance, bring_indexes, bring_slide, ignore_bytes
from spahgc.store.cohort import Cohort, open_cohort
from spahgc.store.commits import Commit
from spahgc.store.copy_plans import Outcome, plan_copy
from spahgc.store.handing_on import CohortToHandOn
from spahgc.store.opening import create_store


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy brought."""

    outcomes: dict[str, Outcome]
    """By slide: new in the target, given embeddings it lacked, or there already."""

    n_bytes: int
    """Brought, of all files."""

    licences: dict[str, str]
    """What binds the use of an embedding that was brought, by its name."""

    indexes: tuple[str, ...]
    """Indexes brought; those that do not fit the slides brought are left behind."""


def open_source(where: str | Path, *, digest: str | None = None) -> Cohort:
    """Open a store to copy from.

    Parameters
    ----------
    where
        Its location.
    digest
        ``sha256:…`` that it must have; see `spahgc.store.commits.Commit.digest`.

    Raises
    ------
    MismatchError
        If it has another digest.
    """
    cohort = open_cohort(where)
    if digest is not None and cohort.commit.digest() != digest.removeprefix("sha256:"):
        raise MismatchError(
            f"{cohort.where} has the digest sha256:{cohort.commit.digest()}, asked for was "
            f"{digest}; nothing was copied"
        )
    return cohort


def copy_store(
    source: Cohort,
    target: str | Path,
    *,
    slides: Collection[str] | None = None,
    encoders: Collection[str] | None = None,
    keep_paths: bool = False,
    advance: Advance | None = None,
) -> CopyReport:
    """Bring slides into the store at ``target``, which is made where there is none.

    A slide is committed once all its files arrived with the digests they were sent with; a copy
    that was killed goes on where it was.

    Parameters
    ----------
    source
        See `open_source`.
    target
        A folder or ``s3://bucket/name``.
    slides
        Names; None for all.
    encoders
        Names of embeddings; None for all.
    keep_paths
        Tell the target where the files lay and who copied them; else only the files' names, see
        `spahgc.store.handing_on`.
    advance
        Told how many more bytes are there.

    Raises
    ------
    SlideExistsError
        If the target has another slide of one of the names; nothing is brought then.
    DamagedStoreError
        If a file of the source is missing or damaged.
    """
    handed = source if keep_paths else CohortToHandOn(source)
    plan_copy(handed, Commit(), slides=slides, encoders=encoders)  # refused, no store is made
    store = create_store(target)
    store.is_signed = keep_paths
    store.check_writable()
    plans = plan_copy(handed, store.head, slides=slides, encoders=encoders)
    for plan in plans:
        bring_slide(plan, store, advance or ignore_bytes)
    return CopyReport(
        outcomes={plan.slide.name: plan.outcome for plan in plans},
        n_bytes=sum(plan.n_bytes for plan in plans),
        licences={
            name: note
            for plan in plans
            for name, note in plan.slide.entry.licences.items()
            if name in plan.embeddings
        },
        indexes=tuple(bring_indexes(source, store)),
    )


def merge_stores(
    sources: Sequence[Cohort],
    into: str | Path,
    *,
    keep_paths: bool = False,
    advance: Advance | None = None,
) -> list[CopyReport]:
    """Bring the slides of several stores into one; for ``keep_paths`` see `copy_store`.

    Raises
    ------
    SlideExistsError
        If two of them, or one of them and the target, have different slides of one name or
        different embeddings of one name of a slide; nothing is brought then.
    """
    _refuse_clashes(sources)
    head = create_store(into).head
    for source in sources:
        plan_copy(source, head)
    return [copy_store(s, into, keep_paths=keep_paths, advance=advance) for s in sources]


def _refuse_clashes(sources: Sequence[Cohort]) -> None:
    slides: dict[str, tuple[str, str, str]] = {}
    embeddings: dict[tuple[str, str], tuple[str, str]] = {}
    for source in sources:
        for name, slide in source.slides.items():
            mine = (name, slide.entry.content)
            first, *known = slides.setdefault(name.lower(), (source.where, *mine))
            if tuple(known) != mine:
                raise SlideExistsError(
                    f"{first} and {source.where} have different slides of the name {name!r}; "
                    "ingest one of them again with `--name`"
                )
            for embedding, digest in slide.entry.encoders.items():
                first, its = embeddings.setdefault((name, embedding), (source.where, digest))
                if its != digest:
                    raise SlideExistsError(
                        f"slide {name}: {first} and {source.where} have different embeddings of "
                        f"the name {embedding!r}; bring one of them by `spahgc store copy` with "
                        "`--encoders`"
                    )
