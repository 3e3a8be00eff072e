"""What a slide may borrow from: an index over the features a model sees."""

from collections.abc import Collection, Sequence
from hashlib import sha256

from spahgc.index import IndexRecord, ReferenceIndex
from spahgc.index.records import read_record, stale_slides
from spahgc.model.features import FeatureConfig, read_features
from spahgc.store.cohort import Cohort


def open_feature_index(
    cohort: Cohort, names: Collection[str], features: FeatureConfig
) -> ReferenceIndex:
    """Open an index that covers at least the slides in ``names``.

    Of one embedding as it is stored this is the store's own index, where it has one that fits;
    anything else is indexed now, slide by slide as it is searched.

    Raises
    ------
    MissingError
        If an embedding is missing.
    MismatchError
        If slides were embedded in different ways.
    DamagedStoreError
        If the store's own index cannot be read.
    """
    for embedding in features.embeddings:
        cohort.fingerprint(embedding, names)  # refuses those made in different ways
    if features.are_plain and why_no_index(cohort, names, features) is None:
        return ReferenceIndex.open(cohort, embedding=features.embeddings[0])
    return index_features(cohort, names, features)


def why_no_index(cohort: Cohort, names: Collection[str], features: FeatureConfig) -> str | None:
    """Say why the store's own index cannot be used, None where it can or is not asked for.

    Raises
    ------
    DamagedStoreError
        If it cannot be read.
    """
    if not features.are_plain:
        return None
    (embedding,) = features.embeddings
    if embedding not in cohort.commit.indexes:
        return f"there is no index {embedding!r}"
    record = read_record(cohort, embedding)
    if record.embedding != embedding:
        return f"the index {embedding!r} is over {record.embedding!r}"
    for slide, reason in stale_slides(cohort, record).items():
        return f"the index {embedding!r} is stale: slide {slide} {reason}"
    lacking = sorted(set(names) - set(record.slides))
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"the index {embedding!r} lacks {lacking[0]}{more}" if lacking else None


def index_features(
    cohort: Cohort, names: Collection[str], features: FeatureConfig
) -> ReferenceIndex:
    """Index the slides in ``names`` without a trace in the store."""
    fingerprints = [cohort.fingerprint(embedding, names) for embedding in features.embeddings]
    return ReferenceIndex(
        cohort,
        IndexRecord(
            embedding="+".join(features.embeddings),
            fingerprint=join_digests(fingerprints),
            slides={name: cohort[name].entry.content for name in names},
        ),
        read=lambda name: read_features(cohort[name], features),
    )


def join_digests(fingerprints: Sequence[str]) -> str:
    """Give one digest for several embeddings side by side."""
    if len(fingerprints) == 1:
        return fingerprints[0]
    return sha256("\n".join(fingerprints).encode()).hexdigest()
