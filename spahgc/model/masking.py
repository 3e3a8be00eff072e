"""Two complementary views of one graph, and the encoder that reads the second.

Dimension letters in this file:

T target spots, R reference spots, D embedding size, G genes, J = D + G
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spahgc.model.network import GraphTensors

Network = TypeVar("Network", bound=nn.Module)


class Masks(NamedTuple):
    """Which elements each of two views keeps; every element is kept by exactly one."""

    first: Tensor
    """Bool; False where the first view hides."""

    second: Tensor
    """Bool; the opposite of ``first``."""


class Views(NamedTuple):
    """The same graph twice; every feature is seen in exactly one of the two."""

    first: GraphTensors
    """For the encoder that learns."""

    second: GraphTensors
    """For the encoder without gradient."""


def complementary_masks(shape: Sequence[int], share: float, *, generator: torch.Generator) -> Masks:
    """Draw one random mask and its complement.

    Parameters
    ----------
    shape
        Of the features to be masked.
    share
        Probability from 0 to 1 that the first view hides an element, each drawn by itself.
    generator
        Source of the draws; the masks are on its device.

    Returns
    -------
    Masks
        Two bool tensors of that shape, True where the view keeps the element.

    Raises
    ------
    ValueError
        If ``share`` is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"masked share must be from 0 to 1, got {share}")
    drawn = torch.rand(*shape, generator=generator, device=generator.device)
    kept = drawn >= share
    return Masks(kept, ~kept)


def mask_graph(
    graph: GraphTensors,
    *,
    generator: torch.Generator,
    target_share: float = 0.1,
    reference_share: float = 0.9,
) -> Views:
    """Hide a random part of the features in one view and the rest in the other.

    Parameters
    ----------
    graph
        Whole graph; it is not changed, and both views share its tables.
    generator
        Source of the draws, on any device: the same seed gives the same masks for every
        device that the graph may be on.
    target_share
        Probability that the first view hides an element of the targets' embeddings.
    reference_share
        The same for the joint embedding and expression of the references, so the expression
        token of a view sees only the expression that this view keeps.

    Returns
    -------
    Views
        Hidden elements are 0.
    """
    target = complementary_masks(graph.target_TD.shape, target_share, generator=generator)
    n_references, embedding_size = graph.reference_RD.shape
    joint_shape = (n_references, embedding_size + graph.expression_RG.shape[1])
    joint = complementary_masks(joint_shape, reference_share, generator=generator)
    return Views(_view(graph, target.first, joint.first), _view(graph, target.second, joint.second))


def frozen_copy(network: Network) -> Network:
    """Copy a network so that no gradient ever reaches the copy.

    Parameters
    ----------
    network
        Usually the encoder before its first step.

    Returns
    -------
    Network
        With its own parameters, none of which asks for a gradient. Its dropout follows
        ``train`` and ``eval`` as in the original.
    """
    return copy.deepcopy(network).requires_grad_(requires_grad=False)


def update_average(target: nn.Module, online: nn.Module, *, decay: float) -> None:
    """Move the parameters of ``target`` a step towards those of ``online``, in place.

    Parameters
    ----------
    target
        A `frozen_copy` of ``online``.
    online
        The network that learns; it is not changed.
    decay
        From 0 to 1: the part of itself that each parameter of ``target`` keeps.
    """
    average = get_ema_multi_avg_fn(decay)
    average(list(target.parameters()), list(online.parameters()), None)


def _view(graph: GraphTensors, keep_TD: Tensor, keep_RJ: Tensor) -> GraphTensors:
    device = graph.target_TD.device
    keep_TD, keep_RJ = keep_TD.to(device), keep_RJ.to(device)
    embedding_size = graph.reference_RD.shape[1]
    # products: seven times faster than masked_fill on a CPU
    return replace(
        graph,
        target_TD=graph.target_TD * keep_TD,
        reference_RD=graph.reference_RD * keep_RJ[:, :embedding_size],
        expression_RG=graph.expression_RG * keep_RJ[:, embedding_size:],
    )
