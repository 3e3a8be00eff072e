"""What a graph has to beat: simple predictions from the same embeddings.

Dimension letters in this file:

S spots, R training spots, T test spots, D embedding size, P principal components, G genes,
Q neighbours in space, K nearest references
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, KFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from spahgc.errors import MismatchError

BASELINES: Final = (
    "mean",
    "depth alone",
    "7 nearest",
    "7 nearest smoothed",
    "50 nearest",
    "50 nearest smoothed",
    "ridge",
    "ridge smoothed",
    "ridge own|near",
    "ridge own|near smoothed",
)
"""Every baseline, in the order it is shown."""

WITH: Final = " · "
"""In the name of a method, before the embeddings that it was given in place of the default's."""


def is_baseline(method: str) -> bool:
    """Whether a method is one of `BASELINES`, whatever embeddings it was given."""
    return method.partition(WITH)[0] in BASELINES


N_COMPONENTS: Final = 256
PENALTIES: Final = np.logspace(-1, 6, 15)
N_FOLDS: Final = 10
"""Most folds that choose a penalty; up to as many groups are left out one by one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotTable:
    """What a baseline sees of some slides, stacked.

    Letters: S spots, D embedding size, G genes, Q neighbours.
    """

    embeddings_SD: NDArray[np.float32]
    """(S, D) of one encoder."""

    slide_S: NDArray[np.str_]
    """(S,) slide each spot lies on."""

    neighbours_SQ: NDArray[np.int64]
    """(S, Q) rows of this table that hold the spot's nearest spots on its own slide; -1 where it
    has fewer than Q."""

    expression_SG: NDArray[np.float32] | None = None
    """(S, G) normalised expression; of training spots only."""

    log_depth_S: NDArray[np.float64] | None = None
    """(S,) log(1 + total raw counts); of training spots only."""

    groups_S: NDArray[np.str_] | None = None
    """(S,) patient or slide that a fold choosing the penalty leaves out as one; None: the slide."""


def predict_baselines(
    train: SpotTable, test: SpotTable, *, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Predict the test spots by every baseline.

    ``smoothed`` is the mean over a spot and its neighbours. ``ridge own|near`` also sees the mean
    embedding of the neighbours. ``depth alone`` gives every gene the same map: the total counts
    that ridge predicts from the image, scaled to the gene's mean and spread.

    Parameters
    ----------
    train
        With expression and depth.
    test
        Only embeddings and neighbours are read.
    seed
        Of the randomised principal components.

    Returns
    -------
    dict[str, NDArray[np.float32]]
        (T, G) normalised expression by the names in `BASELINES`, in their order.

    Raises
    ------
    MismatchError
        If the tables do not fit together, or ``train`` lacks what is learned from.
    """
    known_RG, depth_R = _check_tables(train, test)
    reducer = _reducer(train.embeddings_SD, seed=seed)
    own_RP, own_TP = (_reduce(reducer, table.embeddings_SD) for table in (train, test))
    near_RP, near_TP = _reduce_neighbourhoods(train, test, seed=seed)
    both_RP, both_TP = np.hstack([own_RP, near_RP]), np.hstack([own_TP, near_TP])
    folds = list(_folds(train))
    plain = {
        "mean": np.tile(known_RG.mean(axis=0, dtype=np.float64), (len(own_TP), 1)),
        "depth alone": _scale_depth(
            _ridge(own_RP, depth_R, folds).predict(own_TP), depth_R=depth_R, known_RG=known_RG
        ),
        **_predict_nearest(train.embeddings_SD, test.embeddings_SD, known_RG=known_RG),
        "ridge": _ridge(own_RP, known_RG, folds).predict(own_TP),
        "ridge own|near": _ridge(both_RP, known_RG, folds).predict(both_TP),
    }
    plain = {name: values.reshape(-1, known_RG.shape[1]) for name, values in plain.items()}
    return {name: _named(name, plain, test.neighbours_SQ).astype(np.float32) for name in BASELINES}


def smooth(
    values_SG: NDArray[np.floating], neighbours_SQ: NDArray[np.int64]
) -> NDArray[np.floating]:
    """Average each spot with its neighbours.

    Parameters
    ----------
    values_SG
        (S, G) one row per spot.
    neighbours_SQ
        (S, Q) rows of ``values_SG``; -1 where a spot has fewer than Q neighbours.

    Returns
    -------
    NDArray[np.floating]
        (S, G) mean over the spot itself and the neighbours it has.
    """
    itself_S1 = np.arange(len(neighbours_SQ))[:, None]
    return _mean_rows(values_SG, np.hstack([itself_S1, neighbours_SQ]))


