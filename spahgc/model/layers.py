"""Message passing of the SpaHGC network: neighbour mean, dual attention, attention pooling.

Dimension letters in this file:

T target spots, R reference spots, K references of a target, E = T K edges, H hidden size, U = 2 H,
N heads, W = H / N; V receivers, S senders and P places of any neighbour table

References: Shi, Wang, Wan, Min, CVPR 2026, arXiv 2603.22821.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spahgc.model.edges import (
    edge_products,
    softmax_of_senders,
    sum_to_receivers,
    sum_to_senders,
)


class NeighbourTable(NamedTuple):
    """Who sends to whom, with the same number of places for every receiver."""

    sender_VP: Tensor
    """(V, P) int64 rows of the senders; any valid row where nobody sends."""

    exists_VP: Tensor
    """(V, P) bool; False where a receiver has fewer senders than places."""


class Nodes(NamedTuple):
    """Hidden features of one graph between two layers."""

    target_TH: Tensor
    """(T, H) target spots."""

    reference_RH: Tensor
    """(R, H) reference spots."""

    expression_RH: Tensor
    """(R, H) expression token of each reference spot."""


class Dropout(nn.Dropout):
    """Dropout whose draws take a third of the time on a CPU.

    torch draws from a Bernoulli distribution there, one number after the other.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Hide each number with probability ``p``, and make up for it; in eval mode hide none."""
        if not self.training or self.p in {0, 1} or features.device.type != "cpu":
            return super().forward(features)
        kept = torch.rand_like(features).ge_(self.p)
        return features * kept.mul_(1 / (1 - self.p))


class NeighbourMean(nn.Module):
    """Combine a node with the mean of its neighbours (GraphSAGE)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.neighbours = nn.Linear(hidden_size, hidden_size)
        self.itself = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, nodes_VH: Tensor, table: NeighbourTable) -> Tensor:
        """Map the mean of the neighbours and the node itself, and add them.

        Parameters
        ----------
        nodes_VH
            (V, H) features of one node type.
        table
            Neighbours of each node among the same nodes.

        Returns
        -------
        Tensor
            (V, H); the mean of an isolated node is zero.
        """
        exists_VP = table.exists_VP.to(nodes_VH.dtype)
        share_VP = exists_VP / exists_VP.sum(dim=1, keepdim=True).clamp(min=1)
        mean_VH = sum_to_receivers(share_VP.unsqueeze(-1), nodes_VH, table.sender_VP)
        return self.neighbours(mean_VH) + self.itself(nodes_VH)


