"""The command that judges the model beside its baselines: ``evaluate``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.making import check_out, making, new_folder, plan_of
from spahgc.commands.screen import SEED, cluster_options, console, progress_bar
from spahgc.commands.training_options import (
    check_device_of,
    near_config,
    prepare,
    say_left_out,
    say_no_index,
    training_options,
)
from spahgc.store.splits import BY_PATIENT, SPLIT_RULES, say_untested

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spahgc.model.evaluation import Task
    from spahgc.model.judged import Judged
    from spahgc.model.runs import RunConfig
    from spahgc.store.cohort import Cohort
    from spahgc.store.splits import Fold


@click.command()
@click.option(
    "--split",
    default=BY_PATIENT,
    show_default=True,
    help=f"What is held out in turn: {', '.join(SPLIT_RULES)}, or a JSON or CSV file.",
)
@click.option("--seed", "named_seeds", type=SEED, multiple=True, help="Seed; may be given again.")
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many seeds, from 0, where none is named.",
)
@cluster_options(alone="judges")
@click.option(
    "--beside",
    default="lite0-154um",
    show_default=True,
    help="Embedding of the paper's network, and of further baselines, beside the default preset.",
)
@click.option(
    "--no-paper", is_flag=True, help="Do not judge the paper's network beside the default preset."
)
@training_options
def evaluate(
    store: str,
    split: str,
    named_seeds: tuple[int, ...],
    n_seeds: int,
    workers: int,
    scheduler: str | None,
    beside: str,
    out: Path | None,
    *,
    no_paper: bool,
    resume: bool,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see training_options
) -> None:
    """Judge the model beside its baselines: every slide or patient is held out once.

    The model is the default preset's kernel ridge on gene programs, and beside it the paper's graph
    network; --networks N stacks graph networks with the ridge.
    """
    check_out(out, resume=resume)  # before torch is imported
    from spahgc.model.evaluation import plan_tasks
    from spahgc.model.runs import check_folds
    from spahgc.report.evaluation import EvaluationReport
    from spahgc.store.run_folders import WORK
    from spahgc.store.split_files import read_folds

    seeds = tuple(dict.fromkeys(named_seeds)) or tuple(range(n_seeds))
    cohort, usable, config = prepare(store, seed=seeds[0], **how)
    say_left_out(usable)
    patients = cohort.patients(usable.names)
    folds = read_folds(patients, split=split, n_teachers=config.n_teachers)
    models = {config.method: config}
    if not no_paper and config.committee is not None:
        models |= _paper(
            cohort, folds, config, embedding=beside, epochs=how["epochs"], near=how["near"]
        )
    for model in models.values():
        say_no_index(cohort, _slides_of(folds), model)
    untested = say_untested(patients, folds)
    if untested is not None:
        click.echo(untested, err=True)
    tasks = plan_tasks(folds, models=models, seeds=seeds)
    folder = out or new_folder("evaluate")
    plan = plan_of(cohort, folds=folds, configs=models, seeds=seeds)
    with making(folder, plan=plan, resume=resume) as unfinished:
        is_shared = workers > 0 or scheduler is not None
        for model in () if is_shared else models.values():
            check_device_of(model)
        check_folds(cohort, folds, configs=list(models.values()))
        caveats = {} if untested is None else {untested: None}
        report = EvaluationReport(folder=unfinished, cohort=cohort, split=split, caveats=caveats)
        results = _judge(cohort, tasks, unfinished / WORK, workers=workers, scheduler=scheduler)
        with progress_bar(f"{len(folds)} folds", len(tasks), unit="models") as advance:
            for task, judged in zip(tasks, results, strict=True):
                report.add(task.fold, judged)
                advance(1)
        report.write()
    if as_json:
        click.echo((folder / "summary.json").read_text())
    else:
        report.show(console(), folder=folder)


def _paper(
    cohort: Cohort,
    folds: list[Fold],
    config: RunConfig,
    *,
    embedding: str,
    epochs: int | None,
    near: str | None,
) -> dict[str, RunConfig]:
    """Describe the paper's model on the same panel, where slides and embeddings are enough."""
    from spahgc.model.presets import PAPER

    lacking = [name for name in _slides_of(folds) if embedding not in cohort[name].entry.encoders]
    reason = ""
    if lacking:
        reason = f"{', '.join(lacking)} have no embedding {embedding!r}; name one with --beside"
    elif small := [fold.name for fold in folds if not _has_third(fold)]:
        reason = f"with {small[0]} held out no third slide is left to choose its epoch"
    if reason:
        click.echo(f"the paper's network is left out: {reason}", err=True)
        return {}
    features = replace(PAPER.features, embeddings=(embedding,))
    max_epochs = epochs or PAPER.training.max_epochs
    training = replace(
        PAPER.training,
        max_epochs=max_epochs,
        device=config.training.device,
        precision=config.training.precision,
        gradient_clip=config.training.gradient_clip,
    )
    base = PAPER if near is None else replace(PAPER, near=near_config(near))
    paper = replace(
        base,
        features=features,
        panel_rule=config.panel_rule,
        gene_names=config.gene_names,
        training=training,
    )
    return {paper.method: paper}


def _slides_of(folds: list[Fold]) -> list[str]:
    return sorted({name for f in folds for name in (*f.train, *f.validation, *f.test)})


def _has_third(fold: Fold) -> bool:
    return bool(fold.validation) and len({fold.groups[name] for name in fold.train}) >= 2


def _judge(
    cohort: Cohort, tasks: list[Task], work: Path, *, workers: int, scheduler: str | None
) -> Iterator[Judged]:
    """Judge what an earlier attempt has not, and give everything in order."""
    from spahgc.model.evaluation import judge_all
    from spahgc.model.workers import judge_on_dask
    from spahgc.report.pieces import read_judged, write_judged

    places = [work / f"{number}" for number in range(len(tasks))]
    missing = [task for task, place in zip(tasks, places, strict=True) if not place.exists()]
    if workers > 0 or scheduler is not None:
        fresh = judge_on_dask(cohort, missing, workers=workers, scheduler=scheduler)
    else:
        fresh = judge_all(cohort, missing)
    for place in places:
        judged = read_judged(place)
        if judged is None:
            judged = next(fresh)
            write_judged(judged, place)
        yield judged
