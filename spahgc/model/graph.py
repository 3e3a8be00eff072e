"""One graph per target slide: near, refer and close edges between target and reference spots.

Dimension letters in this file:

T target spots, R reference spots, Q near, K refer, C close, D embedding size, G genes, E edges
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
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

    n_rings: int = 0
    """Rings of a hexagonal lattice that are near, 1 to 3; 0 for the nearest spots of any lattice,
    which at the border of the tissue reach farther."""


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
        slides were embedded in different ways or have their genes in different orders, or no
        reference was found.

    References
    ----------
    arXiv 2603.22821, graph construction.
    """
    return assemble_graph(target, references, find_edges(target, neighbors, references, config))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges:
    """Who sends to whom, as tables of fixed width with -1 for a missing neighbour."""

    slides: tuple[str, ...]
    """Names that ``node_R2`` counts in."""

    node_R2: NDArray[np.int64]
    """(R, 2) slide and spot of each reference node, sorted, no two the same."""

    near_TQ: NDArray[np.int64]
    """(T, Q) targets near each target."""

    refer_TK: NDArray[np.int64]
    """(T, K) reference nodes most like each target."""

    close_RC: NDArray[np.int64]
    """(R, C) reference nodes closest to each reference node."""


def find_edges(
    target: SlideSpots,
    neighbors: Neighbors,
    references: Mapping[str, SlideSpots],
    config: GraphConfig,
) -> Edges:
    """Find every edge of a graph; see `build_graph` for the arguments and errors."""
    _check(target, neighbors, references)
    node_R2, refer_TK = _reference_nodes(neighbors)
    joint_RJ = np.hstack(_features_of(neighbors.slides, node_R2, references))
    return Edges(
        slides=neighbors.slides,
        node_R2=node_R2,
        near_TQ=(
            hexagonal_rings(target.centers_S2, config.n_rings) if config.n_rings else target.near_SQ
        ),
        refer_TK=refer_TK,
        close_RC=nearest_within(joint_RJ, config.n_close),
    )


def assemble_graph(
    target: SlideSpots, references: Mapping[str, SlideSpots], edges: Edges
) -> HeteroData:
    """Put features and edges together; see `build_graph` for what comes back."""
    embedding_RD, expression_RG = _features_of(edges.slides, edges.node_R2, references)
    graph = HeteroData()
    graph[TARGET].x = torch.from_numpy(target.embedding_SD)
    if target.expression_SG is not None:
        graph[TARGET].y = torch.from_numpy(target.expression_SG)
    graph[REFERENCE].x = torch.from_numpy(embedding_RD)
    graph[REFERENCE].y = torch.from_numpy(expression_RG)
    graph[TARGET].near = torch.from_numpy(edges.near_TQ)
    graph[TARGET].refer = torch.from_numpy(edges.refer_TK)
    graph[REFERENCE].close = torch.from_numpy(edges.close_RC)
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


def hexagonal_rings(centers_S2: NDArray[np.float64], n_rings: int) -> NDArray[np.int64]:
    """Find the spots in the first rings around each spot of a hexagonal lattice.

    Parameters
    ----------
    centers_S2
        (S, 2) x, y in any unit.
    n_rings
        1 to 3; ring r lies at most r pitches away.

    Returns
    -------
    NDArray[np.int64]
        (S, 3 r (r + 1)) rows, nearest first, ties by row; -1 where the lattice has a gap.

    Raises
    ------
    MismatchError
        If ``n_rings`` is another number: farther rings are no circles.
    """
    if not 1 <= n_rings <= 3:
        raise MismatchError(f"{n_rings} rings cannot be told from circles; ask for 1 to 3")
    most = 3 * n_rings * (n_rings + 1)
    table_SQ = np.full((len(centers_S2), most), -1, dtype=np.int64)
    if len(centers_S2) < 2:
        return table_SQ
    tree = cKDTree(centers_S2)
    nearest_S2, _ = tree.query(centers_S2, k=[1, 2])
    pitch = float(np.median(np.asarray(nearest_S2)[:, 1]))
    one_E, other_E = tree.query_pairs((n_rings + 0.1) * pitch, output_type="ndarray").T
    sender_E, receiver_E = np.concatenate([one_E, other_E]), np.concatenate([other_E, one_E])
    far_E = np.linalg.norm(centers_S2[sender_E] - centers_S2[receiver_E], axis=1)
    order_E = np.lexsort((sender_E, far_E.round(6), receiver_E))
    sender_E, receiver_E = sender_E[order_E], receiver_E[order_E]
    place_E = np.arange(len(receiver_E)) - np.searchsorted(receiver_E, receiver_E)
    kept_E = place_E < most
    table_SQ[receiver_E[kept_E], place_E[kept_E]] = sender_E[kept_E]
    return table_SQ


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


def _features_of(
    slides: Sequence[str], node_R2: NDArray[np.int64], references: Mapping[str, SlideSpots]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gather (R, D) embeddings and (R, G) expression of reference nodes, sorted by slide."""
    embedding, expression = [], []
    for position, name in enumerate(slides):
        rows = node_R2[node_R2[:, 0] == position, 1]
        if not len(rows):
            continue
        embedding.append(references[name].embedding_SD[rows])
        expression.append(expression_of(references[name])[rows])
        if not np.isfinite(expression[-1]).all():
            raise MismatchError(
                f"slide {name} does not list every gene of the panel, so it can be no reference; "
                "choose genes that all references have"
            )
    return np.concatenate(embedding), np.concatenate(expression)


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
