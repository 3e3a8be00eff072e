"""Whether the forward pass is as fast as this machine's CPU lets it be.

    .venv/bin/python benchmarks/forward_choices.py [--model TIMM] [--compile]

Patches per second of one encoder (lite0, or a timm model with random weights) for every memory
format, number of threads and batch size, and, if asked for, compiled by torch; then of what spahgc
takes by itself, and its share of the best. Rounds go over all choices in turn; the best round of
each counts.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from embedding_rate import make_config

from spahgc.ingest.shards import forward_once

ROUNDS = 3
PATCHES = 64
BATCH_SIZES = (1, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        forward = forward_once(make_config(asked.model, Path(folder)))
    threads = torch.get_num_threads()
    side_px = forward.encoder.input_px
    shape = (PATCHES, side_px, side_px, 3)
    pixels_BHWC = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    images_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() / 255
    networks = {"as it is": forward.encoder.network}
    if asked.compile:
        networks["compiled"] = torch.compile(forward.encoder.network, dynamic=False)
    formats = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    jobs = {
        f"{name}, {memory}, {n} threads, batches of {size}": (network, formats[memory], n, size)
        for (name, network), memory, n, size in itertools.product(
            networks.items(), formats, sorted({1, threads}), BATCH_SIZES
        )
    }
    rates = dict.fromkeys(jobs, 0.0)
    chosen = 0.0
    for _ in range(ROUNDS):
        for name, (network, memory, n, size) in jobs.items():
            torch.set_num_threads(n)
            images = images_BCHW.contiguous(memory_format=memory)
            rates[name] = max(rates[name], rate(network, images, size))
        torch.set_num_threads(threads)
        start = time.perf_counter()
        forward.embed(pixels_BHWC)
        chosen = max(chosen, PATCHES / (time.perf_counter() - start))
    for name, found in sorted(rates.items(), key=lambda item: -item[1]):
        print(f"{found:8.1f} patches/s  {name}")
    best = max(rates.values())
    print(
        f"spahgc: {chosen:.1f} patches/s in batches of {forward.batch_size}, from uint8 pixels: "
        f"{chosen / best:.2f} of the best"
    )


@torch.inference_mode()
def rate(network, images: torch.Tensor, size: int) -> float:
    network(images[:size])
    start = time.perf_counter()
    for first in range(0, len(images), size):
        network(images[first : first + size])
    return len(images) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
