"""Exact search across slides beside the bare matrix product, and beside the field's way.

    .venv/bin/python benchmarks/index_search.py           # 20,000 × 20,000 × 1,024, k = 8
    .venv/bin/python benchmarks/index_search.py --field   # 4 slides × 3,500 × 1,024, top 100
    .venv/bin/python benchmarks/index_search.py --spots 4000 --runs 2   # smaller, to try it

Without ``--field``: every slide is searched for on all others, its own left out; the product is
numpy's, of all vectors with all, in float32, with the same threads. They are measured in turn,
``--runs`` times, and the best of each counts. Peak memory is of a process that holds the embeddings
and searches.

With ``--field``: the way that scripts of the field search. For every pair of slides the L1
distances of all spots (`torch.cdist`), the 100 nearest of each spot, and a Python heap a spot that
keeps the best 128 over all slides; once in one process with all threads, once with one process a
core, each with one thread and its share of the slides. Ours finds the same 100, in one process.
"""

import argparse
import heapq
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peak import peak_gib

SIZE = 1_024
HEAP = 128
TOP = 100


def main() -> None:
    options = parse()
    if options.measure:
        print(json.dumps(measure_memory(options.spots, options.slides, options.k)))
    elif options.field:
        compare_with_field(options.field_spots, options.runs)
    else:
        compare_with_product(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time exact search across slides.")
    parser.add_argument("--spots", type=int, default=20_000)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--field", action="store_true")
    parser.add_argument("--field-spots", type=int, default=3_500, help="spots of each of 4 slides")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def draw(n_spots: int, n_slides: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        f"S{n}": generator.normal(size=(n_spots // n_slides, SIZE)).astype(np.float32)
        for n in range(n_slides)
    }


def search_all(vectors: dict[str, np.ndarray], k: int, metric: str) -> None:
    from spahgc.index import ReferenceIndex

    index = ReferenceIndex.of_vectors(vectors, metric=metric)
    index.search_slides({name: list(vectors) for name in vectors}, k=k)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_with_product(options: argparse.Namespace) -> None:
    vectors = draw(options.spots, options.slides)
    together = np.concatenate(list(vectors.values()))
    other = together.copy()  # with itself, numpy would take half of the products and mirror them
    search_all(draw(400, 2), options.k, "cosine")  # imports and threads are there
    product: list[float] = []
    seconds: list[float] = []
    for _ in range(options.runs):
        product.append(timed(lambda: together @ other.T))
        seconds.append(timed(lambda: search_all(vectors, options.k, "cosine")))
    rate = 2 * len(together) ** 2 * SIZE / min(product) / 1e9
    ratio = min(seconds) / min(product)
    print(f"bare product {min(product):6.2f} s ({rate:.0f} GFLOP/s), of all with all")
    print(f"exact search {min(seconds):6.2f} s, best of {options.runs}: {ratio:.2f} ×")
    command = [sys.executable, __file__, "--measure", "--spots", str(options.spots)]
    command += ["--slides", str(options.slides), "--k", str(options.k)]
    memory = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"peak memory {memory['peak']:.2f} GiB: imports {memory['imports']:.2f}, "
        f"embeddings {memory['embeddings']:.2f}, all else {memory['rest']:.2f}"
    )


def measure_memory(n_spots: int, n_slides: int, k: int) -> dict[str, float]:
    from spahgc import index  # noqa: F401  imports are told apart

    imports = peak_gib()
    vectors = draw(n_spots, n_slides)
    held = sum(v.nbytes for v in vectors.values()) / 2**30
    search_all(vectors, k, "cosine")
    peak = peak_gib()
    rest = peak - imports - held
    return {"imports": imports, "embeddings": held, "peak": peak, "rest": rest}


def compare_with_field(n_spots: int, n_runs: int) -> None:
    vectors = draw(4 * n_spots, 4)
    names = list(vectors)
    n_cores = len(os.sched_getaffinity(0))
    search_all(draw(400, 2), TOP, "cosine")
    seconds: dict[str, list[float]] = {
        "one process": [],
        "a process a core": [],
        "cosine": [],
        "l1": [],
    }
    tasks = [(name, vectors) for name in names]
    with multiprocessing.get_context("spawn").Pool(n_cores, initializer=one_thread) as pool:
        pool.map(len, [[]] * n_cores)
        for _ in range(min(n_runs, 2)):  # it takes minutes
            seconds["one process"].append(timed(lambda: [of_field(n, vectors) for n in names]))
            seconds["a process a core"].append(timed(lambda: pool.starmap(of_field, tasks, 1)))
            for metric in ("cosine", "l1"):
                for _ in range(n_runs):
                    seconds[metric].append(timed(lambda m=metric: search_all(vectors, TOP, m)))
    for way in ("one process", "a process a core"):
        print(f"field's way, {way}: {min(seconds[way]):6.1f} s")
    for metric in ("cosine", "l1"):
        ours = min(seconds[metric])
        times = " and ".join(
            f"{min(seconds[way]) / ours:.1f} × as fast as {way}"
            for way in ("one process", "a process a core")
        )
        print(f"ours, {metric}: {ours:6.2f} s, {times}")


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def of_field(target: str, vectors: dict[str, np.ndarray]) -> list[list[tuple[float, str, int]]]:
    """Keep the best 128 of every spot of one slide in a heap."""
    import torch

    own = torch.from_numpy(vectors[target])
    heaps: list[list[tuple[float, str, int]]] = [[] for _ in range(len(own))]
    for name, other in vectors.items():
        if name == target:
            continue
        distance, spot = torch.cdist(own, torch.from_numpy(other), p=1).topk(TOP, largest=False)
        for heap, near, rows in zip(heaps, distance.tolist(), spot.tolist(), strict=True):
            for far, row in zip(near, rows, strict=True):
                if len(heap) < HEAP:
                    heapq.heappush(heap, (-far, name, row))
                else:
                    heapq.heappushpop(heap, (-far, name, row))
    return [sorted(((-far, name, row) for far, name, row in heap))[:TOP] for heap in heaps]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
