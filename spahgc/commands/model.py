"""Commands that train: ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import SEED, cluster_options, console, progress_bar
from spahgc.commands.training_options import (
    check_usable,
    prepare,
    say_left_out,
    training_options,
)
from spahgc.store.splits import BY_PATIENT, SPLIT_RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spahgc.model.evaluation import Task
    from spahgc.model.judged import Judged
    from spahgc.model.runs import RunConfig
    from spahgc.store.cohort import Cohort
    from spahgc.store.runs import Run
    from spahgc.store.splits import Fold


@click.command()
@click.option("--test", multiple=True, help="Slide to keep for the end; may be given again.")
@click.option(
    "--validation", multiple=True, help="Slide that chooses the epoch; may be given again."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of everything random.")
@training_options
def train(
    store: str,
    test: tuple[str, ...],
    validation: tuple[str, ...],
    seed: int,
    out: Path | None,
    *,
    resume: bool,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see training_options
) -> None:
    """Train on every slide that has an image and expression, but those kept for --test."""
    from spahgc.model.checkpoints import Checkpoints
    from spahgc.model.curves import TENSORBOARD, show_curves
    from spahgc.model.resuming import keep_checkpoints
    from spahgc.model.runs import MODEL, train_fold
    from spahgc.report.pictures import plot_curve
    from spahgc.store.run_folders import WORK
    from spahgc.store.runs import write_run
    from spahgc.store.splits import make_fold

    _check_resuming(out, resume=resume)
    cohort, usable, config = prepare(store, seed=seed, **how)
    say_left_out(usable)
    for name in (*test, *validation):
        check_usable(cohort, usable, name)
    patients = cohort.patients(usable.names)
    fold = config.divide(
        make_fold(patients, test=test, validation=validation or None, n_teachers=config.n_teachers)
    )
    folder = out or _new_folder("train")
    chooser = ", ".join(fold.validation)
    if validation and not chooser:
        click.echo("the default preset holds out each in turn: --validation has no part", err=True)
    click.echo(
        f"training on {', '.join(fold.train)}; "
        + (f"{chooser} chooses the epoch; " if chooser else "each is held out in turn; ")
        + f"test: {', '.join(fold.test) or 'none'}",
        err=True,
    )
    plan = _plan(cohort, folds=[fold], configs={MODEL: config})
    with _making(folder, plan=plan, resume=resume) as unfinished:
        with (
            progress_bar("training", config.n_epochs, unit="epochs") as advance,
            keep_checkpoints(Checkpoints(folder=unfinished / WORK)),
            show_curves(unfinished / TENSORBOARD),
        ):
            run = train_fold(cohort, fold, config=config, advance=advance).run
        write_run(run, unfinished)
        if len(run.curve):
            plot_curve(unfinished / "curve.png", run.curve, best_epoch=run.record.best_epoch)
    _say_run(run, folder, caveat=fold.caveat, as_json=as_json)


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
    help="Embedding of the paper's model, and of further baselines, beside the default one.",
)
@click.option("--no-paper", is_flag=True, help="Do not judge the paper's model beside the default.")
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
    """Judge the model beside its baselines: every slide or patient is held out once."""
    from spahgc.model.evaluation import plan_tasks
    from spahgc.model.runs import MODEL
    from spahgc.report.evaluation import EvaluationReport
    from spahgc.store.run_folders import WORK
    from spahgc.store.split_files import read_folds

    is_shared = workers > 0 or scheduler is not None
    if is_shared and how["devices"] > 1:
        raise click.UsageError(
            "a worker starts no processes of its own: --devices takes neither --workers nor "
            "--scheduler"
        )
    seeds = tuple(dict.fromkeys(named_seeds)) or tuple(range(n_seeds))
    _check_resuming(out, resume=resume)
    cohort, usable, config = prepare(store, seed=seeds[0], **how)
    say_left_out(usable)
    patients = cohort.patients(usable.names)
    folds = read_folds(patients, split=split, n_teachers=config.n_teachers)
    models = {MODEL: config}
    if not no_paper and config.committee is not None:
        models |= _paper(cohort, folds, config, embedding=beside, epochs=how["epochs"])
    tasks = plan_tasks(folds, models=models, seeds=seeds)
    folder = out or _new_folder("evaluate")
    plan = _plan(cohort, folds=folds, configs=models, seeds=seeds)
    with _making(folder, plan=plan, resume=resume) as unfinished:
        report = EvaluationReport(folder=unfinished, cohort=cohort, split=split)
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


@contextmanager
def _making(folder: Path, *, plan: dict[str, Any], resume: bool) -> Iterator[Path]:
    """Give an unfinished folder; say how to go on where it is interrupted and kept."""
    from spahgc.store.run_folders import unfinished_folder

    unfinished = None
    try:
        with unfinished_folder(folder, plan=plan, resume=resume) as unfinished:
            yield unfinished
    except (KeyboardInterrupt, SystemExit):  # Lightning makes one of the other
        if unfinished is not None and unfinished.is_dir():
            click.echo(f"what is done is kept: go on with `--resume --out {folder}`", err=True)
        raise


def _paper(
    cohort: Cohort, folds: list[Fold], config: RunConfig, *, embedding: str, epochs: int | None
) -> dict[str, RunConfig]:
    """Describe the paper's model on the same panel, where slides and embeddings are enough."""
    from spahgc.model.presets import PAPER
    from spahgc.model.runs import PAPER_MODEL

    used = sorted({name for f in folds for name in (*f.train, *f.validation, *f.test)})
    lacking = [name for name in used if embedding not in cohort[name].entry.encoders]
    reason = ""
    if lacking:
        reason = f"{', '.join(lacking)} have no embedding {embedding!r}; name one with --beside"
    elif small := [fold.name for fold in folds if not _has_third(fold)]:
        reason = f"with {small[0]} held out no third slide is left to choose its epoch"
    if reason:
        click.echo(f"the paper's model is left out: {reason}", err=True)
        return {}
    features = replace(PAPER.features, embeddings=(embedding,))
    max_epochs = epochs or PAPER.training.max_epochs
    training = replace(
        PAPER.training,
        max_epochs=max_epochs,
        device=config.training.device,
        devices=config.training.devices,
    )
    paper = replace(PAPER, features=features, panel_rule=config.panel_rule, training=training)
    return {PAPER_MODEL: paper}


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


