"""What a store holds, in a few numbers, read from its newest commit."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.gene_names import note_mixed, sample_named


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """A store at one commit."""

    where: str
    """Its location, the same from everywhere."""

    store_format: int
    """Version of the format it is written in."""

    commit: int
    """Number of the newest commit."""

    digest: str
    """``sha256:…`` of all it holds; a copy of it has the same."""

    changed_at: str
    """When that was made; ISO 8601, UTC."""

    changed_by: str
    """user@host."""

    message: str
    """What changed then."""

    n_slides: int
    """How many."""

    n_patients: int
    """Known ones."""

    n_spots: int
    """Of all slides."""

    n_bytes: int
    """Of all their files."""

    platforms: Mapping[str, int]
    """Slides of each."""

    embeddings: Mapping[str, int]
    """Slides that have each."""

    indexes: tuple[str, ...]
    """Their names."""

    licences: Mapping[str, tuple[str, ...]]
    """What binds the use of slides and embeddings, by ``slide C2`` or ``embedding uni``."""

    notes: tuple[str, ...] = ()
    """What to know before training on it."""


def summarise(store: Store) -> StoreSummary:
    """Say what a store holds; of a few slides the names of their genes are read."""
    commit = store.head
    note = note_mixed(sample_named(store, commit))
    entries = dict(commit.slides)
    return StoreSummary(
        where=store.location.address,
        store_format=layout.FORMAT_VERSION,
        commit=commit.number,
        digest=f"sha256:{commit.digest()}",
        changed_at=commit.made_at,
        changed_by=commit.made_by,
        message=commit.message,
        n_slides=len(entries),
        n_patients=len({entry.patient for entry in entries.values()} - {None}),
        n_spots=sum(entry.n_spots for entry in entries.values()),
        n_bytes=sum(entry.n_bytes for entry in entries.values()),
        platforms=dict(Counter(entry.platform for entry in entries.values())),
        embeddings=dict(Counter(name for entry in entries.values() for name in entry.encoders)),
        indexes=tuple(sorted(commit.indexes)),
        licences=_licences(commit),
        notes=() if note is None else (note,),
    )


def _licences(commit: Commit) -> dict[str, tuple[str, ...]]:
    notes: dict[str, set[str]] = {}
    for name, entry in commit.slides.items():
        if "licence" in entry.about:
            notes.setdefault(f"slide {name}", set()).add(entry.about["licence"])
        for embedding, note in entry.licences.items():
            notes.setdefault(f"embedding {embedding}", set()).add(note)
    return {what: tuple(sorted(found)) for what, found in sorted(notes.items())}
