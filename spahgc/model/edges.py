"""Products and sums along the edges of a neighbour table.

Rows are gathered by ``index_select``, on a CPU several times faster than by an index in brackets.

Dimension letters in this file:

V receivers, S senders, P places of a receiver, E = V P edges, H size of a row, N heads, W = H / N
"""

import torch
from torch import Tensor


def edge_products(
    receiver_VH: Tensor, sender_SH: Tensor, table_VP: Tensor, *, n_heads: int
) -> Tensor:
    """Multiply the two ends of each edge, head by head.

    Parameters
    ----------
    receiver_VH, sender_SH
        (V, H) and (S, H) float.
    table_VP
        (V, P) int64 sender of each edge, always a row that exists.
    n_heads
        N; H is a multiple of it.

    Returns
    -------
    Tensor
        (V, P, N) sums over the W products of each head.
    """
    sent_VPNW = _gather(_split(sender_SH, n_heads), table_VP)
    return (_split(receiver_VH, n_heads).unsqueeze(1) * sent_VPNW).sum(dim=-1)


def sum_to_receivers(weight_VPN: Tensor, sender_SH: Tensor, table_VP: Tensor) -> Tensor:
    """Bring each receiver the sum of its senders' rows, every head weighed: (V, H)."""
    sent_VPNW = _gather(_split(sender_SH, weight_VPN.shape[-1]), table_VP)
    return (weight_VPN.unsqueeze(-1) * sent_VPNW).sum(dim=1).flatten(1)


def sum_to_senders(
    weight_VPN: Tensor, receiver_VH: Tensor, table_VP: Tensor, *, n_senders: int
) -> Tensor:
    """Bring each sender the sum of its receivers' rows, every head weighed: (S, H)."""
    receiver_V1NW = _split(receiver_VH, weight_VPN.shape[-1]).unsqueeze(1)
    message_EH = (weight_VPN.unsqueeze(-1) * receiver_V1NW).flatten(2).flatten(0, 1)
    sum_SH = message_EH.new_zeros(n_senders, receiver_VH.shape[1])
    return sum_SH.index_add(0, table_VP.flatten(), message_EH)


def softmax_of_senders(
    score_VPN: Tensor, exists_VP: Tensor, table_VP: Tensor, *, n_senders: int
) -> Tensor:
    """Weigh the edges of each sender by the softmax of their scores.

    Parameters
    ----------
    score_VPN
        (V, P, N) float, of every head by itself.
    exists_VP
        (V, P) bool; what is no edge has no part in it, and weighs 0.
    table_VP
        (V, P) int64 sender of each edge.
    n_senders
        S.

    Returns
    -------
    Tensor
        (V, P, N).
    """
    sender_E, exists_E1 = table_VP.flatten(), exists_VP.reshape(-1, 1)
    score_EN = score_VPN.flatten(0, 1).masked_fill(~exists_E1, torch.finfo(score_VPN.dtype).min)
    highest_SN = score_EN.new_full((n_senders, score_EN.shape[1]), -torch.inf)
    highest_SN = highest_SN.scatter_reduce(
        0, sender_E.unsqueeze(1).expand_as(score_EN), score_EN.detach(), "amax"
    )
    power_EN = (score_EN - highest_SN.index_select(0, sender_E)).exp() * exists_E1
    total_SN = torch.zeros_like(highest_SN).index_add(0, sender_E, power_EN)
    # the highest score of a sender with edges adds exactly 1; one without has 0
    total_EN = total_SN.clamp(min=1).index_select(0, sender_E)
    return (power_EN / total_EN).view_as(score_VPN)


def _split(rows_VH: Tensor, n_heads: int) -> Tensor:
    return rows_VH.unflatten(-1, (n_heads, rows_VH.shape[-1] // n_heads))


def _gather(sender_SNW: Tensor, table_VP: Tensor) -> Tensor:
    return sender_SNW.index_select(0, table_VP.flatten()).unflatten(0, table_VP.shape)