def _plan(
    cohort: Cohort,
    *,
    folds: list[Fold],
    configs: dict[str, RunConfig],
    seeds: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Spell what decides a result: an interrupted command goes on only with the same."""
    from dataclasses import asdict

    settings = {
        f"{model} {name}": value
        for model, config in configs.items()
        for name, value in _leaves(asdict(config))
    }
    return {
        "store": cohort.where,
        "commit": cohort.commit.number,
        "slides": [asdict(fold) for fold in folds],
        "seeds": seeds,
        **settings,
    }


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name every setting by itself, so that it can be said which one changed."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value


def _say_run(run: Run, folder: Path, *, caveat: str | None, as_json: bool) -> None:
    record = run.record
    tested = None if run.scores is None else run.scores.groupby("slide")["pcc"].mean().to_dict()
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps({"run": str(folder), "test_pcc": tested, **asdict(record)}, indent=1))
        return
    epoch = f"epoch {record.best_epoch} of {len(run.curve)}, " if len(run.curve) else ""
    click.echo(
        f"run: {folder} ({epoch}"
        f"mean PCC on {', '.join(record.validation) or 'training slides held out in turn'}: "
        f"{record.validation_pcc:.3f}, "
        f"panel {record.panel_rule} {record.panel_digest})"
    )
    for slide, pcc in (tested or {}).items():
        click.echo(f"test slide {slide}: mean PCC over {len(record.panel)} genes {pcc:.3f}")
    if caveat:
        click.echo(f"Note: {caveat}")


def _check_resuming(out: Path | None, *, resume: bool) -> None:
    if resume and out is None:
        raise click.UsageError("--resume goes on with what lies at --out: name that folder")


def _new_folder(command: str) -> Path:
    from datetime import UTC, datetime

    return Path("runs") / f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
