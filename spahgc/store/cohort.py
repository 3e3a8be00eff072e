"""The slides of one store as one commit knows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spahgc.errors import MismatchError, MissingError
from spahgc.store.commits import Commit, Store
from spahgc.store.embedding_names import options_of
from spahgc.store.entries import SlideEntry
from spahgc.store.gene_names import BY_ID, GeneNames
from spahgc.store.opening import open_store
from spahgc.store.slide import StoredSlide

MOST_NAMED = 20
"""Slides that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """Which slides can teach or judge a model, and why the others cannot."""

    names: tuple[str, ...]
    """Slides with the embedding and with expression, sorted."""

    left_out: Mapping[str, str]
    """Reason in a few words, by slide."""


class Cohort:
    """The slides of a store at one commit; later commits are not seen."""

    def __init__(self, store: Store, commit: Commit) -> None:
        """Look at ``store`` as ``commit`` left it; see `open_cohort`."""
        self.store = store
        self.commit = commit
        self._opened: dict[str, StoredSlide] = {}

    @property
    def where(self) -> str:
        """The store's location, as the user names it."""
        return self.store.where

    @cached_property
    def slides(self) -> dict[str, StoredSlide]:
        """Every slide by name, sorted; nothing is read yet."""
        return {name: self[name] for name in self.commit.slides}

    def __getitem__(self, name: str) -> StoredSlide:
        """Give one slide.

        Raises
        ------
        MissingError
            If the store has no slide of that name; the text lists those it has.
        """
        if name not in self._opened:
            if name not in self.commit.slides:
                raise MissingError(f"{self.where} has no slide {name!r}; it has {self._known()}")
            self._opened[name] = StoredSlide(self.store, name, self.commit.slides[name])
        return self._opened[name]

    def usable(self, *embeddings: str) -> Usable:
        """Sort the slides into those that can be trained or tested on and those that cannot."""
        reasons = {name: _why_not(slide, embeddings) for name, slide in self.slides.items()}
        return Usable(
            names=tuple(name for name, reason in reasons.items() if reason is None),
            left_out={name: reason for name, reason in reasons.items() if reason is not None},
        )

    def patients(self, names: Iterable[str]) -> dict[str, str | None]:
        """Give the patient of each slide in ``names``; None means unknown."""
        return {name: self[name].patient for name in names}

    def twins(self, names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
        """Pair slides of ``names`` with those of ``others`` made of the same image or counts."""
        others = list(others)
        return [
            (name, other)
            for name in names
            for other in others
            if are_twins(self[name].entry, self[other].entry)
        ]

    def shared_genes(self, names: Iterable[str], by: GeneNames = BY_ID) -> list[str]:
        """List the genes that every slide in ``names`` has, in the first one's order.

        Raises
        ------
        MismatchError
            If none is shared, as with slides of two species, or of ids and of symbols.
        """
        return by.share({name: self[name] for name in names})

    def fingerprint(self, embedding: str, names: Iterable[str]) -> str:
        """Give the digest of the encoder fingerprint that all slides in ``names`` share.

        Raises
        ------
        MissingError
            If one of them lacks the embedding.
        MismatchError
            If they were embedded in different ways, which must never be mixed.
        """
        digests: dict[str, str] = {}
        for name in names:
            slide = self[name]
            slide.open_embedding(embedding)
            digests.setdefault(slide.entry.encoders[embedding], name)
        if len(digests) > 1:
            pair = " and ".join(digests.values())
            raise MismatchError(
                f"slides {pair} have embeddings {embedding!r} made in different ways (weights, "
                "patch or precision); embed one of them again"
            )
        return next(iter(digests), "")

    def _known(self) -> str:
        names = list(self.commit.slides)
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return (", ".join(names[:MOST_NAMED]) or "none at all") + more


def open_cohort(where: str | Path, *, commit: int | None = None) -> Cohort:
    """Open a store: a folder, ``s3://…``, ``https://…`` or a .zip.

    Parameters
    ----------
    where
        Its location.
    commit
        Number of the commit to look at; the newest by default.

    Raises
    ------
    MissingError
        If there is no such commit.
    """
    store = open_store(where)
    if commit is None:
        return Cohort(store, store.head)
    found = Commit() if commit == 0 else store.read_commit(commit)
    if found is None:
        raise MissingError(
            f"{store.where} has no commit {commit}; its newest is {store.head.number}"
        )
    return Cohort(store, found)


def are_twins(one: SlideEntry, other: SlideEntry) -> bool:
    """Whether two slides were made of the same image or the same counts."""
    return (one.image_digest is not None and one.image_digest == other.image_digest) or (
        one.counts_digest is not None and one.counts_digest == other.counts_digest
    )


def _why_not(slide: StoredSlide, embeddings: Iterable[str]) -> str | None:
    if not slide.has_expression:
        return "has no expression"
    missing = [name for name in embeddings if name not in slide.entry.encoders]
    if not missing:
        return None
    if slide.entry.image is None:
        return f"is not embedded as {', '.join(missing)}, and has no full-resolution image"
    command = " ".join(["spahgc embed", *options_of(missing)])
    return f"is not embedded as {', '.join(missing)}: run `{command}`"
