"""Whether what was read from JSON has the shape that a type says."""

import json
import sys
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

LONGEST: Final = 60
"""Characters shown of what was found."""


def fits(value: object, kind: Any) -> bool:  # noqa: ANN401  any annotation
    """Whether ``value`` is what an annotation says, of plain types, mappings, tuples, unions."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or origin is Literal:
        return kind is Any or (isinstance(value, str) and value in parts)
    if origin in {Union, UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if isinstance(value, bool) or kind is bool:  # which Python takes for an int
        return kind is type(value)
    is_number = kind is float and isinstance(value, int) and abs(value) <= sys.float_info.max
    return is_number or isinstance(value, kind)


def from_json(value: Any, kind: Any) -> Any:  # noqa: ANN401  any annotation
    """Give the tuple that an annotation asks for where JSON knows lists only; all else as it is."""
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


def spell_kind(kind: Any) -> str:  # noqa: ANN401  any annotation
    """Spell an annotation for a person."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return " or ".join(map(spell_kind, parts))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple:
        return f"a list of {spell_kind(parts[0])}"
    if origin is Mapping:
        return f"an object of {spell_kind(parts[1])}"
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return {**plain, NoneType: "null"}.get(kind, "anything")


def spell_value(value: object) -> str:
    """Spell what was found as JSON, cut short."""
    spelled = json.dumps(value)
    return spelled if len(spelled) <= LONGEST else f"{spelled[:LONGEST]}…"