class ForwardAttention(nn.Module):
    """Bring each target what its references tell it: CNDA from reference to target."""

    def __init__(self, hidden_size: int, *, n_heads: int, slope: float, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.slope = slope
        self.query = _attention_map(hidden_size, hidden_size)
        self.key = _attention_map(2 * hidden_size, hidden_size)
        self.value = _attention_map(2 * hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.output = _attention_map(hidden_size, hidden_size)

    def forward(self, target_TH: Tensor, told_RU: Tensor, refer: NeighbourTable) -> Tensor:
        """Attend from each target to its references.

        Parameters
        ----------
        target_TH
            (T, H) targets.
        told_RU
            (R, 2 H) references, each beside its normalised expression token.
        refer
            (T, K) references of each target.

        Returns
        -------
        Tensor
            (T, H); a target without references gets the output map of zero, its bias.
        """
        query_TH, key_RH = self.query(target_TH), self.key(told_RU)
        score_TKN = attention_scores(
            query_TH, key_RH, refer, n_heads=self.n_heads, slope=self.slope
        )
        weight_TKN = self.dropout(_softmax_over_references(score_TKN, refer))
        told_TH = sum_to_receivers(weight_TKN, self.value(told_RU), refer.sender_VP)
        return self.output(told_TH)


class BackwardAttention(nn.Module):
    """Bring each reference what the targets that use it tell it: CNDA from target to reference.

    A reference may serve one target or hundreds, so the edges stay in the targets' (T, K) table.
    """

    def __init__(self, hidden_size: int, *, n_heads: int, slope: float, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.slope = slope
        self.query = _attention_map(2 * hidden_size, hidden_size)
        self.key = _attention_map(hidden_size, hidden_size)
        self.value = _attention_map(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.output = _attention_map(hidden_size, hidden_size)

    def forward(self, target_TH: Tensor, told_RU: Tensor, refer: NeighbourTable) -> Tensor:
        """Attend from each reference to the targets that use it.

        Parameters
        ----------
        target_TH
            (T, H) targets.
        told_RU
            (R, 2 H) references, each beside its normalised expression token.
        refer
            (T, K) references of each target.

        Returns
        -------
        Tensor
            (R, H); a reference that no target uses gets the output map of zero, its bias.
        """
        key_TH, query_RH = self.key(target_TH), self.query(told_RU)
        score_TKN = attention_scores(
            key_TH, query_RH, refer, n_heads=self.n_heads, slope=self.slope
        )
        reference_TK, n_references = refer.sender_VP, len(told_RU)
        weight_TKN = self.dropout(
            softmax_of_senders(score_TKN, refer.exists_VP, reference_TK, n_senders=n_references)
        )
        value_TH = self.value(target_TH)
        told_RH = sum_to_senders(weight_TKN, value_TH, reference_TK, n_senders=n_references)
        return self.output(told_RH)


class GraphLayer(nn.Module):
    """Make each node the mean of what its two kinds of edge bring, without residual."""

    def __init__(self, hidden_size: int, *, n_heads: int, slope: float, dropout: float) -> None:
        super().__init__()
        self.slope = slope
        self.near = NeighbourMean(hidden_size)
        self.close = NeighbourMean(hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.to_target = ForwardAttention(
            hidden_size, n_heads=n_heads, slope=slope, dropout=dropout
        )
        self.to_reference = BackwardAttention(
            hidden_size, n_heads=n_heads, slope=slope, dropout=dropout
        )

    def forward(
        self, nodes: Nodes, *, near: NeighbourTable, refer: NeighbourTable, close: NeighbourTable
    ) -> Nodes:
        """Update all nodes from the same state.

        Parameters
        ----------
        nodes
            Features before the layer.
        near
            (T, Q) neighbours of each target among the targets.
        refer
            (T, K) references of each target.
        close
            (R, C) neighbours of each reference among the references.

        Returns
        -------
        Nodes
            Features after LeakyReLU. The expression token receives no message: nothing but
            LeakyReLU changes it, its LayerNorm stays inside the layer.
        """
        target_TH, reference_RH, expression_RH = nodes
        told_RU = torch.cat([reference_RH, self.norm(expression_RH)], dim=1)
        next_target_TH = self.near(target_TH, near) + self.to_target(target_TH, told_RU, refer)
        next_reference_RH = self.close(reference_RH, close) + self.to_reference(
            target_TH, told_RU, refer
        )
        return Nodes(
            target_TH=functional.leaky_relu(next_target_TH / 2, self.slope),
            reference_RH=functional.leaky_relu(next_reference_RH / 2, self.slope),
            expression_RH=functional.leaky_relu(expression_RH, self.slope),
        )


class AttentionPooling(nn.Module):
    """Add to each target what it takes from its references at the end (CNAP)."""

    def __init__(self, hidden_size: int, *, n_heads: int, slope: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.slope = slope
        self.target = nn.Linear(hidden_size, hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, target_TH: Tensor, reference_RH: Tensor, refer: NeighbourTable) -> Tensor:
        """Pool the references of each target into it.

        Parameters
        ----------
        target_TH, reference_RH
            (T, H) and (R, H) features after the last layer.
        refer
            (T, K) references of each target.

        Returns
        -------
        Tensor
            (T, H); a target without references is its own linear map alone.
        """
        mapped_TH = self.target(target_TH)
        query_TH, key_RH = self.query(mapped_TH), self.key(reference_RH)
        score_TKN = attention_scores(
            query_TH, key_RH, refer, n_heads=self.n_heads, slope=self.slope
        )
        weight_TKN = _softmax_over_references(score_TKN, refer)
        return mapped_TH + sum_to_receivers(weight_TKN, self.value(reference_RH), refer.sender_VP)


def _attention_map(n_inputs: int, n_outputs: int) -> nn.Linear:
    linear = nn.Linear(n_inputs, n_outputs)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def attention_scores(
    target_TH: Tensor, reference_RH: Tensor, refer: NeighbourTable, *, n_heads: int, slope: float
) -> Tensor:
    """Score every edge between targets and references before the softmax: (T, K, N)."""
    product_TKN = edge_products(target_TH, reference_RH, refer.sender_VP, n_heads=n_heads)
    return functional.leaky_relu(product_TKN / math.sqrt(target_TH.shape[1] // n_heads), slope)


def _softmax_over_references(score_TKN: Tensor, refer: NeighbourTable) -> Tensor:
    exists_TK1 = refer.exists_VP.unsqueeze(-1)
    lowest = torch.finfo(score_TKN.dtype).min
    weight_TKN = score_TKN.masked_fill(~exists_TK1, lowest).softmax(dim=1)
    # a row without any reference would come out even, not zero
    return weight_TKN * exists_TK1
