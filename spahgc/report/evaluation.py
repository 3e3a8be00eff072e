"""What an evaluation leaves behind: scores, a summary, pictures, and every run."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from spahgc.metrics import FEWEST_UNITS, PairedDifference, paired_difference, summarise
from spahgc.model.baselines import is_baseline
from spahgc.model.judged import Judged
from spahgc.report.pictures import (
    GeneMap,
    example_genes,
    plot_curve,
    plot_gene_maps,
    plot_pcc_distribution,
)
from spahgc.report.runs import spell_rings
from spahgc.report.tables import (
    by_slide,
    has_interval,
    mean_table,
    method_intervals,
    method_order,
    print_scores,
    seed_means,
    spell_units,
)
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run, write_run
from spahgc.store.splits import Fold, units_of
from spahgc.store.words import spell_plain

SCORES: Final = "scores.parquet"
SPOTS: Final = "spots.parquet"
SLIDES: Final = "slides.parquet"
SUMMARY: Final = "summary.json"
PICTURES: Final = "pictures"
FOLDS: Final = "folds"
LONGEST_NAME: Final = 100
"""Characters of a fold's name in its folder's: a patient may have any number of slides."""
MOST_DIGESTS: Final = 6
"""Panels named in a title; each fold has its own."""
MOST_SLIDES: Final = 12
"""Slides whose differences are printed one by one."""


@dataclass(kw_only=True)
class EvaluationReport:
    """Collect results as they come, then write and show them."""

    folder: Path
    """Where everything is written."""

    cohort: Cohort
    """The store."""

    split: str
    """What was held out in turn."""

    scores: list[pd.DataFrame] = field(default_factory=list)
    """One table per task."""

    spots: list[pd.DataFrame] = field(default_factory=list)
    """One table per task."""

    runs: dict[str, Run] = field(default_factory=dict)
    """By the place of their folder in the report's."""

    caveats: dict[str, None] = field(default_factory=dict)
    """How the scores must be read, each once, in order."""

    folds: list[str] = field(default_factory=list)
    """Names, in order."""

    def __post_init__(self) -> None:
        """Clear what an interrupted attempt wrote, perhaps by half: every result comes again."""
        for name in (FOLDS, PICTURES):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def add(self, fold: Fold, judged: Judged) -> None:
        """Take one result of a fold in, and write its run and its pictures."""
        if fold.name not in self.folds:
            self.folds.append(fold.name)
        if judged.run is not None:
            self._keep_run(fold, judged.run, method=str(judged.scores["method"].iloc[0]))
        (self.folder / PICTURES).mkdir(exist_ok=True)
        for slide, predicted_SG in judged.predictions.items():
            if judged.run is not None and not self._is_drawn(slide):
                rows = judged.scores[judged.scores["slide"] == slide]
                self._draw_genes(slide, rows, judged.run, judged.measured[slide], predicted_SG)
        self.scores.append(judged.scores)
        self.spots.append(judged.spots)
        if fold.caveat is not None:
            self.caveats[fold.caveat] = None

    def write(self) -> None:
        """Write the scores of all folds, their summary and the picture of all methods."""
        scores, spots = self._tables()
        scores.to_parquet(self.folder / SCORES, index=False)
        spots.to_parquet(self.folder / SPOTS, index=False)
        slide_table(scores, spots).to_parquet(self.folder / SLIDES, index=False)
        plot_pcc_distribution(self.folder / PICTURES / "pcc-by-method.png", scores)
        summary = _without_nan(self._summary(scores, spots))
        (self.folder / SUMMARY).write_text(json.dumps(summary, indent=1))

    def show(self, console: Console, *, folder: Path) -> None:
        """Print the table, what to keep in mind, and where the rest lies.

        Parameters
        ----------
        console
            Where to.
        folder
            Where the report lies now; it may have been written under another name.
        """
        scores, spots = self._tables()
        print_scores(
            scores,
            console=console,
            title=self._title(),
            notes=self._notes(scores),
            spots=spots,
            units=self._units(scores),
        )
        for what, name in (("scores", SCORES), ("slides", SLIDES), ("summary", SUMMARY)):
            console.print(f"{what}: {folder / name}", soft_wrap=True, markup=False)
        for picture in sorted((folder / PICTURES).glob("*.png")):
            console.print(f"picture: {picture}", soft_wrap=True, markup=False)

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        scores = pd.concat(self.scores, ignore_index=True)
        return scores, pd.concat(self.spots, ignore_index=True)

    def _title(self) -> str:
        records = [run.record for run in self.runs.values()]
        digests = list(dict.fromkeys(record.panel_digest for record in records))
        named = ", ".join(digests[:MOST_DIGESTS]) + (", …" if len(digests) > MOST_DIGESTS else "")
        seeds = sorted({int(record.training["seed"]) for record in records})
        return (
            f"{self.split}, panel {records[0].panel_rule} ({named}), {len(self.folds)} folds, "
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        )

    def _units(self, scores: pd.DataFrame) -> dict[str, str]:
        return units_of(self.cohort.patients(map(str, scores["slide"].unique())))

    def _notes(self, scores: pd.DataFrame) -> Sequence[str]:
        units = self._units(scores)
        compared = compare_with_best(scores, units=units)
        verdicts = [
            f"{model} minus {best}: {difference.mean:+.3f} mean PCC; {_say_slides(difference)}; "
            f"{_say_interval(difference, units)}"
            for model, best, difference in compared
        ]
        rings = spell_rings([run.record for run in self.runs.values()])
        n_baselines = sum(map(is_baseline, scores["method"].unique()))
        chosen = (
            f"{compared[0][1]} is the best of {n_baselines} baselines by these same scores: chosen "
            "with them in sight, it looks a little better than it is"
        )
        values = dict.fromkeys(run.record.units for run in self.runs.values())
        return [
            *(*verdicts, chosen),
            *(f"near: {ring}" for ring in rings),
            *(f"values: {value}" for value in values),
            *self.caveats,
        ]

    def _summary(self, scores: pd.DataFrame, spots: pd.DataFrame) -> dict[str, Any]:
        table = mean_table(scores, spots)
        units = self._units(scores)
        compared = compare_with_best(scores, units=units)
        return {
            "split": self.split,
            "caveats": list(self.caveats),
            "store": self.cohort.store.location.address,
            "commit": self.cohort.commit.number,
            "runs": {place: _run_summary(run) for place, run in self.runs.items()},
            "methods": json.loads(table.to_json(orient="index")),
            "intervals": method_intervals(scores, units=units),
            "intervals_over": {"units": spell_units(list(units), units), "fewest": FEWEST_UNITS},
            "seeds": seed_means(scores).to_dict(orient="records"),
            "against_best_baseline": [
                {"model": model, "baseline": best, **asdict(difference)}
                for model, best, difference in compared
            ],
        }

    def _keep_run(self, fold: Fold, run: Run, *, method: str) -> None:
        name = f"{self.folds.index(fold.name) + 1}-{_file_name(fold.name)}"
        place = f"{FOLDS}/{name}/{_slug(method)}-seed{run.record.training['seed']}"
        (self.folder / place).mkdir(parents=True)
        write_run(run, self.folder / place)
        if len(run.curve):
            best_epoch = run.record.best_epoch
            plot_curve(self.folder / place / "curve.png", run.curve, best_epoch=best_epoch)
        self.runs[place] = run

    def _is_drawn(self, slide: str) -> bool:
        return (self.folder / PICTURES / f"genes-{slide}.png").exists()

    def _draw_genes(
        self,
        slide: str,
        rows: pd.DataFrame,
        run: Run,
        measured_SG: NDArray[np.float32],
        predicted_SG: NDArray[np.float32],
    ) -> None:
        pcc = rows.set_index("gene")["pcc"].astype(float)
        column = {gene: place for place, gene in enumerate(run.record.panel)}
        maps = {
            gene: GeneMap(
                measured_SG[:, column[gene]], predicted_SG[:, column[gene]], float(pcc[gene])
            )
            for gene in example_genes(pcc.to_frame())
        }
        if not maps:  # no gene has a correlation, so none is an example
            return
        stored = self.cohort[slide]
        plot_gene_maps(
            self.folder / PICTURES / f"genes-{slide}.png",
            maps,
            slide_name=slide,
            centers_S2=stored.centers,
            microns_per_pixel=stored.entry.microns_per_pixel or 1.0,
            spot_diameter_um=stored.record["spot_diameter_um"] or 100.0,
            thumbnail=stored.read_thumbnail(),
        )


