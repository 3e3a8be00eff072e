"""Ingest of Visium slides without images, against scanpy's readers and AnnData's own writing.

    .venv/bin/python benchmarks/ingest_visium.py FOLDER [FOLDER …] [--runs 7]

Each FOLDER is a slide as Space Ranger leaves it; it is copied without its pictures. Both sides
read counts and positions, join them, and write a Zarr store: scanpy by `read_10x_h5` or
`read_10x_mtx`, pandas, and `AnnData.write_zarr` with its defaults; spahgc by `read_visium` and
`add_slide`, checks, read-back and fsync included. Runs alternate in one process; what is told is
the median and the ratio of the medians. Before that, the peak memory of a synthetic slide of
5,000 spots, in a process of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peak import peak_gib

N_SPOTS = 4_992  # the whole 6.5 mm array
N_GENES = 18_000
SEEN = 0.2  # share of the genes that a spot has counts of


def main() -> None:
    options = parse()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    if options.make is not None:
        print(write_synthetic(options.make))
        return
    tell_memory()
    for folder in options.folders:
        print(f"{folder.name}: {compare(folder, options.runs)}")


def tell_memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        n_counts = json.loads(in_own_process("--make", Path(folder) / "slide"))
        peak = json.loads(in_own_process("--measure", folder))
    print(
        f"synthetic slide, {N_SPOTS} spots x {N_GENES} genes, {n_counts / 1e6:.1f} M counts, no "
        f"image: peak {peak['stored']:.2f} GiB, of which imports {peak['imports']:.2f}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time ingest against scanpy and AnnData.")
    parser.add_argument("folders", nargs="*", type=Path, help="Space Ranger folders")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(*arguments: str | Path) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def compare(folder: Path, n_runs: int) -> str:
    seconds = {"scanpy": [], "spahgc": []}
    with tempfile.TemporaryDirectory() as place:
        bare = Path(place) / "slide"
        shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.png", "*.tif*"))
        run_both(bare, n_runs, seconds)
    theirs, ours = (float(np.median(seconds[name])) for name in ("scanpy", "spahgc"))
    return f"scanpy + write_zarr {theirs:.2f} s, spahgc {ours:.2f} s, ratio {ours / theirs:.2f}"


def run_both(folder: Path, n_runs: int, seconds: dict[str, list[float]]) -> None:
    for run in range(n_runs + 1):
        for name, ingest in (("scanpy", ingest_by_scanpy), ("spahgc", ingest_by_spahgc)):
            taken = timed(ingest, folder)
            if run:  # the first one of each warms caches and imports
                seconds[name].append(taken)


def timed(ingest: Callable[[Path, Path], None], folder: Path) -> float:
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        ingest(folder, Path(store) / "data.zarr")
        return time.perf_counter() - start


def ingest_by_scanpy(folder: Path, store: Path) -> None:
    import pandas as pd
    import scanpy as sc

    outs = folder / "outs" if (folder / "outs").is_dir() else folder
    counts = outs / "filtered_feature_bc_matrix.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are not unique, at every run
        if counts.is_file():
            table = sc.read_10x_h5(counts)
        else:
            table = sc.read_10x_mtx(counts.with_suffix(""))
        table.var_names_make_unique()
        path = next((outs / "spatial").glob("tissue_positions*.csv"))
        has_header = path.read_text()[:7] == "barcode"
        names = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]
        places = pd.read_csv(path, header=0 if has_header else None, names=names, index_col=0)
        table.obs = table.obs.join(places[["in_tissue", "array_row", "array_col"]])
        table.obsm["spatial"] = places.loc[table.obs_names, ["x", "y"]].to_numpy()
        table.write_zarr(store)


def ingest_by_spahgc(folder: Path, store: Path) -> None:
    from spahgc.ingest.readers.visium import read_visium
    from spahgc.store.opening import create_store
    from spahgc.store.staging import add_slide

    add_slide(create_store(store), read_visium(folder))


def write_synthetic(folder: Path) -> int:
    from spahgc.demo.visium import VisiumSlide, write_visium

    generator = np.random.default_rng(0)
    array = np.array([(row, column) for row in range(78) for column in range(row % 2, 128, 2)])
    counts = np.zeros((len(array), N_GENES), np.uint32)
    for row in counts:
        genes = generator.choice(N_GENES, int(N_GENES * SEEN), replace=False)
        row[genes] = generator.geometric(0.5, len(genes))
    slide = VisiumSlide(
        barcodes=tuple(f"{n:016b}-1" for n in range(len(array))),
        array=array,
        centers=array[:, ::-1] * np.array([100, 100 * 3**0.5]) + 500,
        in_tissue=np.ones(len(array), np.bool_),
        counts=counts,
        gene_ids=tuple(f"ENSG{g:011d}" for g in range(N_GENES)),
        gene_symbols=tuple(f"GENE{g}" for g in range(N_GENES)),
        microns_per_pixel=0.5,
    )
    shutil.rmtree(folder, ignore_errors=True)
    write_visium(folder, slide)
    return int((counts > 0).sum())


def measure(folder: Path) -> dict[str, float]:
    from spahgc.ingest.readers import visium  # noqa: F401  its imports are told apart
    from spahgc.store import staging  # noqa: F401  the same

    imports = peak_gib()
    ingest_by_spahgc(folder / "slide", folder / "data.zarr")
    return {"imports": imports, "stored": peak_gib()}


if __name__ == "__main__":
    main()
