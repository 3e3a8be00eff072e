"""The same numbers however a slide is embedded: batch sizes, a cluster, and a killed run.

    .venv/bin/python benchmarks/embedding_same.py

One synthetic slide of four shards, embedded in this process; then in batches of 1, 7 and 64; by two
Dask workers of which one is killed after the first shard; and by a process that is killed half-way
and started again. Prints the largest difference of each from the first, and the commits so far:
one more each time.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from spahgc.clusters import Cluster
from spahgc.ingest.embedding import embed_slides
from spahgc.ingest.fields import EmbeddingConfig
from spahgc.ingest.readers.image import read_image_slide
from spahgc.store import drafts
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide

SIDE = 3200


def main() -> None:
    drafts.SHARD_ROWS = 256
    with tempfile.TemporaryDirectory() as folder:
        path = grow(Path(folder) / "slide.png")
        slide = read_image_slide(path, microns_per_pixel=1.0, pitch_um=100)
        store = create_store(Path(folder) / "data.zarr")
        add_slide(store, slide)
        where = str(store.path)
        first = embed(where, "first")
        for size in (1, 7, 64):
            say(f"batches of {size}", first, embed(where, f"batch{size}", batch_size=size), store)
        say("two workers, one killed", first, embed(where, "cluster", kill=True), store)
        kill_and_resume(where)
        say("killed and resumed", first, read(where, "resumed"), store)


def grow(path: Path) -> Path:
    small = np.random.default_rng(0).integers(60, 230, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    small[..., 1] //= 2  # as pink as tissue
    Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return path


def embed(where: str, name: str, *, batch_size: int | None = None, kill: bool = False):
    config = EmbeddingConfig(name=name, batch_size=batch_size, device="cpu")
    killed = []

    def advance(n_spots: int) -> None:
        if kill and n_spots and not killed:
            from distributed import get_client

            killed.append(next(iter(get_client().run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    cluster = Cluster(workers=2) if kill else None
    embed_slides(where, config=config, cluster=cluster, advance=advance)
    return read(where, name)


def kill_and_resume(where: str) -> None:
    code = (
        "from spahgc.store import drafts; drafts.SHARD_ROWS = 256\n"
        "from spahgc.ingest.embedding import embed_slides\n"
        "from spahgc.ingest.fields import EmbeddingConfig\n"
        f"embed_slides({where!r}, config=EmbeddingConfig(name='resumed', device='cpu'),"
        " advance=lambda n: print(n, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        n_done = 0
        for line in run.stdout:
            n_done += int(line)
            if n_done > 300:  # the first shard is written, the second is not
                time.sleep(0.05)
                run.kill()
    embed(where, "resumed")


def read(where: str, name: str):
    (slide,) = open_cohort(where).slides.values()
    return slide.read_embedding(name)


def say(what: str, first, second, store) -> None:
    commits = [c for c in open_store(store.path).history() if "embed" in c.message]
    print(
        f"{what:26s} differs by {np.abs(first - second).max():.1e}; {len(commits)} commits so far"
    )


if __name__ == "__main__":
    main()
