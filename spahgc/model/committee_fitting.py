"""Fit a committee: hold training slides out to settle it, then fit its members on all of them.

What the members predict for slides they have not learned from decides the ridge's penalty, when
the networks stop, and how much each kind of member counts.

Dimension letters in this file:

S spots, N spots of all held-out slides, G genes, R programmes, M kinds of member

References: Breiman, Stacked regressions, Machine Learning 1996, doi:10.1007/BF00117832.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.model_selection import GroupKFold

from spahgc.model.committee import Basis, Committee, ask, borrow, with_neighbours
from spahgc.model.features import fit_reducer
from spahgc.model.fitted import Fitted
from spahgc.model.kernel_ridge import KernelRidge, fit_kernel_ridge
from spahgc.model.network import NetworkShape, SpaHGC
from spahgc.model.paper import load_network
from spahgc.model.programmes import fit_programmes
from spahgc.model.progress import Advance, Progress
from spahgc.model.scoring import mean_pcc
from spahgc.model.spots import SlideSpots, expression_of, wide_of
from spahgc.model.teaching import TeachingSet
from spahgc.model.training import Sample, TrainedNetwork, TrainingConfig, train_network
from spahgc.store.runs import CURVE_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitteeConfig:
    """Who sits on the committee, and how it is settled."""

    n_components: int = 256
    """Principal components of the features."""

    n_programmes: int = 16
    """Gene programmes that the members predict."""

    penalties: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Of the kernel ridge, each times the number of training spots; held-out slides choose."""

    n_networks: int = 4
    """Graph networks, which differ in their seed; their mean counts."""

    n_folds: int = 4
    """Most parts in which training slides are held out."""

    @property
    def n_trainings(self) -> int:
        """How many networks are trained at most."""
        return (self.n_folds + 1) * self.n_networks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Members:
    """A committee before it is settled, and how its networks were trained."""

    basis: Basis
    """What slides are reduced to."""

    references: Mapping[str, SlideSpots]
    """The training slides, reduced."""

    ridges: Sequence[KernelRidge]
    """One per penalty."""

    trained: Sequence[TrainedNetwork]
    """None where no training slide may borrow from another, or there is no programme."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What members predicted for one slide they had not learned from.

    All less each gene's mean over the slide: members tell spots apart, not slides.
    """

    slide: str
    """Its name."""

    measured_SG: NDArray[np.float32]
    """What they should have predicted."""

    by_ridge: Sequence[NDArray[np.float32]]
    """(S, G) one per penalty."""

    by_networks_SG: NDArray[np.float32]
    """Zero where there are none."""

    mean_G: NDArray[np.float32]
    """(G,) mean expression of the slides they had learned from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settled:
    """What the trials decided."""

    penalty: int
    """Place in `CommitteeConfig.penalties`."""

    n_epochs: int
    """How long the networks train."""

    shares_M: NDArray[np.float32]
    """(2,) how much the ridge and the networks' mean count."""


def fit_committee(
    teaching: TeachingSet,
    *,
    config: CommitteeConfig,
    shape: NetworkShape,
    training: TrainingConfig,
    advance: Advance | None = None,
) -> Fitted:
    """Settle a committee on held-out training slides, and fit it on all of them.

    Parameters
    ----------
    teaching
        At least two training slides, with genes to find programmes in.
    config, shape, training
        Settings.
    advance
        Told how many more epochs are done, of `CommitteeConfig.n_trainings` times
        `TrainingConfig.max_epochs`.
    """
    progress = Progress(advance, config.n_trainings * training.max_epochs)
    trials, curves = hold_out(
        teaching, config=config, shape=shape, training=training, progress=progress
    )
    settled = _settle(trials, curves)
    final = replace(training, max_epochs=settled.n_epochs)
    members = _fit_members(teaching, {}, config, shape, final, progress)
    progress.finish()
    committee = _sit(teaching, members, settled)
    held = predict_held_out(trials, penalty=settled.penalty, shares_M=settled.shares_M)
    return Fitted(
        model=committee,
        arrays=committee.arrays(),
        network=asdict(members.trained[0].network) if members.trained else {},
        curve=pd.concat(curves).groupby("epoch", as_index=False).mean()
        if curves
        else pd.DataFrame(columns=list(CURVE_COLUMNS)),
        best_epoch=settled.n_epochs,
        held_out=held,
        validation_pcc=score_held_out(teaching, held),
    )