def _check_tables(
    train: SpotTable, test: SpotTable
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    if train.expression_SG is None or train.log_depth_S is None:
        raise MismatchError(
            "baselines learn from expression and depth; the training table has none"
        )
    n_spots, n_features = train.embeddings_SD.shape
    rows = {len(train.expression_SG), len(train.log_depth_S), len(train.neighbours_SQ)}
    if rows != {n_spots} or n_spots < 2 or len(test.neighbours_SQ) != len(test.embeddings_SD):
        raise MismatchError(
            f"spot tables need one row per spot and at least 2 training spots; found {n_spots} "
            f"training embeddings beside {sorted(rows)} rows, and {len(test.embeddings_SD)} test "
            f"embeddings beside {len(test.neighbours_SQ)} rows"
        )
    if test.embeddings_SD.shape[1] != n_features:
        raise MismatchError(
            f"test embeddings have {test.embeddings_SD.shape[1]} features, training embeddings "
            f"{n_features}; expected one encoder: run `spahgc embed` on all slides"
        )
    if not np.ptp(train.embeddings_SD, axis=0).any():
        raise MismatchError(
            f"all {n_spots} training embeddings are the same; expected them to differ between "
            "spots: run `spahgc embed` again"
        )
    return train.expression_SG, train.log_depth_S


def _named(
    name: str, plain: dict[str, NDArray[np.floating]], neighbours_TQ: NDArray[np.int64]
) -> NDArray[np.floating]:
    source = name.removesuffix(" smoothed")
    return plain[source] if source == name else smooth(plain[source], neighbours_TQ)


def _reducer(embeddings_RD: NDArray[np.floating], *, seed: int) -> Pipeline:
    n_components = min(N_COMPONENTS, len(embeddings_RD) - 1, embeddings_RD.shape[1])
    reducer = make_pipeline(StandardScaler(), PCA(n_components, random_state=seed))
    return reducer.fit(embeddings_RD.astype(np.float32))


def _reduce(reducer: Pipeline, embeddings_SD: NDArray[np.floating]) -> NDArray[np.float64]:
    # float64: with a small penalty the normal equations lose half of the digits
    return reducer.transform(embeddings_SD.astype(np.float32)).astype(np.float64)


def _reduce_neighbourhoods(
    train: SpotTable, test: SpotTable, *, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    near_RD, near_TD = (_mean_of_neighbours(table) for table in (train, test))
    reducer = _reducer(near_RD, seed=seed)
    return _reduce(reducer, near_RD), _reduce(reducer, near_TD)


def _mean_of_neighbours(table: SpotTable) -> NDArray[np.floating]:
    alone_S = (table.neighbours_SQ < 0).all(axis=1)
    itself_S = np.where(
        alone_S, np.arange(len(table.neighbours_SQ)), -1
    )  # a lone spot stands for its own
    return _mean_rows(table.embeddings_SD, np.column_stack([table.neighbours_SQ, itself_S]))


def _mean_rows(values_SG: NDArray[np.floating], rows_TK: NDArray[np.int64]) -> NDArray[np.floating]:
    is_there_TK = rows_TK >= 0
    n_TK = np.broadcast_to(is_there_TK.sum(axis=1, keepdims=True), rows_TK.shape)
    start_T = np.concatenate([[0], np.cumsum(is_there_TK.sum(axis=1))])
    # a sparse product: gathering (T, K, G) values takes K times the memory of the answer
    weights = csr_matrix(
        ((1 / n_TK[is_there_TK]).astype(values_SG.dtype), rows_TK[is_there_TK], start_T),
        shape=(len(rows_TK), len(values_SG)),
    )
    return weights @ values_SG


def _folds(train: SpotTable) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Leave groups out; slides where all spots are of one group; stretches of a lone slide."""
    rows_S = np.arange(len(train.embeddings_SD))
    for groups_S in (train.groups_S, train.slide_S):
        n_groups = 0 if groups_S is None else len(np.unique(groups_S))
        if n_groups > 1:
            return GroupKFold(min(n_groups, N_FOLDS)).split(rows_S, groups=groups_S)
    # not shuffled: spots that follow each other in the table mostly lie side by side
    return KFold(min(5, len(rows_S))).split(rows_S)


def _ridge(
    features_RP: NDArray[np.float64],
    target_RG: NDArray[np.floating],
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> RidgeCV:
    ridge = RidgeCV(alphas=PENALTIES, cv=folds, scoring="neg_mean_squared_error")
    return ridge.fit(features_RP, target_RG.astype(np.float64))


def _predict_nearest(
    references_RD: NDArray[np.float32],
    targets_TD: NDArray[np.float32],
    *,
    known_RG: NDArray[np.float32],
) -> dict[str, NDArray[np.floating]]:
    most = min(50, len(references_RD))
    search = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute")
    search.fit(references_RD.astype(np.float32))
    nearest_TK = search.kneighbors(targets_TD.astype(np.float32), return_distance=False)
    return {f"{k} nearest": _mean_rows(known_RG, nearest_TK[:, :k]) for k in (7, 50)}


def _scale_depth(
    predicted_T: NDArray[np.float64],
    *,
    depth_R: NDArray[np.float64],
    known_RG: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Give every gene the predicted depth, as strongly as genes follow depth on average."""
    spread = float(depth_R.std())
    z_T = (predicted_T.ravel() - depth_R.mean()) / spread if spread > 0 else 0 * predicted_T.ravel()
    mean_G, sd_G = known_RG.mean(axis=0, dtype=np.float64), known_RG.std(axis=0, dtype=np.float64)
    covariance_G = (depth_R - depth_R.mean()) @ (known_RG - mean_G) / len(depth_R)
    varies_G = sd_G > 0
    if spread == 0 or not varies_G.any():
        return np.tile(mean_G, (len(z_T), 1))
    strength = abs(float(np.mean(covariance_G[varies_G] / sd_G[varies_G]))) / spread
    return mean_G + strength * z_T[:, None] * sd_G
