"""One graph per target slide: near, refer and close edges between target and reference spots.

Dimension letters in this file:

T target spots, R reference spots, Q near, K refer, C close, D embedding size, G genes, E edges
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import HeteroData

from spahgc.errors import MismatchError
from spahgc.index import Neighbors, nearest_within
from spahgc.model.network import GraphTensors, graph_tensors
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.schema import CLOSE, NEAR, REFER, REFERENCE, TARGET


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
        Valid. Of ``target`` nodes ``x`` (T, D), ``y`` (T, G) where measured, ``pos`` (T, 2) in µm,
        NaN where the scale is not known, ``spot`` (T,) rows on the slide and ``spot_names``; of
        ``reference`` nodes ``x`` (R, D), ``y`` (R, G), ``pos`` (R, 2) in µm on their own slides,
        ``slide`` (R,) places in ``graph.reference_slides``, ``spot`` (R,) rows there and
        ``spot_names``. A reference spot that several targets use is one node. Each edge type has
        ``edge_index`` (2, E), sorted by receiver, and ``edge_attr`` (E, 1): of ``near`` the
        distance in µm, of ``refer`` the similarity (the cosine, or the distance less than none),
        of ``close`` the distance of embedding and expression together. Floats are float32, whole
        numbers int64. ``graph.slide`` names the slide, ``graph.genes`` the G genes where known.

    Raises
    ------
    MismatchError
        If the target's own slide is among the references, its embeddings are not one per spot,
        slides were embedded in different ways or have their genes in different orders, or no
        reference was found.

    References
    ----------
    arXiv 2603.22821, graph construction.
    """
    _check(target, neighbors, references)
    node_R2, refer_TK = _reference_nodes(neighbors)
    nodes = _read_nodes(neighbors.slides, node_R2, references)
    joint_RJ = np.hstack([nodes.embedding_RD, nodes.expression_RG])
    target_T2 = _places_um(target)
    near_E2 = edges_of(torch.from_numpy(target.near_SQ))
    refer_E2 = edges_of(torch.from_numpy(refer_TK))
    close_E2 = edges_of(torch.from_numpy(nearest_within(joint_RJ, config.n_close)))
    graph = HeteroData(slide=target.name, reference_slides=list(neighbors.slides))
    if target.genes is not None:
        graph.genes = list(target.genes)
    graph[TARGET].x = torch.from_numpy(target.embedding_SD)
    if target.expression_SG is not None:
        graph[TARGET].y = torch.from_numpy(target.expression_SG)
    graph[TARGET].pos = torch.from_numpy(target_T2.astype(np.float32))
    graph[TARGET].spot = torch.arange(len(target.spot_names))
    graph[TARGET].spot_names = list(target.spot_names)
    graph[REFERENCE].x = torch.from_numpy(nodes.embedding_RD)
    graph[REFERENCE].y = torch.from_numpy(nodes.expression_RG)
    graph[REFERENCE].pos = torch.from_numpy(nodes.place_R2.astype(np.float32))
    graph[REFERENCE].slide = torch.from_numpy(node_R2[:, 0])
    graph[REFERENCE].spot = torch.from_numpy(node_R2[:, 1])
    graph[REFERENCE].spot_names = nodes.names
    graph[NEAR].edge_index = near_E2
    graph[NEAR].edge_attr = _lengths(target_T2, near_E2)
    graph[REFER].edge_index = refer_E2
    similarity_TK = neighbors.similarity_SK[neighbors.exists_SK]  # in the order of the edges
    graph[REFER].edge_attr = torch.from_numpy(similarity_TK[:, None].astype(np.float32))
    graph[CLOSE].edge_index = close_E2
    graph[CLOSE].edge_attr = _lengths(joint_RJ, close_E2)
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


def table_of(edge_index_2E: Tensor, n_receivers: int) -> Tensor:
    """Give edges as a table of senders: what `edges_of` spells, as narrow as it can be.

    Parameters
    ----------
    edge_index_2E
        (2, E) int64; row 0 sends, row 1 receives; in any order.
    n_receivers
        V.

    Returns
    -------
    Tensor
        (V, P) int64 senders of each receiver, -1 where there are fewer than the most.
    """
    receiver_E, order_E = edge_index_2E[1].sort(stable=True)
    n_V = receiver_E.bincount(minlength=n_receivers)
    place_E = torch.arange(len(receiver_E)) - (n_V.cumsum(0) - n_V)[receiver_E]
    table_VP = edge_index_2E.new_full((n_receivers, int(n_V.max()) if len(n_V) else 0), -1)
    table_VP[receiver_E, place_E] = edge_index_2E[0, order_E]
    return table_VP


