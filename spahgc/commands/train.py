"""The command that trains one run: ``train``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.making import check_out, making, new_folder, plan_of
from spahgc.commands.screen import SEED, progress_bar
from spahgc.commands.training_options import (
    check_device_of,
    check_usable,
    prepare,
    say_left_out,
    say_no_index,
    training_options,
)

if TYPE_CHECKING:
    from pathlib import Path

    from spahgc.store.runs import Run


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
    """Train on every slide that has an image and expression, but those kept for --test.

    By default a kernel ridge on gene programs, without any graph; --networks N puts graph networks
    beside it, --preset paper trains the paper's graph network alone.
    """
    check_out(out, resume=resume)  # before torch is imported
    from spahgc.model.checkpoints import Checkpoints, keep_checkpoints
    from spahgc.model.curves import TENSORBOARD, show_curves
    from spahgc.model.runs import train_fold
    from spahgc.report.pictures import plot_curve
    from spahgc.store.run_folders import WORK
    from spahgc.store.runs import write_run
    from spahgc.store.splits import make_fold

    cohort, usable, config = prepare(store, seed=seed, **how)
    say_left_out(usable)
    for name in (*test, *validation):
        check_usable(cohort, usable, name)
    patients = cohort.patients(usable.names)
    fold = config.divide(
        make_fold(patients, test=test, validation=validation or None, n_teachers=config.n_teachers)
    )
    folder = out or new_folder("train")
    chooser = ", ".join(fold.validation)
    if validation and not chooser:
        click.echo("the default preset holds out each in turn: --validation has no part", err=True)
    click.echo(
        f"training on {', '.join(fold.train)}; "
        + (f"{chooser} chooses the epoch; " if chooser else "each is held out in turn; ")
        + f"test: {', '.join(fold.test) or 'none'}",
        err=True,
    )
    say_no_index(cohort, usable.names, config)
    plan = plan_of(cohort, folds=[fold], configs={config.method: config})
    with making(folder, plan=plan, resume=resume) as unfinished:
        check_device_of(config)
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


def _say_run(run: Run, folder: Path, *, caveat: str | None, as_json: bool) -> None:
    from spahgc.report.runs import spell_rings

    record = run.record
    tested = None if run.scores is None else run.scores.groupby("slide")["pcc"].mean().to_dict()
    if as_json:
        from dataclasses import asdict

        told = {"run": str(folder), "method": record.method, "test_pcc": tested, **asdict(record)}
        click.echo(json.dumps(told, indent=1))
        return
    epoch = f"epoch {record.best_epoch} of {len(run.curve)}, " if len(run.curve) else ""
    click.echo(
        f"run: {folder} ({record.method}, {epoch}"
        f"mean PCC on {', '.join(record.validation) or 'training slides held out in turn'}: "
        f"{record.validation_pcc:.3f}, "
        f"panel {record.panel_rule} {record.panel_digest})"
    )
    for ring in spell_rings([record]):
        click.echo(f"near: {ring}")
    for slide, pcc in (tested or {}).items():
        click.echo(f"test slide {slide}: mean PCC over {len(record.panel)} genes {pcc:.3f}")
    if caveat:
        click.echo(f"Note: {caveat}")
