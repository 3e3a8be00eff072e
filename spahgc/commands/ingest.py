"""Commands that fill the store: ``ingest st | visium | hest | h5ad | image | table``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.filling import about_option, fill, filling_options, genes_option
from spahgc.commands.screen import FOLDER, POSITIVE, PlainErrors

if TYPE_CHECKING:
    from pathlib import Path


@click.group(cls=PlainErrors)
def ingest() -> None:
    """Read slides into the store, embeddings included."""


@ingest.command("st")
@click.argument("folder", type=FOLDER, required=False)
@click.option(
    "--counts", type=FOLDER, help="Counts of one section: spots × genes, .tsv or .tsv.gz."
)
@click.option("--spots", type=FOLDER, help="Spot coordinates of that section.")
@click.option("--image", type=FOLDER, help="Full-resolution image of that section.")
@click.option("--labels", type=FOLDER, help="Labels per spot of that section.")
@click.option("--name", help="Name of that section.")
@click.option("--preset", type=click.Choice(["her2st", "cscc"]), help="Array the study used.")
@click.option("--pitch-um", type=POSITIVE, help="Distance between spot centers, in µm.")
@click.option("--keep-background", is_flag=True, help="Keep spots that the selection leaves out.")
@genes_option
@about_option
@filling_options
def ingest_st(
    folder: Path | None,
    counts: Path | None,
    spots: Path | None,
    image: Path | None,
    labels: Path | None,
    name: str | None,
    preset: Any,  # noqa: ANN401  a key of PRESETS
    pitch_um: float | None,
    duplicate_genes: Any,  # noqa: ANN401  a DuplicateRule
    patient: str | None,
    mpp: float | None,
    *,
    keep_background: bool,
    **shared: Any,  # noqa: ANN401  see filling_options
) -> None:
    """Read legacy Spatial Transcriptomics: a study FOLDER, or one section by its files."""
    from spahgc.ingest.readers.st import StFiles, find_sections, read_st
    from spahgc.ingest.slides import PendingSlide

    if counts is not None and folder is None:
        name = name or counts.name.removesuffix(".gz").removesuffix(".tsv")
        sections = [StFiles(name=name, counts=counts, spots=spots, image=image, labels=labels)]
    elif folder is not None and not any((counts, spots, image, labels, name)):
        sections = find_sections(folder)
    else:
        raise click.UsageError("give a FOLDER, or one section by --counts (and --spots, --image)")
    read = partial(
        read_st,
        pitch_um=pitch_um,
        preset=preset,
        patient=patient,
        microns_per_pixel=mpp,
        keep_background=keep_background,
        duplicate_genes=duplicate_genes,
    )
    fill([PendingSlide(name=s.name, read=partial(read, s)) for s in sections], **shared)


@ingest.command("visium")
@click.argument("folder", type=FOLDER)
@click.option("--image", type=FOLDER, help="Full-resolution H&E image the coordinates refer to.")
@click.option("--no-image", is_flag=True, help="Take no image, though one lies there that fits.")
@click.option("--rescale-image", is_flag=True, help="Accept an image that was exported smaller.")
@click.option("--name", help="Name of the slide; by default the folder's.")
@click.option("--genome", help="Genome to keep where the counts have several.")
@click.option("--sum-probes", is_flag=True, help="Add the counts of a gene's probes.")
@click.option("--bin-um", type=click.IntRange(min=1), help="Visium HD: size of the bins to read.")
@click.option("--pool-um", type=click.IntRange(min=1), help="Visium HD: pool bins to this size.")
@genes_option
@about_option
@filling_options
def ingest_visium(
    folder: Path,
    image: Path | None,
    name: str | None,
    genome: str | None,
    bin_um: int | None,
    pool_um: int | None,
    duplicate_genes: Any,  # noqa: ANN401  a DuplicateRule
    patient: str | None,
    mpp: float | None,
    *,
    no_image: bool,
    rescale_image: bool,
    sum_probes: bool,
    **shared: Any,  # noqa: ANN401  see filling_options
) -> None:
    """Read one 10x Visium slide from FOLDER: Space Ranger's outs/, its parent, or a flat dump."""
    from spahgc.ingest.readers.visium import read_visium
    from spahgc.ingest.slides import PendingSlide

    if no_image and image is not None:
        raise click.UsageError("give --image FILE or --no-image, not both")
    read = partial(
        read_visium,
        folder,
        image=image,
        find_image=not no_image,
        name=name,
        genome=genome,
        patient=patient,
        microns_per_pixel=mpp,
        rescale_image=rescale_image,
        sum_probes=sum_probes,
        duplicate_genes=duplicate_genes,
        bin_um=bin_um,
        pool_um=pool_um,
    )
    fill([PendingSlide(name=name or folder.name, read=read)], **shared)


