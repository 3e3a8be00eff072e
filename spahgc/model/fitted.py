"""What every kind of model gives when it has been trained, and can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.model.spots import SlideSpots
from spahgc.model.teaching import TeachingSet


class Model(Protocol):
    """Predicts slides by what it learned and by the training slides they may borrow from."""

    def predict(self, spots: SlideSpots) -> NDArray[np.float32]:
        """Predict the (S, G) normalised expression of a slide, whose own is not read."""

    def borrowing(self, teaching: TeachingSet) -> Self:
        """Give the same model, borrowing as ``teaching`` says from the slides it already knows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A trained model, what must be kept of it, and how it did on slides it had not learned."""

    model: Model
    """Ready to predict."""

    arrays: Mapping[str, NDArray[np.float32]]
    """All that was learned, by name; with the settings enough to build the model again."""

    network: Mapping[str, Any]
    """`spahgc.model.network.NetworkConfig` as a mapping."""

    curve: pd.DataFrame
    """One row per epoch, see `spahgc.model.training.TrainedNetwork.curve`."""

    best_epoch: int
    """Epoch whose weights were kept, or that was found best for those trained again; from 1."""

    validation_pcc: float
    """Mean PCC over genes and the slides held out."""

    held_out: Mapping[str, NDArray[np.float32]]
    """(S, G) predictions of slides, none of them a test slide, by models that had not learned
    from them."""
