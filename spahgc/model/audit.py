"""Prove from the records, the weights and the store that nothing of a test slide taught a run.

Nothing here believes what a record says of itself where it can be worked out again.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.model.committee import PROGRAMMES, REDUCER
from spahgc.model.committee_fitting import CommitteeConfig, fit_basis
from spahgc.model.copies import find_copies
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel
from spahgc.model.prediction import Predictor, open_predictor
from spahgc.model.scoring import mean_pcc, score_listed
from spahgc.model.settings import Settings, settings_of
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.model.teaching import choose_genes, choose_programme_genes
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run
from spahgc.store.splits import BY_PATIENT, UNKNOWN, caveat_of

TOLERANCE: Final = 2e-3
"""How much a score may differ when it is worked out again, perhaps on another machine."""


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


def audit_run(run: Run, cohort: Cohort) -> list[Finding]:
    """Work out again what a run was made of, and name every leak.

    Returns
    -------
    list[Finding]
        One or more per check, in the order of `CHECKS`.

    Raises
    ------
    MissingError
        If a slide of the run, or its index, is not in the store.
    MismatchError
        If a slide has changed since: then nothing can be proved.
    DamagedStoreError
        If the run's record holds settings that none can have.
    """
    record = run.record
    for name, content in {**record.train, **record.judged}.items():
        if cohort[name].entry.content != content:
            raise MismatchError(
                f"slide {name} in {cohort.where} is not the one this run was made with, so "
                "nothing can be proved; audit it beside the store of commit "
                f"{record.commit}, or train again"
            )
    evidence = Evidence(run=run, cohort=cohort, settings=settings_of(run))
    return [finding for check in CHECKS for finding in check(evidence)]


def _check_parts(evidence: Evidence) -> Iterator[Finding]:
    record = evidence.run.record
    parts = {
        "train": set(record.train),
        "validation": set(record.validation),
        "test": set(record.test),
    }
    leaks = [
        f"{', '.join(sorted(both))} is for {one} and for {other}"
        for one, other in (("train", "test"), ("validation", "test"), ("train", "validation"))
        if (both := parts[one] & parts[other])
    ]
    yield _verdict(
        "parts",
        leaks,
        clean=f"{len(record.train)} train, {len(record.validation)} validation and "
        f"{len(record.test)} test slides, no slide in two parts",
    )


def _check_panel(evidence: Evidence) -> Iterator[Finding]:
    record, cohort = evidence.run.record, evidence.cohort
    known = (*record.train, *record.validation)
    if record.wide and choose_programme_genes(cohort, known).genes != record.wide:
        text = "the genes of programmes are not those that the training slides give"
        yield Finding(check="panel", verdict="leak", text=text)
    panel = GenePanel(genes=record.panel, rule=record.panel_rule)
    if panel.digest != record.panel_digest:
        text = f"its genes are {panel.digest}, but the run says {record.panel_digest}"
        yield Finding(check="panel", verdict="leak", text=text)
        return
    if panel.is_listed:
        text = (
            f"{len(panel.genes)} genes were listed by somebody ({panel.digest}) and chosen on no "
            "slide here: whether the list was made with the test slides cannot be seen"
        )
        yield Finding(check="panel", verdict="caveat", text=text)
        return
    rule = PanelRule.parse_recorded(record.panel_rule)
    again = choose_genes(cohort, known, rule=rule)
    if again.genes == record.panel:
        text = f"{record.panel_rule} chosen again without the test slides gives {again.digest}"
        yield Finding(check="panel", verdict="clean", text=text)
        return
    with_test = choose_genes(cohort, (*known, *record.test), rule=rule)
    how = "chosen with the test slides" if with_test.genes == record.panel else "not reproducible"
    missing = len(set(record.panel) - set(again.genes))
    yield Finding(
        check="panel",
        verdict="leak",
        text=f"the gene panel is {how}: {record.panel_rule} on the training slides gives "
        f"{again.digest}, the run has {record.panel_digest} ({missing} genes differ)",
    )


def _check_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Fit again what features and expression are scaled and reduced by."""
    record = evidence.run.record
    if record.committee is None:
        text = "nothing is scaled or reduced by any slide but the one it belongs to"
        yield Finding(check="statistics", verdict="clean", text=text)
        return
    teachers = list(evidence.predictor.teaching.spots.values())
    if _differs(evidence, teachers) is None:
        text = f"means of features and expression are those of {', '.join(record.train)} alone"
        yield Finding(check="statistics", verdict="clean", text=text)
        return
    with_test = _differs(evidence, [*teachers, *evidence.test.values()])
    how = "not reproducible" if with_test else "fitted with the test slides"
    yield Finding(
        check="statistics",
        verdict="leak",
        text=f"the scaling is {how}: {_differs(evidence, teachers)} is not that of the training "
        "slides",
    )


def _differs(evidence: Evidence, slides: Sequence[SlideSpots]) -> str | None:
    """Name a statistic that is not what these slides give, None where all are."""
    weights = evidence.run.weights
    committee = evidence.settings.committee or CommitteeConfig()
    basis = fit_basis(slides, committee, seed=evidence.settings.training.seed)
    again = {
        f"{REDUCER}mean": basis.reducer.arrays()["mean"],
        f"{PROGRAMMES}mean": basis.programmes.arrays()["mean"],
    }
    for name, values in again.items():
        stored = weights[name]
        scale = float(np.abs(values).max()) or 1.0
        if stored.shape != values.shape or np.abs(stored - values).max() > TOLERANCE * scale:
            return name
    return None


