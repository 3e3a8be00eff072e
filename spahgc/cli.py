"""The commands: each one library function, its errors one line, its heavy imports inside."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spahgc.errors import SpahgcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console

    from spahgc.ingest.embedding import EmbeddingReport
    from spahgc.ingest.slides import PendingSlide
    from spahgc.model.prediction import Predictor
    from spahgc.model.runs import RunConfig
    from spahgc.schema import Slide
    from spahgc.store.cohort import Cohort, Usable
    from spahgc.store.runs import Run

FOLDER = click.Path(path_type=Path)
DEFAULT_STORE = "data.zarr"


class PlainErrors(click.Group):
    """Show our own errors as one line; let bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's own signature
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SpahgcError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=PlainErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spahgc")
def cli() -> None:
    """Predict spatial gene expression from H&E images.

    A slide's spots borrow from spots of other slides that look alike and whose expression is
    known. The way: ingest → index build → train → predict; evaluate says what to expect.
    """


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--store``."""
    return click.option(
        "--store",
        type=FOLDER,
        envvar="SPAHGC_STORE",
        default=DEFAULT_STORE,
        show_default=True,
        show_envvar=True,
        help="The Zarr store to read or write.",
    )(command)


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides how patches are embedded, and where."""
    for option in reversed(
        [
            click.option(
                "--encoder",
                default="lite0",
                show_default=True,
                help="Patch encoder: lite0, or timm:MODEL.",
            ),
            click.option("--weights", type=FOLDER, help="Weights file to take for the encoder."),
            click.option(
                "--patch-um",
                type=click.FloatRange(min=0, min_open=True),
                default=112.0,
                show_default=True,
                help="Width of a patch on the tissue, in µm.",
            ),
            click.option("--device", default="cpu", show_default=True, help="As torch names it."),
            click.option(
                "--workers",
                type=click.IntRange(min=0),
                default=0,
                help="Processes of a Dask cluster on this machine; 0 embeds in this one.",
            ),
            click.option("--scheduler", help="Address of a running Dask scheduler, tcp://…"),
        ]
    ):
        command = option(command)
    return command


def ingest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every ingest command shares."""
    for option in reversed(
        [
            store_option,
            click.option(
                "--no-embed", is_flag=True, help="Store the slides without embedding their patches."
            ),
            click.option(
                "--replace", is_flag=True, help="Put a slide in the place of one of the same name."
            ),
            click.option("--patient", help="Patient the slides are of."),
            click.option(
                "--mpp",
                type=click.FloatRange(min=0, min_open=True),
                help="µm per full-resolution pixel, where the files do not say or say it wrong.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print a report for machines."),
        ]
    ):
        command = option(command)
    return command


@cli.group(cls=PlainErrors)
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
@click.option(
    "--pitch-um",
    type=click.FloatRange(min=0, min_open=True),
    default=200.0,
    show_default=True,
    help="Distance between spot centers, in µm.",
)
@ingest_options
@embedding_options
def ingest_st(
    folder: Path | None,
    counts: Path | None,
    spots: Path | None,
    image: Path | None,
    labels: Path | None,
    name: str | None,
    pitch_um: float,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Read legacy Spatial Transcriptomics: a study FOLDER, or one section by its files."""
    from functools import partial

    from spahgc.ingest.readers.st import StFiles, find_sections, read_st
    from spahgc.ingest.slides import PendingSlide

    if counts is not None and folder is None:
        name = name or counts.name.removesuffix(".gz").removesuffix(".tsv")
        sections = [StFiles(name=name, counts=counts, spots=spots, image=image, labels=labels)]
    elif folder is not None and counts is None:
        sections = find_sections(folder)
    else:
        raise click.UsageError("give a FOLDER, or one section by --counts (and --spots, --image)")
    read = partial(
        read_st, pitch_um=pitch_um, patient=shared["patient"], microns_per_pixel=shared["mpp"]
    )
    _ingest([PendingSlide(name=s.name, read=partial(read, s)) for s in sections], **shared)


@ingest.command("visium")
@click.argument("folder", type=FOLDER)
@click.option("--image", type=FOLDER, help="Full-resolution H&E image the coordinates refer to.")
@click.option("--name", help="Name of the slide; by default the folder's.")
@click.option("--genome", help="Genome to keep where the counts have several.")
@ingest_options
@embedding_options
def ingest_visium(
    folder: Path,
    image: Path | None,
    name: str | None,
    genome: str | None,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Read one 10x Visium slide from FOLDER: Space Ranger's outs/, its parent, or a flat dump."""
    from functools import partial

    from spahgc.ingest.readers.visium import read_visium
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_visium,
        folder,
        image=image,
        name=name,
        genome=genome,
        patient=shared["patient"],
        microns_per_pixel=shared["mpp"],
    )
    _ingest([PendingSlide(name=name or folder.name, read=read)], **shared)


