"""Change what is said of a slide, or take it out; each a commit of its own."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from spahgc.errors import MismatchError, MissingError
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.entries import SlideEntry
from spahgc.store.table import digest_image
from spahgc.store.words import is_plain

LICENCE: Final = "licence"

MEASURED: Final = frozenset(
    [
        *("slide", "platform", "microns_per_pixel", "microns_per_pixel_sources"),
        *("spot_diameter_um", "pitch_um", "lattice", "findings", "made_by", "made_at"),
        *("group", "n_bytes", "embeddings"),
    ]
)
"""What follows from the files: to change it, ingest the slide again."""

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What two stores do not have in common."""

    only_first: tuple[str, ...]
    """Slides that the second lacks."""

    only_second: tuple[str, ...]
    """Slides that the first lacks."""

    changed: Mapping[str, tuple[str, ...]]
    """What differs, by slide that both have."""

    indexes: tuple[str, ...]
    """Indexes that differ or that one of them lacks."""

    @property
    def is_none(self) -> bool:
        """Whether both hold the same."""
        return not (self.only_first or self.only_second or self.changed or self.indexes)


def set_facts(store: Store, name: str, facts: Mapping[str, str]) -> Commit:
    """Say something of a slide: its patient, tissue, section, licence, or any word of yours.

    Parameters
    ----------
    store
        That holds it.
    name
        Of the slide.
    facts
        By key; an empty one is forgotten. ``EMBEDDING.licence`` tells what binds the use of an
        embedding, ``image`` where the image lies now that the slide was ingested with.

    Raises
    ------
    MissingError
        If there is no such slide, embedding or image.
    MismatchError
        If a key is no lower-case word, or tells what was measured, or a fact has characters that
        a terminal would obey, or an image is another one.
    """

    def change(head: Commit) -> Commit:
        entry = _entry(store, head, name)
        if "image" in facts:
            entry = replace(entry, image=_find_image(entry, name, facts["image"]))
        for key, fact in facts.items():
            if key != "image":
                entry = _with_fact(entry, name, key, fact)
        return head if entry == head.slides[name] else head.with_slide(name, entry)

    return store.commit(change, message=f"set {', '.join(facts)} of {name}")


def remove_slide(store: Store, name: str) -> Commit:
    """Take a slide out; `spahgc.store.care.collect_garbage` frees its space a day later.

    Raises
    ------
    MissingError
        If there is no such slide.
    """
    removed: list[SlideEntry] = []

    def change(head: Commit) -> Commit:
        removed[:] = [_entry(store, head, name)]
        return head.without_slide(name)

    commit = store.commit(change, message=f"remove {name}")
    # readers that know nothing of commits must not take it for one that is there
    store.location.delete([f"{removed[0].group}/{layout.ROOT_DOCUMENT}"])
    return commit


def compare_commits(first: Commit, second: Commit) -> Differences:
    """List what differs between what two stores hold."""
    ours, theirs = dict(first.slides), dict(second.slides)
    changed = {
        name: what
        for name in ours.keys() & theirs.keys()
        if (what := _unlike(ours[name], theirs[name]))
    }
    indexes = {
        name
        for name in first.indexes.keys() | second.indexes.keys()
        if first.indexes.get(name) != second.indexes.get(name)
    }
    return Differences(
        only_first=tuple(sorted(ours.keys() - theirs.keys())),
        only_second=tuple(sorted(theirs.keys() - ours.keys())),
        changed=dict(sorted(changed.items())),
        indexes=tuple(sorted(indexes)),
    )


def _entry(store: Store, head: Commit, name: str) -> SlideEntry:
    if name not in head.slides:
        raise MissingError(f"{store.where} has no slide {name!r}; `spahgc store ls` lists them")
    return head.slides[name]


def _with_fact(entry: SlideEntry, name: str, key: str, fact: str) -> SlideEntry:
    if not is_plain(fact):
        raise MismatchError(f"{key}={fact!r} has line breaks or control characters; leave them out")
    embedding, _, what = key.rpartition(".")
    if embedding:
        if embedding not in entry.encoders or what != LICENCE:
            raise MissingError(
                f"slide {name} has no {key!r} to set; of an embedding only EMBEDDING.licence can "
                f"be, and it has {', '.join(sorted(entry.encoders)) or 'none'}"
            )
        return replace(entry, licences=_changed(entry.licences, embedding, fact))
    if not _KEY.fullmatch(key) or key in MEASURED:
        raise MismatchError(
            f"{key!r} cannot be set: {'it was measured' if key in MEASURED else 'no plain word'}; "
            "set patient, tissue, section, licence or a word of your own in a–z, 0–9 and _"
        )
    if key == "patient":
        return replace(entry, patient=fact or None)
    return replace(entry, about=_changed(entry.about, key, fact))


def _find_image(entry: SlideEntry, name: str, path: str) -> str:
    if entry.image is None:
        raise MissingError(
            f"slide {name} was ingested without an image; ingest it again with its image and "
            "`--replace`"
        )
    if not path or not Path(path).is_file():
        raise MissingError(f"image={path}: no such file, expected the image of slide {name}")
    if digest_image(Path(path)) != entry.image_digest:
        raise MismatchError(
            f"{path} is not the image that slide {name} was ingested with: its sha256 is "
            f"{digest_image(Path(path))}, expected {entry.image_digest}"
        )
    return str(Path(path).absolute())


def _changed(facts: Mapping[str, str], key: str, fact: str) -> dict[str, str]:
    return {k: v for k, v in {**facts, key: fact}.items() if v}


def _unlike(one: SlideEntry, other: SlideEntry) -> tuple[str, ...]:
    what = []
    if one.content != other.content:
        what.append("content")
    both = one.encoders.keys() & other.encoders.keys()
    facts, others = ((it.patient, it.about, _only(it.licences, both)) for it in (one, other))
    if facts != others:
        what.append("facts")
    what += [
        f"embedding {name}"
        for name in sorted(one.encoders.keys() | other.encoders.keys())
        if one.encoders.get(name) != other.encoders.get(name)
    ]
    return tuple(what)


def _only(licences: Mapping[str, str], embeddings: Collection[str]) -> dict[str, str]:
    return {name: note for name, note in licences.items() if name in embeddings}
