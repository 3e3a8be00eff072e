"""Which slides teach, which choose the checkpoint, and which judge."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from spahgc.errors import ProtocolError

SplitRule: TypeAlias = Literal["leave-one-patient-out", "leave-one-slide-out"]
SPLIT_RULES: Final[tuple[str, ...]] = get_args(SplitRule)

UNKNOWN: Final = "unknown"
"""All slides of unknown patients are held to be of one: none is assumed to differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One division of the slides; no slide is in two parts."""

    name: str
    """What is held out: a slide or a patient, or ``all`` where nothing is."""

    train: tuple[str, ...]
    """Slides whose expression the model learns from and borrows from."""

    validation: tuple[str, ...]
    """Slides taken from training that choose the checkpoint."""

    test: tuple[str, ...]
    """Slides read once, at the end; empty where the model is for use and not for judging."""

    groups: Mapping[str, str]
    """Patient of each slide, or the slide itself where slides count as independent."""

    shared_patients: tuple[str, ...] = ()
    """Patients on both sides of the test; each makes the score weaker evidence."""

    @property
    def caveat(self) -> str | None:
        """Say in one line how the score must be read, or None where nothing needs saying."""
        if not self.shared_patients:
            return None
        return (
            f"slides of one patient ({', '.join(self.shared_patients)}) on both sides of the test: "
            "expect less on another patient"
        )


def make_folds(patients: Mapping[str, str | None], *, rule: SplitRule) -> list[Fold]:
    """Hold every slide, or every patient, out once.

    Parameters
    ----------
    patients
        Patient of each slide, None where unknown.
    rule
        ``leave-one-patient-out`` keeps all slides of a patient together;
        ``leave-one-slide-out`` is weaker wherever a patient has several slides.

    Raises
    ------
    ProtocolError
        If there are too few slides or patients to hold one out, choose a checkpoint on a
        second and still train on two that can borrow from each other.
    """
    owners = {slide: patient or UNKNOWN for slide, patient in patients.items()}
    units = owners if rule == "leave-one-patient-out" else {slide: slide for slide in owners}
    held_out = sorted(set(units.values()))
    if rule == "leave-one-patient-out" and len(held_out) < 2:
        raise ProtocolError(
            f"all slides are of one patient ({held_out[0] if held_out else 'none'}), so none can "
            "be left out; use `--split leave-one-slide-out` and read its score as weaker"
        )
    return [
        make_fold(patients, test=[s for s, unit in units.items() if unit == name], rule=rule)
        for name in held_out
    ]


def make_fold(
    patients: Mapping[str, str | None],
    *,
    test: Sequence[str],
    rule: SplitRule = "leave-one-slide-out",
    validation: Sequence[str] | None = None,
) -> Fold:
    """Divide the slides around the given test slides, which may be none.

    The validation part is one unit (a patient under ``leave-one-patient-out`` when at least
    three others stay, else a slide) taken from training: the one that follows the test slides
    in sorted order, so that over all folds each takes its turn. ``validation`` overrides it.
    Under ``leave-one-patient-out`` the other slides of a test patient are in no part.

    Raises
    ------
    ProtocolError
        If fewer than two slides are left to train on, or they cannot borrow from each other, or
        a slide is asked for that is not among ``patients`` or is asked for twice.
    """
    _check_named(patients, [*test, *(validation or ())])
    by_patient = rule == "leave-one-patient-out"
    owners = {slide: patient or UNKNOWN for slide, patient in sorted(patients.items())}
    groups = {slide: owners[slide] if by_patient else slide for slide in owners}
    judged = {groups[slide] for slide in test}
    rest = [slide for slide in owners if groups[slide] not in judged]
    if validation is None:
        after = max(test, default="")
        validation = _choose_validation(owners, rest, after=after, by_patient=by_patient)
    train = [slide for slide in rest if slide not in validation]
    _check_enough(train, groups, test=test, n_validation=len(validation), by_patient=by_patient)
    return Fold(
        name="+".join(test) or "all",
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        groups=groups,
        shared_patients=tuple(sorted({owners[s] for s in test} & {owners[s] for s in rest})),
    )


def _check_named(patients: Mapping[str, str | None], named: Sequence[str]) -> None:
    unknown = [slide for slide in named if slide not in patients]
    twice = sorted({slide for slide in named if named.count(slide) > 1})
    if unknown:
        raise ProtocolError(
            f"no usable slide {', '.join(unknown)}; there are {', '.join(sorted(patients))}"
        )
    if twice:
        raise ProtocolError(
            f"{', '.join(twice)} was asked for twice: a slide is for training, validation or test"
        )


def _choose_validation(
    owners: Mapping[str, str], rest: Sequence[str], *, after: str, by_patient: bool
) -> list[str]:
    n_slides = Counter(owners[slide] for slide in rest)
    if by_patient and len(n_slides) >= 3:
        chosen = _next(sorted(n_slides), owners.get(after, after))
        return [slide for slide in rest if owners[slide] == chosen]
    # of two patients both must teach, so that they can borrow from each other
    spare = [slide for slide in rest if n_slides[owners[slide]] > 1] if by_patient else []
    candidates = spare or rest
    return [_next(candidates, after)] if candidates else []


def _next(names: Sequence[str], after: str) -> str:
    return next((name for name in names if name > after), names[0])


def _check_enough(
    train: Sequence[str],
    groups: Mapping[str, str],
    *,
    test: Sequence[str],
    n_validation: int,
    by_patient: bool,
) -> None:
    if len({groups[slide] for slide in train}) >= 2:
        return
    if by_patient and len(groups) >= 4:
        raise ProtocolError(
            f"with {', '.join(test) or 'no slide'} held out, the training slides "
            f"({', '.join(train) or 'none'}) are of fewer than two patients, so none can borrow "
            "from another patient; use `--split leave-one-slide-out` and read its score as weaker"
        )
    needed = len(test) + max(n_validation, 1) + 2
    raise ProtocolError(
        f"{len(groups)} usable slide{'s' * (len(groups) != 1)} (embedded, with expression), but "
        f"{needed} are needed: {'the test, ' if test else ''}one to choose the checkpoint and "
        "two to train on; ingest more with `spahgc ingest`"
    )
