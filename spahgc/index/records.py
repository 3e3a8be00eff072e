"""What an index was built from, as the store keeps it, and whether that still holds."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import DamagedStoreError, MismatchError, MissingError
from spahgc.index.faiss_library import FAISS_VERSION
from spahgc.index.vectors import METRICS, Metric, ReadVectors
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Commit

Kind: TypeAlias = Literal["flat", "ivf", "ivfpq"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

MOST_LISTS: Final = 4096
"""Of a trained kind."""

_TRAINED_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """What an index was built from; the embeddings themselves stay with the slides."""

    embedding: str
    """Name of the embedding indexed."""

    fingerprint: str
    """Digest of the encoder fingerprint that all its slides share."""

    slides: Mapping[str, str]
    """Content digest of each slide in it, by slide name."""

    metric: Metric = "cosine"
    """See `spahgc.index.vectors`."""

    kind: Kind = "flat"
    """``flat`` is exact; the others are approximate, and trained on each machine that searches."""

    commit: int = 0
    """Number of the store's commit it was built at."""

    faiss_version: str = FAISS_VERSION
    """For the record: no file of faiss is kept in a store."""

    trained_id: str = ""
    """Names what was trained, on the machine that trained it; empty for ``flat``."""

    settings: Mapping[str, int] = field(default_factory=dict)
    """``n_lists`` and ``n_probes`` of a trained kind; empty for ``flat``."""

    recall: Mapping[str, float] = field(default_factory=dict)
    """``recall``, ``k``, ``n_queries`` as measured when it was built, and the least recall asked
    for (``min_recall``); empty for ``flat``."""


def read_record(cohort: Cohort, name: str) -> IndexRecord:
    """Read what is known of the index ``name``, fresh or stale.

    Raises
    ------
    MissingError
        If there is no index of that name.
    DamagedStoreError
        If its record is not one.
    """
    digest = cohort.commit.indexes.get(name)
    if digest is None:
        known = ", ".join(sorted(cohort.commit.indexes)) or "none at all"
        raise MissingError(
            f"{cohort.where} has no index {name!r}, it has {known}; {_command(cohort, name)}"
        )
    document = cohort.store.read_document(partial(layout.index_key, name), digest)
    try:
        return _parse(document)
    except (TypeError, ValueError) as error:
        raise DamagedStoreError(
            f"{cohort.where}: the index {name!r} cannot be read ({error}); {_command(cohort, name)}"
        ) from None


def _parse(document: dict[str, Any]) -> IndexRecord:
    # earlier versions kept arrays of trained kinds in the store
    record = IndexRecord(**{k: v for k, v in document.items() if k not in {"arrays", "pieces"}})
    if record.kind not in KINDS or record.metric not in METRICS:
        raise ValueError(f"kind {record.kind!r}, metric {record.metric!r}")
    texts = (record.embedding, record.fingerprint, record.trained_id, *record.slides.values())
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a digest is no text")
    if record.kind != "flat":
        if not _TRAINED_ID.fullmatch(record.trained_id):
            raise ValueError("it was trained by an earlier version of spahgc")
        counts = [record.settings.get("n_lists"), record.settings.get("n_probes", 1)]
        if not all(type(count) is int and 1 <= count <= MOST_LISTS for count in counts):
            raise ValueError(f"settings {dict(record.settings)}")
    return record


def check_fresh(cohort: Cohort, name: str, record: IndexRecord) -> None:
    """Refuse an index whose slides are not those of the store.

    Raises
    ------
    MismatchError
        If one of its slides was replaced, removed or embedded anew since.
    """
    for slide, reason in stale_slides(cohort, record).items():
        raise MismatchError(
            f"the index {name!r} is stale: slide {slide} {reason}; {_command(cohort, name, record)}"
        )


def stale_slides(cohort: Cohort, record: IndexRecord) -> dict[str, str]:
    """Say of each slide of the index that is another one in the store what happened to it."""
    reasons = {}
    for slide, content in record.slides.items():
        entry = cohort.commit.slides.get(slide)
        if entry is None:
            reasons[slide] = "is gone since"
        elif entry.content != content:
            reasons[slide] = "changed since"
        elif record.embedding not in entry.encoders:
            reasons[slide] = f"changed since and lost its embedding {record.embedding!r}"
        elif entry.encoders[record.embedding] != record.fingerprint:
            reasons[slide] = f"changed since: its embedding {record.embedding!r} is another one"
    return reasons


def reader_of(cohort: Cohort, record: IndexRecord) -> ReadVectors:
    """Give what reads the embedding of a slide that is in the index, or made like those that are.

    It raises MismatchError where the slide's was made in another way.
    """

    def read(slide: str) -> NDArray[np.float32]:
        stored, name = cohort[slide], record.embedding
        if stored.entry.encoders.get(name) not in {None, record.fingerprint}:
            raise MismatchError(
                f"slide {slide} has embeddings {name!r} made in another way than those of the "
                "index (weights, patch or precision); embed it again"
            )
        return stored.read_embedding(name)

    return read


def check_name(head: Commit, name: str) -> None:
    """Refuse a new index of a name that some file system would not keep apart from others.

    Raises
    ------
    SlideFormatError
        As `spahgc.store.layout.check_new_embedding_name`.
    MismatchError
        If it differs from another index's name in case only.
    """
    if name in head.indexes:
        return
    layout.check_new_embedding_name(name)
    other = layout.spelled_like(name, head.indexes)
    if other is not None:
        raise MismatchError(
            f"the store has an index {other!r}, and {name!r} differs from it in case only; "
            "choose another name with `--name`"
        )


def commit_record(cohort: Cohort, name: str, record: IndexRecord) -> IndexRecord:
    """Commit a record under its name; one that says the same is kept as it is."""
    kept = cohort.store.head.indexes.get(name)
    if kept is not None:
        found = cohort.store.read_document(partial(layout.index_key, name), kept)
        when = {key: found.get(key) for key in ("commit", "faiss_version")}
        if {**asdict(record), **when} == found:
            return IndexRecord(**found)
    digest = cohort.store.put_document(partial(layout.index_key, name), asdict(record))

    def change(head: Commit) -> Commit:
        check_name(head, name)
        return head.with_index(name, digest)

    cohort.store.commit(change, message=f"index {name}")
    return record


def remove_index(cohort: Cohort, name: str) -> None:
    """Let the store forget an index; the embeddings stay.

    Raises
    ------
    MissingError
        If there is no index of that name.
    """
    if name not in cohort.commit.indexes:
        read_record(cohort, name)

    def change(head: Commit) -> Commit:
        if name not in head.indexes:
            return head
        return replace(head, indexes={n: d for n, d in head.indexes.items() if n != name})

    cohort.store.commit(change, message=f"remove index {name}")


def _command(cohort: Cohort, name: str, record: IndexRecord | None = None) -> str:
    embedding = name if record is None else record.embedding
    options: list[Any] = ["--store", cohort.where, "--encoder", embedding]
    if record is not None:
        options += ["--name", name] if name != embedding else []
        options += ["--metric", record.metric] if record.metric != "cosine" else []
        options += ["--kind", record.kind] if record.kind != "flat" else []
    return f"run `spahgc index build {' '.join(map(str, options))}`"
