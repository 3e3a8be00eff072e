"""Fixed lists: read which slides teach, choose and judge from a JSON or CSV file."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from spahgc.errors import ProtocolError
from spahgc.store.splits import UNKNOWN, Fold, make_fold, make_folds

PARTS: Final = ("train", "validation", "test")
_EXPECTED: Final = (
    "expected one row per slide with `slide` and `fold` (each fold is tested once), or with "
    "`slide` and `part` (train, validation or test), or all three"
)

Row: TypeAlias = Mapping[str, str]


def read_folds(
    patients: Mapping[str, str | None], *, split: str, n_teachers: int = 3
) -> list[Fold]:
    """Make the folds of a rule, or those that a file lists.

    Parameters
    ----------
    patients
        Patient of each usable slide, None where unknown.
    split
        A rule of `spahgc.store.splits.make_folds`, or the path of a ``.json`` or ``.csv`` file.
    n_teachers
        See `spahgc.store.splits.make_fold`.

    Raises
    ------
    ProtocolError
        If it is neither, if the file cannot be read, or if it lists slides that cannot be used or
        folds that cannot be judged.
    """
    if Path(split).suffix.lower() not in {".json", ".csv"}:
        return make_folds(patients, rule=split, n_teachers=n_teachers)
    return folds_of_file(Path(split), patients, n_teachers=n_teachers)


def folds_of_file(
    path: Path, patients: Mapping[str, str | None], *, n_teachers: int = 3
) -> list[Fold]:
    """Read the folds that a file lists.

    Rows have ``slide`` and ``fold`` where each fold is tested once by a model of all others; or
    ``slide`` and ``part`` (``train``, ``validation``, ``test``) for one fold; or all three for
    several folds of stated parts. JSON is a list of such objects. A slide that the file does not
    name is not used. Where no slide is for validation, one is taken from training.

    Raises
    ------
    ProtocolError
        See `read_folds`.
    """
    rows = _read_rows(path)
    if "part" in rows[0]:
        names = list(dict.fromkeys(row.get("fold", "") for row in rows))
        return [
            _stated_fold(path, patients, rows, name=name, n_teachers=n_teachers) for name in names
        ]
    _check_once(path, rows)
    listed = _listed(path, patients, rows)
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(row["fold"], []).append(row["slide"])
    if len(parts) < 2:
        raise ProtocolError(f"{path} lists one fold ({next(iter(parts))}), expected at least two")
    return [
        _fold(path, listed, test=sorted(test), name=name, n_teachers=n_teachers)
        for name, test in parts.items()
    ]


def _stated_fold(
    path: Path,
    patients: Mapping[str, str | None],
    rows: Sequence[Row],
    *,
    name: str,
    n_teachers: int,
) -> Fold:
    rows = [row for row in rows if row.get("fold", "") == name]
    _check_once(path, rows)
    of_part = {part: [r["slide"] for r in rows if r["part"] == part] for part in PARTS}
    unknown = sorted({row["part"] for row in rows} - set(PARTS))
    if unknown or not of_part["test"]:
        problem = f"part {unknown[0]!r}" if unknown else "no slide of part test"
        raise ProtocolError(f"{path}: {problem}; {_EXPECTED}")
    listed = _listed(path, patients, rows)
    validation = of_part["validation"] or None
    return _fold(
        path,
        listed,
        test=of_part["test"],
        validation=validation,
        name=name or None,
        n_teachers=n_teachers,
    )


def _fold(
    path: Path,
    patients: Mapping[str, str | None],
    *,
    test: Sequence[str],
    name: str | None,
    n_teachers: int,
    validation: Sequence[str] | None = None,
) -> Fold:
    """Let slides borrow across patients only, where the file keeps every patient on one side."""
    owner = {slide: patient or UNKNOWN for slide, patient in patients.items()}
    judged = {owner[slide] for slide in test}
    return make_fold(
        patients,
        test=test,
        validation=validation,
        by_patient=not judged & {owner[s] for s in patients if s not in test},
        rule=str(path),
        name=name,
        n_teachers=n_teachers,
    )


def _read_rows(path: Path) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ProtocolError(f"split file {path} cannot be read: {reason}") from error
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _csv_rows(path, text)
    columns = set(rows[0]) if rows else set()
    same = all(set(row) == columns and all(row.values()) for row in rows)
    known = columns <= {"slide", "fold", "part"}
    if not (same and known and "slide" in columns and len(columns) > 1):
        found = f"found {', '.join(sorted(map(str, columns))) or 'nothing'}"
        raise ProtocolError(f"split file {path}: {found}; {_EXPECTED}")
    return rows


def _json_rows(path: Path, text: str) -> list[Row]:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"split file {path} is not JSON: {error}") from None
    if not (isinstance(document, list) and all(isinstance(row, dict) for row in document)):
        raise ProtocolError(f"split file {path} is no list of objects; {_EXPECTED}")
    return [{str(key): str(value) for key, value in row.items()} for row in document]


def _csv_rows(path: Path, text: str) -> list[Row]:
    rows = csv.DictReader(io.StringIO(text), restkey="more columns than named", restval="")
    try:
        return [{str(k).strip(): str(v).strip() for k, v in row.items()} for row in rows]
    except csv.Error as error:
        raise ProtocolError(f"split file {path} is not CSV: {error}") from None


def _check_once(path: Path, rows: Sequence[Row]) -> None:
    slides = [row["slide"] for row in rows]
    twice = sorted({slide for slide in slides if slides.count(slide) > 1})
    if twice:
        raise ProtocolError(f"split file {path} lists {', '.join(twice)} twice in one fold")


def _listed(
    path: Path, patients: Mapping[str, str | None], rows: Sequence[Row]
) -> dict[str, str | None]:
    unknown = [row["slide"] for row in rows if row["slide"] not in patients]
    if unknown:
        raise ProtocolError(
            f"split file {path} names {', '.join(unknown)}, which cannot be used; "
            f"there are {', '.join(sorted(patients)) or 'none'}"
        )
    return {row["slide"]: patients[row["slide"]] for row in rows}
