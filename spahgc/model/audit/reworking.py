"""Checks that work out again what slides decided: genes, scores, epoch.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from spahgc.model.audit.evidence import SCORE_TOLERANCE, Evidence, Finding, verdict_of
from spahgc.model.losses import expression_loss
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel
from spahgc.model.prediction import Predictor
from spahgc.model.scoring import mean_pcc, score_listed
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.model.teaching import choose_genes, choose_programme_genes
from spahgc.store.run_record import gene_names_of


def check_panel(evidence: Evidence) -> Iterator[Finding]:
    """Choose the genes again, on the slides that may choose them."""
    record, cohort = evidence.run.record, evidence.cohort
    known, names = (*record.train, *record.validation), gene_names_of(record)
    if record.wide and choose_programme_genes(cohort, known, names).genes != record.wide:
        text = "the genes of programs are not those that the training slides give"
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


def check_scores(evidence: Evidence) -> Iterator[Finding]:
    """Predict the test slides again, from the training slides alone."""
    scores = evidence.run.scores
    if scores is None:
        yield Finding(check="scores", verdict="absent", text="the run was tested on nothing")
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
            if difference > SCORE_TOLERANCE:
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
        yield _without_validation(evidence, leaks)
        return
    least = int(curve["epoch"].iloc[int(curve["validation_loss"].argmin())])
    if least != record.best_epoch:
        leaks.append(
            f"epoch {record.best_epoch} was kept, but the validation loss is least at epoch {least}"
        )
    again = _mean_pcc(evidence.predictor, evidence.validation)
    if not abs(again - record.validation_pcc) <= SCORE_TOLERANCE:  # nor NaN
        by_test = _mean_pcc(evidence.predictor, evidence.test)
        is_test = abs(by_test - record.validation_pcc) <= SCORE_TOLERANCE
        who = f"; on the test slides it is {by_test:.4f}: they chose it" if is_test else ""
        leaks.append(
            f"on {', '.join(record.validation)} the kept weights have a mean PCC of {again:.4f}, "
            f"but the run says {record.validation_pcc:.4f}{who}"
        )
    loss = float(curve["validation_loss"].min())
    loss_again = _mean_loss(evidence.predictor, evidence.validation)
    if not abs(loss_again - loss) <= SCORE_TOLERANCE * max(1.0, abs(loss)):
        leaks.append(
            f"on {', '.join(record.validation)} the kept weights have a loss of {loss_again:.4f}, "
            f"but the learning curve says {loss:.4f}: other slides chose the epoch"
        )
    yield verdict_of(
        "checkpoint",
        leaks,
        clean=f"epoch {record.best_epoch} has the least loss on {', '.join(record.validation)}",
    )


def _without_validation(evidence: Evidence, leaks: list[str]) -> Finding:
    """Say who chose, where no validation slide did."""
    if leaks:
        return verdict_of("checkpoint", leaks, clean="")
    if not evidence.has_networks:
        text = "training slides held out in turn chose the penalty"
        return Finding(check="checkpoint", verdict="absent", text=text)
    text = (
        "the run says that training slides held out in turn chose epoch "
        f"{evidence.run.record.best_epoch}; no network was trained again to see whether they do"
    )
    return Finding(check="checkpoint", verdict="not checked", text=text)


def _mean_loss(predictor: Predictor, slides: dict[str, SlideSpots]) -> float:
    """Give the loss that chooses the epoch, as training writes it into the curve."""
    each = []
    for spots in slides.values():
        measured_SG, predicted_SG = expression_of(spots), predictor.predict(spots)
        listed_G = np.isfinite(measured_SG).all(axis=0)
        pair = (torch.from_numpy(array[:, listed_G]) for array in (predicted_SG, measured_SG))
        each.append(float(expression_loss(*pair)))
    return float(np.mean(each))


def _mean_pcc(predictor: Predictor, slides: dict[str, SlideSpots]) -> float:
    each: list[float] = []
    for spots in slides.values():
        predicted_SG: NDArray[np.float32] = predictor.predict(spots)
        each.append(mean_pcc(expression_of(spots), predicted_SG))
    return float(np.mean(each))
