"""How much a prediction depends on what else of the slide is predicted with it.

    .venv/bin/python benchmarks/cropped_slides.py STORE     # all its slides that can be used
    .venv/bin/python benchmarks/cropped_slides.py STORE --preset paper

Each slide is kept for the test once, and a run learns from the others (`spahgc train --test`).
Told is first how far the slides' mean expression lies apart, as measured and as predicted. Then
compact windows of n neighbouring spots are cut from each slide and predicted by themselves, and
compared with what the whole slide gives for the same spots, and with what was measured there.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 40, 50, 60, 80, 100, 120, 150)
N_WINDOWS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--genes", default="hvg:50")
    asked = parser.parse_args()
    rows, means = [], []
    with tempfile.TemporaryDirectory() as folder:
        for slide in usable_slides(asked.store):
            run = Path(folder) / slide
            program = [sys.executable, "-m", "spahgc.cli", "train", f"--store={asked.store}"]
            options = [f"--preset={asked.preset}", f"--genes={asked.genes}"]
            command = [*program, *options, f"--test={slide}", f"--out={run}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            windows, mean = measure(asked.store, run, slide)
            rows += windows
            means.append(mean)
    tell_levels(means)
    tell_windows(pd.DataFrame(rows))


def usable_slides(store: str) -> list[str]:
    from spahgc.store.cohort import open_cohort

    slides = open_cohort(store).slides.values()
    return [slide.name for slide in slides if slide.has_expression and slide.entry.encoders]


def measure(store: str, run: Path, name: str) -> tuple[list[dict[str, float]], pd.DataFrame]:
    """Predict a slide and windows of it; give a row a window, and the slide's mean by gene."""
    from spahgc.model.features import side_by_side
    from spahgc.model.prediction import open_predictor
    from spahgc.model.spots import expression_of, find_near
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import read_run

    cohort = open_cohort(store)
    slide, predictor = cohort[name], open_predictor(read_run(run), cohort)
    teaching = predictor.teaching
    spots, features = teaching.read(name), teaching.features
    fields = [slide.read_embedding(field) for field in features.embeddings]
    measured_SG, whole_SG = expression_of(spots), predictor.predict(spots)
    blind = replace(spots, expression_SG=None, wide_SA=None, log_depth_S=None)
    generator, rows = np.random.default_rng(0), []
    for size in SIZES:
        if size > len(measured_SG):
            continue
        for middle in generator.choice(len(measured_SG), N_WINDOWS):
            away_S = np.linalg.norm(spots.centers_S2 - spots.centers_S2[middle], axis=1)
            cut = np.argsort(away_S, kind="stable")[:size]
            seen = [field_SF[cut] for field_SF in fields]
            near_SQ, ring = find_near(
                None if slide.array is None else slide.array[cut],
                slide.centers[cut],
                lattice=slide.lattice,
                microns_per_pixel=slide.entry.microns_per_pixel,
                config=teaching.near,
            )
            window = replace(
                blind,
                spot_names=tuple(spots.spot_names[row] for row in cut),
                embedding_SD=side_by_side(seen, features, sizes=[f.shape[1] for f in seen]),
                centers_S2=spots.centers_S2[cut],
                near_SQ=near_SQ,
                ring=ring,
            )
            rows.append(compare(predictor.predict(window), whole_SG[cut], measured_SG[cut]))
    mean = pd.DataFrame(
        {"measured": measured_SG.mean(axis=0), "predicted": whole_SG.mean(axis=0)},
        index=list(spots.genes),
    )
    return rows, mean


def compare(
    window_SG: np.ndarray, whole_SG: np.ndarray, measured_SG: np.ndarray
) -> dict[str, float]:
    change_SG = window_SG - whole_SG
    return {
        "spots": len(change_SG),
        "PCC with the whole's": mean_pcc(window_SG, whole_SG),
        "change": rms(change_SG),
        "of the mean": rms(change_SG.mean(axis=0)),
        "PCC with measured": mean_pcc(window_SG, measured_SG),
        "the whole's PCC": mean_pcc(whole_SG, measured_SG),
        "RMSE": rms(window_SG - measured_SG),
        "the whole's RMSE": rms(whole_SG - measured_SG),
    }


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def mean_pcc(first_SG: np.ndarray, second_SG: np.ndarray) -> float:
    """Average over the genes that vary in both; one or two spots have no correlation."""
    from spahgc.metrics import score_genes

    if len(first_SG) < 3:
        return float("nan")
    genes = [str(gene) for gene in range(first_SG.shape[1])]
    return float(score_genes(second_SG, first_SG, genes=genes)["pcc"].mean())


def tell_levels(means: list[pd.DataFrame]) -> None:
    """Print how far the slides' means of a gene lie apart, on average over the common genes."""
    genes = sorted(set.intersection(*(set(mean.index) for mean in means)))
    measured, predicted = (
        pd.DataFrame([mean.loc[genes, kind] for mean in means]).reset_index(drop=True)
        for kind in ("measured", "predicted")
    )
    print(f"{len(means)} slides, {len(genes)} genes common to all panels; standard deviation over")
    print("slides of a gene's mean over the spots, averaged over genes:")
    others = (measured.sum() - measured) / (len(means) - 1)
    spreads = {"measured": measured, "predicted": predicted, "mean of the other slides": others}
    for kind, table in spreads.items():
        print(f"  {kind}: {table.std(ddof=1).mean():.3f}")
    print(f"correlation of the two over slides: {measured.corrwith(predicted).mean():+.2f}")


def tell_windows(rows: pd.DataFrame) -> None:
    table = rows.groupby("spots").mean()
    print(f"\n| spots | {' | '.join(table.columns)} |")
    print(f"|{'---|' * (1 + len(table.columns))}")
    for size, row in table.iterrows():
        cells = ("–" if np.isnan(value) else f"{value:.3f}" for value in row)
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
