"""Whether what was read from JSON has the shape that a type says."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin


def fits(value: object, kind: Any) -> bool:  # noqa: ANN401  any annotation
    """Whether ``value`` is what an annotation says: plain types, mappings, tuples and unions."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in {Union, UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if isinstance(value, bool):  # which Python takes for an int
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