def _check_index(evidence: Evidence) -> Iterator[Finding]:
    record = evidence.run.record
    strangers = sorted(set(record.references) - set(record.train))
    leaks = [f"{name} was borrowed from, but is no training slide" for name in strangers]
    leaks += [
        f"{name} was borrowed from, but is for test"
        for name in sorted(set(record.references) & set(record.test) - set(strangers))
    ]
    yield _verdict(
        "index", leaks, clean=f"borrowed from {', '.join(record.references)}, all of them teachers"
    )


def _check_scores(evidence: Evidence) -> Iterator[Finding]:
    """Predict the test slides again, from the training slides alone."""
    scores = evidence.run.scores
    if scores is None:
        yield Finding(check="scores", verdict="clean", text="the run was tested on nothing")
        return
    leaks = []
    for name, spots in evidence.test.items():
        stored = scores[scores["slide"] == name].set_index("gene")
        if set(stored.index) != set(evidence.run.record.panel):
            leaks.append(f"the scores of {name} are not those of the panel's genes")
            continue
        predicted_SG = evidence.predictor.predict(spots)
        again = score_listed(expression_of(spots), predicted_SG, genes=evidence.run.record.panel)
        again = again.reindex(stored.index)
        for column in ("pcc", "rmse"):
            # a score that is undefined once is as far off as can be
            one_sided = again[column].isna() != stored[column].isna()
            difference = (again[column] - stored[column]).abs().mask(one_sided, np.inf).max()
            if difference > TOLERANCE:
                leaks.append(
                    f"{name} predicted again from the training slides alone gives other scores "
                    f"({column} differs by up to {difference:.3g}): something else was seen"
                )
                break
    clean = f"{', '.join(evidence.test)} predicted again gives the same scores"
    yield _verdict("scores", leaks, clean=clean)


def _check_checkpoint(evidence: Evidence) -> Iterator[Finding]:
    record, curve = evidence.run.record, evidence.run.curve
    leaks = [
        f"test slide {name} chose the epoch"
        for name in sorted(set(record.validation) & set(record.test))
    ]
    if not record.validation:
        held_out = set(evidence.run.trust.slides) if evidence.run.trust else set()
        leaks += [
            f"{name} was held out to settle the model, but is no training slide"
            for name in sorted(held_out - set(record.train))
        ]
        chosen = f"epoch {record.best_epoch}" if len(curve) else "the penalty"
        told = f"training slides held out in turn chose {chosen}"
        yield _verdict("checkpoint", leaks, clean=told)
        return
    least = int(curve["epoch"].iloc[int(curve["validation_loss"].argmin())])
    if least != record.best_epoch:
        leaks.append(
            f"epoch {record.best_epoch} was kept, but the validation loss is least at epoch {least}"
        )
    again = _mean_pcc(evidence.predictor, evidence.validation)
    if not abs(again - record.validation_pcc) <= TOLERANCE:  # nor NaN
        by_test = _mean_pcc(evidence.predictor, evidence.test)
        is_test = abs(by_test - record.validation_pcc) <= TOLERANCE
        who = f"; on the test slides it is {by_test:.4f}: they chose it" if is_test else ""
        leaks.append(
            f"on {', '.join(record.validation)} the kept weights have a mean PCC of {again:.4f}, "
            f"but the run says {record.validation_pcc:.4f}{who}"
        )
    yield _verdict(
        "checkpoint",
        leaks,
        clean=f"epoch {record.best_epoch} has the least loss on {', '.join(record.validation)}",
    )


def _check_copies(evidence: Evidence) -> Iterator[Finding]:
    record, cohort = evidence.run.record, evidence.cohort
    teachers = (*record.train, *record.validation)
    twins = cohort.twins(record.test, teachers)
    leaks = [f"{one} and {other} have the same image or counts" for one, other in twins]
    embedding = next(iter(record.fingerprints))
    for judged in record.test:
        own_SD = cohort[judged].read_embedding(embedding)
        for teacher in teachers:
            share = find_copies(own_SD, cohort[teacher].read_embedding(embedding))
            if share is not None and (judged, teacher) not in twins:
                leaks.append(f"{share:.0%} of the patches of {judged} are also in {teacher}")
    yield _verdict("copies", leaks, clean="no test image is among the teachers, nor part of one")


def _check_patients(evidence: Evidence) -> Iterator[Finding]:
    record, cohort = evidence.run.record, evidence.cohort
    teachers = (*record.train, *record.validation)
    owners = {
        name: patient or UNKNOWN
        for name, patient in cohort.patients((*teachers, *record.test)).items()
    }
    shared = sorted({owners[name] for name in record.test} & {owners[name] for name in teachers})
    if not shared:
        yield Finding(check="patients", verdict="clean", text="no patient is on both sides")
        return
    is_hidden = set(shared) != set(record.shared_patients) or record.split == BY_PATIENT
    text = caveat_of(shared) or ""
    if is_hidden:
        text = f"{text}; the run does not say so"
    yield Finding(check="patients", verdict="leak" if is_hidden else "caveat", text=text)


CHECKS: Final[Sequence[Callable[[Evidence], Iterator[Finding]]]] = (
    _check_parts,
    _check_panel,
    _check_statistics,
    _check_index,
    _check_scores,
    _check_checkpoint,
    _check_copies,
    _check_patients,
)


def _verdict(check: str, leaks: Sequence[str], *, clean: str) -> Finding:
    if leaks:
        return Finding(check=check, verdict="leak", text="; ".join(leaks))
    return Finding(check=check, verdict="clean", text=clean)


def _mean_pcc(predictor: Predictor, slides: dict[str, SlideSpots]) -> float:
    each: list[float] = []
    for spots in slides.values():
        predicted_SG: NDArray[np.float32] = predictor.predict(spots)
        each.append(mean_pcc(expression_of(spots), predicted_SG))
    return float(np.mean(each))
