"""Peak memory of embedding one slide, over what the encoder alone takes.

    .venv/bin/python benchmarks/embedding_memory.py [--image FILE] [--side 40000]

Without an image it writes a striped TIFF of ``side`` × ``side`` px in a temporary folder (4.8 GB
for 40,000, and its tiled copy). Every measurement is a process of its own.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from peak import peak_gib
from scipy.sparse import csr_matrix

SPOTS_PER_SIDE = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--side", type=int, default=40_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPAHGC_CACHE"] = f"{folder}/cache"
        image = asked.image or write_striped(Path(folder) / "large.tif", asked.side)
        context = multiprocessing.get_context("spawn")
        peaks = {}
        for name, job in {"encoder alone": bare, "slide": embed}.items():
            receiver, sender = context.Pipe(duplex=False)
            start = time.perf_counter()
            process = context.Process(target=job, args=(image, sender))
            process.start()
            peaks[name], reader = receiver.recv()
            process.join()
            print(
                f"{name:14s} {peaks[name]:6.2f} GiB, {time.perf_counter() - start:.0f} s {reader}"
            )
    print(f"over the encoder alone: {peaks['slide'] - peaks['encoder alone']:.2f} GiB")


def write_striped(path: Path, side: int) -> Path:
    import tifffile

    generator = np.random.default_rng(0)
    rows = 256

    def strips():
        for top in range(0, side, rows):
            shape = (min(rows, side - top), side // 50, 3)
            yield np.repeat(generator.integers(0, 255, shape, dtype=np.uint8), 50, axis=1)

    tifffile.imwrite(
        path,
        strips(),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        rowsperstrip=rows,
        bigtiff=True,
    )
    return path


def bare(_: Path, sender) -> None:
    from spahgc.ingest.fields import EmbeddingConfig
    from spahgc.ingest.shards import forward_once

    forward = forward_once(EmbeddingConfig(device="cpu"))
    forward.embed(np.zeros((forward.batch_size, 224, 224, 3), dtype=np.uint8))
    sender.send((peak_gib(), ""))


def embed(image: Path, sender) -> None:
    from spahgc.ingest.embedding import embed_image_slide
    from spahgc.ingest.fields import EmbeddingConfig, Field
    from spahgc.ingest.images import open_image
    from spahgc.schema import Slide

    with open_image(image) as opened:
        file, (width, height) = opened.file, opened.size
    at = (np.arange(SPOTS_PER_SIDE) + 0.5) / SPOTS_PER_SIDE
    x, y = np.meshgrid(at * width, at * height)
    names = pd.Index([f"{number}" for number in range(x.size)])
    slide = Slide(
        name="large",
        platform="image",
        spots=pd.DataFrame(index=names),
        centers=np.stack([x.ravel(), y.ravel()], axis=1),
        counts=csr_matrix((x.size, 0), dtype=np.uint32),
        genes=pd.DataFrame({"symbol": []}),
        microns_per_pixel=0.5,
        image=file,
    )
    embed_image_slide(slide, EmbeddingConfig(device="cpu", fields=(Field(), Field(side_um=448))))
    sender.send((peak_gib(), f"({file.reader.split(',')[0]})"))


if __name__ == "__main__":
    main()
