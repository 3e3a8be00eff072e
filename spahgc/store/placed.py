"""Embeddings whose files lie in their place: made part of their slide by one commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spahgc.errors import CommitConflictError, MismatchError
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import Manifest
from spahgc.store.slide import StoredSlide


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedEmbedding:
    """An embedding that nobody sees yet."""

    name: str
    """Of the embedding."""

    digest: str
    """Of its fingerprint."""

    files: Manifest
    """What it consists of."""

    licence: str | None
    """Of the encoder's weights; None where it is unknown."""


def commit_placed(slide: StoredSlide, embeddings: Sequence[PlacedEmbedding]) -> None:
    """Make embeddings part of their slide, all of them or none; those that are already stay.

    Raises
    ------
    CommitConflictError
        If the slide was replaced or removed meanwhile.
    MismatchError
        As `refuse_like`.
    """
    store = slide.store
    spelled: dict[str, Manifest] = {}  # by digest

    def change(head: Commit) -> Commit:
        entry = head.slides.get(slide.name)
        if entry is None or entry.group != slide.entry.group:
            raise CommitConflictError(
                f"slide {slide.name} was replaced while it was embedded; embed it again"
            )
        lacking = [one for one in embeddings if entry.encoders.get(one.name) != one.digest]
        if not lacking:
            return head
        for one in lacking:
            refuse_like(slide.name, one.name, entry)
        manifest = Manifest.parse(store.read_document(layout.manifest_key, entry.manifest))
        for one in lacking:
            manifest = manifest.with_member(f"{layout.EMBEDDINGS}/{one.name}", one.files)
        digest = store.put_document(layout.manifest_key, manifest.serialise())
        spelled[digest] = manifest
        entry = replace(
            entry,
            manifest=digest,
            encoders={**entry.encoders, **{one.name: one.digest for one in lacking}},
            licences={
                **entry.licences,
                **{one.name: one.licence for one in lacking if one.licence},
            },
            n_bytes=manifest.n_bytes,
        )
        return head.with_slide(slide.name, entry)

    names = ", ".join(one.name for one in embeddings)
    store.commit(change, message=f"embed {slide.name} with {names}")
    _refresh_group_document(store, slide.name, spelled)


def refuse_like(slide: str, name: str, entry: SlideEntry) -> None:
    """Refuse an embedding whose name differs from that of another one of its slide in case only.

    Raises
    ------
    MismatchError
        If there is one: on macOS and Windows they would be one folder.
    """
    other = layout.spelled_like(name, entry.encoders)
    if other is not None:
        raise MismatchError(
            f"slide {slide} has an embedding {other!r}, and {name!r} differs from it in case "
            "only; choose another name with `--name`"
        )


def _refresh_group_document(store: Store, name: str, known: Mapping[str, Manifest]) -> None:
    """Make the ``zarr.json`` of a slide's group say what the newest commit says.

    ``known`` are manifests, by digest, that need not be read.
    """
    entry = store.head.slides.get(name)
    if entry is not None:
        manifest = known.get(entry.manifest) or StoredSlide(store, name, entry).manifest
        store.location.put(f"{entry.group}/{layout.ROOT_DOCUMENT}", manifest.spell_group())
