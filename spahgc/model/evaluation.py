"""Judge the model beside its baselines: every fold, every method, every gene."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spahgc.model.baselines import SpotTable, predict_baselines
from spahgc.model.runs import FinishedRun, RunConfig, score_slide, train_fold
from spahgc.model.spots import SlideSpots, depth_of, expression_of
from spahgc.model.teaching import TeachingSet
from spahgc.model.training import Advance
from spahgc.store.cohort import Cohort
from spahgc.store.splits import Fold


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldResult:
    """What one fold gave."""

    fold: Fold
    """Which slides taught, chose and judged."""

    finished: FinishedRun
    """The trained model and its predictions."""

    scores: pd.DataFrame
    """One row per test slide, method and gene; see `spahgc.model.runs.score_slide`."""


def evaluate_folds(
    cohort: Cohort, folds: Sequence[Fold], *, config: RunConfig, advance: Advance | None = None
) -> Iterator[FoldResult]:
    """Train and judge fold after fold, the baselines on the same slides, spots and genes."""
    for fold in folds:
        finished = train_fold(cohort, fold, config=config, advance=advance)
        teaching = finished.teaching
        known = [*teaching.spots.values(), *map(teaching.read, fold.validation)]
        baselines = [
            score_baselines(teaching, spots, known=known, fold=fold.name)
            for spots in finished.tested.values()
        ]
        scores = pd.concat([finished.run.scores, *baselines], ignore_index=True)
        yield FoldResult(fold=fold, finished=finished, scores=scores)


def score_baselines(
    teaching: TeachingSet, test: SlideSpots, *, known: Sequence[SlideSpots], fold: str
) -> pd.DataFrame:
    """Score every baseline on one test slide.

    Parameters
    ----------
    teaching
        Gives the panel and the groups.
    test
        The slide to judge on.
    known
        Slides the baselines learn from: the training slides, and the validation slides too,
        which the model spends on choosing its epoch and a baseline does not need for that.
    fold
        Name of the fold.

    Returns
    -------
    pd.DataFrame
        See `spahgc.model.runs.score_slide`.
    """
    predictions = predict_baselines(
        table_of(known, groups=teaching.groups),
        table_of([test], groups=teaching.groups, with_expression=False),
    )
    scores = [
        score_slide(test, predicted_SG, teaching, method=method, fold=fold)
        for method, predicted_SG in predictions.items()
    ]
    return pd.concat(scores, ignore_index=True)


def table_of(
    slides: Sequence[SlideSpots], *, groups: Mapping[str, str], with_expression: bool = True
) -> SpotTable:
    """Stack slides for the baselines; a test slide's expression is not handed on.

    Raises
    ------
    MissingError
        If expression is wanted of a slide on which nothing was measured.
    """
    n_spots = [len(spots.spot_names) for spots in slides]
    near = [
        np.where(spots.near_SQ >= 0, spots.near_SQ + offset, -1)
        for spots, offset in zip(slides, np.cumsum([0, *n_spots[:-1]]), strict=True)
    ]
    expression_SG = depth_S = None
    if with_expression:
        expression_SG = np.concatenate([expression_of(spots) for spots in slides])
        depth_S = np.concatenate([depth_of(spots) for spots in slides])
    return SpotTable(
        embeddings_SD=np.concatenate([spots.embedding_SD for spots in slides]),
        slide_S=np.repeat([spots.name for spots in slides], n_spots),
        neighbours_SQ=np.concatenate(near),
        expression_SG=expression_SG,
        log_depth_S=depth_S,
        groups_S=np.repeat([groups[spots.name] for spots in slides], n_spots),
    )
