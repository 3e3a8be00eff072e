"""Ask a network about a slide of any size, block by block, with what it would say of the whole.

A reference spot listens to every target that borrows from it, wherever on the slide that lies, so
no halo in space would hold all that a block depends on. Therefore every block passes a layer
before any enters the next: the halo is then one ring of neighbours, and nothing is cut off.

Dimension letters in this file:

T target spots, R reference spots, B spots of a block, K references and Q neighbours of a target,
H hidden size, U = 2 H, N heads, W = H / N, E = B K edges
"""

from collections.abc import Iterable, Sequence
from typing import Final, cast

import torch
from torch import Tensor
from torch.nn import functional

from spahgc.model.edges import sum_to_senders
from spahgc.model.features import blocks_of
from spahgc.model.layers import (
    BackwardAttention,
    GraphLayer,
    NeighbourTable,
    Nodes,
    attention_scores,
)
from spahgc.model.network import GraphTensors, SpaHGC

BLOCK: Final = 4096
"""Spots of a block: with 50 references of 256 numbers each, its messages take 200 MB."""


@torch.inference_mode()
def ask_network(network: SpaHGC, graph: GraphTensors, *, block: int = BLOCK) -> Tensor:
    """Predict the (T, G) expression of every target spot in memory that a block bounds.

    Parameters
    ----------
    network
        In eval mode.
    graph
        Of a whole slide, its spots in any order.
    block
        Most target spots at once.

    Returns
    -------
    Tensor
        What ``network(graph).expression_TG`` is, but for rounding.
    """
    if len(graph.target_TD) <= block:
        return network(graph).expression_TG
    blocks = blocks_of(len(graph.target_TD), block)
    nodes = network.encoder.input(graph.target_TD, graph.reference_RD, graph.expression_RG)
    for layer in cast("Iterable[GraphLayer]", network.encoder.layers):
        nodes = _pass_layer(layer, nodes, graph, blocks)
    parts = []
    for rows in blocks:
        used_R, refer = _renumber(_rows(graph.refer, rows))
        pooled_BH = network.pooling(nodes.target_TH[rows], nodes.reference_RH[used_R], refer)
        parts.append(network.head(pooled_BH))
    return torch.cat(parts)


def _pass_layer(
    layer: GraphLayer, nodes: Nodes, graph: GraphTensors, blocks: Sequence[slice]
) -> Nodes:
    told_RU = torch.cat([nodes.reference_RH, layer.norm(nodes.expression_RH)], dim=1)
    next_target_TH = torch.empty_like(nodes.target_TH)
    for rows in blocks:
        used_R, refer = _renumber(_rows(graph.refer, rows))
        told_BH = layer.to_target(nodes.target_TH[rows], told_RU[used_R], refer)
        next_target_TH[rows] = _near(layer, nodes.target_TH, graph.near, rows) + told_BH
    heard_RH = _tell_references(layer.to_reference, nodes.target_TH, told_RU, graph.refer, blocks)
    next_reference_RH = layer.close(nodes.reference_RH, graph.close) + heard_RH
    return Nodes(
        target_TH=functional.leaky_relu(next_target_TH / 2, layer.slope),
        reference_RH=functional.leaky_relu(next_reference_RH / 2, layer.slope),
        expression_RH=functional.leaky_relu(nodes.expression_RH, layer.slope),
    )


def _near(layer: GraphLayer, target_TH: Tensor, near: NeighbourTable, rows: slice) -> Tensor:
    """Combine a block with its halo: the neighbours of its spots, in it or not."""
    sender_BQ, exists_BQ = _rows(near, rows)
    own_B = torch.arange(rows.start, rows.stop)
    halo, place = torch.unique(sender_BQ, return_inverse=True)
    block_VH = target_TH[torch.cat([own_B, halo])]
    # only the block's own rows are wanted: those of the halo get no neighbours
    n_own = len(own_B)
    sender_VQ = functional.pad(place + n_own, (0, 0, 0, len(halo)))
    exists_VQ = functional.pad(exists_BQ, (0, 0, 0, len(halo)))
    return layer.near(block_VH, NeighbourTable(sender_VQ, exists_VQ))[:n_own]


def _tell_references(
    attention: BackwardAttention,
    target_TH: Tensor,
    told_RU: Tensor,
    refer: NeighbourTable,
    blocks: Sequence[slice],
) -> Tensor:
    """Attend from each reference to all targets that use it, block by block (arXiv 1805.02867)."""
    n_references, n_heads = len(told_RU), attention.n_heads
    query_RH = attention.query(told_RU)
    highest_RN = query_RH.new_full((n_references, n_heads), -torch.inf)
    total_RN = query_RH.new_zeros(n_references, n_heads)
    heard_RH = torch.zeros_like(query_RH)
    for rows in blocks:
        target_BH, block_refer = target_TH[rows], _rows(refer, rows)
        edge_E = block_refer.sender_VP.flatten()
        score_BKN = attention_scores(
            attention.key(target_BH),
            query_RH,
            block_refer,
            n_heads=n_heads,
            slope=attention.slope,
        )
        missing_BK1 = ~block_refer.exists_VP.unsqueeze(-1)
        score_EN = score_BKN.masked_fill(missing_BK1, _lowest(score_BKN)).flatten(0, 1)
        now_RN = highest_RN.scatter_reduce(
            0, edge_E.unsqueeze(1).expand_as(score_EN), score_EN, "amax"
        )
        # what was summed so far was weighed against a lower score
        fade_RN = torch.where(total_RN > 0, (highest_RN - now_RN).exp(), 0.0)
        power_EN = (score_EN - now_RN[edge_E]).exp() * block_refer.exists_VP.reshape(-1, 1)
        total_RN = (total_RN * fade_RN).index_add(0, edge_E, power_EN)
        told_RH = sum_to_senders(
            power_EN.view_as(score_BKN),
            attention.value(target_BH),
            block_refer.sender_VP,
            n_senders=n_references,
        )
        heard_RH = _weigh(fade_RN, heard_RH) + told_RH
        highest_RN = torch.where(now_RN == _lowest(now_RN), -torch.inf, now_RN)
    share_RN = 1 / torch.where(total_RN > 0, total_RN, 1.0)
    return attention.output(_weigh(share_RN, heard_RH))


def _weigh(weight_RN: Tensor, heard_RH: Tensor) -> Tensor:
    """Weigh each head of each row: (R, H)."""
    heard_RNW = heard_RH.unflatten(-1, (weight_RN.shape[1], -1))
    return (weight_RN.unsqueeze(-1) * heard_RNW).flatten(1)


def _lowest(values: Tensor) -> float:
    return torch.finfo(values.dtype).min


def _rows(table: NeighbourTable, rows: slice) -> NeighbourTable:
    return NeighbourTable(table.sender_VP[rows], table.exists_VP[rows])


def _renumber(table: NeighbourTable) -> tuple[Tensor, NeighbourTable]:
    """Count the senders of a block from 0, and give the rows they have in the whole."""
    used, place = torch.unique(table.sender_VP, return_inverse=True)
    return used, NeighbourTable(place, table.exists_VP)
