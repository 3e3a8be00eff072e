"""Which slides a run borrows from: those it was trained with, or those of another store."""

from collections.abc import Sequence

import pandas as pd

from spahgc.errors import MismatchError, MissingError
from spahgc.index import ReferenceIndex
from spahgc.model.feature_index import index_features
from spahgc.model.features import FeatureConfig
from spahgc.store.cohort import Cohort
from spahgc.store.joined import JoinedCohort
from spahgc.store.run_record import RunRecord, gene_names_of
from spahgc.store.slide import StoredSlide


def check_references(cohort: Cohort, record: RunRecord) -> None:
    """Check that a store has the slides a run was trained with, as they were then.

    Raises
    ------
    MissingError
        If one is not there.
    MismatchError
        If one has changed, or was embedded in another way.
    """
    missing = [name for name in record.train if name not in cohort.slides]
    if missing:
        raise MissingError(
            f"{cohort.where} has no slide {', '.join(missing)}, which this run was trained with; "
            "name the store that has, or borrow from others with `--references STORE`"
        )
    for name, content in record.train.items():
        if cohort[name].entry.content != content:
            raise MismatchError(
                f"slide {name} in {cohort.where} is not the one this run was trained with; "
                "train again with `spahgc train`, or borrow from others with `--references STORE`"
            )
    for embedding, fingerprint in record.fingerprints.items():
        if cohort.fingerprint(embedding, record.train) != fingerprint:
            raise MismatchError(
                f"the embeddings {embedding!r} in {cohort.where} were made in another way than "
                "those this run was trained with; train again with `spahgc train`"
            )


def gather_references(
    cohorts: Sequence[Cohort], record: RunRecord, features: FeatureConfig
) -> tuple[Cohort, ReferenceIndex, tuple[str, ...]]:
    """Find the slides of other stores that a run can borrow from, and index them.

    Returns
    -------
    tuple
        All stores as one, the index, and the names of the slides that may answer: those with the
        run's embedding, made by the same encoder in the same way, and with every gene of its panel.

    Raises
    ------
    MismatchError
        If there is none; the text says of each slide why.
    """
    joined = JoinedCohort(cohorts)
    reasons = {name: _why_not(slide, record) for name, slide in joined.slides.items()}
    names = tuple(name for name, reason in reasons.items() if reason is None)
    if not names:
        told = "; ".join(f"{name} {reason}" for name, reason in reasons.items()) or "it is empty"
        raise MismatchError(f"{joined.where} has no slide that this run can borrow from: {told}")
    return joined, index_features(joined, names, features), names


def _why_not(slide: StoredSlide, record: RunRecord) -> str | None:
    if not slide.has_expression:
        return "has no expression"
    for embedding, fingerprint in record.fingerprints.items():
        made = slide.entry.encoders.get(embedding)
        if made is None:
            return f"has no embedding {embedding!r}"
        if made != fingerprint:
            return f"has an embedding {embedding!r} made in another way"
    missing = ~pd.Index(record.panel).isin(gene_names_of(record).of(slide))
    if missing.all():
        return f"has none of the run's genes, which are named by {record.gene_names}"
    if missing.any():
        return f"lacks {missing.sum()} of the run's {len(record.panel)} genes"
    return None
