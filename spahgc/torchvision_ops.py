"""Make torchvision importable where its compiled operators do not fit the installed torch.

timm imports torchvision for its transforms alone. The torchvision wheels link
against CUDA; beside a CPU build of torch their compiled operators do not load, and importing
torchvision then fails on an operator that nobody here calls.
"""

import importlib
import re
import sys
from typing import Any

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_declared: list[Any] = []  # torch forgets an operator when its library object is collected


def declare_missing_operators() -> tuple[str, ...]:
    """Declare, without a body, the operators that torchvision could not load.

    Returns
    -------
    tuple[str, ...]
        Names declared by this call; empty where torchvision imports as it is. Calling one
        of them raises ``NotImplementedError`` from torch.
    """
    names: list[str] = []
    while (name := _missing_operator()) is not None:
        if name in names:
            raise ImportError(f"torchvision still lacks its operator {name} after declaring it")
        _declare(name)
        names.append(name)
    return tuple(names)


def _missing_operator() -> str | None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        match = _MISSING.search(str(error))
        if match is None:
            raise
        return match[1]
    return None


def _declare(name: str) -> None:
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    library.define(f"{name}(Tensor boxes) -> Tensor")
    _declared.append(library)
    # the failed import leaves half of torchvision behind
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
