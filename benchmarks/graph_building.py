"""Building the graph of one slide, beside the searches it contains and beside the field's way.

    .venv/bin/python benchmarks/graph_building.py           # 3,500 spots, 3 references, 785 genes
    .venv/bin/python benchmarks/graph_building.py --spots 500 --runs 2

The field's way, written here from its description: a Python loop over the target's spots gathers
each one's references, `numpy.unique` over the joined floats of all that were gathered makes the
nodes, another loop finds each one's node again, and brute-force nearest neighbours (L2) join the
nodes. Its neighbours across slides are given to it: only the building is compared. The searches
that ours contains are measured alone: references of the targets, near spots, close nodes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZE = 1_024


def main() -> None:
    options = parse()
    from spahgc.index import ReferenceIndex, nearest_within
    from spahgc.model.graph import GraphConfig, build_graph
    from spahgc.model.spots import nearest_others

    config = GraphConfig()
    target = draw_slide("T", options)
    references = {name: draw_slide(name, options) for name in ("A", "B", "C")}
    index = ReferenceIndex.of_vectors({n: s.embedding_SD for n, s in references.items()})

    def search(k: int = config.n_refer):
        return index.search(target.embedding_SD, k=k, only_slides=references)

    def near() -> np.ndarray:
        return nearest_others(target.centers_S2, 6)

    def ours() -> object:
        near()  # a part of reading a slide
        return build_graph(target, search(), references, config=config)

    graph = ours()
    joint = np.hstack([graph["reference"].x.numpy(), graph["reference"].y.numpy()])
    neighbors = search()
    seconds: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for name, work in {
            "ours": ours,
            "search": search,
            "near": near,
            "close": lambda: nearest_within(joint, config.n_close),
        }.items():
            seconds.setdefault(name, []).append(timed(work))
    if not options.no_field:
        seconds["field"] = [timed(lambda: field_way(target, neighbors, references, config.n_close))]
    report({name: min(runs) for name, runs in seconds.items()}, len(joint))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the building of one slide's graph.")
    parser.add_argument("--spots", type=int, default=3_500)
    parser.add_argument("--genes", type=int, default=785)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-field", action="store_true", help="leave the field's way out")
    return parser.parse_args()


def draw_slide(name: str, options: argparse.Namespace):
    from spahgc.model.spots import SlideSpots, nearest_others

    generator = np.random.default_rng([7, *name.encode()])
    centers = generator.uniform(0, 1e4, (options.spots, 2))
    expression = generator.gamma(1, size=(options.spots, options.genes)).astype(np.float32)
    return SlideSpots(
        name=name,
        spot_names=tuple(map(str, range(options.spots))),
        embedding_SD=generator.normal(size=(options.spots, SIZE)).astype(np.float32),
        centers_S2=centers,
        near_SQ=nearest_others(centers, 6),
        expression_SG=expression,
    )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def field_way(target, neighbors, references, n_close: int) -> tuple[np.ndarray, np.ndarray]:
    gathered, receivers = [], []
    for spot in range(len(target.embedding_SD)):
        for slide, row in zip(neighbors.slide_SK[spot], neighbors.spot_SK[spot], strict=True):
            reference = references[neighbors.slides[slide]]
            gathered.append(
                np.concatenate([reference.embedding_SD[row], reference.expression_SG[row]])
            )
            receivers.append(spot)
    nodes = np.unique(np.array(gathered), axis=0)
    edges = []
    for row, spot in zip(gathered, receivers, strict=True):
        candidates = np.flatnonzero(nodes[:, 0] == row[0])
        (node,) = (n for n in candidates if np.array_equal(nodes[n], row))
        edges.append((node, spot))
    close = []
    for node in range(len(nodes)):
        distance = np.linalg.norm(nodes - nodes[node], axis=1)
        distance[node] = np.inf
        close += [(other, node) for other in np.argsort(distance)[:n_close]]
    return np.array(edges).T, np.array(close).T


def report(best: dict[str, float], n_nodes: int) -> None:
    searches = best["search"] + best["near"] + best["close"]
    print(f"{n_nodes} reference nodes")
    print(f"ours         {best['ours']:8.3f} s, searches and all")
    print(
        f"its searches {searches:8.3f} s (refer {best['search']:.3f}, near {best['near']:.3f}, "
        f"close {best['close']:.3f}): ours is {best['ours'] / searches:.2f} × them"
    )
    if "field" in best:
        print(
            f"field's way  {best['field']:8.3f} s without its search: ours is "
            f"{best['field'] / best['ours']:.1f} × as fast, search included"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
