"""Where ``train`` and ``evaluate`` make what they make, and go on after an interruption."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spahgc.model.runs import RunConfig
    from spahgc.store.cohort import Cohort
    from spahgc.store.splits import Fold


@contextmanager
def making(folder: Path, *, plan: dict[str, Any], resume: bool) -> Iterator[Path]:
    """Give an unfinished folder; say how to go on where it is kept after all."""
    from spahgc.store.run_folders import unfinished_folder

    unfinished = None
    try:
        with unfinished_folder(folder, plan=plan, resume=resume) as unfinished:
            yield unfinished
    except BaseException:  # an interruption, or any error
        if unfinished is not None and unfinished.is_dir():
            click.echo(
                f"what is done is kept: go on with `--resume --out {folder}`, or remove "
                f"{unfinished}",
                err=True,
            )
        raise


def plan_of(
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


def check_out(out: Path | None, *, resume: bool) -> None:
    """Refuse a folder that is taken, or to go on with one that was not named."""
    from spahgc.store.run_folders import check_free

    if resume and out is None:
        raise click.UsageError("--resume goes on with what lies at --out: name that folder")
    if out is not None:
        check_free(out)


def new_folder(command: str) -> Path:
    """Name a folder below runs/ by the time."""
    from datetime import UTC, datetime

    return Path("runs") / f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name every setting by itself, so that it can be said which one changed."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value
