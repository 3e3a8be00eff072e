"""What judging a model, or the baselines, on one fold gave; free of torch, so that reports are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.store.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What one task gave."""

    scores: pd.DataFrame
    """One row per test slide, method and gene: ``fold``, ``slide``, ``method``, ``seed`` (missing
    for a baseline), ``gene``, the columns of `spahgc.metrics.score_genes`, ``panel`` (its digest)
    and ``shared_patients`` (names of those on both sides of the test, joined by +)."""

    spots: pd.DataFrame
    """One row per test slide, method and spot: ``fold``, ``slide``, ``method``, ``seed``, ``spot``,
    and ``pcc`` over the genes of the spot."""

    run: Run | None = None
    """The model; None for the baselines."""

    predictions: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(S, G) of each test slide by the model."""

    measured: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(S, G) normalised expression of each test slide."""
