"""What training makes small: error, lack of correlation, and disagreement between views.

Dimension letters in this file:

T target spots, R reference spots, G genes, H hidden size, V spots of either kind
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spahgc.model.network import Features, NetworkOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights of the parts of the loss beside the squared error; the defaults are the paper's."""

    correlation: float = 0.5
    """Of one minus the mean Pearson correlation over genes."""

    target: float = 0.2
    """Of the contrast between the two views of the target spots."""

    reference: float = 0.1
    """Of the contrast between the two views of the reference spots."""

    @property
    def contrast(self) -> bool:
        """Whether the second view counts at all."""
        return bool(self.target or self.reference)


class Losses(NamedTuple):
    """The loss and its unweighted parts, each a scalar with gradient."""

    total: Tensor
    """What the optimiser makes small."""

    expression: Tensor
    """Squared error and correlation, see `expression_loss`."""

    target: Tensor
    """Contrast of the target spots, 0 to 4."""

    reference: Tensor
    """Contrast of the reference spots, 0 to 4."""


def total_loss(
    output: NetworkOutput, measured_TG: Tensor, *, other: Features | None, weights: LossWeights
) -> Losses:
    """Weigh all parts of the training loss.

    Parameters
    ----------
    output
        What the network made of the first view.
    measured_TG
        (T, G) float normalised expression of the target spots.
    other
        What the encoder without gradient made of the second view; None where only the expression
        counts.
    weights
        Of the parts.

    Returns
    -------
    Losses
        Four scalars.
    """
    expression = expression_loss(
        output.expression_TG, measured_TG, correlation_weight=weights.correlation
    )
    if other is None:
        return Losses(expression, expression, expression.new_zeros(()), expression.new_zeros(()))
    target = contrast(output.features.target_TH, other.target_TH)
    reference = contrast(output.features.reference_RH, other.reference_RH)
    total = expression + weights.target * target + weights.reference * reference
    return Losses(total, expression, target, reference)


def expression_loss(
    predicted_TG: Tensor, measured_TG: Tensor, *, correlation_weight: float = 0.5
) -> Tensor:
    """Compare predicted and measured expression in size and in pattern.

    Parameters
    ----------
    predicted_TG, measured_TG
        (T, G) float expression in the same units.
    correlation_weight
        Of the part about the pattern.

    Returns
    -------
    Tensor
        Scalar: mean squared error + weight x (1 - mean over genes of the Pearson correlation
        over the spots). A gene that does not vary over the spots, measured or predicted, has no
        correlation: it counts as 0 in the mean and sends no gradient from this part.
    """
    error = functional.mse_loss(predicted_TG, measured_TG)
    correlation_G = _correlation(predicted_TG, measured_TG)
    return error + correlation_weight * (1 - correlation_G.mean())


def contrast(online_VH: Tensor, target_VH: Tensor) -> Tensor:
    """Say how far two views of the same spots point apart.

    Parameters
    ----------
    online_VH
        (V, H) features that learn.
    target_VH
        (V, H) features of the other view; no gradient flows into them.

    Returns
    -------
    Tensor
        Scalar: mean over the spots of 2 - 2 cos, from 0 (same direction) to 4 (opposite);
        0 where there is no spot.
    """
    cosine_V = functional.cosine_similarity(online_VH, target_VH.detach(), dim=1)
    return (2 - 2 * cosine_V).sum() / max(len(cosine_V), 1)


def _correlation(predicted_TG: Tensor, measured_TG: Tensor) -> Tensor:
    constant_G = _is_constant(predicted_TG) | _is_constant(measured_TG)
    correlation_G = functional.cosine_similarity(
        predicted_TG - predicted_TG.mean(dim=0), measured_TG - measured_TG.mean(dim=0), dim=0
    )
    return correlation_G.masked_fill(constant_G, 0)


def _is_constant(values_TG: Tensor) -> Tensor:
    with torch.no_grad():
        spread_G = values_TG.amax(dim=0) - values_TG.amin(dim=0)
        # a few roundings apart is the same value computed twice
        rounding_G = 8 * torch.finfo(values_TG.dtype).eps * values_TG.abs().amax(dim=0)
        return spread_G <= rounding_G
