"""The default model: a kernel ridge and several graph networks predict gene programmes together.

Dimension letters in this file:

S spots, G genes, P reduced features, R programmes, M kinds of member
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.model.blocks import ask_network
from spahgc.model.checkpoints import part_of
from spahgc.model.features import Reducer, mean_of_near
from spahgc.model.graph import build_graph, tensors_of
from spahgc.model.kernel_ridge import KernelRidge
from spahgc.model.network import GraphTensors, NetworkConfig, SpaHGC
from spahgc.model.paper import load_network
from spahgc.model.programmes import Programmes
from spahgc.model.spots import SlideSpots
from spahgc.model.teaching import TeachingSet
from spahgc.store.run_record import CURE

Arrays = Mapping[str, NDArray[np.float32]]

REDUCER: Final = "reducer."
PROGRAMMES: Final = "programmes."
RIDGE: Final = "ridge."
NETWORK: Final = "network"
SHARES: Final = "shares"
_LETTERS: Final = {
    f"{REDUCER}mean": "D",
    f"{REDUCER}components": "PD",
    f"{PROGRAMMES}loadings": "AR",
    f"{PROGRAMMES}genes": "RG",
    f"{PROGRAMMES}mean": "G",
    f"{RIDGE}landmarks": "LQ",
    f"{RIDGE}weights": "LR",
    f"{RIDGE}gamma": "1",
    SHARES: "M",
}
"""Dimensions of what is stored: D features, A wide genes, L landmarks, Q = 2P."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """What features and expression are reduced to, found on training slides."""

    reducer: Reducer
    """D features → P."""

    programmes: Programmes
    """Many genes → R programmes → the panel's G genes."""

    def reduce(self, spots: SlideSpots) -> SlideSpots:
        """Give a slide as the networks see it: P features, and R programmes where it has genes.

        Of the neighbours' features they learn along the edges of the graph.
        """
        programmes_SR = None if spots.wide_SA is None else self.programmes.score(spots.wide_SA)
        return replace(
            spots,
            embedding_SD=self.reducer.reduce(spots.embedding_SD),
            expression_SG=programmes_SR,
            wide_SA=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Committee:
    """The fitted members, and the slides that the networks borrow from."""

    teaching: TeachingSet
    """The training slides."""

    basis: Basis
    """What slides are reduced to."""

    references: Mapping[str, SlideSpots]
    """The training slides, reduced."""

    ridge: KernelRidge
    """From 2P features, a spot's and its neighbours', to R programmes."""

    networks: Sequence[SpaHGC]
    """In eval mode; they read and give programmes where the paper's reads and gives genes."""

    shares_M: NDArray[np.float32]
    """(2,) how much the ridge and the networks' mean count."""

    def predict(self, spots: SlideSpots) -> NDArray[np.float32]:
        """Predict the (S, G) normalised expression of a slide, whose own is not read."""
        blind = replace(spots, expression_SG=None, wide_SA=None)
        reduced = self.basis.reduce(blind)
        programmes_SR = self.shares_M[0] * self.ridge.predict(with_neighbours(reduced))
        if self.networks:
            graph = borrow(self.teaching, self.references, spots, reduced)
            programmes_SR = programmes_SR + self.shares_M[1] * ask(self.networks, graph)
        programmes = self.basis.programmes
        return programmes.mean_G + programmes.express(programmes_SR)

    def borrowing(self, teaching: TeachingSet) -> "Committee":
        """Give the same committee, borrowing as ``teaching`` says from the slides it knows."""
        return replace(self, teaching=teaching)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Give everything learned by name; `load_committee` takes it back."""
        parts: dict[str, Arrays] = {
            REDUCER: self.basis.reducer.arrays(),
            PROGRAMMES: self.basis.programmes.arrays(),
            RIDGE: self.ridge.arrays(),
        }
        for number, network in enumerate(self.networks):
            state = network.state_dict()
            parts[f"{NETWORK}{number}."] = {k: v.cpu().numpy() for k, v in state.items()}
        arrays = {prefix + key: v for prefix, part in parts.items() for key, v in part.items()}
        return {**arrays, SHARES: self.shares_M}


def with_neighbours(reduced: SlideSpots) -> NDArray[np.float32]:
    """Put the mean of its neighbours beside each spot's own P features, as the ridge sees it.

    Returns
    -------
    NDArray[np.float32]
        (S, 2P); both halves have the same strength over the slide.
    """
    own_SP = reduced.embedding_SD
    near_SP = mean_of_near(own_SP, reduced.near_SQ)
    own, near = (float(np.sqrt(np.mean(half**2, dtype=np.float64))) for half in (own_SP, near_SP))
    return np.hstack([own_SP, near_SP * np.float32(own / near if near > 0 else 0)])


def borrow(
    teaching: TeachingSet,
    references: Mapping[str, SlideSpots],
    spots: SlideSpots,
    reduced: SlideSpots,
) -> GraphTensors:
    """Build the graph of a slide over the training slides it may borrow from.

    Parameters
    ----------
    teaching
        Says which those are, and finds the spots that look alike.
    references
        The training slides, reduced.
    spots, reduced
        The slide, as read and as the members see it.
    """
    neighbors = teaching.search(spots, k=teaching.graph_config.n_refer)
    lenders = {name: references[name] for name in teaching.among(spots)}
    return tensors_of(build_graph(reduced, neighbors, lenders, config=teaching.graph_config))


def ask(networks: Sequence[SpaHGC], graph: GraphTensors) -> NDArray[np.float32]:
    """Give the mean of what networks in eval mode predict, (S, R) programmes."""
    predicted = [ask_network(network, graph) for network in networks]
    mean_SR: NDArray[np.float32] = torch.stack(predicted).mean(dim=0).numpy()
    return mean_SR


def load_committee(
    teaching: TeachingSet, *, network: NetworkConfig | None, arrays: Arrays
) -> Committee:
    """Build a committee again from what `Committee.arrays` gave.

    Parameters
    ----------
    teaching
        The slides to borrow from: those of the training, or others.
    network
        Shape of each network; None where there are none.
    arrays
        By name.

    Raises
    ------
    MismatchError
        If they are of another model.
    """
    try:
        basis = Basis(
            reducer=Reducer.read(part_of(arrays, REDUCER)),
            programmes=Programmes.read(part_of(arrays, PROGRAMMES)),
        )
        ridge, shares_M = KernelRidge.read(part_of(arrays, RIDGE)), arrays[SHARES]
    except KeyError as error:
        raise _of_another(f"no {error}") from None
    except IndexError:
        raise _of_another("an empty array") from None
    if strange := [n for n in arrays if n not in _LETTERS and not n.startswith(NETWORK)]:
        raise _of_another(f"{strange[0]!r} is of none of its members")
    n_networks = len({name.partition(".")[0] for name in arrays if name.startswith(NETWORK)})
    if (network is None) != (n_networks == 0):
        raise _of_another(f"{n_networks} networks, of {network or 'no shape'}")
    _check_sizes(teaching, arrays, network=network)
    return Committee(
        teaching=teaching,
        basis=basis,
        references={name: basis.reduce(spots) for name, spots in teaching.spots.items()},
        ridge=ridge,
        networks=[
            load_network(network, part_of(arrays, f"{NETWORK}{number}."))
            for number in range(n_networks)
            if network is not None
        ],
        shares_M=shares_M,
    )


def _check_sizes(teaching: TeachingSet, arrays: Arrays, *, network: NetworkConfig | None) -> None:
    """Refuse arrays that do not fit each other, the panel, the wide genes or the networks."""
    n_wide = 0 if teaching.wide is None else len(teaching.wide.genes)
    sizes = {"A": n_wide, "G": len(teaching.panel.genes), "M": 2, "1": 1}
    for name, letters in _LETTERS.items():
        shape = arrays[name].shape
        if len(shape) != len(letters):
            raise _of_another(f"{name} has {len(shape)} dimensions, expected {len(letters)}")
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise _of_another(f"{name} is {shape}, expected {sizes[letter]} for {letter}")
    asked = (sizes["P"], sizes["R"])
    seen = asked if network is None else (network.embedding_size, network.n_genes)
    if sizes["Q"] != 2 * sizes["P"] or seen != asked:
        raise _of_another(f"members see {sizes['Q']} and {seen[0]} features of {asked[0]}")


def _of_another(reason: str) -> MismatchError:
    return MismatchError(
        f"these weights are of another model than the run's record describes ({reason}); {CURE}"
    )
