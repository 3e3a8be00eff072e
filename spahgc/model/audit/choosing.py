"""Checks that hold training slides out again: what they choose, and how far they say to believe.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from spahgc.model.audit.evidence import (
    SCORE_TOLERANCE,
    Evidence,
    Finding,
    note_versions,
    verdict_of,
)
from spahgc.model.audit.refitting import SAME, penalty_of
from spahgc.model.committee import Committee, with_neighbours
from spahgc.model.committee_fitting import (
    Trial,
    penalty_errors,
    predict_held_out,
    score_held_out,
    weigh_members,
)
from spahgc.model.spots import expression_of
from spahgc.model.trust import find_trust
from spahgc.store.confidence import Trust


def check_choices(evidence: Evidence) -> Iterator[Finding]:
    """Hold training slides out again, and see whether they choose what the run chose."""
    committee = evidence.committee
    if committee is None:
        text = "the model has no penalty and no shares"
        yield Finding(check="choices", verdict="absent", text=text)
        return
    penalty = penalty_of(evidence)
    if penalty is None:
        text = "the ridge is of none of the penalties, so that its choice cannot be judged"
        yield Finding(check="choices", verdict="not checked", text=text)
        return
    leaks = list(_wrong_penalty(evidence, committee, penalty))
    told = (
        f"training slides held out again choose the penalty {evidence.fitting.penalties[penalty]}"
    )
    if evidence.has_networks:
        yield note_versions(verdict_of("choices", leaks, clean=told), evidence)
        text = "shares and held-out score: no network was trained again"
        yield Finding(check="choices", verdict="not checked", text=text)
        return
    leaks += _wrong_share(evidence, committee, penalty)
    finding = verdict_of("choices", leaks, clean=f"{told}, the same share and held-out score")
    yield note_versions(finding, evidence)


def check_trust(evidence: Evidence) -> Iterator[Finding]:
    """Find out again how far to believe genes and spots, on slides held out of training."""
    stored, record = evidence.run.trust, evidence.run.record
    if stored is None:
        text = "the run does not say how far to believe it"
        yield Finding(check="trust", verdict="absent", text=text)
        return
    held_out = _predict_again(evidence)
    again = find_trust(evidence.predictor.teaching, held_out=held_out or {})
    leaks = [
        f"test slide {name} was held out to say how far to believe genes"
        for name in stored.slides
        if name in record.test
    ]
    off = [*_wrong_nearness(evidence, stored, again)]
    off += [] if held_out is None else _wrong_tables(stored, again)
    if off:
        leaks.append(f"{', '.join(off)}: not what the training slides give")
    told = f"nearness to {', '.join(record.train)} alone"
    if held_out is not None:
        told += f", and reliability of genes on {', '.join(sorted(held_out))} held out"
    yield note_versions(verdict_of("trust", leaks, clean=told), evidence)
    if held_out is None:
        text = "reliability of genes: no network was trained again"
        yield Finding(check="trust", verdict="not checked", text=text)


def _wrong_penalty(evidence: Evidence, committee: Committee, penalty: int) -> Iterator[str]:
    errors, penalties = penalty_errors(evidence.trials), evidence.fitting.penalties
    best = int(np.argmin(errors))
    if errors[penalty] <= errors[best] * (1 + SAME):  # two that tie may change places
        return
    text = (
        f"penalty {penalties[penalty]}: training slides held out in turn choose {penalties[best]}"
    )
    if evidence.test and _chosen_by_test(evidence, committee) == penalty:
        text += f", the test slides ({', '.join(evidence.test)}) choose that of the run"
    yield text


def _chosen_by_test(evidence: Evidence, committee: Committee) -> int:
    """Find the penalty that does best on the test slides."""
    programmes, trials = committee.basis.programmes, []
    for spots in evidence.test.values():
        features_SP = with_neighbours(committee.basis.reduce(spots))
        measured_SG = expression_of(spots)
        listed_G = np.isfinite(measured_SG.sum(axis=0))
        predicted = [programmes.express(ridge.predict(features_SP)) for ridge in evidence.ridges]
        trials.append(
            Trial(
                slide=spots.name,
                measured_SG=_centred(measured_SG, listed_G),
                by_ridge=[_centred(each, listed_G) for each in predicted],
                by_networks_SG=np.zeros_like(measured_SG),
                mean_G=programmes.mean_G,
            )
        )
    return int(np.argmin(penalty_errors(trials)))


def _centred(values_SG: NDArray[np.float32], listed_G: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Take each gene's mean off; a gene that the slide's files do not list becomes 0."""
    centred_SG = values_SG - values_SG.mean(axis=0, dtype=np.float64)
    return np.where(listed_G, centred_SG, 0).astype(np.float32)


def _wrong_share(evidence: Evidence, committee: Committee, penalty: int) -> Iterator[str]:
    stored, again = committee.shares_M, weigh_members(evidence.trials, penalty=penalty)
    if not np.abs(stored - again).max() <= SAME:
        yield f"share of the ridge {stored[0]:.4f}: held-out training slides give {again[0]:.4f}"
    held_out = predict_held_out(evidence.trials, penalty=penalty, shares_M=stored)
    score = score_held_out(evidence.predictor.teaching, held_out)
    said = evidence.run.record.validation_pcc
    if not abs(score - said) <= SCORE_TOLERANCE:
        yield f"held-out score {said:.4f}: held-out training slides give {score:.4f}"


def _predict_again(evidence: Evidence) -> Mapping[str, NDArray[np.float32]] | None:
    """Predict slides that the model has not learned from, None where that needs a training."""
    committee = evidence.committee
    if committee is None:
        return {n: evidence.predictor.predict(s) for n, s in evidence.validation.items()}
    if evidence.has_networks:
        return None
    penalty = penalty_of(evidence)
    if penalty is None:
        penalty = int(np.argmin(penalty_errors(evidence.trials)))
    return predict_held_out(evidence.trials, penalty=penalty, shares_M=committee.shares_M)


def _wrong_nearness(evidence: Evidence, stored: Trust, again: Trust) -> Iterator[str]:
    if not _is_close(stored.nearness_Q, again.nearness_Q, SAME):
        yield "nearness of spots"
    few = min(len(spots.spot_names) for spots in evidence.train)
    # a spot on the border may fall on either side
    if not abs(stored.flagged_share - again.flagged_share) <= 1.5 / few:
        yield "share of flagged spots"


def _wrong_tables(stored: Trust, again: Trust) -> Iterator[str]:
    if set(stored.slides) != set(again.slides):
        yield "slides held out"
    # intervals are drawn, and speak of the same scores; older runs have fewer columns
    columns = ["cv_pcc", "cv_slides"]
    genes = stored.genes.reindex(again.genes.index)
    if not _is_close(genes[columns], again.genes[columns], SCORE_TOLERANCE):
        yield "reliability of genes"
    if not _is_close(stored.error_B, again.error_B, SCORE_TOLERANCE):
        yield "error by nearness"


def _is_close(ours: object, theirs: object, tolerance: float) -> bool:
    """Whether numbers are the same within a tolerance, and undefined in the same places."""
    first, second = (np.asarray(values, dtype=np.float64) for values in (ours, theirs))
    return first.shape == second.shape and bool(
        np.allclose(first, second, rtol=0, atol=tolerance, equal_nan=True)
    )