def _check(target: SlideSpots, neighbors: Neighbors, references: Mapping[str, SlideSpots]) -> None:
    if target.name in references or target.name in neighbors.slides:
        raise MismatchError(f"slide {target.name} cannot be a reference of itself")
    if len(target.embedding_SD) != len(target.near_SQ):
        raise MismatchError(
            f"slide {target.name} has {len(target.embedding_SD)} embeddings for "
            f"{len(target.near_SQ)} spots, expected one each; embed it again"
        )
    for reference in references.values():
        if None not in {target.fingerprint, reference.fingerprint} and (
            target.fingerprint != reference.fingerprint
        ):
            raise MismatchError(
                f"slides {target.name} and {reference.name} were embedded in different ways; "
                "embed one of them again"
            )
        if None not in {target.genes, reference.genes} and target.genes != reference.genes:
            raise MismatchError(
                f"slides {target.name} and {reference.name} have other genes, or the same in "
                "another order; read both with one panel"
            )


def _reference_nodes(neighbors: Neighbors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found_TK = neighbors.exists_SK
    if not found_TK.any():
        raise MismatchError(
            "no reference spot was found: the index has no slide that may answer; "
            "ingest more slides with expression"
        )
    # one number for slide and spot: unique pairs take thirty times as long
    pair_F = (neighbors.slide_SK[found_TK] << 32) + neighbors.spot_SK[found_TK]
    pair_R, node_F = np.unique(pair_F, return_inverse=True)
    refer_TK = np.full(found_TK.shape, -1, dtype=np.int64)
    refer_TK[found_TK] = node_F
    return np.stack([pair_R >> 32, pair_R & 0xFFFFFFFF], axis=1), refer_TK


class _Nodes(NamedTuple):
    """Reference nodes, sorted by slide and spot."""

    embedding_RD: NDArray[np.float32]
    expression_RG: NDArray[np.float32]
    place_R2: NDArray[np.float64]
    names: list[str]


def _read_nodes(
    slides: Sequence[str], node_R2: NDArray[np.int64], references: Mapping[str, SlideSpots]
) -> _Nodes:
    embedding, expression, places, names = [], [], [], []
    for position, name in enumerate(slides):
        rows = node_R2[node_R2[:, 0] == position, 1]
        if not len(rows):
            continue
        own = references[name]
        embedding.append(own.embedding_SD[rows])
        expression.append(expression_of(own)[rows])
        if not np.isfinite(expression[-1]).all():
            raise MismatchError(
                f"slide {name} does not list every gene of the panel, so it can be no reference; "
                "choose genes that all references have"
            )
        places.append(_places_um(own)[rows])
        names += [own.spot_names[row] for row in rows.tolist()]
    return _Nodes(
        np.concatenate(embedding), np.concatenate(expression), np.concatenate(places), names
    )


def _places_um(spots: SlideSpots) -> NDArray[np.float64]:
    return spots.centers_S2 * (spots.microns_per_pixel or np.nan)


def _lengths(points_VJ: NDArray[np.floating], edge_index_2E: Tensor) -> Tensor:
    """Give how far both ends of each edge lie apart: (E, 1) float32."""
    sender_E, receiver_E = edge_index_2E.numpy()
    apart_E = np.linalg.norm(points_VJ[sender_E] - points_VJ[receiver_E], axis=1, keepdims=True)
    return torch.from_numpy(apart_E.astype(np.float32))


def tensors_of(graph: HeteroData) -> GraphTensors:
    """Give what the network reads of a graph: features, and edges as tables of senders.

    Raises
    ------
    MismatchError
        If parts of the graph do not fit together.
    """
    n_targets, n_references = len(graph[TARGET].x), len(graph[REFERENCE].x)
    return graph_tensors(
        target_TD=graph[TARGET].x,
        reference_RD=graph[REFERENCE].x,
        expression_RG=graph[REFERENCE].y,
        near_TQ=table_of(graph[NEAR].edge_index, n_targets),
        refer_TK=table_of(graph[REFER].edge_index, n_targets),
        close_RC=table_of(graph[CLOSE].edge_index, n_references),
    )
