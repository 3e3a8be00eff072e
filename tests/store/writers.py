"""Processes that write to one store at the same moment; they share nothing but its place."""

import os
from collections.abc import Mapping, Sequence

from spahgc.errors import SpahgcError
from spahgc.store.opening import open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.processes import at_once


def add_slides(
    place: str, slides: Sequence[tuple[str, int]], environment: Mapping[str, str]
) -> list[str]:
    """Add slides of the given names and seeds, and say of each what became of it."""
    os.environ.update(environment)
    outcomes = []
    for name, seed in slides:
        try:
            outcomes.append(add_slide(open_store(place), build_slide(name, seed=seed)))
        except SpahgcError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def add_at_once(place: str, work: Sequence[Sequence[tuple[str, int]]]) -> list[list[str]]:
    """Let as many processes as ``work`` is long add their slides, all at the same time."""
    secrets = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    return at_once(add_slides, [(place, slides, secrets) for slides in work])
