"""Products and sums along the edges of a neighbour table, without a row in memory for every edge.

The products and the two sums are each made of the other two when they are differentiated.

Dimension letters in this file:

V receivers, S senders, P places of a receiver, H size of a row, N heads, W = H / N
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from spahgc.compiled import compiled, on_threads

LARGE: Final = 2**22
"""Numbers that a loop multiplies from which threads share it; below, they would cost more."""

Floats: TypeAlias = NDArray[np.floating[Any]]


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
    product_VPN: Tensor = _Products.apply(receiver_VH, sender_SH, table_VP, n_heads)
    return product_VPN


def sum_to_receivers(weight_VPN: Tensor, sender_SH: Tensor, table_VP: Tensor) -> Tensor:
    """Bring each receiver the sum of its senders' rows, every head weighed: (V, H)."""
    sum_VH: Tensor = _ToReceivers.apply(weight_VPN, sender_SH, table_VP)
    return sum_VH


def sum_to_senders(
    weight_VPN: Tensor, receiver_VH: Tensor, table_VP: Tensor, *, n_senders: int
) -> Tensor:
    """Bring each sender the sum of its receivers' rows, every head weighed: (S, H)."""
    sum_SH: Tensor = _ToSenders.apply(weight_VPN, receiver_VH, table_VP, n_senders)
    return sum_SH


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
    if _is_looped(score_VPN):
        looped_VPN: Tensor = _Softmax.apply(score_VPN, exists_VP, table_VP, n_senders)
        return looped_VPN
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


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own
        receiver_VH: Tensor,
        sender_SH: Tensor,
        table_VP: Tensor,
        n_heads: int,
    ) -> Tensor:
        ctx.save_for_backward(receiver_VH, sender_SH, table_VP)
        if not _is_looped(receiver_VH):
            receiver_V1NW = _split(receiver_VH, n_heads).unsqueeze(1)
            return (receiver_V1NW * _gather(_split(sender_SH, n_heads), table_VP)).sum(dim=-1)
        product_VPN = receiver_VH.new_empty(*table_VP.shape, n_heads)
        _run(_products, receiver_VH, sender_SH, table_VP, product_VPN, n_heads=n_heads)
        return product_VPN

    @staticmethod
    def backward(ctx: Any, grad_VPN: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        receiver_VH, sender_SH, table_VP = ctx.saved_tensors
        grad_VH = grad_SH = None
        if ctx.needs_input_grad[0]:
            grad_VH = sum_to_receivers(grad_VPN, sender_SH, table_VP)
        if ctx.needs_input_grad[1]:
            grad_SH = sum_to_senders(grad_VPN, receiver_VH, table_VP, n_senders=len(sender_SH))
        return grad_VH, grad_SH, None, None


class _ToReceivers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weight_VPN: Tensor,
        sender_SH: Tensor,
        table_VP: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight_VPN, sender_SH, table_VP)
        n_heads = weight_VPN.shape[-1]
        if not _is_looped(sender_SH):
            sent_VPNW = _gather(_split(sender_SH, n_heads), table_VP)
            return (weight_VPN.unsqueeze(-1) * sent_VPNW).sum(dim=1).flatten(1)
        sum_VH = sender_SH.new_zeros(len(table_VP), sender_SH.shape[1])
        _run(_to_receivers, weight_VPN, sender_SH, table_VP, sum_VH, n_heads=n_heads)
        return sum_VH

    @staticmethod
    def backward(ctx: Any, grad_VH: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight_VPN, sender_SH, table_VP = ctx.saved_tensors
        grad_VPN = grad_SH = None
        if ctx.needs_input_grad[0]:
            n_heads = weight_VPN.shape[-1]
            grad_VPN = edge_products(grad_VH, sender_SH, table_VP, n_heads=n_heads)
        if ctx.needs_input_grad[1]:
            grad_SH = sum_to_senders(weight_VPN, grad_VH, table_VP, n_senders=len(sender_SH))
        return grad_VPN, grad_SH, None


class _ToSenders(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weight_VPN: Tensor,
        receiver_VH: Tensor,
        table_VP: Tensor,
        n_senders: int,
    ) -> Tensor:
        ctx.save_for_backward(weight_VPN, receiver_VH, table_VP)
        n_heads = weight_VPN.shape[-1]
        sum_SH = receiver_VH.new_zeros(n_senders, receiver_VH.shape[1])
        if _is_looped(receiver_VH):
            _run(_to_senders, weight_VPN, receiver_VH, table_VP, sum_SH, n_heads=n_heads)
            return sum_SH
        message_VPNW = weight_VPN.unsqueeze(-1) * _split(receiver_VH, n_heads).unsqueeze(1)
        return sum_SH.index_add(0, table_VP.flatten(), message_VPNW.flatten(2).flatten(0, 1))

    @staticmethod
    def backward(ctx: Any, grad_SH: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight_VPN, receiver_VH, table_VP = ctx.saved_tensors
        grad_VPN = grad_VH = None
        if ctx.needs_input_grad[0]:
            n_heads = weight_VPN.shape[-1]
            grad_VPN = edge_products(receiver_VH, grad_SH, table_VP, n_heads=n_heads)
        if ctx.needs_input_grad[1]:
            grad_VH = sum_to_receivers(weight_VPN, grad_SH, table_VP)
        return grad_VPN, grad_VH, None, None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        score_VPN: Tensor,
        exists_VP: Tensor,
        table_VP: Tensor,
        n_senders: int,
    ) -> Tensor:
        weight_VPN = torch.zeros_like(score_VPN, memory_format=torch.contiguous_format)
        _softmax(n_senders, *_arrays(score_VPN, exists_VP, table_VP, weight_VPN))
        ctx.n_senders = n_senders
        ctx.save_for_backward(weight_VPN, table_VP)
        return weight_VPN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_VPN: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight_VPN, table_VP = ctx.saved_tensors
        change_VPN = torch.empty_like(weight_VPN)
        _softmax_back(ctx.n_senders, *_arrays(weight_VPN, grad_VPN, table_VP, change_VPN))
        return change_VPN, None, None, None


def _split(rows_VH: Tensor, n_heads: int) -> Tensor:
    return rows_VH.unflatten(-1, (n_heads, rows_VH.shape[-1] // n_heads))


def _gather(sender_SNW: Tensor, table_VP: Tensor) -> Tensor:
    # index_select: 4 times faster than sender_SNW[table_VP] on a CPU
    return sender_SNW.index_select(0, table_VP.flatten()).unflatten(0, table_VP.shape)


def _is_looped(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.dtype in {torch.float32, torch.float64}


def _run(loop: Callable[..., None], *tensors: Tensor, n_heads: int) -> None:
    """Run a loop over all heads on the memory of tensors, the last of which it fills in."""
    arrays = _arrays(*tensors)
    _, rows, table, _ = arrays
    if table.size * rows.shape[1] < LARGE:
        loop(*arrays, n_heads, 0, n_heads)
        return
    n_threads = min(torch.get_num_threads(), n_heads)
    on_threads(
        lambda first, last: loop(*arrays, n_heads, first, last),
        n_heads,
        at_once=-(-n_heads // n_threads),
        n_threads=n_threads,
    )


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@compiled
def _products(
    receiver_VH: Floats,
    sender_SH: Floats,
    table_VP: NDArray[np.int64],
    product_VPN: Floats,
    n_heads: int,
    first: int,
    last: int,
) -> None:
    width = receiver_VH.shape[1] // n_heads
    receiver_VNW = receiver_VH.reshape((len(receiver_VH), n_heads, width))
    sender_SNW = sender_SH.reshape((len(sender_SH), n_heads, width))
    for v in range(table_VP.shape[0]):
        for p in range(table_VP.shape[1]):
            for n in range(first, last):
                own_W, sent_W = receiver_VNW[v, n], sender_SNW[table_VP[v, p], n]
                total = own_W[0] * 0
                for w in range(len(own_W)):
                    total += own_W[w] * sent_W[w]
                product_VPN[v, p, n] = total


@compiled
def _to_receivers(
    weight_VPN: Floats,
    sender_SH: Floats,
    table_VP: NDArray[np.int64],
    sum_VH: Floats,
    n_heads: int,
    first: int,
    last: int,
) -> None:
    width = sender_SH.shape[1] // n_heads
    sender_SNW = sender_SH.reshape((len(sender_SH), n_heads, width))
    sum_VNW = sum_VH.reshape((len(sum_VH), n_heads, width))
    for v in range(table_VP.shape[0]):
        for p in range(table_VP.shape[1]):
            for n in range(first, last):
                weight = weight_VPN[v, p, n]
                sent_W, sum_W = sender_SNW[table_VP[v, p], n], sum_VNW[v, n]
                for w in range(len(sum_W)):
                    sum_W[w] += weight * sent_W[w]


@compiled
def _to_senders(
    weight_VPN: Floats,
    receiver_VH: Floats,
    table_VP: NDArray[np.int64],
    sum_SH: Floats,
    n_heads: int,
    first: int,
    last: int,
) -> None:
    width = receiver_VH.shape[1] // n_heads
    receiver_VNW = receiver_VH.reshape((len(receiver_VH), n_heads, width))
    sum_SNW = sum_SH.reshape((len(sum_SH), n_heads, width))
    for v in range(table_VP.shape[0]):
        for p in range(table_VP.shape[1]):
            for n in range(first, last):
                weight = weight_VPN[v, p, n]
                own_W, sum_W = receiver_VNW[v, n], sum_SNW[table_VP[v, p], n]
                for w in range(len(sum_W)):
                    sum_W[w] += weight * own_W[w]


@compiled
def _softmax(
    n_senders: int,
    score_VPN: Floats,
    exists_VP: NDArray[np.bool_],
    table_VP: NDArray[np.int64],
    weight_VPN: Floats,
) -> None:
    n_heads = score_VPN.shape[2]
    highest_SN = np.full((n_senders, n_heads), -np.inf, score_VPN.dtype)
    total_SN = np.zeros((n_senders, n_heads), score_VPN.dtype)
    for v, p in np.ndindex(table_VP.shape):
        if exists_VP[v, p]:
            for n in range(n_heads):
                highest = highest_SN[table_VP[v, p], n]
                highest_SN[table_VP[v, p], n] = max(highest, score_VPN[v, p, n])
    for v, p in np.ndindex(table_VP.shape):
        if exists_VP[v, p]:
            for n in range(n_heads):
                power = np.exp(score_VPN[v, p, n] - highest_SN[table_VP[v, p], n])
                weight_VPN[v, p, n] = power
                total_SN[table_VP[v, p], n] += power
    for v, p in np.ndindex(table_VP.shape):
        if exists_VP[v, p]:
            for n in range(n_heads):
                weight_VPN[v, p, n] /= total_SN[table_VP[v, p], n]


@compiled
def _softmax_back(
    n_senders: int,
    weight_VPN: Floats,
    grad_VPN: Floats,
    table_VP: NDArray[np.int64],
    change_VPN: Floats,
) -> None:
    n_heads = weight_VPN.shape[2]
    mean_SN = np.zeros((n_senders, n_heads), weight_VPN.dtype)
    for v, p in np.ndindex(table_VP.shape):
        for n in range(n_heads):
            mean_SN[table_VP[v, p], n] += weight_VPN[v, p, n] * grad_VPN[v, p, n]
    for v, p in np.ndindex(table_VP.shape):
        for n in range(n_heads):
            apart = grad_VPN[v, p, n] - mean_SN[table_VP[v, p], n]
            change_VPN[v, p, n] = weight_VPN[v, p, n] * apart
