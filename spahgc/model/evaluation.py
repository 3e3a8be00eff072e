"""Judge models beside their baselines: every fold, every method, every seed, every gene."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.metrics import spot_pcc
from spahgc.model.baselines import WITH, SpotTable, predict_baselines
from spahgc.model.judged import Judged
from spahgc.model.runs import RunConfig, gather_fold, score_slide, train_fold
from spahgc.model.spots import SlideSpots, depth_of, expression_of
from spahgc.model.teaching import TeachingSet
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run
from spahgc.store.splits import Fold

BASELINE_TASK: Final = "baselines"
"""What the task of all baselines of a fold is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to judge on one fold: a model with one seed, or all baselines."""

    fold: Fold
    """Which slides teach, choose and judge."""

    method: str
    """What the model is called in tables, or `BASELINE_TASK`."""

    config: RunConfig
    """How it is trained; of the baselines, which features and panel they get."""

    suffix: str = ""
    """Added to the names of baselines that get other features than the first model."""

    @property
    def seed(self) -> int | None:
        """Of the model; None for baselines, which draw nothing."""
        return None if self.method == BASELINE_TASK else self.config.training.seed


def plan_tasks(
    folds: Sequence[Fold], *, models: Mapping[str, RunConfig], seeds: Sequence[int]
) -> list[Task]:
    """List what is to be judged: on each fold every model with every seed, then the baselines.

    The baselines get the panel and the features of the first model, and once more those of any
    other model that sees something else; their names then tell what.
    """
    first = next(iter(models.values()))
    seen = {config.features: config for config in models.values()}
    tasks = []
    for fold in folds:
        for method, config in models.items():
            tasks += [
                Task(fold=fold, method=method, config=_seeded(config, seed)) for seed in seeds
            ]
        for features, config in seen.items():
            suffix = "" if features == first.features else f"{WITH}{'+'.join(features.embeddings)}"
            tasks.append(Task(fold=fold, method=BASELINE_TASK, suffix=suffix, config=config))
    return tasks


def judge(cohort: Cohort, task: Task) -> Judged:
    """Train and judge what a task names, on slides that it has not seen before.

    Raises
    ------
    MissingError, MismatchError, ProtocolError
        See `spahgc.model.runs.train_fold`.
    """
    if task.method == BASELINE_TASK:
        return _judge_baselines(cohort, task)
    finished = train_fold(cohort, task.fold, config=task.config)
    results = [
        _score(spots, finished.predictions[name], finished.teaching, task, method=task.method)
        for name, spots in finished.tested.items()
    ]
    return _joined(
        results,
        run=finished.run,
        predictions=finished.predictions,
        measured=finished.measured,
    )


def judge_all(cohort: Cohort, tasks: Sequence[Task]) -> Iterator[Judged]:
    """Judge task after task in this process."""
    return (judge(cohort, task) for task in tasks)


def _judge_baselines(cohort: Cohort, task: Task) -> Judged:
    fold = task.fold
    teaching = gather_fold(cohort, fold, config=task.config)
    # a model spends the validation slides on choosing its epoch; a baseline can learn from them
    known = [*teaching.spots.values(), *map(teaching.read, fold.validation)]
    train = table_of(known, groups=teaching.groups)
    results = []
    for spots in map(teaching.read, fold.test):
        test = table_of([spots], groups=teaching.groups, with_expression=False)
        results += [
            _score(spots, predicted_SG, teaching, task, method=f"{method}{task.suffix}")
            for method, predicted_SG in predict_baselines(train, test).items()
        ]
    return _joined(results)


def _score(
    spots: SlideSpots,
    predicted_SG: NDArray[np.float32],
    teaching: TeachingSet,
    task: Task,
    *,
    method: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores = score_slide(spots, predicted_SG, teaching, method=method, fold=task.fold.name)
    scores.insert(3, "seed", pd.Series([task.seed] * len(scores), dtype="Int64"))
    scores["panel"] = teaching.panel.digest
    scores["shared_patients"] = "+".join(task.fold.shared_patients)
    measured_SG = expression_of(spots)
    listed_G = np.isfinite(measured_SG).all(axis=0)
    pcc_S = np.full(len(measured_SG), np.nan)
    if listed_G.any():
        pcc_S = spot_pcc(measured_SG[:, listed_G], predicted_SG[:, listed_G])
    by_spot = pd.DataFrame(
        {
            "fold": task.fold.name,
            "slide": spots.name,
            "method": method,
            "seed": pd.array([task.seed] * len(pcc_S), dtype="Int64"),
            "spot": spots.spot_names,
            "pcc": pcc_S,
        }
    )
    return scores, by_spot


def _joined(
    results: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    *,
    run: Run | None = None,
    predictions: Mapping[str, NDArray[np.float32]] | None = None,
    measured: Mapping[str, NDArray[np.float32]] | None = None,
) -> Judged:
    scores, spots = zip(*results, strict=True)
    return Judged(
        scores=pd.concat(scores, ignore_index=True),
        spots=pd.concat(spots, ignore_index=True),
        run=run,
        predictions=predictions or {},
        measured=measured or {},
    )


def _seeded(config: RunConfig, seed: int) -> RunConfig:
    return replace(config, training=replace(config.training, seed=seed))


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
    widest = max(spots.near_SQ.shape[1] for spots in slides)  # lattices differ
    near = [
        np.pad(
            np.where(spots.near_SQ >= 0, spots.near_SQ + offset, -1),
            ((0, 0), (0, widest - spots.near_SQ.shape[1])),
            constant_values=-1,
        )
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
