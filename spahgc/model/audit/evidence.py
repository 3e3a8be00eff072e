"""What an audit looks at, and what its checks say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from spahgc.model.committee import Committee
from spahgc.model.committee_fitting import CommitteeConfig, Trial, fit_ridges, hold_out
from spahgc.model.kernel_ridge import KernelRidge
from spahgc.model.network import NetworkShape
from spahgc.model.prediction import Predictor, open_predictor
from spahgc.model.progress import ignore
from spahgc.model.runs import library_versions
from spahgc.model.settings import Settings
from spahgc.model.spots import SlideSpots
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run

SCORE_TOLERANCE: Final = 2e-3
"""How much a score may differ when it is worked out again, perhaps on another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """In a word or two."""

    verdict: Literal["clean", "leak", "caveat", "not checked", "absent"]
    """``caveat``: no leak, but the score must be read with it in mind; ``not checked``: the run has
    it, and a leak in it would not have been seen; ``absent``: the run has nothing of the kind."""

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

    @property
    def committee(self) -> Committee | None:
        """The default preset's model; None where it is the paper's network."""
        model = self.predictor.model
        return model if isinstance(model, Committee) else None

    @property
    def fitting(self) -> CommitteeConfig:
        """How all of a committee but its networks is fitted."""
        return replace(self.settings.committee or CommitteeConfig(), n_networks=0)

    def fit_ridges(self, slides: Sequence[SlideSpots]) -> list[KernelRidge]:
        """Fit a ridge per penalty on some slides, as the run's own reducer and programmes see them.

        Gives nothing for a run that is no committee.
        """
        if self.committee is None:
            return []
        reduced = [self.committee.basis.reduce(spots) for spots in slides]
        return fit_ridges(reduced, self.fitting, seed=self.settings.training.seed)

    @cached_property
    def ridges(self) -> list[KernelRidge]:
        """One per penalty, fitted again on the training slides."""
        return self.fit_ridges(self.train)

    @cached_property
    def trials(self) -> list[Trial]:
        """What a ridge per penalty predicts for training slides held out again in turn."""
        trials, _ = hold_out(
            self.predictor.teaching,
            config=self.fitting,
            shape=NetworkShape(),
            training=self.settings.training,
            progress=ignore,
        )
        return trials

    @property
    def has_networks(self) -> bool:
        """Whether any part of the model is a graph network."""
        return self.settings.network is not None

    @property
    def train(self) -> list[SlideSpots]:
        """The training slides."""
        return list(self.predictor.teaching.spots.values())

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


def note_versions(finding: Finding, evidence: Evidence) -> Finding:
    """Say beside a leak that other libraries made the run, which may be why it differs."""
    made, here = evidence.run.record.versions, library_versions()
    names = ("spahgc", "numpy", "scipy", "scikit-learn", "scanpy")
    other = [f"{n} {made[n]} (here {here[n]})" for n in names if made.get(n, here[n]) != here[n]]
    if finding.verdict != "leak" or not other:
        return finding
    text = f"{finding.text}; the run was made with {', '.join(other)}: audit it with the same"
    return replace(finding, text=text)
