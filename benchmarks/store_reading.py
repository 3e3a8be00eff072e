"""What reading a store costs beside reading without one.

Run it with ``python benchmarks/store_reading.py``; it makes its stores in a temporary folder.
Printed are, each the best of several in this run:

* embeddings of 20,000 spots x 1,024, from page cache, in GB/s: ours, plain zarr, ``np.load``, and
  ours through the ``fast`` extra where it is installed (``pip install 'spahgc[fast]'``);
* the counts of one slide (4,000 x 18,000, 11 M stored numbers) beside AnnData's own layout: time
  to read, bytes and files on disk;
* requests to open a slide and read its embeddings over HTTP;
* what committing one slide takes over writing and syncing its bytes;
* ``open`` of a store of ``--slides`` slides, and of one slide in it.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from spahgc.schema import Slide
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide

SPOTS, SIZE = 4000, 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=200, help="of the store of many slides")
    many = parser.parse_args().slides
    with tempfile.TemporaryDirectory() as folder:
        measure_embeddings(Path(folder))
        measure_counts(Path(folder))
        measure_requests(Path(folder))
        measure_commit(Path(folder))
        measure_opening(Path(folder), many)


def measure_embeddings(folder):
    store = create_store(folder / "embedded.zarr")
    generator = np.random.default_rng(0)
    for number in range(5):
        add_slide(store, make_slide(f"S{number}", n_spots=SPOTS))
        slide = open_cohort(store.path)[f"S{number}"]
        draft = EmbeddingDraft(slide, "e", fingerprint={"w": 1}, size=SIZE)
        for rows in draft.missing():
            draft.write(rows, generator.random((rows.stop - rows.start, SIZE), dtype=np.float32))
        draft.commit()
    slides = open_cohort(store.path).slides.values()
    vectors = np.concatenate([slide.read_embedding("e") for slide in slides])
    np.save(folder / "e.npy", vectors)

    def read_ours():
        for slide in open_cohort(store.path).slides.values():
            slide.read_embedding("e")

    def read_zarr():
        for slide in slides:
            place = store.path / slide.entry.group / "obsm/e"
            _ = zarr.open_array(place, mode="r")[:]

    rates = {"np.load": partial(np.load, folder / "e.npy"), "plain zarr": read_zarr}
    rates |= {"ours": read_ours}
    with patch("spahgc.store.committed.find_spec", return_value=None):
        show("embeddings", {name: vectors.nbytes / 1e9 / best(run) for name, run in rates.items()})
    if find_spec("zarrs") is not None:
        print(f"  ours with zarrs: {vectors.nbytes / 1e9 / best(read_ours):.2f} GB/s")


def measure_counts(folder):
    slide = make_slide("C", n_spots=4000, n_genes=18000, density=0.153)
    store = create_store(folder / "counted.zarr")
    add_slide(store, slide)
    table = anndata.AnnData(slide.counts.copy(), obs=slide.spots, var=slide.genes)
    with anndata.settings.override(zarr_write_format=3):
        table.write_zarr(folder / "anndata.zarr")
    ours, theirs = store.path / "tables/C", folder / "anndata.zarr"
    times = {"ours": [], "anndata": []}
    for _ in range(4):
        for name, run in (
            ("ours", lambda: open_cohort(store.path)["C"].read_counts().nnz),
            ("anndata", lambda: anndata.read_zarr(theirs).X),
        ):
            times[name].append(timed(run))
    print(f"counts, {slide.counts.nnz:,} stored numbers:")
    for name, place in (("ours", ours), ("anndata", theirs)):
        files = [path for path in place.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in (place / "X").rglob("*") if path.is_file())
        print(f"  {name}: {min(times[name]):.3f} s, {size / 1e6:.1f} MB, {len(files)} files")


def measure_requests(folder):
    seen = []

    class Counting(SimpleHTTPRequestHandler):
        def log_request(self, code="-", _size="-"):
            seen.append((self.command, self.path, code))

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/embedded.zarr"
    open_cohort(url)["S0"].read_embedding("e")
    print(f"requests over HTTP to open a slide and read its embeddings: {len(seen)}")
    server.shutdown()


def measure_commit(folder):
    store = create_store(folder / "committed.zarr")
    slides = [make_slide(f"S{number}", n_spots=1000, n_genes=2000) for number in range(8)]
    took, bytes_alone = [], []
    for slide in slides:
        took.append(timed(partial(add_slide, store, slide)))
        group = store.path / "tables" / slide.name
        bytes_alone.append(timed(partial(write_and_sync, group, folder / f"copy-{slide.name}")))
    over = sorted(np.subtract(took, bytes_alone))[len(slides) // 2]
    print(
        f"commit of one slide: {np.median(took):.3f} s, of which writing and syncing its bytes "
        f"{np.median(bytes_alone):.3f} s; the rest {over:.3f} s (AnnData's own spelling included)"
    )


def measure_opening(folder, n_slides):
    store = create_store(folder / "many.zarr")
    for number in range(n_slides):
        add_slide(store, make_slide(f"S{number}", n_spots=4))
    one = best(lambda: open_cohort(store.path)["S7"].n_spots)
    every = best(lambda: dict(open_store(store.path).head.slides))
    print(f"store of {n_slides} slides: one opened in {one * 1e3:.1f} ms, all in {every * 1e3:.1f}")


def write_and_sync(source, target):
    contents = {p.relative_to(source): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    for key, content in contents.items():
        (target / key).parent.mkdir(parents=True, exist_ok=True)
        with (target / key).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    shutil.rmtree(target)


def make_slide(name, *, n_spots, n_genes=3, density=0.5):
    counts = sparse.random(n_spots, n_genes, density, format="csr", random_state=0)
    counts.data = np.random.default_rng(0).geometric(0.5, len(counts.data))
    names = [f"spot{n}" for n in range(n_spots)]
    genes = [f"G{n}" for n in range(n_genes)]
    return Slide(
        name=name,
        platform="st",
        spots=pd.DataFrame({"in_tissue": True}, index=pd.Index(names)),
        centers=np.random.default_rng(0).random((n_spots, 2)) * 1e4,
        counts=sparse.csr_matrix(counts.astype(np.uint32)),
        genes=pd.DataFrame({"symbol": genes}, index=pd.Index(genes)),
        microns_per_pixel=0.5,
    )


def best(run, n=5):
    return min(timed(run) for _ in range(n))


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def show(what, rates):
    print(f"{what}:")
    for name, rate in rates.items():
        print(f"  {name}: {rate:.2f} GB/s")


if __name__ == "__main__":
    main()
