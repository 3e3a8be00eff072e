"""Patch encoders: name → network, its own normalisation, and a fingerprint of both."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spahgc.errors import EncoderError
from spahgc.ingest.networks import timm_networks, transformers_networks
from spahgc.ingest.networks.catalogue import CATALOGUE
from spahgc.ingest.networks.checkpoints import digest_weights
from spahgc.ingest.networks.network import Network
from spahgc.ingest.networks.plugins import list_plugins, package_of

DEFAULT_ENCODER: Final = "lite0"
TIMM_PREFIX: Final = "timm:"
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""Of the forward pass; parameters and vectors are float32 always."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """A frozen network that turns patches into vectors. Letters: B patches, D embedding size."""

    name: str
    """What the embedding is called in a store."""

    network: nn.Module
    """In eval mode, channels last, on ``device``; maps (B, 3, H, W) to (B, D)."""

    size: int
    """D."""

    input_px: int
    """Height and width of its input."""

    mean: tuple[float, ...]
    """Per channel, of pixel values between 0 and 1."""

    std: tuple[float, ...]
    """Per channel, of pixel values between 0 and 1."""

    architecture: str
    """The name by which its library builds it."""

    arguments: Mapping[str, Any]
    """What the architecture was built with beside its own defaults, JSON."""

    pooling: str
    """How tokens become one vector; ``model`` is the network's own way."""

    weights_sha256: str
    """Digest of its parameters' names, shapes and bytes."""

    precision: Precision
    """Of the forward pass."""

    device: torch.device
    """Where it runs."""

    licence: str | None
    """Under which the weights are given; None means unknown."""

    is_gated: bool
    """Whether the weights are given only to who asks for them."""

    source: str | None
    """Where the weights came from, for people."""

    microns_per_pixel: float | None
    """Scale it was trained at; None means unknown or several."""

    def fingerprint(self) -> dict[str, Any]:
        """Spell everything of the encoder that decides an embedding's numbers."""
        return {
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "pooling": self.pooling,
            "weights_sha256": self.weights_sha256,
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "precision": self.precision,
        }

    def provenance(self) -> dict[str, Any]:
        """Spell what should be known of the weights but decides no number."""
        return {"licence": self.licence, "is_gated": self.is_gated, "source": self.source}

    def embed(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed patches.

        Parameters
        ----------
        pixels_BHWC
            (B, H, W, 3) uint8 RGB, H and W equal to `input_px`.

        Returns
        -------
        NDArray[np.float32]
            (B, D).
        """
        return self(self.prepare(pixels_BHWC)).cpu().numpy()

    @torch.inference_mode()
    def __call__(self, input_BCHW: Tensor) -> Tensor:
        """Embed normalised patches on `device`: (B, 3, H, W) to (B, D) float32."""
        with self._casting():
            vectors_BD: Tensor = self.network(input_BCHW)
        return vectors_BD.float()

    def prepare(self, pixels_BHWC: NDArray[np.uint8]) -> Tensor:
        """Normalise patches as the encoder was trained: (B, 3, H, W) float32, channels last."""
        sent_BHWC = torch.from_numpy(pixels_BHWC)
        if self.device.type == "cuda":  # from pinned memory a GPU fetches by itself
            sent_BHWC = sent_BHWC.pin_memory().to(self.device, non_blocking=True)
        # a permuted view of (B, H, W, C) already is channels last: nothing is copied
        input_BCHW = sent_BHWC.to(self.device).permute(0, 3, 1, 2).float()
        mean_1C11 = torch.tensor(self.mean, device=self.device).mul(255).view(1, -1, 1, 1)
        std_1C11 = torch.tensor(self.std, device=self.device).mul(255).view(1, -1, 1, 1)
        return (input_BCHW - mean_1C11) / std_1C11

    def _casting(self) -> AbstractContextManager[Any]:
        is_mixed = self.precision != "float32"
        dtype = getattr(torch, self.precision) if is_mixed else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=is_mixed)


def load_encoder(
    name: str,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
) -> Encoder:
    """Build an encoder with its weights.

    Parameters
    ----------
    name
        One that ``spahgc encoders`` lists, among them ``lite0`` (EfficientNet-Lite0, ImageNet,
        ships with spahgc's requirements), or ``timm:<model>`` for any timm model.
    weights
        A safetensors or torch file to take instead of the published weights; never unpickled.
    device
        As torch names it.
    precision
        Of the forward pass.

    Raises
    ------
    EncoderError
        If the name or the precision is unknown, the weights cannot be read or had here, or the
        network does not give one finite vector per patch.
    """
    where = torch.device(device)
    _check_precision(precision, where)
    network = _build(name, weights)
    return _freeze(network, name=_embedding_name(name), device=where, precision=precision)


def _build(name: str, weights: Path | None) -> Network:
    if name.startswith(TIMM_PREFIX):
        return timm_networks.build_any(name.removeprefix(TIMM_PREFIX), weights)
    if name == DEFAULT_ENCODER and weights is None:
        return timm_networks.build_lite0()
    if name in CATALOGUE:
        known = CATALOGUE[name]
        is_timm = known.library == "timm"
        build = timm_networks.build_known if is_timm else transformers_networks.build_known
        return build(known, weights)
    plugins = list_plugins()
    if name in plugins:
        return _build_plugin(plugins[name], weights)
    near = get_close_matches(name.lower(), [*CATALOGUE, *plugins], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise EncoderError(
        f"unknown encoder {name!r}: {hint}`spahgc encoders` lists them, and {TIMM_PREFIX}MODEL "
        "takes any model of timm"
    )


def _build_plugin(entry: EntryPoint, weights: Path | None) -> Network:
    try:
        network = entry.load()(weights)
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"encoder {entry.name!r} of {package_of(entry)} cannot be built: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, Network):
        raise EncoderError(
            f"encoder {entry.name!r} of {package_of(entry)} gave a {type(network).__name__}, not a "
            f"{Network.__module__}.{Network.__name__}"
        )
    return replace(network, architecture=network.architecture or entry.value)


def _embedding_name(name: str) -> str:
    # part of a Zarr path and of `--encoder`: keep what both can carry
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in get_args(Precision):
        raise EncoderError(f"unknown precision {precision!r}: {', '.join(get_args(Precision))}")
    if precision == "float16" and device.type == "cpu":
        raise EncoderError("precision float16 needs a GPU; on a CPU take float32 or bfloat16")


def _freeze(built: Network, *, name: str, device: torch.device, precision: Precision) -> Encoder:
    network = built.module.eval().requires_grad_(False).float()
    weights_sha256 = built.weights_sha256 or digest_weights(network.state_dict())
    network = network.to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(
        name=name,
        network=network,
        size=_measure(network, name=name, input_px=built.input_px, device=device),
        input_px=built.input_px,
        mean=tuple(built.mean),
        std=tuple(built.std),
        architecture=built.architecture,
        arguments=built.arguments,
        pooling=built.pooling,
        weights_sha256=weights_sha256,
        precision=precision,
        device=device,
        licence=built.licence,
        is_gated=built.is_gated,
        source=built.source,
        microns_per_pixel=built.microns_per_pixel,
    )


@torch.inference_mode()
def _measure(network: nn.Module, *, name: str, input_px: int, device: torch.device) -> int:
    """Find D by embedding one black patch."""
    try:
        given = network(torch.zeros(1, 3, input_px, input_px, device=device))
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"encoder {name!r} cannot embed a patch of {input_px} px on {device}: {reason}"
        ) from error
    if not isinstance(given, Tensor) or given.ndim != 2 or len(given) != 1:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise EncoderError(f"encoder {name!r} gives {shape} for one patch, not one vector (1, D)")
    if not bool(given.isfinite().all()):
        raise EncoderError(f"encoder {name!r} gives values that are not numbers; see its weights")
    return int(given.shape[1])
