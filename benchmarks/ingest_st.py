"""Reading the counts of legacy Spatial Transcriptomics sections, against pandas.

    .venv/bin/python benchmarks/ingest_st.py COUNTS [COUNTS …] [--runs 9]

Each COUNTS is a table of spots × genes, `.tsv` or `.tsv.gz`, such as `ST-cnts/C3.tsv.gz` of her2st.
Both sides give a sparse matrix of spots × genes: pandas by `read_csv(sep="\\t", index_col=0)` and
`csr_matrix`, spahgc by `read_counts`, with its checks of every cell and spot id. Runs alternate in
one process; the matrices are compared, and what is told is the median and the ratio of the
medians. Decompression alone, which both need, is told beside them.
"""

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.ingest.readers.st_tables import read_counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading counts against pandas.")
    parser.add_argument("tables", nargs="+", type=Path, metavar="COUNTS")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    for table in options.tables:
        print(f"{table.name}: {compare(table, options.runs)}")


def compare(table: Path, n_runs: int) -> str:
    theirs, ours = read_by_pandas(table), read_by_spahgc(table)  # warms caches and imports
    if (theirs != ours).nnz:
        raise SystemExit(f"{table}: the two sides read different counts")
    seconds = {read: [] for read in (read_by_pandas, read_by_spahgc, unzip)}
    for _ in range(n_runs):
        for read, taken in seconds.items():
            taken.append(timed(read, table))
    by_pandas, by_spahgc, unzipping = (1000 * float(np.median(s)) for s in seconds.values())
    return (
        f"{ours.shape[0]} spots x {ours.shape[1]} genes, pandas {by_pandas:.0f} ms, spahgc "
        f"{by_spahgc:.0f} ms, {by_pandas / by_spahgc:.1f} times faster; "
        f"unzipping {unzipping:.0f} ms"
    )


def timed(read: Callable[[Path], Any], table: Path) -> float:
    start = time.perf_counter()
    read(table)
    return time.perf_counter() - start


def read_by_pandas(table: Path) -> csr_matrix:
    return csr_matrix(pd.read_csv(table, sep="\t", index_col=0).to_numpy())


def read_by_spahgc(table: Path) -> csr_matrix:
    return read_counts(table).matrix


def unzip(table: Path) -> bytes:
    content = table.read_bytes()
    return gzip.decompress(content) if table.suffix == ".gz" else content


if __name__ == "__main__":
    main()
