"""Who may answer a search, by rules that name slides and patients that somebody knows."""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from spahgc.errors import MismatchError, ProtocolError
from spahgc.index.records import IndexRecord
from spahgc.store.splits import UNKNOWN

Patients: TypeAlias = Mapping[str, str | None]
"""Patient of every slide that may be named, None where unknown."""


def may_answer(
    record: IndexRecord,
    patients: Patients,
    *,
    where: object,
    exclude_slides: Collection[str] | None,
    exclude_patients: Collection[str | None] | None,
    only_slides: Collection[str] | None,
    asked_by: str | None,
) -> tuple[str, ...]:
    """List the slides of an index that the rules of `ReferenceIndex.search` leave, sorted.

    Raises
    ------
    ProtocolError
        If no rule is given, or one names a slide or patient that nobody knows.
    MismatchError
        If a slide of ``only_slides`` is not in the index; the text says ``where`` it lies.
    """
    if exclude_slides is None and exclude_patients is None and only_slides is None:
        raise ProtocolError(
            "a search must say who may not answer: give exclude_slides, exclude_patients or "
            "only_slides (an empty one where everybody may)"
        )
    hidden = {asked_by, *_known_slides(exclude_slides or (), patients)}
    hidden |= _slides_of(exclude_patients or (), patients)
    names = set(record.slides if only_slides is None else only_slides) - hidden
    missing = sorted(names - set(record.slides))
    if missing:
        place = "" if where is None else f" --store {where}"
        raise MismatchError(
            f"the index over {record.embedding!r} lacks {', '.join(missing)}; "
            f"run `spahgc index build{place}`"
        )
    return tuple(sorted(names))


def _known_slides(names: Iterable[str], patients: Patients) -> set[str]:
    unknown = sorted(set(names) - set(patients))
    if unknown:  # a misspelt name would exclude nobody, and leak
        raise ProtocolError(
            f"no slide {', '.join(unknown)} to exclude; there are {', '.join(patients)}"
        )
    return set(names)


def _slides_of(excluded: Iterable[str | None], patients: Patients) -> set[str]:
    owners = {name: patient or UNKNOWN for name, patient in patients.items()}
    wanted = {patient or UNKNOWN for patient in excluded}
    unknown = sorted(wanted - set(owners.values()) - {UNKNOWN})
    if unknown:
        raise ProtocolError(
            f"no patient {', '.join(unknown)} to exclude; there are "
            f"{', '.join(sorted(set(owners.values())))}"
        )
    return {name for name, owner in owners.items() if owner in wanted}