@ingest.command("image")
@click.argument("file", type=FOLDER)
@click.option("--name", help="Name of the slide; by default the file's.")
@click.option(
    "--pitch-um",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Distance between spot centers, in µm.",
)
@ingest_options
@embedding_options
def ingest_image(
    file: Path,
    name: str | None,
    pitch_um: float,
    **shared: Any,  # noqa: ANN401  the shared options, handed on as they are
) -> None:
    """Lay a grid of spots over the tissue of one H&E image FILE (SVS, TIFF, JPEG, PNG …)."""
    from functools import partial

    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.ingest.slides import PendingSlide

    read = partial(
        read_image_slide,
        file,
        name=name,
        pitch_um=pitch_um,
        patient=shared["patient"],
        microns_per_pixel=shared["mpp"],
    )
    _ingest([PendingSlide(name=name or file.stem, read=read)], **shared)


@cli.command()
@click.argument("slides", nargs=-1)
@store_option
@embedding_options
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def embed(store: Path, slides: tuple[str, ...], *, as_json: bool, **how: Any) -> None:  # noqa: ANN401
    """Embed the patches of SLIDES (by default all) that lack this encoder's embedding."""
    report = _embed(store, slides or None, **how)
    _say_embedded(report, as_json=as_json)


@cli.group(cls=PlainErrors)
def index() -> None:
    """Find look-alike spots across slides."""


@index.command("build")
@store_option
@click.option("--embedding", default="lite0", show_default=True, help="Name of the embedding.")
def index_build(store: Path, embedding: str) -> None:
    """Index every embedded slide of the store (FAISS, exact, cosine)."""
    from spahgc.store.cohort import open_cohort
    from spahgc.store.index import build_index

    cohort = open_cohort(store)
    with _spinner(f"indexing {embedding}"):
        record = build_index(cohort, embedding=embedding).record
    n_spots = sum(cohort[name].n_spots for name in record.slides)
    click.echo(
        f"index {embedding}: {n_spots} spots of {len(record.slides)} slides "
        f"({', '.join(record.slides)}), {record.kind}, {record.metric}"
    )


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


@cli.command()
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
    from spahgc.store.runs import fresh_folder, write_run
    from spahgc.store.splits import make_fold

    cohort, usable, config = _prepare(store, **how)
    for name in (*test, *validation):
        _check_usable(cohort, usable, name)
    patients = cohort.patients(usable.names)
    fold = make_fold(patients, test=test, validation=validation or None)
    folder = out or _new_folder("train")
    _say_left_out(usable)
    click.echo(
        f"training on {', '.join(fold.train)}; {', '.join(fold.validation)} chooses the epoch; "
        f"test: {', '.join(fold.test) or 'none'}",
        err=True,
    )
    with fresh_folder(folder) as unfinished:
        with _progress("training", config.training.max_epochs, unit="epochs") as advance:
            run = train_fold(cohort, fold, config=config, advance=advance).run
        write_run(run, unfinished)
        plot_curve(unfinished / "curve.png", run.curve, best_epoch=run.record.best_epoch)
    _say_run(run, folder, caveat=fold.caveat, as_json=as_json)


@cli.command()
@click.option(
    "--split",
    type=click.Choice(["leave-one-patient-out", "leave-one-slide-out"]),
    default="leave-one-patient-out",
    show_default=True,
    help="What is held out in turn.",
)
@training_options
def evaluate(
    store: Path,
    split: Any,  # noqa: ANN401  one of SPLIT_RULES
    out: Path | None,
    *,
    as_json: bool,
    **how: Any,  # noqa: ANN401  see training_options
) -> None:
    """Judge the model beside its baselines: every slide or patient is held out once."""
    from spahgc.model.evaluation import evaluate_folds
    from spahgc.report.evaluation import EvaluationReport
    from spahgc.store.runs import fresh_folder
    from spahgc.store.splits import make_folds

    cohort, usable, config = _prepare(store, **how)
    folds = make_folds(cohort.patients(usable.names), rule=split)
    folder = out or _new_folder("evaluate")
    _say_left_out(usable)
    total = len(folds) * config.training.max_epochs
    with fresh_folder(folder) as unfinished:
        report = EvaluationReport(folder=unfinished, cohort=cohort, split=split)
        with _progress(f"{len(folds)} folds", total, unit="epochs") as advance:
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
        report.show(_console(), folder=folder)


