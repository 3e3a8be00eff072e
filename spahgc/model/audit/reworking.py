"""Checks that work out again what slides decided: genes, scaling, scores, epoch.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.model.audit.evidence import Evidence, Finding, verdict_of
from spahgc.model.committee import PROGRAMMES, REDUCER
from spahgc.model.committee_fitting import CommitteeConfig, fit_basis
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel
from spahgc.model.prediction import Predictor
from spahgc.model.scoring import mean_pcc, score_listed
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.model.teaching import choose_genes, choose_programme_genes
from spahgc.store.run_record import gene_names_of

TOLERANCE: Final = 2e-3
"""How much a score may differ when it is worked out again, perhaps on another machine."""


def check_panel(evidence: Evidence) -> Iterator[Finding]:
    """Choose the genes again, on the slides that may choose them."""
    record, cohort = evidence.run.record, evidence.cohort
    known, names = (*record.train, *record.validation), gene_names_of(record)
    if record.wide and choose_programme_genes(cohort, known, names).genes != record.wide:
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
    again = choose_genes(cohort, known, rule=rule, gene_names=names)
    if again.genes == record.panel:
        text = f"{record.panel_rule} chosen again without the test slides gives {again.digest}"
        yield Finding(check="panel", verdict="clean", text=text)
        return
    with_test = choose_genes(cohort, (*known, *record.test), rule=rule, gene_names=names)
    how = "chosen with the test slides" if with_test.genes == record.panel else "not reproducible"
    missing = len(set(record.panel) - set(again.genes))
    yield Finding(
        check="panel",
        verdict="leak",
        text=f"the gene panel is {how}: {record.panel_rule} on the training slides gives "
        f"{again.digest}, the run has {record.panel_digest} ({missing} genes differ)",
    )


def check_statistics(evidence: Evidence) -> Iterator[Finding]:
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


def check_scores(evidence: Evidence) -> Iterator[Finding]:
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
    yield verdict_of("scores", leaks, clean=clean)


def check_checkpoint(evidence: Evidence) -> Iterator[Finding]:
    """Check who chose the epoch, and that the kept weights are that epoch's."""
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
        yield verdict_of("checkpoint", leaks, clean=told)
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
    yield verdict_of(
        "checkpoint",
        leaks,
        clean=f"epoch {record.best_epoch} has the least loss on {', '.join(record.validation)}",
    )


def _mean_pcc(predictor: Predictor, slides: dict[str, SlideSpots]) -> float:
    each: list[float] = []
    for spots in slides.values():
        predicted_SG: NDArray[np.float32] = predictor.predict(spots)
        each.append(mean_pcc(expression_of(spots), predicted_SG))
    return float(np.mean(each))