def compare_with_best(
    scores: pd.DataFrame, *, units: Mapping[str, str] | None = None
) -> list[tuple[str, str, PairedDifference]]:
    """Compare each model with the best baseline, slide by slide.

    The baseline is the best by these same scores, which favors it.

    Parameters
    ----------
    scores
        Long table of scores.
    units
        What each slide is drawn with for the interval; None: alone.

    Returns
    -------
    list
        Per model: its name, the baseline's, and how much better it is; scores of several seeds
        are averaged first, then those of the genes that have both.
    """
    order = method_order(scores)
    models = [method for method in order if not is_baseline(method)]
    best = next(method for method in order if is_baseline(method))
    pcc = scores.pivot_table(index=["slide", "gene"], columns="method", values="pcc", dropna=False)
    compared = []
    for model in models:
        both = pcc[[model, best]].dropna()
        mean = both.groupby("slide").mean()
        difference = paired_difference(
            by_slide(mean[model]), by_slide(mean[best]), units=units, seed=0
        )
        compared.append((model, best, difference))
    return compared


def slide_table(scores: pd.DataFrame, spots: pd.DataFrame) -> pd.DataFrame:
    """Average over the genes of each slide, method and seed.

    Returns
    -------
    pd.DataFrame
        ``fold``, ``slide``, ``method``, ``seed``, ``panel``, ``shared_patients``, the fields of
        `spahgc.metrics.GeneSummary`, and ``mean_spot_pcc``.
    """
    keys = ["fold", "slide", "method", "seed"]
    by_spot = spots.groupby(keys, dropna=False, sort=False)["pcc"].mean().rename("mean_spot_pcc")
    rows = []
    for key, of_one in scores.groupby(keys, dropna=False, sort=False):
        first = {name: of_one[name].iloc[0] for name in ("panel", "shared_patients")}
        named = dict(zip(keys, key, strict=True))
        rows.append({**named, **first, **asdict(summarise(of_one))})
    table = pd.DataFrame(rows).astype({"seed": "Int64"})
    return table.merge(by_spot.reset_index(), on=keys, how="left")


