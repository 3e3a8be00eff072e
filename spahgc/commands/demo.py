"""The command that walks the whole way on synthetic slides: ``demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import FOLDER, SEED, FiniteRange, spinner

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option(
    "--into",
    type=FOLDER,
    default="demo-data",
    show_default=True,
    help="Folder to make; an earlier demo in it is replaced.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the synthetic slides.")
@click.option(
    "--scale",
    type=FiniteRange(min=0.2, max=2),
    default=1.0,
    show_default=True,
    help="Size of the synthetic slides; 1 has about 200 spots each.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=15, show_default=True, help="Per training."
)
@click.pass_context
def demo(ctx: click.Context, into: Path, seed: int, scale: float, epochs: int) -> None:
    """Run the whole way on synthetic slides, offline: ingest, index, train, evaluate, predict."""
    from spahgc.demo.formats import write_demo_slides

    _clear_demo(into)
    with spinner("growing synthetic tissue"):
        slides = write_demo_slides(into, seed=seed, scale=scale)
    store = ["--store", str(into / "data.zarr")]
    training = [*store, "--epochs", str(epochs), "--genes", "hvg:50"]
    test = slides.st_slides[-1]
    run, judged = str(into / "run"), str(into / "evaluation")
    for arguments in [
        ["ingest", "st", str(slides.st_study), *store],
        *(
            ["ingest", "visium", str(folder), "--patient", "C", *store]
            for folder in slides.visium_slides
        ),
        ["index", "build", *store],
        ["train", *training, "--test", test, "--out", run],
        ["evaluate", *training, "--out", judged],
        ["predict", *store, "--run", run, "--slide", test, "--out", f"{into}/stored.h5ad"],
        [
            *("predict", *store, "--run", run, "--image", str(slides.image)),
            *("--mpp", f"{slides.image_microns_per_pixel}", "--out", f"{into}/image-alone.h5ad"),
        ],
        ["store", "ls", *store],
    ]:
        click.secho(f"\n$ spahgc {' '.join(arguments)}", bold=True)
        ctx.find_root().command.main(arguments, prog_name="spahgc", standalone_mode=False)
    click.secho(
        f"\nThese slides are synthetic (seed {seed}) and training stopped after {epochs} epochs: "
        "the scores say that the way works, and nothing about real tissue.",
        bold=True,
    )


def _clear_demo(into: Path) -> None:
    """Make room for a demo, taking nothing away but an earlier one."""
    from shutil import rmtree

    from spahgc.errors import StoreError

    note = into / "README.txt"
    if not into.exists():
        return
    if not note.is_file() or not note.read_text(encoding="utf-8").startswith("Synthetic slides"):
        raise StoreError(f"{into} exists and is no earlier demo; name another place with `--into`")
    rmtree(into)
