"""What `spahgc store export` wrote of a slide into an h5ad beside its arrays."""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import h5py

from spahgc.schema import Finding

_RECORD: Final = "uns/spahgc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export says of its slide; None is what it does not say."""

    is_export: bool = False
    """Whether it is one at all."""

    microns_per_pixel: float | None = None
    """Of the pixels that centers are given in."""

    pitch_um: float | None = None
    """Distance between neighbouring spots, in µm."""

    spot_diameter_um: float | None = None
    """Width of a spot, in µm."""

    patient: str | None = None
    """As it was stored, or said later with ``store set``."""

    section: str | None = None
    """Which section of the patient's block."""

    tissue: str | None = None
    """Organ or diagnosis."""


def read_exported(file: h5py.File, findings: list[Finding]) -> Exported:
    """Read what an export of a store says of its slide; of other files nothing is known.

    Parameters
    ----------
    file
        An open h5ad.
    findings
        Gets that the file is an export, or that it only looks like one.
    """
    element = file.get(_RECORD)
    if not isinstance(element, h5py.Dataset) or element.shape != ():
        return Exported()
    try:
        record = json.loads(element[()])
        exported = Exported(
            is_export=True,
            microns_per_pixel=_number(record, "microns_per_pixel"),
            pitch_um=_number(record, "pitch_um"),
            spot_diameter_um=_number(record, "spot_diameter_um"),
            patient=_text(record, "patient"),
            section=_text(record, "section"),
            tissue=_text(record, "tissue"),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        text = f"{_RECORD} is no record of spahgc and was left out: {' '.join(str(error).split())}"
        findings.append(Finding(kind="warning", text=text))
        return Exported()
    text = f"exported by spahgc: what {_RECORD} says of scale, array and patient is taken"
    findings.append(Finding(kind="file", text=text))
    return exported


def _number(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} is {value!r}, expected a number")
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{key} is {value!r}, expected a positive number")
    return float(value)


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, expected a text")
    return value or None
