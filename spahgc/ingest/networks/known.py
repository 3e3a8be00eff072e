"""What has to be known of an encoder before its weights are at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

Pooling: TypeAlias = Literal["model", "class", "class+mean"]
"""The network's own way; the class token; that and the mean of the patch tokens, side by side."""

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel, of pixel values between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEncoder:
    """What has to be known to build one encoder and to read its output."""

    architecture: str
    """Name in timm, or class in transformers."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the architecture is built with; layer classes by their names."""

    card: frozenset[str] = frozenset()
    """Arguments that the model card sets; elsewhere the hub's configuration wins."""

    library: Literal["timm", "transformers"] = "timm"
    """Which builds it."""

    repository: str | None = None
    """On the Hugging Face hub; None where the weights come as a file or with a package."""

    page: str = ""
    """Where to ask for the weights, where that is not the repository."""

    pooling: Pooling = "model"
    """How its tokens become one vector."""

    size: int
    """Length of that vector."""

    parameters: float
    """Millions."""

    input_px: int = 224
    """Height and width of its input."""

    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and standard deviation per channel, of pixel values between 0 and 1."""

    trusts_card: bool = False
    """Whether the model card's normalisation wins over the hub configuration's."""

    microns_per_pixel: float | None = 0.5
    """Scale it was trained at; None means several or unknown."""

    licence: str
    """Of the weights."""

    is_gated: bool
    """Whether they are given only to who asks."""

    @property
    def url(self) -> str:
        """Page that tells of the weights, and where to ask for them."""
        return self.page or f"https://huggingface.co/{self.repository}"