def _say_slides(difference: PairedDifference) -> str:
    shown = list(difference.by_slide.items())
    n_better, n_slides = sum(value > 0 for _, value in shown), len(shown)
    if n_slides > MOST_SLIDES:
        rising = sorted(shown, key=lambda item: item[1])
        shown = [rising[0], rising[-1]]
    each = ", ".join(f"{spell_plain(slide)} {value:+.3f}" for slide, value in shown)
    few = "" if n_slides <= MOST_SLIDES else "from "
    return f"better on {n_better} of {n_slides} slides ({few}{each or 'none has both scores'})"


def _say_interval(difference: PairedDifference, units: Mapping[str, str]) -> str:
    slides = list(difference.by_slide)
    if not has_interval(slides, units):
        drawn = spell_units(slides, units)
        return f"no interval is given for {drawn}: at least {FEWEST_UNITS} are needed"
    return (
        f"[{difference.low:+.3f}, {difference.high:+.3f}] over {spell_units(slides, units)}, "
        f"Wilcoxon p = {difference.p_value:.2g}"
    )


def _run_summary(run: Run) -> dict[str, Any]:
    record = run.record
    return {
        "method": record.method,
        "train": list(record.train),
        "validation": list(record.validation),
        "test": list(record.test),
        "shared_patients": list(record.shared_patients),
        "panel_rule": record.panel_rule,
        "panel_digest": record.panel_digest,
        "n_genes": len(record.panel),
        "seed": record.training["seed"],
        "best_epoch": record.best_epoch,
        "validation_pcc": record.validation_pcc,
    }


def _file_name(fold: str) -> str:
    """Spell a fold's name, which a split file may choose, so that it names one folder."""
    return "".join(c if c.isalnum() or c in "+-_." else "-" for c in fold[:LONGEST_NAME])


def _slug(method: str) -> str:
    """Spell a method's name as a folder's."""
    kept = "".join(letter if letter.isalnum() else " " for letter in method.lower())
    return "-".join(kept.split())


def _without_nan(value: Any) -> Any:  # noqa: ANN401  whatever JSON can spell
    """Spell what is undefined as null: NaN is no JSON, and most readers refuse it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
