"""Commands that read the store: ``train``, ``evaluate`` and ``predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import FOLDER, console, progress_bar, spinner, store_option
from spahgc.store.splits import BY_PATIENT, SPLIT_RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

    from spahgc.model.prediction import Predictor
    from spahgc.model.runs import RunConfig
    from spahgc.store.cohort import Cohort, Usable
    from spahgc.store.runs import Run


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides how a model is trained."""
    for option in reversed(
        [
            store_option,
            click.option(
                "--genes",
                default="hvg:50",
                show_default=True,
                help="Gene panel, chosen on training slides: hvg:N, heg:N, all, or a file.",
            ),
            click.option(
                "--leave-out", multiple=True, help="Slide not to use; may be given again."
            ),
            click.option(
                "--embedding", default="lite0", show_default=True, help="Name of the embedding."
            ),
            click.option(
                "--preset",
                type=click.Choice(["default", "paper"]),
                default="default",
                show_default=True,
                help="Both are the paper's model as yet.",
            ),
            click.option(
                "--epochs",
                type=click.IntRange(min=1),
                default=200,
                show_default=True,
                help="Most rounds over the training slides.",
            ),
            click.option(
                "--ema",
                type=click.FloatRange(min=0, max=1),
                help="Let the second encoder be a moving average with this decay.",
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Of everything random."
            ),
            click.option(
                "--device", default="cpu", show_default=True, help="As Lightning names it."
            ),
            click.option(
                "--out", type=FOLDER, help="Folder to make; by default a new one in runs/."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print a report for machines."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.option("--test", multiple=True, help="Slide to keep for the end; may be given again.")
@click.option(
    "--validation", multiple=True, help="Slide that chooses the epoch; may be given again."
)
@training_options
def train(
    store: Path,
    test: tuple[str, ...],
    validation: tuple[str, ...],
    out: Path | None,
    *,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see training_options
) -> None:
    """Train on every slide that has an image and expression, but those kept for --test."""
    from spahgc.model.runs import train_fold
    from spahgc.report.pictures import plot_curve
    from spahgc.store.run_folders import unfinished_folder
    from spahgc.store.runs import write_run
    from spahgc.store.splits import make_fold

    cohort, usable, config = _prepare(store, **how)
    _say_left_out(usable)
    for name in (*test, *validation):
        _check_usable(cohort, usable, name)
    patients = cohort.patients(usable.names)
    fold = make_fold(patients, test=test, validation=validation or None)
    folder = out or _new_folder("train")
    click.echo(
        f"training on {', '.join(fold.train)}; {', '.join(fold.validation)} chooses the epoch; "
        f"test: {', '.join(fold.test) or 'none'}",
        err=True,
    )
    with unfinished_folder(folder, plan={}) as unfinished:
        with progress_bar("training", config.training.max_epochs, unit="epochs") as advance:
            run = train_fold(cohort, fold, config=config, advance=advance).run
        write_run(run, unfinished)
        plot_curve(unfinished / "curve.png", run.curve, best_epoch=run.record.best_epoch)
    _say_run(run, folder, caveat=fold.caveat, as_json=as_json)


@click.command()
@click.option(
    "--split",
    default=BY_PATIENT,
    show_default=True,
    help=f"What is held out in turn: {', '.join(SPLIT_RULES)}, or a JSON or CSV file.",
)
@training_options
def evaluate(
    store: Path,
    split: str,
    out: Path | None,
    *,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see training_options
) -> None:
    """Judge the model beside its baselines: every slide or patient is held out once."""
    from spahgc.model.evaluation import evaluate_folds
    from spahgc.report.evaluation import EvaluationReport
    from spahgc.store.run_folders import unfinished_folder
    from spahgc.store.split_files import read_folds

    cohort, usable, config = _prepare(store, **how)
    _say_left_out(usable)
    folds = read_folds(cohort.patients(usable.names), split=split)
    folder = out or _new_folder("evaluate")
    total = len(folds) * config.training.max_epochs
    with unfinished_folder(folder, plan={}) as unfinished:
        report = EvaluationReport(folder=unfinished, cohort=cohort, split=split)
        with progress_bar(f"{len(folds)} folds", total, unit="epochs") as advance:
            for result in evaluate_folds(cohort, folds, config=config, advance=advance):
                report.add(
                    result.finished.run,
                    result.scores,
                    predicted=result.finished.predictions,
                    measured=result.finished.measured,
                    caveat=result.fold.caveat,
                )
        report.write()
    if as_json:
        click.echo((folder / "summary.json").read_text())
    else:
        report.show(console(), folder=folder)


@click.command()
@click.option("--run", "run_folder", type=FOLDER, required=True, help="Folder that train made.")
@click.option("--slide", help="Slide of the store to predict.")
@click.option("--image", type=FOLDER, help="H&E image to predict; no expression needed.")
@click.option("--mpp", type=click.FloatRange(min=0, min_open=True), help="µm per pixel of it.")
@click.option(
    "--pitch-um",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Distance between the spots laid over it, in µm.",
)
@click.option("--weights", type=FOLDER, help="Weights file of the run's encoder, where it had one.")
@click.option("--out", type=FOLDER, required=True, help="The .h5ad file to write.")
@store_option
def predict(
    run_folder: Path,
    slide: str | None,
    image: Path | None,
    mpp: float | None,
    pitch_um: float,
    weights: Path | None,
    out: Path,
    store: Path,
) -> None:
    """Predict expression for a slide of the store, or for an image alone."""
    from spahgc.model.prediction import open_predictor, predict_stored, write_prediction
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import read_run

    predictor = open_predictor(read_run(run_folder), open_cohort(store))
    if slide is not None and image is None:
        with spinner(f"predicting {slide}"):
            table = predict_stored(predictor, slide)
    elif image is not None and slide is None:
        table = _predict_image(predictor, image, mpp=mpp, pitch_um=pitch_um, weights=weights)
    else:
        raise click.UsageError("give --slide NAME of the store, or --image FILE")
    write_prediction(table, out)
    click.echo(f"{out}: {table.n_obs} spots × {table.n_vars} genes")


def _prepare(
    store: Path,
    *,
    genes: str,
    leave_out: tuple[str, ...],
    embedding: str,
    preset: str,  # noqa: ARG001  both are the paper's as yet
    epochs: int,
    ema: float | None,
    seed: int,
    device: str,
) -> tuple[Cohort, Usable, RunConfig]:
    from spahgc.model.expression import PanelRule
    from spahgc.model.runs import RunConfig
    from spahgc.model.training import TrainingConfig
    from spahgc.store.cohort import Usable, open_cohort

    PanelRule.parse(genes)
    cohort = open_cohort(store)
    training = TrainingConfig(max_epochs=epochs, ema=ema, seed=seed, device=device)
    config = RunConfig(embedding=embedding, panel_rule=genes, training=training)
    usable = cohort.usable(embedding)
    for name in leave_out:
        _check_usable(cohort, usable, name)
    asked = dict.fromkeys(leave_out, "was asked to be")
    return (
        cohort,
        Usable(
            names=tuple(name for name in usable.names if name not in asked),
            left_out={**usable.left_out, **asked},
        ),
        config,
    )


def _predict_image(
    predictor: Predictor,
    image: Path,
    *,
    mpp: float | None,
    pitch_um: float,
    weights: Path | None,
) -> anndata.AnnData:
    from spahgc.ingest.embedding import embed_image_slide
    from spahgc.ingest.fields import config_like
    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.model.prediction import predict_new

    slide = read_image_slide(image, microns_per_pixel=mpp, pitch_um=pitch_um)
    record = predictor.run.record
    config = config_like([record.encoder], weights=weights)
    with progress_bar("embedding", len(slide.spots), unit="spots") as advance:
        (embedding_SD,) = embed_image_slide(
            slide, config, fingerprint_digests=[record.fingerprint], advance=advance
        )
    return predict_new(predictor, slide, embedding_SD)


def _check_usable(cohort: Cohort, usable: Usable, name: str) -> None:
    from spahgc.errors import MissingError

    if name not in usable.names:
        slide = cohort[name]  # says which slides there are, if this is none
        raise MissingError(f"slide {slide.name} {usable.left_out[name]}")


def _say_left_out(usable: Usable) -> None:
    for name, reason in usable.left_out.items():
        click.echo(f"{name} is left out: it {reason}", err=True)


def _say_run(run: Run, folder: Path, *, caveat: str | None, as_json: bool) -> None:
    record = run.record
    tested = None if run.scores is None else run.scores.groupby("slide")["pcc"].mean().to_dict()
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps({"run": str(folder), "test_pcc": tested, **asdict(record)}, indent=1))
        return
    click.echo(
        f"run: {folder} (epoch {record.best_epoch} of {len(run.curve)}, "
        f"mean PCC on {', '.join(record.validation)}: {record.validation_pcc:.3f}, "
        f"panel {record.panel_rule} {record.panel_digest})"
    )
    for slide, pcc in (tested or {}).items():
        click.echo(f"test slide {slide}: mean PCC over {len(record.panel)} genes {pcc:.3f}")
    if caveat:
        click.echo(f"Note: {caveat}")


def _new_folder(command: str) -> Path:
    from datetime import UTC, datetime

    return Path("runs") / f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
