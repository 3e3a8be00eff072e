"""What every command shares: the store option, errors in one line, bars on standard error."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spahgc.errors import SpahgcError
from spahgc.store.words import spell_plain
from spahgc.urls import how_to_give, scheme_with_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


FOLDER = click.Path(path_type=Path)


class Picture(click.Path):
    """A picture to write; ``.png`` where no format is named."""

    formats = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".svg", ".pdf")

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Read what was typed."""
        typed = os.fsdecode(value)
        path = Path(typed)
        if path.name in {"", ".."} or typed.endswith(os.sep):
            self.fail(f"{typed!r} names no file.", param, ctx)
        if not path.suffix:
            path = path.with_name(f"{path.name}.png")
        if path.suffix.lower() not in self.formats:
            expected = ", ".join(self.formats)
            self.fail(f"{typed} is no format of pictures, expected {expected}.", param, ctx)
        return Path(os.fsdecode(super().convert(path, param, ctx)))


class FiniteRange(click.FloatRange):
    """A number within bounds; NaN, which no bound holds back, and infinity are none."""

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read what was typed, or stands for it."""
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = FiniteRange(min=0, min_open=True)

SEED = click.IntRange(0, 2**32 - 1)
"""What every generator of random numbers takes."""

_OF_THE_PLACE = frozenset(
    [
        *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG),
        *(errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
    ]
)
"""What the file system refuses is the place's fault, not a bug of ours."""


class PlainErrors(click.Group):
    """Show our own errors as one line; let bugs keep their traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's own signature
        """Name the commands in the order of the way, not of the alphabet."""
        return list(self.commands)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # noqa: ANN401  click's own
        """Read the arguments; ``--help`` and ``--version`` print here already."""
        for argument in args[1]:
            if (scheme := scheme_with_password(argument)) is not None:  # before anything shows it
                raise click.ClickException(how_to_give(scheme))
        with _plain_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's own signature
        """Run the command."""
        with _plain_errors():
            return super().invoke(ctx)


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except SpahgcError as error:
        raise click.ClickException(spell_plain(" ".join(str(error).split()))) from error
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        raise click.ClickException(spell_plain(f"{place}{error.strerror}")) from error


def with_options(
    command: Callable[..., Any], *options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    """Add options to a command; its help shows them in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--store``."""
    return click.option(
        "--store",
        envvar="SPAHGC_STORE",
        default="data.zarr",
        show_default=True,
        show_envvar=True,
        help="The store: a folder, s3://bucket/name, https://… or a .zip.",
    )(command)


def place_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--store``, and let the store also be named by the first argument."""

    @wraps(command)
    def run(*args: Any, where: str | None, store: str, **options: Any) -> Any:  # noqa: ANN401
        return command(*args, store=where or store, **options)

    return click.argument("where", required=False)(store_option(run))


def cluster_options(*, alone: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give what adds ``--workers`` and ``--scheduler``, of which a command takes one at most.

    Parameters
    ----------
    alone
        What is done in this process where neither is given, as help says it.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(
            *args: Any,  # noqa: ANN401
            workers: int | None,
            scheduler: str | None,
            **options: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            if workers is not None and scheduler is not None:
                raise click.UsageError(
                    "--workers starts processes on this machine, --scheduler takes those of a "
                    "cluster that runs already: choose one"
                )
            return command(*args, workers=workers or 0, scheduler=scheduler, **options)

        return with_options(
            run,
            click.option(
                "--workers",
                type=click.IntRange(min=0),
                help=f"Processes of a Dask cluster on this machine; 0, the default, {alone} in "
                "this one.",
            ),
            click.option("--scheduler", help="Address of a running Dask scheduler, tcp://…"),
        )

    return add


json_option = click.option("--json", "as_json", is_flag=True, help="Print a report for machines.")

keep_paths_option = click.option(
    "--keep-paths",
    is_flag=True,
    help="Tell also where files lay, and which user on which machine wrote them.",
)


def say_paths(*, kept: bool) -> None:
    """Say on standard error whether what is handed on tells where files lay."""
    what = "paths, users and hosts are handed on too"
    if not kept:
        what = "paths are cut to file names, users and hosts left out; `--keep-paths` keeps them"
    click.echo(f"note: {what}", err=True)


def console() -> Console:
    """Give a console on standard output that a narrow pipe does not squeeze."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


@contextmanager
def progress_bar(what: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " at {task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(spell_plain(what), total=total, rate="…")

        def advance(n_done: int) -> None:
            progress.advance(task, n_done)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate="…" if speed is None else f"{speed:.3g}")

        yield advance


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Say on standard error what is being waited for."""
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(spell_plain(what))):
        yield
