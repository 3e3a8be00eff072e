"""Bring the files of a slide or an index into a store: each compared with what it should be."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from spahgc.errors import CommitConflictError, DamagedStoreError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Store
from spahgc.store.contents import read_file
from spahgc.store.copy_plans import Plan
from spahgc.store.durable import sync_folder
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import FileRecord, Manifest
from spahgc.store.placed import PlacedEmbedding, commit_placed
from spahgc.store.placing import lock_slide, place_folder, put_files, upload_group
from spahgc.store.slide import StoredSlide
from spahgc.store.staging import commit_slide

Advance: TypeAlias = Callable[[int], None]
"""Told how many more bytes are there."""


def ignore_bytes(_: int) -> None:
    """Tell nobody."""


def bring_slide(plan: Plan, store: Store, advance: Advance) -> None:
    """Bring a slide, or the embeddings that the store's own lacks, and commit it.

    Raises
    ------
    DamagedStoreError
        If a file of the source is missing or damaged.
    CommitConflictError
        If another writer left something else in its place, or replaced or removed the slide
        that the plan was made for.
    """
    slide = plan.slide
    with lock_slide(store, slide.name):
        found = store.head.slides.get(slide.name)
        if found is None and plan.is_new:
            entry = place_slide(plan, store, advance)
            commit_slide(store, slide.name, entry, message=f"copy {slide.name}")
        elif found is None or found.content != slide.entry.content:
            raise CommitConflictError(
                f"slide {slide.name} of {store.where} was replaced or removed while it was copied; "
                "run the copy again"
            )
        else:
            target = StoredSlide(store, slide.name, found)
            place = partial(_place_embedding, slide, target=target, advance=advance)
            commit_placed(target, [place(name) for name in plan.embeddings])


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


def _place_embedding(
    slide: StoredSlide, name: str, *, target: StoredSlide, advance: Advance
) -> PlacedEmbedding:
    store, key = target.store, f"{layout.EMBEDDINGS}/{name}"
    member, digest = slide.manifest.member(key), slide.entry.encoders[name]
    place = f"{target.entry.group}/{key}"

    def read(part: str) -> bytes:
        return _read_and_tell(slide, advance, f"{key}/{part}")

    if store.location.folder is None:
        put_files(store.location, place, read, member.files)
    else:
        _bring_folder(store, place, read, member, digest=digest)
    licence = slide.entry.licences.get(name)
    return PlacedEmbedding(name=name, digest=digest, files=member, licence=licence)


def _bring_folder(
    store: Store, place: str, read: Callable[[str], bytes], member: Manifest, *, digest: str
) -> None:
    """Fill a folder that is there whole or not at all."""
    target = store.path_of(place)
    if not target.exists():
        staged = f"{layout.STAGING}/copy~{place.replace('/', '~')}~{digest[:16]}"
        _fetch(store, staged, read, member.files)
        (store.path_of(staged) / layout.ROOT_DOCUMENT).touch()  # gc spares it until it is committed
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


def bring_indexes(source: Cohort, store: Store) -> Iterator[str]:
    """Bring the indexes whose slides all arrived as they are in the source, and name each."""
    head = store.head
    for name, digest in source.commit.indexes.items():
        if name in head.indexes or layout.spelled_like(name, head.indexes) is not None:
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
        key_of = partial(layout.index_key, name)
        store.put_blob(key_of, source.store.read_blob(key_of, digest))
        store.commit(lambda head, n=name, d=digest: head.with_index(n, d), message=f"copy {name}")  # type: ignore[misc]
        yield name
