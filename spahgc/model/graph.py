"""One graph per target slide: near, refer and close edges between target and reference spots.

Dimension letters in this file:

T target spots, R reference spots, Q near, K refer, C close, D embedding size, G genes, E edges
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import HeteroData

from spahgc.errors import MismatchError
from spahgc.model.network import GraphTensors, graph_tensors
from spahgc.model.spots import SlideSpots, expression_of, nearest_others
from spahgc.schema import CLOSE, NEAR, REFER, REFERENCE, TARGET
from spahgc.store.index import Neighbors


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """How many edges each node receives (DESIGN: the paper's preset)."""

    n_refer: int = 7
    """K, most similar reference spots of each target spot."""

    n_close: int = 3
    """C, nearest reference spots of each reference spot, by embedding and expression together."""


def build_graph(
    target: SlideSpots,
    neighbors: Neighbors,
    references: Mapping[str, SlideSpots],
    *,
    config: GraphConfig,
) -> HeteroData:
    """Join a slide's spots to each other and to the reference spots that look like them.

    Parameters
    ----------
    target
        The slide to predict, T spots.
    neighbors
        Its K nearest reference spots, from the index.
    references
        The slides that ``neighbors`` points to, with expression.
    config
        How many edges of each kind.

    Returns
    -------
    HeteroData
        Node types ``target`` (``x`` (T, D), ``y`` (T, G) where measured) and ``reference``
        (``x`` (R, D), ``y`` (R, G)); a reference spot that several targets use is one node.
        Each edge type has its ``edge_index`` (2, E), and its receivers carry the same edges as a
        table of fixed width, int64 with -1 for a missing neighbour: ``target.near`` (T, Q),
        ``target.refer`` (T, K), ``reference.close`` (R, C). All float32.

    Raises
    ------
    MismatchError
        If the target's own slide is among the references, its embeddings are not one per spot,
        or no reference was found.

    References
    ----------
    arXiv 2603.22821, graph construction.
    """
    _check_target(target, references)
    nodes = _reference_nodes(neighbors, references)
    joint_RJ = np.hstack([nodes.embedding_RD, nodes.expression_RG])
    graph = HeteroData()
    graph[TARGET].x = torch.from_numpy(target.embedding_SD)
    if target.expression_SG is not None:
        graph[TARGET].y = torch.from_numpy(target.expression_SG)
    graph[REFERENCE].x = torch.from_numpy(nodes.embedding_RD)
    graph[REFERENCE].y = torch.from_numpy(nodes.expression_RG)
    graph[TARGET].near = torch.from_numpy(target.near_SQ)
    graph[TARGET].refer = torch.from_numpy(nodes.refer_TK)
    graph[REFERENCE].close = torch.from_numpy(nearest_others(joint_RJ, config.n_close))
    graph[NEAR].edge_index = edges_of(graph[TARGET].near)
    graph[REFER].edge_index = edges_of(graph[TARGET].refer)
    graph[CLOSE].edge_index = edges_of(graph[REFERENCE].close)
    graph.validate()
    return graph


def edges_of(table_VP: Tensor) -> Tensor:
    """Spell a table of senders as edges.

    Parameters
    ----------
    table_VP
        (V, P) int64 senders of each receiver, -1 where there are fewer than P.

    Returns
    -------
    Tensor
        (2, E) int64; row 0 sends, row 1 receives; sorted by receiver.
    """
    receiver_E, place_E = torch.nonzero(table_VP >= 0, as_tuple=True)
    return torch.stack([table_VP[receiver_E, place_E], receiver_E])


def _check_target(target: SlideSpots, references: Mapping[str, SlideSpots]) -> None:
    if target.name in references:
        raise MismatchError(f"slide {target.name} cannot be a reference of itself")
    if len(target.embedding_SD) != len(target.near_SQ):
        raise MismatchError(
            f"slide {target.name} has {len(target.embedding_SD)} embeddings for "
            f"{len(target.near_SQ)} spots, expected one each; embed it again"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _ReferenceNodes:
    embedding_RD: NDArray[np.float32]
    expression_RG: NDArray[np.float32]
    refer_TK: NDArray[np.int64]


def _reference_nodes(neighbors: Neighbors, references: Mapping[str, SlideSpots]) -> _ReferenceNodes:
    found_TK = neighbors.slide_SK >= 0
    if not found_TK.any():
        raise MismatchError(
            "no reference spot was found: the index has no slide that may answer; "
            "ingest more slides with expression"
        )
    pairs_F2 = np.stack([neighbors.slide_SK[found_TK], neighbors.spot_SK[found_TK]], axis=1)
    nodes_R2, node_F = np.unique(pairs_F2, axis=0, return_inverse=True)
    refer_TK = np.full(found_TK.shape, -1, dtype=np.int64)
    refer_TK[found_TK] = node_F.reshape(-1)
    embedding, expression = [], []
    for position, name in enumerate(neighbors.slides):
        rows = nodes_R2[nodes_R2[:, 0] == position, 1]  # nodes are sorted by slide, then spot
        if len(rows):
            embedding.append(references[name].embedding_SD[rows])
            expression.append(expression_of(references[name])[rows])
    return _ReferenceNodes(np.concatenate(embedding), np.concatenate(expression), refer_TK)


def tensors_of(graph: HeteroData) -> GraphTensors:
    """Give the tensors that the network reads of a graph built by `build_graph`."""
    return graph_tensors(
        target_TD=graph[TARGET].x,
        reference_RD=graph[REFERENCE].x,
        expression_RG=graph[REFERENCE].y,
        near_TQ=graph[TARGET].near,
        refer_TK=graph[TARGET].refer,
        close_RC=graph[REFERENCE].close,
    )
