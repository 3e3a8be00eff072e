"""How close embedding a slide comes to the encoder's own forward pass, in one run.

    .venv/bin/python benchmarks/embedding_rate.py [her2st study folder]

Without a folder it grows synthetic sections. The images are decoded inside the measured time.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from spahgc.ingest.embedding import embed_slides
from spahgc.ingest.encoders import load_encoder
from spahgc.ingest.readers.st import find_sections, read_st
from spahgc.ingest.shards import BATCH_SIZE, EmbeddingConfig
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = Path(sys.argv[1]) if len(sys.argv) > 1 else grow(Path(folder) / "slides")
        store = create_store(Path(folder) / "data.zarr")
        for files in find_sections(study):
            add_slide(store, read_st(files))
        before = forward_rate()
        start = time.perf_counter()
        report = embed_slides(store.path, config=EmbeddingConfig())
        elapsed = time.perf_counter() - start
        after = forward_rate()
    n_spots = sum(report.embedded.values())
    forward = (before + after) / 2
    print(f"slides {len(report.embedded)}, spots {n_spots}, batches of {BATCH_SIZE}")
    print(f"forward pass alone: {before:.1f} and {after:.1f} patches/s (before and after)")
    print(f"whole pipeline:     {n_spots / elapsed:.1f} patches/s in {elapsed:.1f} s")
    print(f"ratio:              {n_spots / elapsed / forward:.2f}")


def grow(folder: Path) -> Path:
    from spahgc.demo.formats import write_demo_slides

    return write_demo_slides(folder).st_study


def forward_rate(n_patches: int = 320) -> float:
    encoder = load_encoder("lite0")
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 255, (BATCH_SIZE, 224, 224, 3), dtype=np.uint8)
    for _ in range(3):
        encoder.embed(patches)
    start = time.perf_counter()
    for _ in range(n_patches // BATCH_SIZE):
        encoder.embed(patches)
    return n_patches / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
