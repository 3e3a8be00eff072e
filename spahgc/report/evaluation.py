"""What an evaluation leaves behind: scores, a summary, pictures, and every fold's run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from spahgc.metrics import PairedDifference, bootstrap_interval, paired_difference
from spahgc.report.pictures import (
    GeneMap,
    example_genes,
    plot_curve,
    plot_gene_maps,
    plot_pcc_distribution,
)
from spahgc.report.tables import mean_table, method_order, print_scores
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run, write_run

SCORES = "scores.parquet"
SUMMARY = "summary.json"
PICTURES = "pictures"
LONGEST_NAME = 100
"""Characters of a fold's name in its folder's: a patient may have any number of slides."""


@dataclass(kw_only=True)
class EvaluationReport:
    """Collect folds as they finish, then write and show them."""

    folder: Path
    """Where everything is written."""

    cohort: Cohort
    """The store."""

    split: str
    """What was held out in turn."""

    scores: list[pd.DataFrame] = field(default_factory=list)
    """One table per fold."""

    runs: list[Run] = field(default_factory=list)
    """One per fold."""

    caveats: dict[str, None] = field(default_factory=dict)
    """How the scores must be read, each once, in order."""

    def add(
        self,
        run: Run,
        scores: pd.DataFrame,
        *,
        predicted: Mapping[str, NDArray[np.float32]],
        measured: Mapping[str, NDArray[np.float32]],
        caveat: str | None,
    ) -> None:
        """Take one fold in, and write its run and its pictures.

        Parameters
        ----------
        run
            The model that was judged.
        scores
            One row per test slide, method and gene.
        predicted, measured
            (S, G) normalised expression of each test slide, genes in the run's panel order.
        caveat
            How this fold's scores must be read.
        """
        number = len(self.runs) + 1
        name = str(scores["fold"].iloc[0])[:LONGEST_NAME]
        folder = self.folder / "folds" / f"{number}-{name}"
        folder.mkdir(parents=True)
        write_run(run, folder)
        plot_curve(folder / "curve.png", run.curve, best_epoch=run.record.best_epoch)
        (self.folder / PICTURES).mkdir(exist_ok=True)
        for slide, predicted_SG in predicted.items():
            rows = scores[(scores["slide"] == slide) & (scores["method"] == method_of(scores))]
            self._draw_genes(slide, rows, run, measured[slide], predicted_SG)
        self.runs.append(run)
        self.scores.append(scores)
        if caveat is not None:
            self.caveats[caveat] = None

    def write(self) -> None:
        """Write the scores of all folds, their summary and the picture of all methods."""
        scores = pd.concat(self.scores, ignore_index=True)
        scores.to_parquet(self.folder / SCORES, index=False)
        plot_pcc_distribution(self.folder / PICTURES / "pcc-by-method.png", scores)
        (self.folder / SUMMARY).write_text(
            json.dumps(_without_nan(self._summary(scores)), indent=1)
        )

    def show(self, console: Console, *, folder: Path) -> None:
        """Print the table, what to keep in mind, and where the rest lies.

        Parameters
        ----------
        console
            Where to.
        folder
            Where the report lies now; it may have been written under another name.
        """
        scores = pd.concat(self.scores, ignore_index=True)
        rule = self.runs[0].record.panel_rule
        title = f"{self.split}, panel {rule}, {len(self.runs)} folds"
        print_scores(scores, console=console, title=title, notes=self._notes(scores))
        console.print(f"scores: {folder / SCORES}", soft_wrap=True, markup=False)
        console.print(f"summary: {folder / SUMMARY}", soft_wrap=True, markup=False)
        for picture in sorted((folder / PICTURES).glob("*.png")):
            console.print(f"picture: {picture}", soft_wrap=True, markup=False)

    def _notes(self, scores: pd.DataFrame) -> Sequence[str]:
        model, best, difference = compare_with_best(scores)
        verdict = (
            f"{model} minus {best}: {difference.mean:+.3f} mean PCC [{difference.low:+.3f}, "
            f"{difference.high:+.3f}] over genes and slides, Wilcoxon p = {difference.p_value:.2g}"
        )
        return [verdict, *self.caveats]

    def _summary(self, scores: pd.DataFrame) -> dict[str, Any]:
        table = mean_table(scores)
        model, best, difference = compare_with_best(scores)
        pcc = scores.pivot_table(
            index="gene", columns=["method", "slide"], values="pcc", dropna=False
        )
        return {
            "split": self.split,
            "caveats": list(self.caveats),
            "store": self.cohort.store.location.address,
            "commit": self.cohort.commit.number,
            "folds": [_fold_summary(run) for run in self.runs],
            "methods": json.loads(table.to_json(orient="index")),
            "intervals": {
                str(method): bootstrap_interval(pcc[method].to_numpy(), seed=0)
                for method in table.index
            },
            "model_against_best_baseline": {
                "model": model,
                "baseline": best,
                **asdict(difference),
            },
        }

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


def method_of(scores: pd.DataFrame) -> str:
    """Name the model: the first of the methods, before every baseline."""
    return method_order(scores)[0]


def compare_with_best(scores: pd.DataFrame) -> tuple[str, str, PairedDifference]:
    """Compare the model with the best baseline, gene by gene and slide by slide."""
    model, *baselines = method_order(scores)
    pcc = scores.pivot_table(index=["slide", "gene"], columns="method", values="pcc", dropna=False)
    best = baselines[0]
    both = pcc[[model, best]].dropna()
    difference = paired_difference(both[model].to_numpy(), both[best].to_numpy(), seed=0)
    return model, best, difference


def _fold_summary(run: Run) -> dict[str, Any]:
    record = run.record
    return {
        "train": list(record.train),
        "validation": list(record.validation),
        "test": list(record.test),
        "panel_rule": record.panel_rule,
        "panel_digest": record.panel_digest,
        "n_genes": len(record.panel),
        "best_epoch": record.best_epoch,
        "validation_pcc": record.validation_pcc,
    }


def _without_nan(value: Any) -> Any:  # noqa: ANN401  whatever JSON can spell
    """Spell what is undefined as null: NaN is no JSON, and most readers refuse it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
