"""How far to believe a run: each gene's cross-validated score, and how near spots should lie.

Dimension letters in this file:

G genes, Q quantiles, B bins
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

GENE_COLUMNS: Final = ("cv_pcc", "cv_low", "cv_high", "cv_slides", "cv_worst", "cv_best")
FEWEST_HELD_OUT: Final = 6
"""Held-out slides (patients, where there are several) below which a gene has no interval: drawn
with tiles of their spots, a 95 % interval misses a gene's mean in up to 49 % of simulations with 1
slide, 19 % with 2, 11 % with 4 and 9 % with 6 (`benchmarks/interval_coverage.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trust:
    """What was found on slides while they were held out of training.

    `spahgc.model.trust` finds it.
    """

    slides: tuple[str, ...]
    """Slides that were held out in turn; none of them is a test slide."""

    genes: pd.DataFrame
    """Rows by gene in panel order: ``cv_pcc``, the Pearson correlation of predicted with measured
    expression, mean over the slides where it is defined; ``cv_low`` and ``cv_high``, its 95 %
    bootstrap interval, NaN below `FEWEST_HELD_OUT`; ``cv_slides``, how many slides have one;
    ``cv_worst`` and ``cv_best``, on the worst and the best of them. NaN where none has."""

    n_nearest: int
    """References whose mean similarity is a spot's nearness."""

    nearness_Q: NDArray[np.float64]
    """(Q,) quantiles of the nearness of held-out spots to the slides they may borrow from, evenly
    spaced from the least to the greatest; a cosine, -1 to 1."""

    flagged_share: float
    """Greatest share of a held-out slide's spots that lie below the flag's quantile, 0 to 1."""

    error_B: NDArray[np.float64]
    """(B,) root mean squared error of held-out spots, in units of each gene's standard deviation,
    by their nearness: the least near share of the spots first, in bins of equal size."""


def serialise_trust(trust: Trust) -> str:
    """Spell it as JSON; what is undefined is null."""
    genes = {column: _plain(trust.genes[column]) for column in GENE_COLUMNS}
    document = {
        "slides": list(trust.slides),
        "genes": {"gene": [str(gene) for gene in trust.genes.index], **genes},
        "n_nearest": trust.n_nearest,
        "nearness": _plain(trust.nearness_Q),
        "flagged_share": trust.flagged_share,
        "error_by_nearness": _plain(trust.error_B),
    }
    return json.dumps(document, indent=1)


def parse_trust(text: str) -> Trust:
    """Read what `serialise_trust` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the text is something else.
    """
    document: dict[str, Any] = json.loads(text)
    columns = _read_columns(document["genes"])
    nearness_Q, error_B = (
        np.asarray(document[name], dtype=np.float64) for name in ("nearness", "error_by_nearness")
    )
    if not (nearness_Q.ndim == error_B.ndim == 1 and len(nearness_Q)):
        raise ValueError("nearness and its errors are no lists of numbers")
    return Trust(
        slides=tuple(map(str, document["slides"])),
        genes=pd.DataFrame(
            columns, index=pd.Index(document["genes"]["gene"], name="gene", dtype=object)
        ),
        n_nearest=int(document["n_nearest"]),
        nearness_Q=nearness_Q,
        flagged_share=float(document["flagged_share"]),
        error_B=error_B,
    )


def _read_columns(genes: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Read the columns; earlier versions gave intervals of any number of slides, and no range."""
    nowhere = [None] * len(genes["gene"])
    is_old = "cv_worst" not in genes
    filled = {"cv_worst": nowhere, "cv_best": nowhere, **genes} if is_old else genes
    columns = {column: np.asarray(filled[column], dtype=np.float64) for column in GENE_COLUMNS}
    if is_old:
        is_few = columns["cv_slides"] < FEWEST_HELD_OUT
        columns |= {end: np.where(is_few, np.nan, columns[end]) for end in ("cv_low", "cv_high")}
    return columns


def _plain(values: Any) -> list[float | None]:  # noqa: ANN401  an array or a column
    numbers = np.asarray(values, dtype=np.float64)
    return [float(number) if np.isfinite(number) else None for number in numbers]