@cli.command()
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
        table = predict_stored(predictor, slide)
    elif image is not None and slide is None:
        table = _predict_image(predictor, image, mpp=mpp, pitch_um=pitch_um, weights=weights)
    else:
        raise click.UsageError("give --slide NAME of the store, or --image FILE")
    write_prediction(table, out)
    click.echo(f"{out}: {table.n_obs} spots × {table.n_vars} genes")


@cli.group("store", cls=PlainErrors)
def store_group() -> None:
    """Look at a store and take care of it."""


@store_group.command("ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")
def store_ls(store: Path, *, as_json: bool) -> None:
    """List the slides of the store."""
    from dataclasses import asdict

    from spahgc.report.listing import print_slides
    from spahgc.store.cohort import open_cohort

    commit = open_cohort(store).commit
    if as_json:
        click.echo(json.dumps({n: asdict(e) for n, e in sorted(commit.slides.items())}, indent=1))
    else:
        print_slides(commit.slides, console=_console(), title=f"{store} at commit {commit.number}")


@store_group.command("show")
@click.argument("slide")
@store_option
def store_show(slide: str, store: Path) -> None:
    """Print everything recorded about one SLIDE, as JSON."""
    from spahgc.store.cohort import open_cohort

    stored = open_cohort(store)[slide]
    fingerprints = {name: stored.embedding_record(name) for name in stored.entry.encoders}
    click.echo(json.dumps({**stored.record, "embeddings": fingerprints}, indent=1))


@store_group.command("verify")
@store_option
@click.option("--deep", is_flag=True, help="Read every byte and compare digests.")
def store_verify(store: Path, *, deep: bool) -> None:
    """Compare the store's files with what was committed."""
    from spahgc.store.care import verify_store

    problems = verify_store(store, deep=deep)
    for problem in problems:
        click.echo(f"{problem.owner}: {problem.text}")
    if problems:
        raise click.ClickException(f"{store}: {len(problems)} problem(s)")
    click.echo(f"{store}: every committed file is {'intact' if deep else 'there, of its size'}")


@store_group.command("gc")
@store_option
@click.option(
    "--older-than-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Spare what is younger: somebody may still write or read it.",
)
def store_gc(store: Path, older_than_hours: float) -> None:
    """Remove what killed writers left and what was replaced."""
    from datetime import timedelta

    from spahgc.store.care import collect_garbage

    done = collect_garbage(store, older_than=timedelta(hours=older_than_hours))
    for key in done:
        click.echo(key)
    click.echo(f"{store}: {len(done)} leftover(s) removed or mended")


@cli.command()
@click.option(
    "--into",
    type=FOLDER,
    default="demo-data",
    show_default=True,
    help="Folder to make; an earlier demo in it is replaced.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the synthetic slides.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0.2, max=2),
    default=1.0,
    show_default=True,
    help="Size of the synthetic slides; 1 has about 200 spots each.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=40, show_default=True, help="Per training."
)
@click.pass_context
def demo(ctx: click.Context, into: Path, seed: int, scale: float, epochs: int) -> None:
    """Run the whole way on synthetic slides, offline: ingest, index, train, evaluate, predict."""
    from spahgc.demo.formats import prepare_demo

    with _spinner("growing synthetic tissue"):
        slides = prepare_demo(into, seed=seed, scale=scale)
    store = ["--store", str(into / "data.zarr")]
    training = [*store, "--epochs", str(epochs), "--genes", "hvg:50"]
    run, judged = str(into / "run"), str(into / "evaluation")
    for arguments in [
        ["ingest", "st", str(slides.st), *store],
        *(["ingest", "visium", str(folder), *store] for folder in slides.visium),
        ["index", "build", *store],
        ["train", *training, "--test", slides.test, "--out", run],
        ["evaluate", *training, "--out", judged],
        ["predict", *store, "--run", run, "--slide", slides.test, "--out", f"{into}/stored.h5ad"],
        [
            *("predict", *store, "--run", run, "--image", str(slides.image)),
            *("--mpp", f"{slides.mpp}", "--out", f"{into}/image-alone.h5ad"),
        ],
        ["store", "ls", *store],
    ]:
        click.secho(f"\n$ spahgc {' '.join(arguments)}", bold=True)
        cli.main(arguments, prog_name="spahgc", parent=ctx.parent, standalone_mode=False)
    click.secho(
        f"\nThese slides are synthetic (seed {seed}): the scores say that the way works, "
        "and nothing about real tissue.",
        bold=True,
    )


