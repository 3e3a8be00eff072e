"""Bring slides from one store into another: only what is missing, and only what is whole."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    MismatchError,
    MissingError,
    SlideExistsError,
)
from spahgc.store import layout
from spahgc.store.cohort import Cohort, open_cohort
from spahgc.store.commits import Commit, Store
from spahgc.store.contents import index_keys, read_file
from spahgc.store.drafts import commit_embedding, refresh_group_document
from spahgc.store.durable import sync_folder
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import FileRecord, Manifest
from spahgc.store.opening import create_store
from spahgc.store.placing import lock_slide, place_folder, put_files, upload_group
from spahgc.store.slide import StoredSlide
from spahgc.store.staging import commit_slide

Advance: TypeAlias = Callable[[int], None]
"""Told how many more bytes are there."""

Outcome: TypeAlias = Literal["copied", "grown", "kept"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one slide needs to be in the target as it is in the source."""

    slide: StoredSlide
    """In the source."""

    embeddings: tuple[str, ...]
    """Of those asked for, the ones that the target lacks."""

    is_new: bool
    """Whether the target lacks the slide altogether."""

    @property
    def manifest(self) -> Manifest:
        """Of the slide with the embeddings asked for."""
        manifest = self.slide.manifest
        for name in set(self.slide.entry.encoders) - set(self.embeddings):
            manifest = manifest.without_member(f"{layout.EMBEDDINGS}/{name}")
        return manifest

    @property
    def n_bytes(self) -> int:
        """To bring."""
        if self.is_new:
            return self.manifest.n_bytes
        members = (f"{layout.EMBEDDINGS}/{name}" for name in self.embeddings)
        return sum(self.slide.manifest.member(key).n_bytes for key in members)

    @property
    def outcome(self) -> Outcome:
        """What the slide will have been."""
        return "copied" if self.is_new else "grown" if self.embeddings else "kept"


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


def plan_copy(
    source: Cohort,
    head: Commit,
    *,
    slides: Collection[str] | None = None,
    encoders: Collection[str] | None = None,
) -> list[Plan]:
    """Compare a source with what a target holds, before anything is brought.

    Raises
    ------
    SlideExistsError
        If the target has another slide of one of the names, or another embedding.
    MissingError
        If the source lacks a slide or an embedding that was asked for.
    """
    names = list(source.slides) if slides is None else list(dict.fromkeys(slides))
    have = {name for slide in names for name in source[slide].entry.encoders}
    for unknown in sorted(set(encoders or ()) - have):
        raise MissingError(
            f"no slide to copy from {source.where} has an embedding {unknown!r}; there are "
            f"{', '.join(sorted(have)) or 'none'}"
        )
    return [_plan_slide(source[name], head, encoders) for name in names]


