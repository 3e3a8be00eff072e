"""Loops that numpy and torch have no words for, compiled by Numba, and threads that share them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

Loop = TypeVar("Loop", bound=Callable[..., Any])

_SUMS_IN_LANES: Final = {"reassoc", "contract", "nsz"}  # as many as the processor has


def compiled(loop: Loop) -> Loop:
    """Have Numba compile a loop when it is first called; it then runs without Python's lock.

    Sums of floats are taken in as many lanes as the processor has, so their order is its own.
    What was compiled is kept beside the loop's file, or in the user's home.
    """
    return _kept(loop, fastmath=_SUMS_IN_LANES)


def compiled_in_order(loop: Loop) -> Loop:
    """Have Numba compile a loop that adds and multiplies floats in the order written."""
    return _kept(loop, fastmath=False)


def _kept(loop: Loop, *, fastmath: set[str] | bool) -> Loop:
    try:
        kept: Loop = njit(cache=True, nogil=True, fastmath=fastmath)(loop)
    except RuntimeError:  # neither may be written to: each process compiles for itself
        kept = njit(nogil=True, fastmath=fastmath)(loop)
    return kept


@intrinsic  # type: ignore[untyped-decorator]
def move_four(_typing: Any, to_N: Any, to: Any, from_N: Any, at: Any) -> Any:  # noqa: ANN401, ARG001
    """Copy four neighbours, ``from_N[at : at + 4]``, to ``to_N[to : to + 4]`` in one move.

    For compiled loops. Both are one-dimensional, contiguous and of one type, both places unsigned;
    nobody asks whether they are inside. Numba keeps what it compiled until the loop's own file
    changes: who changes this here touches the files that use it.
    """
    is_flat = all(kind.ndim == 1 and kind.layout == "C" for kind in (to_N, from_N))
    if not (is_flat and to_N.mutable and to_N.dtype == from_N.dtype):
        raise TypingError(f"move_four cannot move from {from_N} to {to_N}")

    def spell(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        def place(kind: Any, array: Any, index: Any) -> Any:  # noqa: ANN401
            first = context.make_array(kind)(context, builder, array).data
            return builder.gep(first, [index])

        to_kind, _, from_kind, _ = signature.args
        to_place, from_place = place(to_kind, *given[:2]), place(from_kind, *given[2:])
        n_bytes = context.get_abi_sizeof(context.get_data_type(to_kind.dtype))
        four = context.get_constant(types.intp, 4)
        cgutils.raw_memmove(builder, to_place, from_place, count=four, itemsize=n_bytes, align=1)
        return context.get_dummy_value()

    return types.void(to_N, types.uintp, from_N, types.uintp), spell


def on_threads(
    work: Callable[[int, int], None], n_rows: int, *, at_once: int, n_threads: int
) -> None:
    """Call ``work(start, stop)`` for all rows, at most ``at_once`` of them in a call."""
    starts = range(0, n_rows, at_once)
    stops = [min(start + at_once, n_rows) for start in starts]
    if n_threads == 1 or len(starts) <= 1:
        for start, stop in zip(starts, stops, strict=True):
            work(start, stop)
        return
    with ThreadPoolExecutor(min(n_threads, len(starts))) as pool:
        list(pool.map(work, starts, stops))  # the list raises what a thread raised
