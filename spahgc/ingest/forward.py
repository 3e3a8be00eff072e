"""Run an encoder as fast as its device allows, in batches that fit into its memory."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from spahgc.allocator import keep_freed_memory
from spahgc.errors import EncoderError
from spahgc.ingest.encoders import Encoder

PATCHES_PER_CORE: Final = 4
"""Per forward pass on a CPU: more are not faster, and need more memory."""

PATCHES_ON_ONE_CORE: Final = 16
"""Fewer go through PyTorch's own convolutions there, which take half as long again."""

GPU_BATCH_SIZES: Final = (32, 64, 128, 256, 512)
"""Tried on a GPU until memory ends or more patches at once are no faster."""

_WORTH: Final = 1.03  # a larger batch must be that much faster to be taken


class ForwardPass:
    """An encoder and the number of patches that it takes at once.

    Where memory ends in the middle of a run, batches become smaller and the run goes on.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int | None = None) -> None:
        """Take ``batch_size``, or on a CPU what fits its cores, or on a GPU what is fastest."""
        self.encoder = encoder
        if encoder.device.type == "cpu":
            keep_freed_memory()
        if batch_size is None and encoder.device.type == "cpu":
            threads = torch.get_num_threads()
            batch_size = PATCHES_ON_ONE_CORE if threads == 1 else PATCHES_PER_CORE * threads
        self.batch_size = batch_size or fastest_batch_size(encoder, GPU_BATCH_SIZES)

    def embed(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed any number of patches: (B, D).

        Raises
        ------
        EncoderError
            If the device's memory does not suffice for one patch.
        """
        vectors: list[NDArray[np.float32]] = []
        start = 0
        while start < len(pixels_BHWC):
            try:
                vectors.append(self.encoder.embed(pixels_BHWC[start : start + self.batch_size]))
                start += len(vectors[-1])
            except torch.OutOfMemoryError as error:
                self._shrink(error)
        return np.concatenate(vectors)

    def embed_views(self, pixels_BHWC: NDArray[np.uint8], *, views: int) -> NDArray[np.float32]:
        """Average a patch's embeddings over its flips and rotations.

        Parameters
        ----------
        pixels_BHWC
            (B, H, W, 3) uint8 RGB, H equal to W.
        views
            1 as it lies; 4 turned by every quarter; 8 these and their mirror images.

        Returns
        -------
        NDArray[np.float32]
            (B, D).
        """
        if views == 1:
            return self.embed(pixels_BHWC)
        turned = [np.rot90(pixels_BHWC, quarter, axes=(1, 2)) for quarter in range(4)]
        if views == 8:
            turned += [view_BHWC[:, :, ::-1] for view_BHWC in turned]
        sum_BD = self.embed(pixels_BHWC).astype(np.float64)
        for view_BHWC in turned[1:]:
            sum_BD += self.embed(np.ascontiguousarray(view_BHWC))
        return (sum_BD / views).astype(np.float32)

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        if self.batch_size == 1:
            raise EncoderError(
                f"{self.encoder.device}: its memory does not suffice for one patch of "
                f"{self.encoder.name}; take a larger device, or `--device cpu`"
            ) from error
        self.batch_size = max(1, self.batch_size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fastest_batch_size(encoder: Encoder, sizes: Sequence[int]) -> int:
    """Find the number of patches at which a device embeds the most per second.

    Parameters
    ----------
    encoder
        On its device.
    sizes
        To try, rising.

    Returns
    -------
    int
        1 where memory does not even suffice for the smallest.
    """
    best, best_rate = 0, 0.0
    for size in sizes:
        pixels_BHWC = np.zeros((size, encoder.input_px, encoder.input_px, 3), dtype=np.uint8)
        try:
            encoder.embed(pixels_BHWC)  # the first of a shape may compile or allocate
            start = time.perf_counter()
            encoder.embed(pixels_BHWC)
        except torch.OutOfMemoryError:
            break
        rate = size / (time.perf_counter() - start)
        if rate < best_rate * _WORTH:
            break
        best, best_rate = size, rate
    return best or 1


def choose_device(asked: str) -> str:
    """Turn ``auto`` into what this machine has, and refuse what it has not.

    Parameters
    ----------
    asked
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    EncoderError
        If it is none of these, or not here.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if asked == "auto":
        return present[0]
    if asked not in present:
        raise EncoderError(f"no device {asked!r} here, expected auto, {' or '.join(present)}")
    return asked
