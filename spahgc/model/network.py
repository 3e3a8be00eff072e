"""The SpaHGC network and the tensors of one target slide's graph that it reads.

Dimension letters in this file:

T target spots, R reference spots, D embedding size, G genes, H hidden size, J = D + G;
Q near, K refer, C close neighbours at most; V receivers, P places of any table

References: Shi, Wang, Wan, Min, CVPR 2026, arXiv 2603.22821.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spahgc.errors import MismatchError
from spahgc.model.layers import AttentionPooling, Dropout, GraphLayer, NeighbourTable, Nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """What is chosen about a network; the defaults are the paper's."""

    hidden_size: int = 256
    """Length of a node's features inside the network; a multiple of ``n_heads``."""

    n_layers: int = 4
    """Rounds of message passing."""

    n_heads: int = 4
    """Attention heads, in every layer and in the pooling."""

    slope: float = 0.2
    """Of every LeakyReLU, below zero."""

    input_dropout: float = 0.2
    """Share of the input block's features dropped in training."""

    attention_dropout: float = 0.1
    """Share of the layers' attention weights dropped in training; the pooling drops none."""

    def __post_init__(self) -> None:
        """Refuse heads that do not share the hidden size evenly."""
        if self.hidden_size % self.n_heads:
            raise MismatchError(
                f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig(NetworkShape):
    """A shape, and what the data say about it."""

    embedding_size: int
    """Length of a patch embedding."""

    n_genes: int
    """Genes predicted, and known of every reference spot."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphTensors:
    """The graph of one target slide; `graph_tensors` checks and builds it.

    A table has one row per receiver, and any valid entry where its mask is False.
    """

    target_TD: Tensor
    """(T, D) float embeddings of the target spots."""

    reference_RD: Tensor
    """(R, D) float embeddings of the reference spots."""

    expression_RG: Tensor
    """(R, G) float normalised expression of the reference spots."""

    near_TQ: Tensor
    """(T, Q) int64 target spots near each target spot, on the same slide."""

    near_mask_TQ: Tensor
    """(T, Q) bool."""

    refer_TK: Tensor
    """(T, K) int64 reference spots most like each target spot."""

    refer_mask_TK: Tensor
    """(T, K) bool."""

    close_RC: Tensor
    """(R, C) int64 reference spots closest to each reference spot."""

    close_mask_RC: Tensor
    """(R, C) bool."""

    @property
    def near(self) -> NeighbourTable:
        """Neighbours of each target among the targets."""
        return NeighbourTable(self.near_TQ, self.near_mask_TQ)

    @property
    def refer(self) -> NeighbourTable:
        """References of each target."""
        return NeighbourTable(self.refer_TK, self.refer_mask_TK)

    @property
    def close(self) -> NeighbourTable:
        """Neighbours of each reference among the references."""
        return NeighbourTable(self.close_RC, self.close_mask_RC)

    def to(self, device: torch.device | str) -> "GraphTensors":
        """Return the same graph on another device."""
        return GraphTensors(
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)}
        )


class Features(NamedTuple):
    """What the encoder makes of a graph, before pooling."""

    target_TH: Tensor
    """(T, H) target spots."""

    reference_RH: Tensor
    """(R, H) reference spots."""


class NetworkOutput(NamedTuple):
    """A prediction and the features it was made from."""

    expression_TG: Tensor
    """(T, G) predicted expression of the target spots, normalised as the references' is."""

    features: Features
    """Encoder features of the same pass, for the contrastive loss."""


def graph_tensors(
    *,
    target_TD: Tensor,
    reference_RD: Tensor,
    expression_RG: Tensor,
    near_TQ: Tensor,
    refer_TK: Tensor,
    close_RC: Tensor,
) -> GraphTensors:
    """Check the parts of a graph and put them together.

    Parameters
    ----------
    target_TD, reference_RD, expression_RG
        Float features as in `GraphTensors`.
    near_TQ, refer_TK, close_RC
        Int64 tables as in `GraphTensors`, -1 where no neighbour exists.

    Returns
    -------
    GraphTensors
        With masks for the tables; the tensors given are not changed.

    Raises
    ------
    MismatchError
        If row counts or embedding sizes disagree, or a table names a row that does not exist.
    """
    expected = (len(expression_RG), target_TD.shape[1])
    if reference_RD.shape != expected:
        raise MismatchError(
            f"graph: reference embeddings are {tuple(reference_RD.shape)}, expected {expected} "
            f"by the references' expression and the targets' embeddings"
        )
    near = _table("near", near_TQ, target_TD, senders=target_TD)
    refer = _table("refer", refer_TK, target_TD, senders=reference_RD)
    close = _table("close", close_RC, reference_RD, senders=reference_RD)
    return GraphTensors(
        target_TD=target_TD,
        reference_RD=reference_RD,
        expression_RG=expression_RG,
        near_TQ=near.sender_VP,
        near_mask_TQ=near.exists_VP,
        refer_TK=refer.sender_VP,
        refer_mask_TK=refer.exists_VP,
        close_RC=close.sender_VP,
        close_mask_RC=close.exists_VP,
    )


def _table(name: str, table_VP: Tensor, receivers: Tensor, *, senders: Tensor) -> NeighbourTable:
    n_named = int(table_VP.max()) + 1 if table_VP.numel() else 0
    if len(table_VP) != len(receivers) or n_named > len(senders):
        raise MismatchError(
            f"graph: table {name!r} has {len(table_VP)} rows and names {n_named} senders, "
            f"expected {len(receivers)} rows and at most {len(senders)} senders"
        )
    # without senders no row is valid, not even one to be ignored
    sender_VP = table_VP if len(senders) else table_VP[:, :0]
    return NeighbourTable(sender_VP.clamp(min=0), sender_VP >= 0)


class InputBlock(nn.Module):
    """Bring embeddings and expression to the hidden size.

    Both node types pass the same block; the expression token is a linear map alone.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        embedding_size, hidden_size = config.embedding_size, config.hidden_size
        self.target = nn.Linear(embedding_size, hidden_size, bias=False)
        self.reference = nn.Linear(embedding_size + config.n_genes, hidden_size, bias=False)
        self.expression = nn.Linear(config.n_genes, hidden_size, bias=False)
        self.block = nn.Sequential(
            nn.LeakyReLU(config.slope),
            Dropout(config.input_dropout),
            nn.Linear(hidden_size, hidden_size, bias=False),
            nn.LayerNorm(hidden_size),
            nn.LeakyReLU(config.slope),
        )

    def forward(self, target_TD: Tensor, reference_RD: Tensor, expression_RG: Tensor) -> Nodes:
        """Map the inputs of both node types.

        Parameters
        ----------
        target_TD, reference_RD
            (T, D) and (R, D) float patch embeddings.
        expression_RG
            (R, G) float normalised expression of the reference spots.

        Returns
        -------
        Nodes
            (T, H) targets and (R, H) references after the block, (R, H) expression tokens.
        """
        joint_RJ = torch.cat([reference_RD, expression_RG], dim=1)
        return Nodes(
            target_TH=self.block(self.target(target_TD)),
            reference_RH=self.block(self.reference(joint_RJ)),
            expression_RH=self.expression(expression_RG),
        )


class Encoder(nn.Module):
    """Everything before the pooling: the input block and the layers."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.input = InputBlock(config)
        self.layers = nn.ModuleList(
            GraphLayer(
                config.hidden_size,
                n_heads=config.n_heads,
                slope=config.slope,
                dropout=config.attention_dropout,
            )
            for _ in range(config.n_layers)
        )

    def forward(self, graph: GraphTensors) -> Features:
        """Encode one graph, or one masked view of it.

        Parameters
        ----------
        graph
            T targets and R references.

        Returns
        -------
        Features
            (T, H) targets and (R, H) references after the last layer and its LeakyReLU.
        """
        nodes = self.input(graph.target_TD, graph.reference_RD, graph.expression_RG)
        for layer in self.layers:
            nodes = layer(nodes, near=graph.near, refer=graph.refer, close=graph.close)
        return Features(nodes.target_TH, nodes.reference_RH)


class SpaHGC(nn.Module):
    """Encoder, attention pooling and a linear head: from a graph to expression."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.pooling = AttentionPooling(
            config.hidden_size, n_heads=config.n_heads, slope=config.slope
        )
        self.head = nn.Linear(config.hidden_size, config.n_genes)

    def forward(self, graph: GraphTensors) -> NetworkOutput:
        """Predict the expression of every target spot.

        Parameters
        ----------
        graph
            As for the encoder; masked in training, whole at inference.

        Returns
        -------
        NetworkOutput
            (T, G) expression and the (T, H) and (R, H) encoder features behind it.
        """
        features = self.encoder(graph)
        pooled_TH = self.pooling(features.target_TH, features.reference_RH, graph.refer)
        return NetworkOutput(self.head(pooled_TH), features)
