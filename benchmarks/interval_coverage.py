"""How often a 95 % interval misses the truth, in simulations where the truth is known.

    .venv/bin/python benchmarks/interval_coverage.py

First the difference of two equally good methods: what is odd about a slide is odd about all of its
50 genes. Told is how often the interval excludes 0, once resampling slides, as `spahgc evaluate`
does, and once resampling slide-gene pairs, as it did. Then a gene's correlation, which differs from
slide to slide, on slides of 182 spots that are like their neighbours: how often the interval of
slides and tiles, as a run keeps it, does not hold its mean over all slides there could be.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from spahgc import metrics
from spahgc.metrics import bootstrap_interval
from spahgc.model import trust
from spahgc.model.spots import SlideSpots
from spahgc.model.trust import judge_genes

N_TIMES, N_GENES, N_SETS = 2000, 50, 8
SHAPE = (14, 13)
MEAN_PCC = 0.2


def named(values: np.ndarray) -> dict[str, float]:
    return {str(number): float(value) for number, value in enumerate(values)}


def excluded_zero(generator: np.random.Generator, *, n_slides: int, spread: float) -> np.ndarray:
    """Count intervals without 0, of slides and of pairs."""
    counted = np.zeros(2)
    for _ in range(N_TIMES):
        of_slide = generator.normal(0, spread, (n_slides, 1))
        difference_FG = of_slide + generator.normal(0, 0.05, (n_slides, N_GENES))
        for place, values in enumerate((difference_FG.mean(axis=1), difference_FG.ravel())):
            low, high = bootstrap_interval(named(values), seed=0, n=400)
            counted[place] += low > 0 or high < 0
    return counted / N_TIMES


def smooth_fields(generator: np.random.Generator) -> np.ndarray:
    """Draw (S, G) maps in which neighbours are alike, each of mean 0 and spread 1."""
    maps = gaussian_filter(generator.normal(size=(*SHAPE, N_GENES)), (1, 1, 0))
    maps = maps.reshape(-1, N_GENES)
    return (maps - maps.mean(axis=0)) / maps.std(axis=0)


def a_slide(
    generator: np.random.Generator, name: str, *, spread: float
) -> tuple[SlideSpots, np.ndarray]:
    """Draw a slide, and predictions whose correlations differ from slide to slide."""
    predicted_SG = smooth_fields(generator)
    pcc_G = np.clip(generator.normal(MEAN_PCC, spread, N_GENES), -0.95, 0.95)
    measured_SG = pcc_G * predicted_SG + np.sqrt(1 - pcc_G**2) * smooth_fields(generator)
    place_S = np.arange(len(measured_SG))
    spots = SlideSpots(
        name=name,
        spot_names=tuple(map(str, place_S)),
        embedding_SD=np.zeros((len(place_S), 1), dtype=np.float32),
        centers_S2=np.argwhere(np.ones(SHAPE)).astype(np.float64),
        near_SQ=np.where(place_S % SHAPE[1] > 0, place_S - 1, place_S + 1)[:, None],
        expression_SG=measured_SG.astype(np.float32),
    )
    return spots, predicted_SG


def missed_genes(generator: np.random.Generator, *, n_slides: int, spread: float) -> float:
    """Give the share of genes whose interval does not hold the mean."""
    genes, missed = [f"G{number}" for number in range(N_GENES)], []
    for seed in range(N_SETS):
        drawn = {
            name: a_slide(generator, name, spread=spread) for name in map(str, range(n_slides))
        }
        found = judge_genes(
            {name: spots for name, (spots, _) in drawn.items()},
            {name: predicted_SG for name, (_, predicted_SG) in drawn.items()},
            genes=genes,
            seed=seed,
        )
        missed.append((found["cv_low"] > MEAN_PCC) | (found["cv_high"] < MEAN_PCC))
    return float(np.mean(missed))


def main() -> None:
    metrics.FEWEST_UNITS = 1  # type: ignore[misc]  # to see why there is such a limit
    trust.FEWEST_HELD_OUT = 1  # type: ignore[misc]
    generator = np.random.default_rng(0)
    print("slides  spread of slides: interval over slides, over pairs, excludes 0")
    for n_slides in (4, 6, 8, 10, 12, 20):
        told = [
            f"{spread}: {' '.join(f'{share:.3f}' for share in found)}"
            for spread in (0.01, 0.02)
            for found in (excluded_zero(generator, n_slides=n_slides, spread=spread),)
        ]
        print(f"{n_slides:6}  {'   '.join(told)}", flush=True)
    print("slides  spread of a gene's correlation: its interval does not hold the mean")
    for n_slides in (1, 2, 3, 4, 6, 8, 10):
        told = [
            f"{spread}: {missed_genes(generator, n_slides=n_slides, spread=spread):.3f}"
            for spread in (0.0, 0.1, 0.2, 0.3)
        ]
        print(f"{n_slides:6}  {'   '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
