"""What an audit looks at, and what its checks say."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from spahgc.model.prediction import Predictor, open_predictor
from spahgc.model.settings import Settings
from spahgc.model.spots import SlideSpots
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """In a word or two."""

    verdict: Literal["clean", "leak", "caveat"]
    """``caveat``: no leak, but the score must be read with it in mind."""

    text: str
    """One line for a person."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A run beside the store it was trained from."""

    run: Run
    """What is audited."""

    cohort: Cohort
    """The store, whose slides are those the run was made with."""

    settings: Settings
    """What it was trained with."""

    @cached_property
    def predictor(self) -> Predictor:
        """The run as it would be used, borrowing from its training slides alone."""
        return open_predictor(self.run, self.cohort)

    @cached_property
    def test(self) -> dict[str, SlideSpots]:
        """The test slides."""
        return {name: self.predictor.teaching.read(name) for name in self.run.record.test}

    @cached_property
    def validation(self) -> dict[str, SlideSpots]:
        """The validation slides."""
        return {name: self.predictor.teaching.read(name) for name in self.run.record.validation}


def verdict_of(check: str, leaks: Sequence[str], *, clean: str) -> Finding:
    """Give the finding of a check that found these leaks, or none."""
    if leaks:
        return Finding(check=check, verdict="leak", text="; ".join(leaks))
    return Finding(check=check, verdict="clean", text=clean)
