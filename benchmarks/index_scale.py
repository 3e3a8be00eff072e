"""Cost of an index against its size, and an index of a million spots in a store.

    .venv/bin/python benchmarks/index_scale.py              # 10³ … 10⁶ vectors; writes docs/scale.*
    .venv/bin/python benchmarks/index_scale.py --sizes 300000 --kinds ivfpq   # these rows alone
    .venv/bin/python benchmarks/index_scale.py --store 1000000 --kinds ivf    # a store, 250 slides

Every figure is of a process of its own. Vectors of 1,024 numbers lie on disk as float16, 4,000 a
slide, and are read slide by slide. 1,000 spots of the last slide ask for 10 neighbours on all
others. Flat searches hold all vectors in float32. The machine's own rate is that of numpy's
float32 product of 4,000 × 4,000 × 1,024 numbers, taken in the same process.

The vectors have the structure of real ones, as measured on EfficientNet-Lite0 embeddings of her2st
sections C2–C5: a common direction holds 58 % of the squared length, the rest has variances that
fall with the 1.1th power of their rank, of which 2 % differ by slide; half of what is left is one
of 30 kinds of tissue, the other half the spot's own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
from peak import peak_gib

SIZE = 1_024
PER_SLIDE = 4_000
N_KINDS = 30
N_QUERIES = 1_000
MIN_RECALL = 0.95
K = 10
MARK = "<!-- measured by benchmarks/index_scale.py -->"
END = "<!-- end -->"
SIZES = (1_000, 10_000, 100_000, 200_000, 1_000_000)


def main() -> None:
    options = parse()
    if options.measure is not None:
        kind, folder, n_spots = options.measure
        print(json.dumps(measure(kind, Path(folder), int(n_spots))))
    elif options.measure_store is not None:
        kind, folder = options.measure_store
        print(json.dumps(measure_store(kind, Path(folder))))
    elif options.make_store is not None:
        make_store(Path(options.make_store[0]), int(options.make_store[1]))
    elif options.store:
        index_store(options.store, options.kinds)
    else:
        write_figures(options.out, measure_all(options.sizes, options.kinds))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure indexes of growing size.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf", "ivfpq"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "scale")
    parser.add_argument(
        "--store", type=int, help="spots of a store to make, and to index anew with each kind"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure-store", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make-store", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


@cache
def structure() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the common direction, the scaled principal directions and the kinds of tissue."""
    generator = np.random.default_rng(0)
    variance = np.arange(1, SIZE + 1) ** -1.1
    variance *= 0.42 / variance.sum()
    directions = np.linalg.qr(generator.normal(size=(SIZE, SIZE)))[0]
    common = 0.58**0.5 * directions[0]
    scaled = (directions * variance[:, None] ** 0.5).astype(np.float32)
    kinds = generator.normal(size=(N_KINDS, SIZE)).astype(np.float32)
    return common.astype(np.float32), scaled, kinds


def draw_slide(number: int, n_spots: int) -> np.ndarray:
    """Draw (n_spots, 1024) float16."""
    common, scaled, kinds = structure()
    generator = np.random.default_rng([1, number])
    kind = kinds[generator.integers(0, N_KINDS, n_spots)]
    own = generator.standard_normal((n_spots, SIZE), dtype=np.float32)
    slide = generator.standard_normal((1, SIZE), dtype=np.float32)
    mixed = 0.7 * kind + 0.7 * own + 0.14 * slide
    return (common + mixed @ scaled).astype(np.float16)


