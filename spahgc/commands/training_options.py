"""What ``train`` and ``evaluate`` ask alike, and what they make of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from spahgc.commands.screen import (
    FOLDER,
    POSITIVE,
    FiniteRange,
    json_option,
    store_option,
    with_options,
)
from spahgc.errors import MissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spahgc.model.runs import RunConfig
    from spahgc.model.spots import NearConfig
    from spahgc.model.training import Precision
    from spahgc.store.cohort import Cohort, Usable


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides how a model is trained."""
    return with_options(
        command,
        store_option,
        click.option(
            "--genes",
            default="hvg:50",
            show_default=True,
            help="Gene panel, chosen on training slides: hvg:N, heg:N, all, or a file of ids or "
            "symbols.",
        ),
        click.option(
            "--gene-ids",
            default="id",
            show_default=True,
            metavar="id|symbol|FILE",
            help="What slides name genes by: ids as stored, symbols, or symbols with those of a "
            "file of two columns, id and symbol. Counts of genes of one symbol are summed.",
        ),
        click.option("--leave-out", multiple=True, help="Slide not to use; may be given again."),
        click.option(
            "--embedding",
            "embeddings",
            multiple=True,
            help="Name of an embedding; again for further fields of view. By default those of "
            "the preset.",
        ),
        click.option(
            "--preset",
            type=click.Choice(["default", "paper"]),
            default="default",
            show_default=True,
            help="A kernel ridge on gene programs, or the paper's graph network to the letter.",
        ),
        click.option(
            "--near",
            type=click.Choice(["4", "8", "nearest"]),
            help="Spots near a spot on square and staggered arrays: whole rings of 4, or of 4 and "
            "4; on hexagonal arrays it is 6. `nearest` takes the 6 nearest on any.",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            help="Most rounds over the training slides; by default the preset's.",
        ),
        click.option(
            "--networks",
            type=click.IntRange(min=0),
            help="Graph networks beside the kernel ridge of the default preset; 0 by default.",
        ),
        click.option(
            "--ema",
            type=FiniteRange(min=0, max=1),
            help="Let the second encoder be a moving average with this decay.",
        ),
        click.option(
            "--device",
            default="cpu",
            show_default=True,
            help="To train networks on: cpu, cuda, cuda:1 …, or auto.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
            help="Of the products of a network's training step.",
        ),
        click.option(
            "--clip-gradient",
            "gradient_clip",
            type=POSITIVE,
            help="Greatest norm of a network's gradient; by default it is not clipped.",
        ),
        click.option("--out", type=FOLDER, help="Folder to make; by default a new one in runs/."),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on from what an interrupted command left at --out.",
        ),
        json_option,
    )


def prepare(
    store: str,
    *,
    genes: str,
    gene_ids: str,
    leave_out: tuple[str, ...],
    embeddings: tuple[str, ...],
    preset: str,
    near: str | None,
    epochs: int | None,
    networks: int | None,
    ema: float | None,
    seed: int,
    device: str,
    precision: Precision,
    gradient_clip: float | None,
) -> tuple[Cohort, Usable, RunConfig]:
    """Open the store, and make of `training_options` a configuration and the slides to use.

    Raises
    ------
    MissingError
        If there is no slide to learn from, or one to leave out is none.
    """
    from spahgc.model.panel_rules import PanelRule
    from spahgc.model.presets import PRESETS
    from spahgc.store.cohort import Usable, open_cohort
    from spahgc.store.gene_names import GeneNames

    panel_rule, gene_names = PanelRule.parse(genes), GeneNames.parse(gene_ids)
    if twice := [name for name, n_times in Counter(embeddings).items() if n_times > 1]:
        raise click.UsageError(f"--embedding {twice[0]} is given twice")
    cohort = open_cohort(store)
    base = PRESETS[preset]
    features = replace(base.features, embeddings=embeddings or base.features.embeddings)
    max_epochs = epochs or base.training.max_epochs
    training = replace(
        base.training,
        max_epochs=max_epochs,
        ema=ema,
        seed=seed,
        device=device,
        precision=precision,
        gradient_clip=gradient_clip,
    )
    config = replace(
        base,
        features=features,
        panel_rule=panel_rule,
        gene_names=gene_names,
        training=training,
    )
    if near is not None:
        config = replace(config, near=near_config(near))
    if networks is not None:
        if config.committee is None:
            raise click.UsageError("--networks is for the default preset; the paper's is one")
        config = replace(config, committee=replace(config.committee, n_networks=networks))
    if config.committee is not None and not config.committee.n_networks and device != "cpu":
        click.echo("the default preset has no network to train: --device has no part", err=True)
    usable = cohort.usable(*features.embeddings)
    if not usable.names:
        told = "; ".join(f"{name} {reason}" for name, reason in list(usable.left_out.items())[:3])
        raise MissingError(f"{store} has no slide to learn from: {told or 'it is empty'}")
    asked = {}
    for name in leave_out:
        reason = usable.left_out.get(cohort[name].name)  # which says what slides there are
        why = "" if reason is None else f", and could not be used anyway: it {reason}"
        asked[name] = f"was named by --leave-out{why}"
    names = tuple(name for name in usable.names if name not in asked)
    if not names:
        raise MissingError(f"--leave-out names every slide of {store} that could be learned from")
    _warn_of_scales(cohort, names)
    return cohort, Usable(names=names, left_out={**usable.left_out, **asked}), config


def _warn_of_scales(cohort: Cohort, names: tuple[str, ...]) -> None:
    for name in names:
        if cohort[name].is_scaled_wrong:
            click.echo(
                f"slide {name} lies on a 2k array, whose pixel size the spahgc that stored it took "
                "wrong by half: its patches are too small; `spahgc ingest st … --replace` mends it",
                err=True,
            )


def near_config(near: str) -> NearConfig | None:
    """Make of ``--near`` which spots are near: so many in whole rings, or the six nearest."""
    from spahgc.model.spots import NearConfig

    n_near = {"4": 4, "8": 8}.get(near)
    return NearConfig(square=n_near, staggered=n_near) if n_near else None


def check_usable(cohort: Cohort, usable: Usable, name: str) -> None:
    """Raise where a slide that was named cannot teach or judge."""
    if name not in usable.names:
        slide = cohort[name]  # says which slides there are, if this is none
        raise MissingError(f"slide {slide.name} cannot be used: it {usable.left_out[name]}")


def check_device_of(config: RunConfig) -> None:
    """Refuse a device that is not here, where any network is to be trained on it."""
    from spahgc.model.training import find_device

    if config.has_networks:
        find_device(config.training.device)


def say_no_index(cohort: Cohort, names: Sequence[str], config: RunConfig) -> None:
    """Say where the store has no index that fits, and one is made in memory."""
    from spahgc.model.feature_index import why_no_index

    reason = why_no_index(cohort, names, config.features)
    if reason is not None:
        command = f"spahgc index build --store {cohort.where} --encoder"
        click.echo(
            f"{reason}, so similar spots are searched in memory; `{command} "
            f"{config.features.embeddings[0]}` keeps an index",
            err=True,
        )


def say_left_out(usable: Usable) -> None:
    """Say which slides are left out, and why."""
    for name, reason in usable.left_out.items():
        click.echo(f"{name} is left out: it {reason}", err=True)