def hold_out(
    teaching: TeachingSet,
    *,
    config: CommitteeConfig,
    shape: NetworkShape,
    training: TrainingConfig,
    progress: Advance,
) -> tuple[list[Trial], list[pd.DataFrame]]:
    """Hold training slides out in turn: what is predicted for each, and the networks' curves."""
    trials, curves = [], []
    for held_out in _parts(teaching, n_parts=config.n_folds):
        part = teaching.only([name for name in teaching.train if name not in held_out])
        outside = {name: teaching.spots[name] for name in held_out}
        members = _fit_members(part, outside, config, shape, training, progress)
        curves += [trained.curve for trained in members.trained]
        trials += [_try_out(part, members, spots) for spots in outside.values()]
    return trials, curves


def predict_held_out(
    trials: Sequence[Trial], *, penalty: int, shares_M: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Give the (S, G) prediction of each slide by the members that had not learned from it."""
    return {
        trial.slide: trial.mean_G
        + (shares_M[0] * trial.by_ridge[penalty] + shares_M[1] * trial.by_networks_SG)
        for trial in trials
    }


def score_held_out(teaching: TeachingSet, held_out: Mapping[str, NDArray[np.float32]]) -> float:
    """Give the mean PCC over genes and held-out training slides."""
    each = [mean_pcc(expression_of(teaching.spots[name]), p) for name, p in held_out.items()]
    return float(np.mean(each))


def _parts(teaching: TeachingSet, *, n_parts: int) -> list[list[str]]:
    """Divide the training slides, slides of one group together where there are several groups."""
    groups = [teaching.groups[name] for name in teaching.train]
    if len(set(groups)) < 2:
        groups = list(teaching.train)
    folds = GroupKFold(min(n_parts, len(set(groups)))).split(groups, groups=groups)
    return [[teaching.train[place] for place in held_out] for _, held_out in folds]


def fit_basis(slides: Sequence[SlideSpots], config: CommitteeConfig, *, seed: int) -> Basis:
    """Find what features and expression are reduced to, on these slides alone."""
    return Basis(
        reducer=fit_reducer(
            [spots.embedding_SD for spots in slides], n_components=config.n_components, seed=seed
        ),
        programmes=fit_programmes(
            [wide_of(spots) for spots in slides],
            [expression_of(spots) for spots in slides],
            n_programmes=config.n_programmes,
            seed=seed,
        ),
    )


def fit_ridges(
    reduced: Sequence[SlideSpots], config: CommitteeConfig, *, seed: int
) -> list[KernelRidge]:
    """Fit a ridge per penalty on slides that were reduced."""
    return fit_kernel_ridge(
        np.concatenate([with_neighbours(spots) for spots in reduced]),
        np.concatenate([expression_of(spots) for spots in reduced]),
        penalties=config.penalties,
        seed=seed,
    )


def _fit_members(
    teaching: TeachingSet,
    outside: Mapping[str, SlideSpots],
    config: CommitteeConfig,
    shape: NetworkShape,
    training: TrainingConfig,
    advance: Advance,
) -> Members:
    """Fit every member on the training slides; those ``outside`` choose the networks' epoch."""
    slides = list(teaching.spots.values())
    basis = fit_basis(slides, config, seed=training.seed)
    references = {name: basis.reduce(spots) for name, spots in teaching.spots.items()}
    ridges = fit_ridges(list(references.values()), config, seed=training.seed)
    can_borrow = all(teaching.among(spots) for spots in slides)
    has_programmes = basis.programmes.loadings_AR.shape[1] > 0  # not where every gene is constant
    trained = []
    if can_borrow and has_programmes and config.n_networks:
        samples = [_sample(teaching, references, spots, basis) for spots in slides]
        held_out = [_sample(teaching, references, spots, basis) for spots in outside.values()]
        trained = [
            train_network(
                samples,
                held_out=held_out,
                shape=shape,
                config=replace(training, seed=training.seed * config.n_networks + number),
                advance=advance,
            )
            for number in range(config.n_networks)
        ]
    return Members(basis=basis, references=references, ridges=ridges, trained=trained)


def _sample(
    teaching: TeachingSet, references: Mapping[str, SlideSpots], spots: SlideSpots, basis: Basis
) -> Sample:
    reduced = basis.reduce(spots)
    graph = borrow(teaching, references, spots, reduced)
    return Sample(graph, torch.from_numpy(expression_of(reduced)))


def _try_out(part: TeachingSet, members: Members, spots: SlideSpots) -> Trial:
    programmes = members.basis.programmes
    reduced = members.basis.reduce(spots)
    features_SP = with_neighbours(reduced)
    measured_SG = expression_of(spots)
    by_networks_SG = np.zeros_like(measured_SG)
    if members.trained:
        graph = borrow(part, members.references, spots, reduced)
        by_networks_SG = programmes.express(ask(_networks(members.trained), graph))
    return Trial(
        slide=spots.name,
        measured_SG=_centred(measured_SG),
        by_ridge=[
            _centred(programmes.express(ridge.predict(features_SP))) for ridge in members.ridges
        ],
        by_networks_SG=_centred(by_networks_SG),
        mean_G=programmes.mean_G,
    )


def _settle(trials: Sequence[Trial], curves: Sequence[pd.DataFrame]) -> Settled:
    penalty = int(np.argmin(penalty_errors(trials)))
    best = [1 + int(curve["validation_loss"].argmin()) for curve in curves]
    return Settled(
        penalty=penalty,
        n_epochs=round(float(np.median(best))) if best else 1,
        shares_M=weigh_members(trials, penalty=penalty),
    )


def penalty_errors(trials: Sequence[Trial]) -> list[float]:
    """Give the mean squared error of each penalty's ridge, every gene in its own spread."""
    scale_G, measured_NG = _scaled(trials)
    return [
        float(np.mean((np.concatenate(predicted) * scale_G - measured_NG) ** 2))
        for predicted in zip(*(trial.by_ridge for trial in trials), strict=True)
    ]


def weigh_members(trials: Sequence[Trial], *, penalty: int) -> NDArray[np.float32]:
    """Give the (2,) shares of ridge and networks whose sum comes closest to what was measured."""
    scale_G, measured_NG = _scaled(trials)
    ridge_NG = np.concatenate([trial.by_ridge[penalty] for trial in trials]) * scale_G
    networks_NG = np.concatenate([trial.by_networks_SG for trial in trials]) * scale_G
    members = np.stack([ridge_NG.ravel(), networks_NG.ravel()], axis=1)
    shares_M, _ = nnls(members, measured_NG.ravel())
    return shares_M.astype(np.float32)


def _scaled(trials: Sequence[Trial]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Give 1 / spread of each gene, (G,), and what was measured in these units, (N, G)."""
    measured_NG = np.concatenate([trial.measured_SG for trial in trials])
    spread_G = measured_NG.std(axis=0)
    scale_G = 1 / np.where(spread_G > 0, spread_G, np.inf)
    return scale_G, measured_NG * scale_G


def _sit(teaching: TeachingSet, members: Members, settled: Settled) -> Committee:
    return Committee(
        teaching=teaching,
        basis=members.basis,
        references=members.references,
        ridge=members.ridges[settled.penalty],
        networks=_networks(members.trained),
        shares_M=settled.shares_M,
    )


def _networks(trained: Sequence[TrainedNetwork]) -> list[SpaHGC]:
    return [load_network(one.network, one.weights) for one in trained]


def _centred(values_SG: NDArray[np.floating]) -> NDArray[np.float32]:
    return (values_SG - values_SG.mean(axis=0, dtype=np.float64)).astype(np.float32)