def copy_store(
    source: Cohort,
    target: str | Path,
    *,
    slides: Collection[str] | None = None,
    encoders: Collection[str] | None = None,
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
    advance
        Told how many more bytes are there.

    Raises
    ------
    SlideExistsError
        If the target has another slide of one of the names; nothing is brought then.
    DamagedStoreError
        If a file of the source is missing or damaged.
    """
    plan_copy(source, Commit(), slides=slides, encoders=encoders)  # refused, no store is made
    store = create_store(target)
    store.check_writable()
    plans = plan_copy(source, store.head, slides=slides, encoders=encoders)
    for plan in plans:
        _bring(plan, store, advance or ignore_bytes)
    return CopyReport(
        outcomes={plan.slide.name: plan.outcome for plan in plans},
        n_bytes=sum(plan.n_bytes for plan in plans),
        licences={
            name: note
            for plan in plans
            for name, note in plan.slide.entry.licences.items()
            if name in plan.embeddings
        },
        indexes=tuple(_bring_indexes(source, store)),
    )


def merge_stores(
    sources: Sequence[Cohort], into: str | Path, *, advance: Advance | None = None
) -> list[CopyReport]:
    """Bring the slides of several stores into one.

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
    return [copy_store(source, into, advance=advance) for source in sources]


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


def _plan_slide(slide: StoredSlide, head: Commit, encoders: Collection[str] | None) -> Plan:
    name, entry = slide.name, slide.entry
    wanted = {n: d for n, d in entry.encoders.items() if encoders is None or n in encoders}
    known = head.catalogue.spelled_like(name)
    if known is None:
        return Plan(slide=slide, embeddings=tuple(sorted(wanted)), is_new=True)
    found = head.slides[known]
    if known != name or found.content != entry.content:
        raise SlideExistsError(
            f"the target has a slide {known!r} with other content; `spahgc store remove` it "
            "there, or leave it out with `--slides`"
        )
    for embedding, digest in wanted.items():
        if found.encoders.get(embedding, digest) != digest:
            raise SlideExistsError(
                f"slide {name}: the target has another embedding of the name {embedding!r}; "
                "leave it out with `--encoders`"
            )
    missing = tuple(sorted(set(wanted) - set(found.encoders)))
    return Plan(slide=slide, embeddings=missing, is_new=False)


def _bring(plan: Plan, store: Store, advance: Advance) -> None:
    with lock_slide(store, plan.slide.name):
        if plan.is_new and plan.slide.name not in store.head.slides:
            _bring_slide(plan, store, advance)
        else:
            for name in plan.embeddings:
                _bring_embedding(plan.slide, name, store, advance)


def _bring_slide(plan: Plan, store: Store, advance: Advance) -> None:
    entry = place_slide(plan, store, advance)
    commit_slide(store, plan.slide.name, entry, message=f"copy {plan.slide.name}")


def place_slide(plan: Plan, store: Store, advance: Advance) -> SlideEntry:
    """Put a slide with its planned embeddings at a free place of a store; nothing is committed."""
    slide, manifest = plan.slide, plan.manifest
    digest = store.put_document(layout.manifest_key, manifest.serialise())
    read = partial(_read_and_tell, slide, advance)
    if store.location.folder is None:
        group = upload_group(store, slide.name, read, manifest, digest)
    else:
        staged = f"{layout.STAGING}/copy~{slide.name}~{digest[:16]}"
        _fetch(store, staged, read, manifest.files)
        store.location.put(f"{staged}/{layout.ROOT_DOCUMENT}", manifest.spell_group())
        group = place_folder(store, slide.name, store.path_of(staged), manifest, digest)
    return replace(
        slide.entry,
        group=group,
        manifest=digest,
        encoders={name: slide.entry.encoders[name] for name in plan.embeddings},
        licences={n: note for n, note in slide.entry.licences.items() if n in plan.embeddings},
        n_bytes=manifest.n_bytes,
    )


def _bring_embedding(slide: StoredSlide, name: str, store: Store, advance: Advance) -> None:
    key = f"{layout.EMBEDDINGS}/{name}"
    member = slide.manifest.member(key)
    target = StoredSlide(store, slide.name, store.head.slides[slide.name])
    place = f"{target.entry.group}/{key}"

    def read(part: str) -> bytes:
        return _read_and_tell(slide, advance, f"{key}/{part}")

    if store.location.folder is None:
        put_files(store.location, place, read, member.files)
    else:
        _bring_folder(store, place, read, member, digest=slide.entry.encoders[name])
    licences = {n: note for n, note in slide.entry.licences.items() if n == name}
    commit_embedding(target, name, slide.entry.encoders[name], member, licences=licences)
    refresh_group_document(store, slide.name)


def _bring_folder(
    store: Store, place: str, read: Callable[[str], bytes], member: Manifest, *, digest: str
) -> None:
    """Fill a folder that is there whole or not at all."""
    target = store.path_of(place)
    if not target.exists():
        staged = f"{layout.STAGING}/copy~{place.replace('/', '~')}~{digest[:16]}"
        _fetch(store, staged, read, member.files)
        store.path_of(staged).rename(target)
        sync_folder(target.parent)
    elif Manifest.of_array(store.location, place) != member:  # else of a copy that was killed
        raise CommitConflictError(
            f"{store.where}/{place} was left by a writer with other settings; "
            "`spahgc store gc` removes it"
        )


def _fetch(
    store: Store, staged: str, read: Callable[[str], bytes], files: Mapping[str, FileRecord]
) -> None:
    """Fill a staging folder with the files that are not there, or not whole."""
    location = store.location
    for key, record in files.items():
        place = f"{staged}/{key}"
        if location.size(place) is not None and FileRecord.of(location.read(place)) != record:
            location.delete([place])
    there = location.sizes(staged, files)
    put_files(location, staged, read, [key for key in files if there[key] is None])


def _read_and_tell(slide: StoredSlide, advance: Advance, key: str) -> bytes:
    content = read_file(slide, key)
    advance(len(content))
    return content


def _bring_indexes(source: Cohort, store: Store) -> Iterator[str]:
    """Bring the indexes whose slides all arrived as they are in the source."""
    head = store.head
    for name, digest in source.commit.indexes.items():
        if name in head.indexes:
            continue
        index = source.store.read_document(partial(layout.index_key, name), digest)
        try:
            is_whole = all(
                (entry := head.slides.get(slide)) is not None
                and entry.content == content
                and entry.encoders.get(index["embedding"]) == index["fingerprint"]
                for slide, content in dict(index["slides"]).items()
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(f"the record of index {name!r} is none: {error}") from None
        if not is_whole:
            continue
        for key, sha256 in index_keys(source.store, Commit(indexes={name: digest})).items():
            blob = source.store.read_blob(lambda _, key=key: key, sha256)  # type: ignore[misc]
            store.put_blob(lambda _, key=key: key, blob)  # type: ignore[misc]
        store.commit(lambda head, n=name, d=digest: head.with_index(n, d), message=f"copy {name}")  # type: ignore[misc]
        yield name


def ignore_bytes(_: int) -> None:
    """Tell nobody."""
