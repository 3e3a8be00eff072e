"""What ``embed --verify`` does: embed a sample again, compare, say so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from spahgc.commands.screen import spinner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spahgc.ingest.fields import EmbeddingConfig
    from spahgc.ingest.verifying import Verification


def verify_stored(
    store: str,
    slides: Sequence[str] | None,
    *,
    config: EmbeddingConfig,
    as_json: bool,
) -> None:
    """Compare stored embeddings with some spots embedded again; fail if they are not the same."""
    from dataclasses import asdict

    from spahgc.ingest.verifying import verify_embeddings

    with spinner(f"embedding some spots again with {config.encoder}"):
        done = list(verify_embeddings(store, config=config, slides=slides))
    if as_json:
        click.echo(json.dumps([asdict(verification) for verification in done], indent=1))
    else:
        for verification in done:
            click.echo(_say(verification))
    failed = sum(not verification.is_same for verification in done)
    if failed or not done:
        found = f"{failed} of {len(done)} are not the same" if done else "no slide has it"
        raise click.ClickException(f"{store}: embedding with {config.encoder}: {found}")


def _say(verification: Verification) -> str:
    what = f"{verification.slide}: {verification.embedding}"
    if verification.differs:
        parts = "; ".join(
            f"{key} {_short(then)}, now {_short(now)}"
            for key, (then, now) in verification.differs.items()
        )
        return f"{what} was made in another way: {parts}"
    verdict = "the same" if verification.is_same else "NOT the same"
    return (
        f"{what}: {verification.n_spots} spots embedded again are {verdict}: smallest cosine "
        f"{verification.min_cosine:.7f} (spot {verification.worst_spot}), largest difference "
        f"{verification.max_difference:.2g}"
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
