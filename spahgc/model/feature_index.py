"""What a slide may borrow from: an index over the features a model sees."""

from collections.abc import Collection, Sequence
from hashlib import sha256

from spahgc.model.features import FeatureConfig, read_features
from spahgc.store.cohort import Cohort
from spahgc.store.index import IndexRecord, ReferenceIndex


def open_feature_index(
    cohort: Cohort, names: Collection[str], features: FeatureConfig
) -> ReferenceIndex:
    """Open an index that covers at least the slides in ``names``.

    Of one embedding as it is stored this is the store's own index; anything else is indexed now,
    slide by slide as it is searched.

    Raises
    ------
    MissingError
        If an embedding, or the store's own index, is missing.
    MismatchError
        If slides were embedded in different ways, or the store's own index is stale.
    """
    for embedding in features.embeddings:
        cohort.fingerprint(embedding, names)  # refuses those made in different ways
    if features.are_plain:
        return ReferenceIndex.open(cohort, embedding=features.embeddings[0])
    return index_features(cohort, names, features)


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
