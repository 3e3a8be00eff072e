"""Checks that fit again what takes seconds to fit, and compare it with the run's own weights.

Each part is fitted on top of the run's own earlier parts: the ridge on what the run's own reducer
gives, and so on. So a leak is named where it is, and not once more in all that follows.

Dimension letters in this file:

N spots of several slides, D features, P reduced features, R programmes, G genes
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.model.audit.evidence import Evidence, Finding, note_versions
from spahgc.model.committee import Basis, Committee, with_neighbours
from spahgc.model.committee_fitting import fit_basis
from spahgc.model.kernel_ridge import KernelRidge
from spahgc.model.spots import SlideSpots, expression_of, wide_of

SAME: Final = 1e-4
"""How far apart weights fitted on the same slides may be, in units of their own size.

On her2st C2, C3 and C4, fitted by one thread and by two, they are 2e-6 apart at most. With one spot
of C5 among the 551 of training the spread moves by 5e-4, the directions by 3e-2."""

Differences = Mapping[str, float]
"""How far each part fitted again is from the run's, in units of its size; by what it is called."""


def check_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Fit again what features and expression are scaled and reduced by."""
    committee = evidence.committee
    if committee is None:
        text = "nothing is scaled or reduced by any slide but the one it belongs to"
        yield Finding(check="statistics", verdict="absent", text=text)
        return

    def differences(slides: Sequence[SlideSpots]) -> Differences:
        again = fit_basis(slides, evidence.fitting, seed=evidence.settings.training.seed)
        return {
            **_reducer_differences(committee.basis, again, slides),
            **_programme_differences(committee.basis, again, slides),
        }

    what = "scaling, principal directions and gene programs"
    yield _compare(evidence, differences, check="statistics", what=what)


def check_ridge(evidence: Evidence) -> Iterator[Finding]:
    """Fit the kernel ridge again, and compare its landmarks and what it predicts."""
    committee = evidence.committee
    if committee is None:
        yield Finding(check="ridge", verdict="absent", text="the model has no kernel ridge")
        return

    def differences(slides: Sequence[SlideSpots]) -> Differences:
        ridges, stored = evidence.fit_ridges(slides), committee.ridge
        return {
            "landmarks": _far(stored.landmarks_MP, ridges[0].landmarks_MP),
            "kernel width": abs(stored.gamma / ridges[0].gamma - 1),
            "coefficients": min(ridge_differences(evidence, committee, ridges)),
        }

    yield _compare(evidence, differences, check="ridge", what="landmarks, width and coefficients")


def check_networks(evidence: Evidence) -> Iterator[Finding]:
    """Say that no graph network is trained again."""
    if not evidence.has_networks:
        yield Finding(check="networks", verdict="absent", text="the model has no graph network")
        return
    text = (
        "no graph network was trained again, which takes as long as training did: if a test slide "
        "taught one, that was not seen here"
    )
    yield Finding(check="networks", verdict="not checked", text=text)


def penalty_of(evidence: Evidence) -> int | None:
    """Find the place of the penalty that the run's ridge was fitted with, None where it is none.

    A ridge that was fitted with the test slides has one too.
    """
    committee = evidence.committee
    if committee is None:
        return None
    far = ridge_differences(evidence, committee, evidence.ridges)
    if not min(far) <= SAME:
        with_test = evidence.fit_ridges([*evidence.train, *evidence.test.values()])
        far = ridge_differences(evidence, committee, with_test)
    return int(np.argmin(far)) if min(far) <= SAME else None


def ridge_differences(
    evidence: Evidence, committee: Committee, ridges: Sequence[KernelRidge]
) -> list[float]:
    """Say how far the run's ridge is from each of some, on training and test slides.

    Ridges are compared by what they predict for the same features: where training spots look the
    same, their weights are decided in their sum alone.
    """
    stored = committee.ridge
    slides = [*evidence.train, *evidence.test.values()]
    features = [with_neighbours(committee.basis.reduce(spots)) for spots in slides]
    predicted = np.concatenate([stored.predict(each) for each in features])
    return [
        _far(predicted, np.concatenate([ridge.predict(each) for each in features]))
        for ridge in ridges
    ]


def _compare(
    evidence: Evidence,
    differences: Callable[[Sequence[SlideSpots]], Differences],
    *,
    check: str,
    what: str,
) -> Finding:
    """Compare with what the training slides give; where that differs, try the test slides too."""
    train = ", ".join(evidence.run.record.train)
    off = _not_the_same(differences(evidence.train))
    if not off:
        return Finding(check=check, verdict="clean", text=f"{what} are those of {train} alone")
    tested = list(evidence.test.values())
    guesses = [tested, *([spots] for spots in tested)] if len(tested) > 1 else [tested]
    for guess in filter(None, guesses):
        still_off = _not_the_same(differences([*evidence.train, *guess]))
        if not off.keys() & still_off.keys():
            names = ", ".join(spots.name for spots in guess)
            text = f"{_listed(off)}: fitted with the test slides ({names}), not on {train} alone"
            return Finding(check=check, verdict="leak", text=text)
    text = f"{_listed(off)}: not reproducible, {train} give something else"
    return note_versions(Finding(check=check, verdict="leak", text=text), evidence)


def _not_the_same(differences: Differences) -> dict[str, None]:
    """Name what differs, NaN counting as different, in order."""
    return {name: None for name, far in differences.items() if not far <= SAME}


def _reducer_differences(
    stored: Basis, again: Basis, slides: Sequence[SlideSpots]
) -> dict[str, float]:
    ours, theirs = stored.reducer, again.reducer
    features = [spots.embedding_SD for spots in slides]
    spread = float(np.mean([each.std(axis=0, dtype=np.float64).mean() for each in features]))
    long, expected = _length(ours.components_PD), _length(theirs.components_PD)
    # both 0 where nothing tells spots apart
    length = 1.0 if long == expected else long / max(expected, 1e-30)
    return {
        # that of standardised features is 0 but for rounding
        "feature mean": _far(ours.mean_D, theirs.mean_D, size=spread * len(ours.mean_D) ** 0.5),
        "feature spread": abs(length - 1),
        "principal directions": _far(
            _covariance(map(ours.reduce, features)) / length**2,
            _covariance(map(theirs.reduce, features)),
        ),
    }


def _programme_differences(
    stored: Basis, again: Basis, slides: Sequence[SlideSpots]
) -> dict[str, float]:
    ours, theirs = stored.programmes, again.programmes
    panels = [expression_of(spots).astype(np.float64) for spots in slides]
    centred_NG = np.concatenate([panel_SG - panel_SG.mean(axis=0) for panel_SG in panels])
    wide = [wide_of(spots) for spots in slides]
    scores_NR = np.concatenate([ours.score(each) for each in wide]).astype(np.float64)
    # one that training spots hardly show is decided by rounding
    strength_R1 = np.sqrt(np.mean(scores_NR**2, axis=0))[:, None]
    genes_RG = np.linalg.pinv(scores_NR) @ centred_NG
    return {
        "expression mean": _far(
            ours.mean_G, theirs.mean_G, size=float(np.linalg.norm(centred_NG.std(axis=0)))
        ),
        "program loadings": _far(_covariance([scores_NR]), _covariance(map(theirs.score, wide))),
        "program genes": _far(strength_R1 * ours.genes_RG, strength_R1 * genes_RG),
    }


def _covariance(values: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Give how values of several slides vary together.

    Principal components are told by it: it is the same whichever way they point, and however those
    of equal strength are turned among themselves.
    """
    return np.atleast_2d(np.cov(np.concatenate(list(values)), rowvar=False, dtype=np.float64))


def _length(components_PD: NDArray[np.float32]) -> float:
    """Give the length of a component, which is the same for all."""
    return float(np.linalg.norm(components_PD)) / len(components_PD) ** 0.5


def _far(
    ours: NDArray[np.floating], theirs: NDArray[np.floating], *, size: float | None = None
) -> float:
    if ours.shape != theirs.shape:
        return np.inf
    size = float(np.linalg.norm(theirs)) if size is None else size
    return float(np.linalg.norm(ours - theirs)) / max(size, 1e-30)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
