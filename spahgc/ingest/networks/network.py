"""A network with all that must be known to feed it, and to say later what made an embedding."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A network that maps (B, 3, H, W) normalised patches to (B, D) vectors.

    What a plug-in returns; see docs/encoders.md. Letters: B patches, D embedding size.
    """

    module: nn.Module
    """With its weights."""

    input_px: int
    """Height and width of its input."""

    mean: tuple[float, ...]
    """Per channel, of pixel values between 0 and 1."""

    std: tuple[float, ...]
    """Per channel, of pixel values between 0 and 1."""

    architecture: str = ""
    """What is built, in the words of its library; a plug-in's is where its builder lies."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What it is built with, JSON; part of the fingerprint, so nothing that differs by machine."""

    pooling: str = "model"
    """How tokens become one vector: ``model`` leaves it to the network itself."""

    weights_sha256: str | None = None
    """Digest of the weights as published; None takes that of the module's own parameters."""

    licence: str | None = None
    """Under which the weights are given; None means unknown."""

    is_gated: bool = False
    """Whether the weights are given only to who asks for them."""

    source: str | None = None
    """Where the weights came from, for people."""

    microns_per_pixel: float | None = None
    """Scale it was trained at; None means unknown or several."""
