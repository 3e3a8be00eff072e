"""Predict spatial gene expression from H&E images and see how far to believe it.

*Ingest fills the store, the model reads the store, the store knows neither.*
"""

from importlib.metadata import version

__version__ = version("spahgc")
