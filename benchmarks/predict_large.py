"""Time and peak memory of predicting one large slide that is in no store.

    .venv/bin/python benchmarks/predict_large.py                  # 50,000 spots, both presets
    .venv/bin/python benchmarks/predict_large.py --spots 200000 --presets default

A store of three slides of 1,000 spots with four embeddings of 1,280 numbers teaches a run of each
preset; a process of its own opens the run and predicts a slide of 500 spots, then the large one.
Told is how far the second prediction raised the process's peak, beside the size of the features
that it was handed. All numbers are drawn: nothing here speaks of how well anything is predicted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from peak import held_gib, peak_gib
from scipy.sparse import csr_matrix

FIELD_SIZE = 1_280
N_GENES = 300
N_FACTORS = 20
TAUGHT_SPOTS = 1_000
SMALL = 500


def main() -> None:
    options = parse()
    if options.measure:
        print(json.dumps(measure(Path(options.measure), options.spots)))
        return
    from spahgc.model.presets import EMBEDDINGS

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "data.zarr"
        make_store(store)
        program = Path(sys.executable).with_name("spahgc")
        subprocess.run([program, "index", "build", "--store", store], check=True)
        for preset in options.presets:
            run = Path(folder) / preset
            how = ["--preset", preset]
            if preset == "paper":  # it sees one field; how well it learned does not matter here
                how += ["--embedding", EMBEDDINGS[-1], "--epochs", "2"]
            subprocess.run([program, "train", "--store", store, "--out", run, *how], check=True)
            command = [sys.executable, __file__, "--spots", str(options.spots), "--measure", run]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            print(f"{preset}: {spell(json.loads(told), options.spots)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=50_000)
    parser.add_argument("--presets", nargs="+", default=["default", "paper"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def spell(told: dict[str, float], n_spots: int) -> str:
    return (
        f"{n_spots:,} spots in {told['seconds']:.1f} s; handed {told['handed']:.2f} GiB, "
        f"peak {told['peak']:.2f} GiB, {told['peak'] - told['before']:.2f} GiB over what "
        "was held before"
    )


def draw(n_spots: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw (S, N_FACTORS) hidden factors, and four (S, FIELD_SIZE) embeddings that show them."""
    mixing = np.random.default_rng(0)
    generator = np.random.default_rng([1, seed])
    factors = generator.standard_normal((n_spots, N_FACTORS), dtype=np.float32)
    fields = []
    for _ in range(4):
        weights = mixing.standard_normal((N_FACTORS, FIELD_SIZE), dtype=np.float32)
        noise = generator.standard_normal((n_spots, FIELD_SIZE), dtype=np.float32)
        noise += factors @ weights
        fields.append(noise)
    return factors, fields


def draw_slide(name: str, n_spots: int, counts: np.ndarray | None = None):
    from spahgc.schema import Slide

    side = int(np.ceil(n_spots**0.5))
    return Slide(
        name=name,
        platform="h5ad" if counts is not None else "image",
        spots=pd.DataFrame(index=pd.Index([f"{n}" for n in range(n_spots)])),
        centers=np.stack(np.divmod(np.arange(n_spots), side), axis=1) * 200.0,
        counts=csr_matrix((n_spots, 0) if counts is None else counts, dtype=np.uint32),
        genes=pd.DataFrame(
            {"symbol": [f"G{n}" for n in range(0 if counts is None else N_GENES)]},
            index=pd.Index([f"G{n}" for n in range(0 if counts is None else N_GENES)]),
        ),
        microns_per_pixel=0.5,
        pitch_um=100.0,
    )


def make_store(where: Path) -> None:
    from spahgc.ingest.fields import DEFAULT_FIELDS
    from spahgc.model.presets import EMBEDDINGS
    from spahgc.store.cohort import open_cohort
    from spahgc.store.drafts import EmbeddingDraft
    from spahgc.store.opening import create_store
    from spahgc.store.staging import add_slide

    store = create_store(where)
    loadings = np.random.default_rng(2).standard_normal((N_FACTORS, N_GENES)) * 0.3
    for number in range(3):
        factors, fields = draw(TAUGHT_SPOTS, number)
        rates = np.exp(factors @ loadings + 0.5)
        slide = draw_slide(f"S{number}", TAUGHT_SPOTS, np.random.default_rng(number).poisson(rates))
        add_slide(store, slide)
        for name, field, vectors in zip(EMBEDDINGS, DEFAULT_FIELDS, fields, strict=True):
            stored = open_cohort(where)[slide.name]
            made = {"encoder": "drawn", "patch_um": field.side_um}
            draft = EmbeddingDraft(stored, name, fingerprint=made, size=FIELD_SIZE)
            for rows in draft.missing():
                draft.write(rows, vectors[rows.start : rows.stop])
            draft.commit()


def measure(folder: Path, n_spots: int) -> dict[str, float]:
    from spahgc.model.prediction import open_predictor, predict_new
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import read_run

    run = read_run(folder)
    predictor = open_predictor(run, open_cohort(folder.parent / "data.zarr"))
    n_fields = len(run.record.features["embeddings"])
    predict_new(predictor, draw_slide("small", SMALL), draw(SMALL, 8)[1][-n_fields:])
    fields = draw(n_spots, 9)[1][-n_fields:]
    handed = sum(field.nbytes for field in fields) / 2**30
    before = held_gib()
    start = time.perf_counter()
    predict_new(predictor, draw_slide("large", n_spots), fields)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "handed": handed, "before": before, "peak": peak_gib()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
