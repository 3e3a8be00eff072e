"""Time and peak memory of reading a Visium HD slide of 500,000 bins × 18,000 genes, and storing it.

    .venv/bin/python benchmarks/ingest_hd.py [--bins 500000] [--mean-genes 100] [--pool-um 16]

It makes the slide itself, in the true format: 8-µm bins, `filtered_feature_bc_matrix.h5` (32-bit
counts, 64-bit gene numbers, falling within a bin, gzip) and `tissue_positions.parquet`. A bin
holds 100 genes on average, so about 50 million stored counts; real slides have 20 to 100 million.
Reading and storing run in a process of their own, whose peak resident memory is what is told.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from peak import peak_gib

N_GENES = 18_000
BIN_UM = 8
MICRONS_PER_PIXEL = 0.2737
CHUNK = 80_000
BLOCK_BINS = 20_000


def main() -> None:
    options = parse()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.pool_um)))
        return
    if options.make is not None:
        make(options.make, options.bins, options.mean_genes)
        return
    command = [sys.executable, __file__, *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--make", folder], check=True)
        run = subprocess.run(
            [*command, "--measure", folder], check=True, stdout=subprocess.PIPE, text=True
        )
    for step in json.loads(run.stdout):
        print(f"{step['step']:30} {step['seconds']:7.1f} s   peak {step['peak_gib']:.2f} GiB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ingest a Visium HD slide of true size.")
    parser.add_argument("--bins", type=int, default=500_000)
    parser.add_argument("--mean-genes", type=int, default=100, help="genes seen in a bin")
    parser.add_argument("--pool-um", type=int, help="pool to bins of this width")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make(folder: Path, n_bins: int, mean_genes: int) -> None:
    start = time.perf_counter()
    n_counts, n_bytes = write_slide(folder, n_bins, mean_genes)
    print(
        f"made {n_bins} bins x {N_GENES} genes, {n_counts / 1e6:.1f} M stored counts, "
        f"{n_bytes / 2**20:.0f} MiB of HDF5 in {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def write_slide(folder: Path, n_bins: int, mean_genes: int) -> tuple[int, int]:
    """Write one bin size of a slide; return how many counts it stores, and its bytes."""
    place = folder / "binned_outputs" / f"square_{BIN_UM:03d}um"
    (place / "spatial").mkdir(parents=True)
    side = int(np.ceil(np.sqrt(n_bins)))
    rows, columns = np.divmod(np.arange(side**2), side)
    barcodes = [f"s_{BIN_UM:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(rows, columns, strict=True)]
    write_positions(place / "spatial", barcodes, rows, columns, n_bins)
    counts = place / "filtered_feature_bc_matrix.h5"
    n_counts = write_counts(counts, barcodes[:n_bins], mean_genes)
    return n_counts, counts.stat().st_size


def write_positions(spatial: Path, barcodes, rows, columns, n_bins: int) -> None:
    step, turn = BIN_UM / MICRONS_PER_PIXEL, np.deg2rad(2)
    x = (columns * np.cos(turn) - rows * np.sin(turn)) * step + 1000
    y = (columns * np.sin(turn) + rows * np.cos(turn)) * step + 100
    table = {
        "barcode": barcodes,
        "in_tissue": (np.arange(len(rows)) < n_bins).astype(np.int64),
        "array_row": rows,
        "array_col": columns,
        "pxl_row_in_fullres": y,
        "pxl_col_in_fullres": x,
    }
    pq.write_table(pa.table(table), spatial / "tissue_positions.parquet")
    factors = {"bin_size_um": float(BIN_UM), "microns_per_pixel": MICRONS_PER_PIXEL}
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))


def write_counts(path: Path, barcodes: list[str], mean_genes: int) -> int:
    generator = np.random.default_rng(0)
    n_bins, most = len(barcodes), mean_genes * 3 // 2
    lengths = generator.integers(mean_genes // 2, most + 1, n_bins)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype=bytes)
        group["shape"] = np.array([N_GENES, n_bins], np.int32)
        group["indptr"] = indptr
        packed = {"chunks": (CHUNK,), "compression": "gzip", "compression_opts": 1}
        data = group.create_dataset("data", (indptr[-1],), np.int32, **packed)
        indices = group.create_dataset("indices", (indptr[-1],), np.int64, **packed)
        for start in range(0, n_bins, BLOCK_BINS):
            part = lengths[start : start + BLOCK_BINS]
            genes = np.cumsum(generator.integers(1, N_GENES // most, (len(part), most)), axis=1)
            kept = np.arange(most) < part[:, None]
            here = slice(indptr[start], indptr[start + len(part)])
            indices[here] = N_GENES - 1 - genes[kept]
            data[here] = generator.geometric(0.7, part.sum())
        features = group.create_group("features")
        features["id"] = [f"ENSG{g:011d}" for g in range(N_GENES)]
        features["name"] = [f"GENE{g}" for g in range(N_GENES)]
        features["feature_type"] = np.array([b"Gene Expression"] * N_GENES)
        features["genome"] = np.array([b"synthetic"] * N_GENES)
    return int(indptr[-1])


def measure(folder: Path, pool_um: int | None) -> list[dict[str, object]]:
    from spahgc.ingest.readers.visium import read_visium
    from spahgc.store.opening import create_store
    from spahgc.store.staging import add_slide

    steps = [step("imports", time.perf_counter())]
    start = time.perf_counter()
    slide = read_visium(folder, pool_um=pool_um)
    steps.append(step(f"read ({len(slide.spots)} spots)", start))
    start = time.perf_counter()
    add_slide(create_store(folder / "data.zarr"), slide)
    steps.append(step("store", start))
    return steps


def step(name: str, start: float) -> dict[str, object]:
    return {"step": name, "seconds": time.perf_counter() - start, "peak_gib": peak_gib()}


if __name__ == "__main__":
    main()
