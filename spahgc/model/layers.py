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
        mean_VH = (_gather(nodes_VH, table) * share_VP.unsqueeze(-1)).sum(dim=1)
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
        self.dropout = nn.Dropout(dropout)
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
        query_T1NW = _split_heads(self.query(target_TH), self.n_heads).unsqueeze(1)
        key_TKNW = _split_heads(_gather(self.key(told_RU), refer), self.n_heads)
        score_TKN = _score(query_T1NW, key_TKNW, slope=self.slope)
        weight_TKN = self.dropout(_softmax_over_references(score_TKN, refer))
        return self.output(_weighted_sum(weight_TKN, _gather(self.value(told_RU), refer)))


class BackwardAttention(nn.Module):
    """Bring each reference what the targets that use it tell it: CNDA from target to reference.

    A reference may serve one target or hundreds, so the edges stay in the targets' (T, K) table:
    a target's key and value are broadcast over its row, not gathered, and softmax and sum over
    the targets of a reference go through `scatter_reduce` and `index_add`.
    """

    # T = 700, K = 7, R = 1500, H = 256, N = 4, forward and backward, one core (two): this way
    # 4.0 to 4.4 ms (2.5), however uneven the use; edges sorted by reference 4.6 to 5.7 (3.2 to
    # 4.3); groups of like degree, padded, 5.9 to 6.4 (4.0 to 4.7); one table padded to the
    # largest degree 13.6 at best, and 700 MB where one reference serves 456 targets.

    def __init__(self, hidden_size: int, *, n_heads: int, slope: float, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.slope = slope
        self.query = _attention_map(2 * hidden_size, hidden_size)
        self.key = _attention_map(hidden_size, hidden_size)
        self.value = _attention_map(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
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
        query_TKNW = _split_heads(_gather(self.query(told_RU), refer), self.n_heads)
        key_T1NW = _split_heads(self.key(target_TH), self.n_heads).unsqueeze(1)
        value_T1NW = _split_heads(self.value(target_TH), self.n_heads).unsqueeze(1)
        score_TKN = _score(query_TKNW, key_T1NW, slope=self.slope)
        weight_TKN = self.dropout(_softmax_over_targets(score_TKN, refer, len(told_RU)))
        message_EH = (weight_TKN.unsqueeze(-1) * value_T1NW).flatten(2).flatten(0, 1)
        gathered_RH = message_EH.new_zeros(len(told_RU), message_EH.shape[1]).index_add(
            0, refer.sender_VP.flatten(), message_EH
        )
        return self.output(gathered_RH)


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
        query_T1NW = _split_heads(self.query(mapped_TH), self.n_heads).unsqueeze(1)
        key_TKNW = _split_heads(_gather(self.key(reference_RH), refer), self.n_heads)
        score_TKN = _score(query_T1NW, key_TKNW, slope=self.slope)
        weight_TKN = _softmax_over_references(score_TKN, refer)
        return mapped_TH + _weighted_sum(weight_TKN, _gather(self.value(reference_RH), refer))


def _attention_map(n_inputs: int, n_outputs: int) -> nn.Linear:
    linear = nn.Linear(n_inputs, n_outputs)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def _split_heads(features: Tensor, n_heads: int) -> Tensor:
    return features.unflatten(-1, (n_heads, features.shape[-1] // n_heads))


def _gather(rows_SH: Tensor, table: NeighbourTable) -> Tensor:
    # index_select: 4 times faster than rows_SH[table.sender_VP] on a CPU
    sent_EH = rows_SH.index_select(0, table.sender_VP.flatten())
    return sent_EH.unflatten(0, table.sender_VP.shape)


def _score(query: Tensor, key: Tensor, *, slope: float) -> Tensor:
    product_TKN = (query * key).sum(dim=-1)
    return functional.leaky_relu(product_TKN / math.sqrt(key.shape[-1]), slope)


def _softmax_over_references(score_TKN: Tensor, refer: NeighbourTable) -> Tensor:
    exists_TK1 = refer.exists_VP.unsqueeze(-1)
    lowest = torch.finfo(score_TKN.dtype).min
    weight_TKN = score_TKN.masked_fill(~exists_TK1, lowest).softmax(dim=1)
    # a row without any reference would come out even, not zero
    return weight_TKN * exists_TK1


def _softmax_over_targets(score_TKN: Tensor, refer: NeighbourTable, n_references: int) -> Tensor:
    reference_E = refer.sender_VP.flatten()
    exists_E1 = refer.exists_VP.reshape(-1, 1)
    score_EN = score_TKN.flatten(0, 1).masked_fill(~exists_E1, torch.finfo(score_TKN.dtype).min)
    highest_EN = _highest_of_reference(score_EN.detach(), reference_E, n_references)
    power_EN = (score_EN - highest_EN).exp() * exists_E1
    total_RN = power_EN.new_zeros(n_references, power_EN.shape[1]).index_add(
        0, reference_E, power_EN
    )
    # the highest score of a used reference adds exactly 1; an unused one has 0
    total_EN = total_RN.clamp(min=1).index_select(0, reference_E)
    return (power_EN / total_EN).view_as(score_TKN)


def _highest_of_reference(score_EN: Tensor, reference_E: Tensor, n_references: int) -> Tensor:
    index_EN = reference_E.unsqueeze(1).expand_as(score_EN)
    highest_RN = score_EN.new_full((n_references, score_EN.shape[1]), -torch.inf)
    highest_RN = highest_RN.scatter_reduce(0, index_EN, score_EN, "amax")
    return highest_RN.index_select(0, reference_E)


def _weighted_sum(weight_TKN: Tensor, value_TKH: Tensor) -> Tensor:
    value_TKNW = _split_heads(value_TKH, weight_TKN.shape[-1])
    return (weight_TKN.unsqueeze(-1) * value_TKNW).sum(dim=1).flatten(1)
