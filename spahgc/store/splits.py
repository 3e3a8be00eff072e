"""Which slides teach, which choose the checkpoint, and which judge."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spahgc.errors import ProtocolError
from spahgc.store.words import spell_plain

BY_PATIENT: Final = "leave-one-patient-out"
BY_SLIDE: Final = "leave-one-slide-out"
K_FOLD: Final = "k-fold"
SPLIT_RULES: Final = (BY_PATIENT, BY_SLIDE, f"{K_FOLD}:N")
"""Rules as a user writes them; `spahgc.store.split_files` reads fixed lists."""

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

    rule: str = BY_SLIDE
    """How the slides were divided, as the user wrote it."""

    shared_patients: tuple[str, ...] = ()
    """Patients on both sides of the test; each makes the score weaker evidence."""

    only_patient: str = ""
    """Whom all training slides are of, where whole patients are held out and one other is left:
    then its slides retrieve from each other. Empty where there are several."""

    @property
    def caveat(self) -> str | None:
        """Say in one line how the score must be read, or None where nothing needs saying."""
        if self.only_patient:
            return (
                f"with {self.name} held out all training slides are of one patient "
                f"({spell_plain(self.only_patient)}): they retrieve from each other, and how far "
                "to believe a gene was measured within that patient"
            )
        return caveat_of(self.shared_patients)


def caveat_of(shared_patients: Sequence[str]) -> str | None:
    """Say what it means that these patients are on both sides of a test."""
    if not shared_patients:
        return None
    patients = ", ".join(map(spell_plain, shared_patients))
    return (
        f"slides of one patient ({patients}) on both sides of the test: "
        "expect less on another patient"
    )


def units_of(patients: Mapping[str, str | None]) -> dict[str, str]:
    """Name what each slide is drawn with where scores are resampled.

    That is its patient where there are several, since slides of one are alike; else the slide.
    """
    owners = _owners(patients)
    return owners if len(set(owners.values())) > 1 else {slide: slide for slide in owners}


def make_folds(patients: Mapping[str, str | None], *, rule: str, n_teachers: int = 3) -> list[Fold]:
    """Hold every slide out once: alone, with its patient's others, or with a k-th of all.

    Parameters
    ----------
    patients
        Patient of each slide, None where unknown.
    rule
        ``leave-one-patient-out`` keeps all slides of a patient together, and leaves out each
        patient beside whom the others have slides enough to train on;
        ``leave-one-slide-out`` is weaker wherever a patient has several slides; ``k-fold:5`` makes
        five parts of about as many slides, of whole patients where there are several.
    n_teachers
        See `make_fold`.

    Raises
    ------
    ProtocolError
        If there is no such rule, or there are too few slides or patients to hold one out and
        still train on what `make_fold` asks for.
    """
    owners = _owners(patients)
    by_patient = rule == BY_PATIENT
    if rule.partition(":")[0] == K_FOLD:
        by_patient = len(set(owners.values())) > 1
        parts = _k_parts(owners, n_parts=_n_parts(rule), by_patient=by_patient)
    elif rule in SPLIT_RULES:
        if by_patient:
            _check_patients(owners)
        parts = list(_units(owners, by_patient=by_patient).values())
        if by_patient:
            parts = [part for part in parts if len(owners) - len(part) >= n_teachers] or parts
    else:
        raise ProtocolError(
            f"split {rule!r} is none of {', '.join(SPLIT_RULES)}, nor a JSON or CSV file"
        )
    return [
        make_fold(patients, test=part, by_patient=by_patient, rule=rule, n_teachers=n_teachers)
        for part in parts
    ]


def make_fold(
    patients: Mapping[str, str | None],
    *,
    test: Sequence[str],
    by_patient: bool = False,
    validation: Sequence[str] | None = None,
    rule: str = BY_SLIDE,
    name: str | None = None,
    n_teachers: int = 3,
) -> Fold:
    """Divide the slides around the given test slides, which may be none.

    The validation part is one unit (a patient under ``by_patient`` when at least three others
    stay, else a slide) taken from training: the one that follows the test slides in sorted order,
    so that over all folds each takes its turn. ``validation`` overrides it. Under ``by_patient``
    the other slides of a test patient are in no part, and where all training slides are of one
    patient they count as independent, so that they can retrieve from each other. ``rule`` is
    written down, and ``name`` called, as given. A model that holds out each of its slides in turn
    needs two of them only (``n_teachers``): where no third is left, nobody is for validation.

    Raises
    ------
    ProtocolError
        If fewer than ``n_teachers`` slides are left, or fewer than two to train on that can borrow
        from each other, or a slide is asked for that is not among ``patients`` or is asked for
        twice.
    """
    _check_named(patients, [*test, *(validation or ())])
    owners = _owners(patients)
    judged = {owners[slide] if by_patient else slide for slide in test}
    rest = [s for s in owners if (owners[s] if by_patient else s) not in judged]
    if validation is None:
        after = max(test, default="")
        validation = _choose_validation(owners, rest, after=after, by_patient=by_patient)
        if n_teachers == 2 and len(rest) - len(validation) < 2:
            validation = []
    train = [slide for slide in rest if slide not in validation]
    learned = {owners[slide] for slide in train}
    only_patient = learned.pop() if by_patient and len(learned) == 1 else ""
    is_grouped = by_patient and not only_patient
    groups = {slide: owners[slide] if is_grouped else slide for slide in owners}
    teachers = rest if n_teachers == 2 else train
    if len({groups[slide] for slide in teachers}) < 2:
        others = rest if by_patient else None
        raise _too_few(len(owners), test=test, others=others, n_teachers=n_teachers)
    return Fold(
        name=name or "+".join(test) or "all",
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        groups=groups,
        rule=rule,
        shared_patients=tuple(sorted({owners[s] for s in test} & {owners[s] for s in rest})),
        only_patient=only_patient,
    )


def say_untested(patients: Mapping[str, str | None], folds: Sequence[Fold]) -> str | None:
    """Say which patients were never held out, or None where each was or none was to be."""
    if folds[0].rule != BY_PATIENT:
        return None
    owners, tested = _owners(patients), {slide for fold in folds for slide in fold.test}
    left = _units({s: owner for s, owner in owners.items() if s not in tested}, by_patient=True)
    if not left:
        return None
    told = "; ".join(f"{spell_plain(owner)} ({', '.join(own)})" for owner, own in left.items())
    return f"not held out, as the other patients have too few slides to train on: {told}"


def _owners(patients: Mapping[str, str | None]) -> dict[str, str]:
    return {slide: patient or UNKNOWN for slide, patient in sorted(patients.items())}


def _units(owners: Mapping[str, str], *, by_patient: bool) -> dict[str, list[str]]:
    """Give the slides that are held out together, by patient or by their own name, sorted."""
    units: dict[str, list[str]] = {}
    for slide, owner in owners.items():
        units.setdefault(owner if by_patient else slide, []).append(slide)
    return dict(sorted(units.items()))


def _check_patients(owners: Mapping[str, str]) -> None:
    names = sorted(set(owners.values()))
    if len(names) < 2:
        raise ProtocolError(
            f"all slides are of one patient ({names[0] if names else 'none'}), so none can "
            f"be left out; use `--split {BY_SLIDE}` and read its score as weaker"
        )


def _n_parts(rule: str) -> int:
    number = rule.partition(":")[2]
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) >= 2):
        raise ProtocolError(f"split {rule!r}: expected {K_FOLD}:N with N at least 2, such as 5")
    return int(number)


def _k_parts(owners: Mapping[str, str], *, n_parts: int, by_patient: bool) -> list[list[str]]:
    """Deal whole units to the part that has the fewest slides, the largest unit first."""
    units = _units(owners, by_patient=by_patient)
    if len(units) < n_parts:
        what = "patients" if by_patient else "slides"
        raise ProtocolError(
            f"{K_FOLD}:{n_parts} asks for {n_parts} parts, but there are {len(units)} {what}; "
            f"use `--split {K_FOLD}:{max(len(units), 2)}` or `--split {BY_SLIDE}`"
        )
    parts: list[list[str]] = [[] for _ in range(n_parts)]
    for slides in sorted(units.values(), key=len, reverse=True):
        min(parts, key=len).extend(slides)
    return sorted(sorted(part) for part in parts)


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


def _too_few(
    n_slides: int, *, test: Sequence[str], others: Sequence[str] | None, n_teachers: int
) -> ProtocolError:
    """Say what is missing; ``others`` are other patients' slides, where patients are held out."""
    why = {
        2: "two to train on, each of which is held out once",
        3: "two to train on, and one held out to choose when to stop",
    }[n_teachers]
    if others is not None and n_slides > n_teachers:
        return ProtocolError(
            f"with {', '.join(test)} held out the other patients have {len(others)} slide"
            f"{'s' * (len(others) != 1)} ({', '.join(others) or 'none'}), but {n_teachers} are "
            f"needed: {why}; use `--split {BY_SLIDE}` and read its score as weaker"
        )
    needed = len(test) + n_teachers
    return ProtocolError(
        f"{n_slides} usable slide{'s' * (n_slides != 1)} (embedded, with expression), but "
        f"{needed} are needed: {'the test, ' if test else ''}{why}; ingest more with `spahgc "
        "ingest`"
    )
