"""Whether the forward pass is as fast as this machine's CPU lets it be.

    .venv/bin/python benchmarks/forward_choices.py [--model TIMM] [--compile]

Patches per second of one encoder (lite0, or a timm model with random weights) for every memory
format, number of threads and batch size, and, if asked for, compiled by torch. Rounds go over all
choices in turn; the best round of each counts. Of so many the best is also the luckiest, so those
in front then run in turn with what spahgc takes by itself, for longer: medians.
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
IN_FRONT = 4
TURNS = 9
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

    def rate_of(name: str) -> float:
        network, memory, n, size = jobs[name]
        torch.set_num_threads(n)
        images = images_BCHW.contiguous(memory_format=memory)
        return rate(network, images, size)

    def rate_of_ours() -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        forward.embed(pixels_BHWC)
        return PATCHES / (time.perf_counter() - start)

    rates = dict.fromkeys(jobs, 0.0)
    for _ in range(ROUNDS):
        for name in jobs:
            rates[name] = max(rates[name], rate_of(name))
    ranked = sorted(rates, key=rates.__getitem__, reverse=True)
    for name in ranked:
        print(f"{rates[name]:8.1f} patches/s  {name}")
    turns = {name: [] for name in ["spahgc", *ranked[:IN_FRONT]]}
    for _ in range(TURNS):
        turns["spahgc"].append(np.median([rate_of_ours() for _ in range(TURNS)]))
        for name in ranked[:IN_FRONT]:
            turns[name].append(np.median([rate_of(name) for _ in range(TURNS)]))
    print(f"in turn, medians; spahgc in batches of {forward.batch_size}, from uint8 pixels:")
    medians = {name: np.median(found) for name, found in turns.items()}
    for name, found in medians.items():
        print(f"{found:8.1f} patches/s  {name}")
    print(f"spahgc: {medians['spahgc'] / max(medians.values()):.2f} of the best")


@torch.inference_mode()
def rate(network, images: torch.Tensor, size: int) -> float:
    network(images[:size])
    start = time.perf_counter()
    for first in range(0, len(images), size):
        network(images[first : first + size])
    return len(images) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