def sizes_of(n_spots: int) -> list[int]:
    per_slide = min(PER_SLIDE, n_spots // 4)
    return [per_slide] * (n_spots // per_slide)


def measure_all(sizes: list[int], kinds: list[str]) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        per_size = {n: sizes_of(n) for n in sizes}
        for n_spots, slides in per_size.items():
            out = np.lib.format.open_memmap(path, "w+", np.float16, (sum(slides), SIZE))
            start = 0
            for number, n_own in enumerate(slides):
                out[start : start + n_own] = draw_slide(number, n_own)
                start += n_own
            out.flush()
            del out
            for kind in kinds:
                if n_spots < 5_000 and kind != "flat":
                    continue
                rows.append(run("--measure", kind, folder, str(n_spots)))
                print(json.dumps(rows[-1]), flush=True)
    return rows


def run(*arguments: str) -> dict:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(kind: str, folder: Path, n_spots: int) -> dict:
    from spahgc.index.building import learn, tune
    from spahgc.index.recall import make_recall_test
    from spahgc.index.reference import ReferenceIndex
    from spahgc.index.trained import Queries, TrainedSearch, fill_lists, lists_for
    from spahgc.index.vectors import prepare

    imports = peak_gib()
    sizes = sizes_of(n_spots)
    starts = np.cumsum([0, *sizes])
    place = {f"S{number:04d}": number for number in range(len(sizes))}

    def read(name: str) -> np.ndarray:
        with (folder / "vectors.npy").open("rb") as file:
            version = np.lib.format.read_magic(file)
            del version
            np.lib.format.read_array_header_1_0(file)
            number = place[name]
            file.seek(int(starts[number]) * SIZE * 2, 1)
            halves = np.fromfile(file, np.float16, sizes[number] * SIZE)
        return prepare(halves.reshape(-1, SIZE).astype(np.float32), metric="cosine", owner=name)

    names = tuple(place)
    asking, others = names[-1], names[:-1]
    query = read(asking)[:N_QUERIES]
    started = time.perf_counter()
    recall = 1.0
    if kind == "flat":
        index = ReferenceIndex.of_vectors({name: read(name) for name in names})
        index.search(query[:1], k=K, only_slides=others)  # reads every slide
        build_seconds = time.perf_counter() - started

        def search() -> None:
            index.search(query, k=K, only_slides=others)
    else:
        n_own = dict(zip(names, sizes, strict=True))
        lists = learn(kind, n_own, read, n_lists=lists_for(n_spots), metric="cosine")
        parts = ((name, fill_lists(lists, read(name))) for name in names)
        trained = TrainedSearch(lists, parts, read=read, metric="cosine", n_probes=1)
        build_seconds = time.perf_counter() - started
        test = make_recall_test(names, read, metric="cosine")
        recall = tune(trained, test, kind=kind, min_recall=MIN_RECALL)

        def search() -> None:
            list(trained.search([Queries(query, others)], k=K))

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - start)
    peak = peak_gib()
    block = query.repeat(4, axis=0)[:4_000]
    other = block.copy()  # with itself, numpy would take half of the products and mirror them
    product = min(timed_product(block, other) for _ in range(3))
    return {
        "kind": kind,
        "n_spots": n_spots,
        "build_s": build_seconds,
        "search_ms": 1000 * min(seconds) / len(query),
        "recall": recall,
        "n_probes": 0 if kind == "flat" else trained.n_probes,
        "peak_gib": peak - imports,
        "product_gflops": 2 * len(block) ** 2 * SIZE / product / 1e9,
    }


def timed_product(block: np.ndarray, other: np.ndarray) -> float:
    start = time.perf_counter()
    block @ other.T
    return time.perf_counter() - start


def write_figures(out: Path, rows: list[dict]) -> None:
    """Write the measured rows as JSON, and draw them, beside those of other kinds and sizes."""
    from matplotlib.figure import Figure

    out.parent.mkdir(parents=True, exist_ok=True)
    rows = merged_rows(out.with_suffix(".json"), rows)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    colours = {"flat": "#0072B2", "ivf": "#D55E00", "ivfpq": "#009E73"}
    panels = {"build_s": "build, s", "search_ms": "search, ms a spot", "peak_gib": "memory, GiB"}
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for kind, colour in colours.items():
            own = [row for row in rows if row["kind"] == kind]
            if not own:
                continue
            sizes = [row["n_spots"] for row in own]
            axis.plot(sizes, [row[key] for row in own], "o-", color=colour, label=kind)
        if key == "search_ms":
            sizes = sorted({row["n_spots"] for row in rows})
            rate = max(row["product_gflops"] for row in rows)
            bound = [2 * n * SIZE / rate / 1e6 for n in sizes]
            axis.plot(sizes, bound, ":", color="black", label="bare product")
            axis.legend(fontsize=8, frameon=False)
        axis.set(xscale="log", yscale="log", xlabel="spots in the index", title=label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    page = out.with_suffix(".md")
    if page.exists():
        before, _, rest = page.read_text().partition(MARK)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{MARK}\n{table_of(rows)}\n{END}{after}")


def merged_rows(path: Path, rows: list[dict]) -> list[dict]:
    """Put measured rows in the place of earlier ones of their kind and size."""
    earlier = json.loads(path.read_text()) if path.exists() else []
    every = {(row["kind"], row["n_spots"]): row for row in [*earlier, *rows]}
    order = list(dict.fromkeys(kind for kind, _ in every))
    return sorted(every.values(), key=lambda row: (order.index(row["kind"]), row["n_spots"]))


def table_of(rows: list[dict]) -> str:
    """Spell the measured rows, and the growth of the last two of each kind, as Markdown."""
    rate = max(row["product_gflops"] for row in rows)
    lines = [
        f"Machine: numpy's float32 product runs at {rate:.0f} GFLOP/s.",
        "",
        "| kind | spots | build | search, ms a spot | recall@10 | memory | |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        lines += [line_of(row, "measured") for row in own]
        if len(own) > 1 and own[-1]["n_spots"] >= 10**6:  # smaller ones say little of growth
            lines += [
                line_of(grown(own[-2], own[-1], n), "extrapolated")
                for n in (10**7, 10**8)
                if n > own[-1]["n_spots"]
            ]
    return "\n".join(lines)


def grown(one: dict, other: dict, n_spots: int) -> dict:
    """Follow the growth between two sizes; memory, and all of ``flat``, grow as the size."""
    step = np.log(other["n_spots"] / one["n_spots"])
    row = {**other, "n_spots": n_spots}
    for key in ("build_s", "search_ms", "peak_gib"):
        power = np.clip(np.log(other[key] / max(one[key], 1e-9)) / step, 0.3, 1.5)
        power = 1.0 if key == "peak_gib" or row["kind"] == "flat" else power
        row[key] = other[key] * (n_spots / other["n_spots"]) ** power
    return row


def line_of(row: dict, mark: str) -> str:
    seconds = row["build_s"]
    build = f"{seconds:.2g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
    memory = row["peak_gib"]
    memory = f"{memory:.2g}" if memory < 100 else f"{memory:.0f}"
    return (
        f"| {row['kind']} | {row['n_spots']:,} | {build} | {row['search_ms']:.3g} | "
        f"{row['recall']:.3f} | {memory} GiB | {mark} |"
    )


def index_store(n_spots: int, kinds: list[str]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        command = [sys.executable, __file__, "--make-store", str(folder), str(n_spots)]
        subprocess.run(command, check=True)
        for kind in kinds:
            print(json.dumps(run("--measure-store", kind, str(folder)), indent=1), flush=True)
    finally:
        shutil.rmtree(folder)


def make_store(folder: Path, n_spots: int) -> None:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from spahgc.schema import Slide
    from spahgc.store.cohort import open_cohort
    from spahgc.store.drafts import EmbeddingDraft
    from spahgc.store.opening import create_store
    from spahgc.store.staging import add_slide

    store = create_store(folder / "data.zarr")
    for number, n_own in enumerate(sizes_of(n_spots)):
        slide = Slide(
            name=f"S{number:04d}",
            platform="h5ad",
            spots=pd.DataFrame(index=pd.Index([f"{n}" for n in range(n_own)])),
            centers=np.stack(np.divmod(np.arange(n_own), 64), axis=1) * 100.0,
            counts=csr_matrix(np.full((n_own, 1), number + 1, np.uint32)),
            genes=pd.DataFrame({"symbol": ["G"]}, index=pd.Index(["G"])),
            microns_per_pixel=0.5,
            patient=f"P{number // 4}",
        )
        add_slide(store, slide)
        stored = open_cohort(folder / "data.zarr")[slide.name]
        draft = EmbeddingDraft(stored, "large", fingerprint={"v": 1}, size=SIZE)
        vectors = draw_slide(number, n_own)
        for rows in draft.missing():
            draft.write(rows, vectors[rows.start : rows.stop])
        draft.commit()


def measure_store(kind: str, folder: Path) -> dict:
    from spahgc.index import ReferenceIndex
    from spahgc.store.cohort import open_cohort

    imports = peak_gib()
    cohort = open_cohort(folder / "data.zarr")
    start, of_processors = time.perf_counter(), time.process_time()
    index = ReferenceIndex.build(cohort, embedding="large", name=kind, kind=kind)
    built, of_processors = time.perf_counter() - start, time.process_time() - of_processors
    peak = peak_gib()
    start = time.perf_counter()
    index.search_slide("S0000", k=K, exclude_patients=["P0"])
    searched = time.perf_counter() - start
    return {
        "kind": kind,
        "spots": sum(cohort[name].n_spots for name in cohort.slides),
        "build_s": round(built, 1),
        "of processors, s": round(of_processors, 1),
        "peak_gib": round(peak, 2),
        "of which imports": round(imports, 2),
        "peak with a search, gib": round(peak_gib(), 2),
        "search of one slide, s": round(searched, 2),
        "recall": dict(index.record.recall),
        "settings": dict(index.record.settings),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