def _ingest(
    pending: Iterable[PendingSlide],
    *,
    store: Path,
    replace: bool,
    no_embed: bool,
    as_json: bool,
    patient: str | None,  # noqa: ARG001  already in the readers' arguments
    mpp: float | None,  # noqa: ARG001  the same
    **how: Any,  # noqa: ANN401  see embedding_options
) -> None:
    from dataclasses import asdict

    from spahgc.ingest.slides import ingest_slides

    names, failed, reports = [], [], []
    for done in ingest_slides(pending, store=store, replace_existing=replace):
        if done.slide is None:
            failed.append(done.name)
            click.echo(f"{done.name}: {' '.join(str(done.error).split())}", err=True)
            continue
        names.append(done.name)
        findings = [asdict(finding) for finding in done.slide.findings]
        reports.append({"slide": done.name, "outcome": done.outcome, "findings": findings})
        if not as_json:
            _say_slide(done.slide, done.outcome)
    embedded = None if no_embed or not names else _embed(store, names, **how)
    if as_json:
        click.echo(
            json.dumps(
                {"slides": reports, "embedding": embedded and asdict(embedded), "failed": failed},
                indent=1,
            )
        )
    elif embedded is not None:
        _say_embedded(embedded, as_json=False)
    if failed:
        raise click.ClickException(f"{len(failed)} slide(s) not ingested: {', '.join(failed)}")


def _say_slide(slide: Slide, outcome: str) -> None:
    genes = f"{len(slide.genes)} genes" if len(slide.genes) else "no expression"
    total = f", {int(slide.counts.sum())} counts" if len(slide.genes) else ""
    scale = f"{slide.microns_per_pixel:.4g} µm/px" if slide.microns_per_pixel else "scale unknown"
    click.echo(
        f"{slide.name}: {outcome}, {len(slide.spots)} spots, {genes}{total}, {scale}, "
        f"patient {slide.patient or 'unknown'}"
    )
    for finding in slide.findings:
        click.echo(f"  {finding.kind}: {finding.text}")


def _embed(
    store: Path,
    slides: Iterable[str] | None,
    *,
    encoder: str,
    weights: Path | None,
    patch_um: float,
    device: str,
    workers: int,
    scheduler: str | None,
) -> EmbeddingReport:
    from spahgc.ingest.embedding import EmbeddingConfig, embed_slides
    from spahgc.store.cohort import open_cohort

    cohort = open_cohort(store)
    names = list(cohort.slides) if slides is None else list(slides)
    config = EmbeddingConfig(encoder=encoder, weights=weights, side_um=patch_um, device=device)
    n_spots = sum(cohort[name].n_spots for name in names if cohort[name].entry.image)
    with _progress(f"embedding with {encoder}", n_spots, unit="spots") as advance:
        return embed_slides(
            store,
            config=config,
            slides=names,
            workers=workers,
            scheduler=scheduler,
            advance=advance,
        )


def _say_embedded(report: EmbeddingReport, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps(asdict(report), indent=1))
        return
    for slide, n_spots in report.embedded.items():
        padded = report.padded.get(slide)
        note = f", {padded} of them reach over the image's border" if padded else ""
        click.echo(f"{slide}: {n_spots} spots embedded as {report.embedding}{note}")
    for slide in report.kept:
        click.echo(f"{slide}: already embedded as {report.embedding}")
    for slide, reason in report.left_out.items():
        click.echo(f"{slide}: not embedded, {reason}")


def _console() -> Console:
    """Give a console on standard output that a narrow pipe does not squeeze."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


@contextmanager
def _progress(what: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, where it is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " at {task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, rate="…")

        def advance(n_done: int) -> None:
            progress.advance(task, n_done)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate="…" if speed is None else f"{speed:.3g}")

        yield advance


@contextmanager
def _spinner(what: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _prepare(
    store: Path,
    *,
    genes: str,
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
    from spahgc.store.cohort import open_cohort

    PanelRule.parse(genes)
    cohort = open_cohort(store)
    training = TrainingConfig(max_epochs=epochs, ema=ema, seed=seed, device=device)
    config = RunConfig(embedding=embedding, panel_rule=genes, training=training)
    return cohort, cohort.usable(embedding), config


def _predict_image(
    predictor: Predictor,
    image: Path,
    *,
    mpp: float | None,
    pitch_um: float,
    weights: Path | None,
) -> Any:  # noqa: ANN401  an AnnData
    from spahgc.ingest.embedding import EmbeddingConfig, embed_image_slide
    from spahgc.ingest.readers.image import read_image_slide
    from spahgc.model.prediction import predict_new

    slide = read_image_slide(image, microns_per_pixel=mpp, pitch_um=pitch_um)
    record = predictor.run.record
    config = EmbeddingConfig(
        encoder=record.encoder["encoder"], weights=weights, side_um=record.encoder["patch_um"]
    )
    with _progress("embedding", len(slide.spots), unit="spots") as advance:
        embedding_SD = embed_image_slide(
            slide, config, fingerprint_digest=record.fingerprint, advance=advance
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
