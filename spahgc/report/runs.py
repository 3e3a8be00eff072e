"""Trained runs on screen: a list of many, or all about one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spahgc.store.confidence import Trust, serialise_trust
from spahgc.store.run_record import RunRecord
from spahgc.store.runs import Run
from spahgc.store.splits import caveat_of
from spahgc.store.words import spell_plain

MOST_NAMED: Final = 6
"""Slides named in a cell of a list."""
N_GENES_SHOWN: Final = 10
"""Genes shown of the best and of the worst."""


def print_runs(records: Mapping[Path, RunRecord], *, console: Console) -> None:
    """List runs, one a line.

    Parameters
    ----------
    records
        By the runs' folders.
    console
        Where to.
    """
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("made", no_wrap=True)
    for column in ("method", "panel", "train", "test", "embedding"):
        table.add_column(column)
    table.add_column("held-out PCC", justify="right")
    for path, record in records.items():
        weaker = " (weaker: shares a patient)" if record.shared_patients else ""
        table.add_row(
            _plain(path),
            _plain(record.made_at[:16].replace("T", " ")),
            record.method,
            _plain(f"{record.panel_rule} {record.panel_digest}"),
            _plain(_some(tuple(record.train))),
            _plain((_some(record.test) or "–") + weaker),
            _plain(" ".join(record.fingerprints)),
            f"{record.validation_pcc:.3f}",
        )
    console.print(table)


def describe_run(run: Run) -> dict[str, Any]:
    """Give everything but the weights, as JSON can spell it."""
    scores = None
    if run.scores is not None:
        means = run.scores.groupby("slide")[["pcc", "rmse", "mae"]].mean()
        scores = json.loads(means.to_json(orient="index"))
    return {
        **asdict(run.record),
        "method": run.record.method,
        "caveat": caveat_of(run.record.shared_patients),
        "test_scores": scores,
        "trust": None if run.trust is None else json.loads(serialise_trust(run.trust)),
        "n_weights": int(sum(weight.size for weight in run.weights.values())),
    }


def print_run(run: Run, *, console: Console, title: str) -> None:
    """Say what a run was trained on, how well it did and how far to believe it.

    Parameters
    ----------
    run
        The run.
    console
        Where to.
    title
        Above all.
    """
    record = run.record
    facts = {
        "store": f"{record.store}, commit {record.commit}",
        "made": f"{record.made_at}, spahgc {record.versions.get('spahgc', '?')}",
        "method": record.method,
        "embeddings": ", ".join(f"{n} ({d[:12]})" for n, d in record.fingerprints.items()),
        "panel": f"{record.panel_rule}: {len(record.panel)} genes ({record.panel_digest})",
        "split": record.split,
        "train": ", ".join(record.train),
        "validation": ", ".join(record.validation) or "none",
        "test": ", ".join(record.test) or "none",
        "held out": f"mean PCC {record.validation_pcc:.3f}"
        + (f", epoch {record.best_epoch} of {len(run.curve)} kept" if len(run.curve) else ""),
        "near": "; ".join(spell_rings([record])) or "the 6 nearest spots",
        "weights": f"{sum(weight.size for weight in run.weights.values()):,}",
    }
    console.print(_plain(title, style="bold"))
    for name, fact in facts.items():
        console.print(_plain(f"  {name:<11}{fact}"), soft_wrap=True)
    if run.scores is not None:
        for slide, pcc in run.scores.groupby("slide")["pcc"].mean().items():
            console.print(_plain(f"  {'scored':<11}{slide}: mean PCC {pcc:.3f}"))
    if caveat := caveat_of(record.shared_patients):
        console.print(Text(f"  {'Note':<11}{caveat}"), soft_wrap=True)
    if run.trust is not None:
        _print_trust(run.trust, console)


def spell_rings(records: Sequence[RunRecord]) -> list[str]:
    """Say how many near spots training slides have and how far they reach, like slides together."""
    slides: dict[str, dict[str, None]] = {}
    for record in records:
        for name, ring in record.rings.items():
            slides.setdefault(_spell_ring(ring), {})[name] = None
    return [f"{ring}: {_some(tuple(sorted(names)))}" for ring, names in slides.items()]


def _spell_ring(ring: Mapping[str, Any]) -> str:
    lattice, n_near, radius = (ring.get(key) for key in ("lattice", "n_near", "radius_um"))
    spots = f"{n_near} spots on a {lattice} lattice" if lattice else f"the {n_near} nearest spots"
    return f"{spots}, within {radius:.0f} µm" if isinstance(radius, float) else spots


def _print_trust(trust: Trust, console: Console) -> None:
    known = trust.genes.dropna(subset="cv_pcc").sort_values("cv_pcc", ascending=False)
    held_out = ", ".join(trust.slides) or "no slide"
    errors = " ".join("–" if np.isnan(error) else f"{error:.2f}" for error in trust.error_B)
    has_interval = known["cv_low"].notna().any()
    how = "[95 % interval]" if has_interval else "(no interval: too few slides)"
    console.print(_plain(f"Genes, on held-out {held_out}: PCC {how}, on the worst and best slide"))
    n_left_out = max(0, len(known) - 2 * N_GENES_SHOWN)
    for place, (gene, row) in enumerate(known.iterrows()):
        if n_left_out and place == N_GENES_SHOWN:
            console.print(Text(f"  … {n_left_out} more"))
        if N_GENES_SHOWN <= place < N_GENES_SHOWN + n_left_out:
            continue
        low, high, worst, best = row[["cv_low", "cv_high", "cv_worst", "cv_best"]]
        interval = "" if np.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
        spread = "" if np.isnan(worst) else f" {worst:+.2f} {best:+.2f}"
        console.print(_plain(f"  {gene:<20} {row['cv_pcc']:+.2f}{interval}{spread}"))
    if n_undefined := len(trust.genes) - len(known):
        console.print(Text(f"  {n_undefined} without a correlation"))
    console.print(
        Text(
            "Error of a held-out spot in the genes' standard deviations, by how near its "
            f"references are, least near first: {errors}"
        ),
        soft_wrap=True,
    )


def _plain(words: object, *, style: str = "") -> Text:
    """Show words of a run, which may be anybody's, and obey none of them."""
    return Text(spell_plain(str(words)), style=style)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
