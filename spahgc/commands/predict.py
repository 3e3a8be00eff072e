"""The command that uses a run: ``predict``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import FOLDER, POSITIVE, progress_bar, spinner, store_option
from spahgc.store.words import spell_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata

    from spahgc.model.prediction import Predictor
    from spahgc.store.cohort import Cohort


@click.command()
@click.option("--run", "run_folder", type=FOLDER, required=True, help="Folder that train made.")
@click.option("--slide", "slides", multiple=True, help="Slide of the store; may be given again.")
@click.option(
    "--image",
    "images",
    type=FOLDER,
    multiple=True,
    help="H&E image, no expression needed; may be given again.",
)
@click.option("--mpp", type=POSITIVE, help="µm per pixel of it.")
@click.option(
    "--pitch-um",
    type=POSITIVE,
    default=100.0,
    show_default=True,
    help="Distance between the spots laid over it, in µm.",
)
@click.option("--weights", type=FOLDER, help="Weights file of the run's encoder, where it had one.")
@click.option(
    "--references",
    multiple=True,
    help="Store whose slides to borrow from in the training slides' place; may be given again.",
)
@click.option(
    "--out",
    "outs",
    type=FOLDER,
    multiple=True,
    required=True,
    help="File to write: .h5ad, .zarr, .parquet or .geojson (for QuPath); {slide} becomes the "
    "slide's name; may be given again.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier predictions at those places.")
@store_option
def predict(
    run_folder: Path,
    slides: tuple[str, ...],
    images: tuple[Path, ...],
    mpp: float | None,
    pitch_um: float,
    weights: Path | None,
    references: tuple[str, ...],
    outs: tuple[Path, ...],
    store: str,
    *,
    overwrite: bool,
) -> None:
    """Predict expression for slides of the store, or for images alone."""
    from spahgc.model.prediction import open_predictor
    from spahgc.report.predictions import check_places, write_prediction
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import read_run

    if not (slides or images):
        raise click.UsageError("give --slide NAME of the store, or --image FILE")
    if not images and (mpp or weights):
        raise click.UsageError("--mpp and --weights are for --image")
    slides, images = tuple(dict.fromkeys(slides)), tuple(dict.fromkeys(images))
    outs = tuple(dict.fromkeys(outs))
    names = [*slides, *(image.stem for image in images)]
    check_places(outs, slides=names, overwrite=overwrite)
    run = read_run(run_folder)
    others = [open_cohort(where) for where in references]
    # an image alone, with references of its own, needs no store
    cohort = others[0] if others and not slides else open_cohort(store)
    predictor = open_predictor(run, cohort, references=others)
    _check_all(predictor, cohort, slides, images, mpp=mpp, pitch_um=pitch_um)
    for table in _predict_slides(predictor, cohort, slides):
        _write(table, [write_prediction(table, out) for out in outs])
    for table in _predict_images(predictor, images, mpp=mpp, pitch_um=pitch_um, weights=weights):
        _write(table, [write_prediction(table, out) for out in outs])


def _check_all(
    predictor: Predictor,
    cohort: Cohort,
    slides: tuple[str, ...],
    images: tuple[Path, ...],
    *,
    mpp: float | None,
    pitch_um: float,
) -> None:
    """Refuse what cannot be predicted before anything is written."""
    from spahgc.ingest.readers.image import check_image
    from spahgc.model.prediction import check_slide

    for name in slides:
        check_slide(predictor, cohort, name)
    for image in images:
        check_image(image, microns_per_pixel=mpp, pitch_um=pitch_um)


def _predict_slides(
    predictor: Predictor, cohort: Cohort, slides: tuple[str, ...]
) -> Iterator[anndata.AnnData]:
    from spahgc.model.prediction import predict_stored

    for name in slides:
        with spinner(f"predicting {name}"):
            table = predict_stored(predictor, cohort, name)
        yield table


def _predict_images(
    predictor: Predictor,
    images: tuple[Path, ...],
    *,
    mpp: float | None,
    pitch_um: float,
    weights: Path | None,
) -> Iterator[anndata.AnnData]:
    from spahgc.ingest.embedding import embed_image_slide
    from spahgc.ingest.fields import config_like
    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.model.prediction import predict_new

    record = predictor.run.record
    names = predictor.teaching.features.embeddings
    config = config_like([record.encoders[name] for name in names], weights=weights)
    for image in images:
        slide = read_image_slide(image, microns_per_pixel=mpp, pitch_um=pitch_um)
        with progress_bar(f"embedding {slide.name}", len(slide.spots), unit="spots") as advance:
            embeddings = embed_image_slide(
                slide,
                config,
                fingerprint_digests=[record.fingerprints[name] for name in names],
                advance=advance,
            )
        yield predict_new(predictor, slide, embeddings)


def _write(table: anndata.AnnData, places: list[Path]) -> None:
    from spahgc.schema import UNS

    for place in places:
        click.echo(f"{spell_plain(str(place))}: {table.n_obs} spots × {table.n_vars} genes")
    click.echo(spell_plain(f"Values: {table.uns[UNS]['units']}"), err=True)
    for note in table.uns[UNS]["notes"]:
        click.echo(spell_plain(f"Note on {table.uns[UNS]['slide']}: {note}"), err=True)
