"""Predict spatial gene expression from H&E images and see how far to believe it.

*Ingest fills the store, the model reads the store, the store knows neither.*
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spahgc.model.graph_dataset import graphs

__version__ = version("spahgc")
__all__ = ["__version__", "graphs"]

_PLACES = {"graphs": "spahgc.model.graph_dataset"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _PLACES:  # imported when it is first asked for: torch takes seconds
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