@ingest.command("hest")
@click.argument("folder", type=FOLDER)
@click.option("--pitch-um", type=POSITIVE, help="Distance between spot centers, in µm.")
@click.option("--counts-layer", help="Layer that holds the raw counts.")
@genes_option
@about_option
@filling_options
def ingest_hest(
    folder: Path,
    pitch_um: float | None,
    counts_layer: str | None,
    duplicate_genes: Any,  # noqa: ANN401  a DuplicateRule
    patient: str | None,
    mpp: float | None,
    **shared: Any,  # noqa: ANN401  see filling_options
) -> None:
    """Read slides of HEST-1k from FOLDER, which holds st/, wsis/ and metadata/."""
    from spahgc.ingest.readers.hest import find_hest, read_hest
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_hest,
        patient=patient,
        microns_per_pixel=mpp,
        pitch_um=pitch_um,
        counts_layer=counts_layer,
        duplicate_genes=duplicate_genes,
    )
    slides = find_hest(folder)
    fill([PendingSlide(name=files.name, read=partial(read, files)) for files in slides], **shared)


@ingest.command("h5ad")
@click.argument("file", type=FOLDER)
@click.option("--image", type=FOLDER, help="Full-resolution image the coordinates refer to.")
@click.option("--name", help="Name of the slide; by default the file's.")
@click.option("--counts-layer", help="Layer that holds the raw counts.")
@click.option("--pitch-um", type=POSITIVE, help="Distance between spot centers, in µm.")
@click.option("--spot-um", type=POSITIVE, help="Width of a spot, in µm.")
@genes_option
@about_option
@filling_options
def ingest_h5ad(
    file: Path,
    image: Path | None,
    name: str | None,
    counts_layer: str | None,
    pitch_um: float | None,
    spot_um: float | None,
    duplicate_genes: Any,  # noqa: ANN401  a DuplicateRule
    patient: str | None,
    mpp: float | None,
    **shared: Any,  # noqa: ANN401  see filling_options
) -> None:
    """Read any AnnData FILE with raw counts and obsm['spatial'], for what has no reader."""
    from spahgc.ingest.readers.h5ad import read_h5ad_slide
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_h5ad_slide,
        file,
        image=image,
        name=name,
        patient=patient,
        microns_per_pixel=mpp,
        counts_layer=counts_layer,
        pitch_um=pitch_um,
        spot_diameter_um=spot_um,
        duplicate_genes=duplicate_genes,
    )
    fill([PendingSlide(name=name or file.stem, read=read)], **shared)


@ingest.command("image")
@click.argument("file", type=FOLDER)
@click.option("--name", help="Name of the slide; by default the file's.")
@click.option(
    "--pitch-um",
    type=POSITIVE,
    default=100.0,
    show_default=True,
    help="Distance between spot centers, in µm.",
)
@click.option(
    "--lattice",
    type=click.Choice(["square", "hex"]),
    default="square",
    show_default=True,
    help="How the spots are laid.",
)
@about_option
@filling_options
def ingest_image(
    file: Path,
    name: str | None,
    pitch_um: float,
    lattice: Any,  # noqa: ANN401  one of the choices above
    patient: str | None,
    mpp: float | None,
    **shared: Any,  # noqa: ANN401  see filling_options
) -> None:
    """Lay a grid of spots over the tissue of one H&E image FILE (SVS, TIFF, JPEG, PNG …)."""
    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_image_slide,
        file,
        name=name,
        pitch_um=pitch_um,
        lattice=lattice,
        patient=patient,
        microns_per_pixel=mpp,
    )
    fill([PendingSlide(name=name or file.stem, read=read)], **shared)


@ingest.command("table")
@click.argument("file", type=FOLDER)
@filling_options
def ingest_table(file: Path, **shared: Any) -> None:  # noqa: ANN401  see filling_options
    """Read many slides, one per row of a CSV FILE; what is already stored is kept.

    Columns: slide, platform (st, visium, hest, h5ad, image), path; and where they are known image,
    spots, labels, patient, section, tissue, mpp. Paths are relative to the table.
    """
    from spahgc.ingest.samples import read_samples

    fill(read_samples(file), **shared)
