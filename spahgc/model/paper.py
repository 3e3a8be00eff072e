"""The paper's model: one network from embeddings to genes, its epoch chosen by held-out slides.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from textwrap import shorten

import numpy as np
import torch
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.model.blocks import ask_network
from spahgc.model.fitted import Fitted
from spahgc.model.graph import tensors_of
from spahgc.model.network import NetworkConfig, NetworkShape, SpaHGC
from spahgc.model.progress import Advance
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.model.teaching import TeachingSet
from spahgc.model.training import Sample, TrainingConfig, train_network
from spahgc.store.run_record import CURE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaperModel:
    """A trained network and the slides it borrows from."""

    network: SpaHGC
    """In eval mode."""

    teaching: TeachingSet
    """The training slides."""

    def predict(self, spots: SlideSpots) -> NDArray[np.float32]:
        """Predict the (S, G) normalised expression of one slide, nothing masked."""
        graph = tensors_of(self.teaching.graph(spots))
        predicted_SG: NDArray[np.float32] = ask_network(self.network, graph).numpy()
        return predicted_SG

    def borrowing(self, teaching: TeachingSet) -> "PaperModel":
        """Give the same model, borrowing as ``teaching`` says."""
        return replace(self, teaching=teaching)


def fit_paper(
    teaching: TeachingSet,
    *,
    validation: Sequence[str],
    shape: NetworkShape,
    config: TrainingConfig,
    advance: Advance | None = None,
) -> Fitted:
    """Train the paper's network on the training slides.

    Parameters
    ----------
    teaching
        The training slides.
    validation
        Slides, none of them a training slide, whose loss chooses the epoch.
    shape, config
        Settings.
    advance
        Told how many more epochs are done, `TrainingConfig.max_epochs` in all.
    """
    held_out = {name: teaching.read(name) for name in validation}
    trained = train_network(
        [_sample(teaching, spots) for spots in teaching.spots.values()],
        held_out=[_sample(teaching, spots) for spots in held_out.values()],
        shape=shape,
        config=config,
        advance=advance,
    )
    model = load_paper(teaching, network=trained.network, arrays=trained.weights)
    return Fitted(
        model=model,
        arrays=trained.weights,
        network=asdict(trained.network),
        curve=trained.curve,
        best_epoch=trained.best_epoch,
        held_out={name: model.predict(spots) for name, spots in held_out.items()},
        validation_pcc=trained.validation_pcc,
    )


def load_paper(
    teaching: TeachingSet,
    *,
    network: NetworkConfig | None,
    arrays: Mapping[str, NDArray[np.float32]],
) -> PaperModel:
    """Build the model again from what `fit_paper` gave.

    Raises
    ------
    MismatchError
        If they are of another model, or of another panel.
    """
    n_genes = len(teaching.panel.genes)
    if network is None or network.n_genes != n_genes:
        found = "no genes" if network is None else f"{network.n_genes} genes"
        raise MismatchError(f"this run's network predicts {found}, its panel has {n_genes}; {CURE}")
    return PaperModel(network=load_network(network, arrays), teaching=teaching)


def load_network(config: NetworkConfig, weights: Mapping[str, NDArray[np.float32]]) -> SpaHGC:
    """Build a network with the given weights, in eval mode.

    Raises
    ------
    MismatchError
        If they are of another network.
    """
    if config.n_layers > len(weights):
        raise _of_another(f"{config.n_layers} layers have more than {len(weights)} weights")
    with torch.device("meta"):  # whatever size is asked for, nothing is drawn and nothing filled
        network = SpaHGC(config)
    try:
        # a copy: arrays read from a file may be read-only, which torch cannot be
        own = {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise _of_another(shorten(lines[-1], 200)) from None
    return network.eval()


def _of_another(reason: str) -> MismatchError:
    return MismatchError(
        f"these weights are of another network than the run's record describes ({reason}); {CURE}"
    )


def _sample(teaching: TeachingSet, spots: SlideSpots) -> Sample:
    return Sample(tensors_of(teaching.graph(spots)), torch.from_numpy(expression_of(spots)).float())
