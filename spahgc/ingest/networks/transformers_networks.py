"""Networks that transformers builds, of its own classes alone: no code of the hub is run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spahgc.errors import EncoderError
from spahgc.ingest.networks.checkpoints import (
    Weights,
    digest_weights,
    read_weights,
    refuse_misfits,
)
from spahgc.ingest.networks.hub import (
    CONFIGURATION,
    PROCESSOR,
    WEIGHTS,
    fetch_file,
    revision_of,
    url_of,
)
from spahgc.ingest.networks.known import KnownEncoder
from spahgc.ingest.networks.network import Network
from spahgc.torchvision_ops import declare_missing_operators


class ClassToken(nn.Module):
    """The class token after the last norm."""

    def __init__(self, network: nn.Module) -> None:
        """Pool ``network``, which gives ``last_hidden_state`` (B, T, D)."""
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Embed patches: (B, 3, H, W) to (B, D)."""
        tokens_BTD: Tensor = self.network(pixel_values=image_BCHW).last_hidden_state
        return tokens_BTD[:, 0]


def build_known(known: KnownEncoder, weights: Path | None) -> Network:
    """Build an encoder of the catalogue by transformers.

    Raises
    ------
    EncoderError
        If transformers is missing, or the weights cannot be had here or do not fit.
    """
    if weights is None:
        repository = known.repository or ""
        settings = json.loads(fetch_file(repository, (CONFIGURATION,)).read_text())
        processor = json.loads(fetch_file(repository, (PROCESSOR,)).read_text())
        path = fetch_file(repository, WEIGHTS)
        origin, source = repository, f"{url_of(repository)} at {revision_of(path)}"
    else:
        settings, processor, path = dict(known.arguments), {}, weights
        origin, source = str(weights), f"file {weights.name}"
    published = read_weights(path)
    mean, std = known.normalisation
    return Network(
        module=ClassToken(_load(known.architecture, settings, published, origin)),
        input_px=_side(processor, known.input_px),
        mean=tuple(processor.get("image_mean", mean)),
        std=tuple(processor.get("image_std", std)),
        architecture=known.architecture,
        arguments={key: settings.get(key, value) for key, value in known.arguments.items()},
        pooling=known.pooling,
        # of the file: transformers renames and splits what it loads, from version to version
        weights_sha256=digest_weights(published),
        licence=known.licence,
        is_gated=known.is_gated,
        source=source,
        microns_per_pixel=known.microns_per_pixel,
    )


def _load(name: str, settings: dict[str, Any], published: Weights, origin: str) -> nn.Module:
    declare_missing_operators()  # before transformers, which imports torchvision where it is
    try:
        import transformers
    except ImportError as error:
        raise EncoderError(
            "this encoder needs transformers: `pip install 'spahgc[transformers]'`"
        ) from error
    family = getattr(transformers, name)
    # a repository may name a configuration class of its own code: its settings are all we take
    own = {key: value for key, value in settings.items() if key not in {"auto_map", "model_type"}}
    with _quietly():
        network, found = family.from_pretrained(
            None,
            config=family.config_class.from_dict(own),
            state_dict=dict(published),
            output_loading_info=True,
            dtype="float32",
            **({"add_pooling_layer": False} if name == "ViTModel" else {}),
        )
    misfits = [str(entry[0]) for entry in found["mismatched_keys"]]
    surplus = [key for key in found["unexpected_keys"] if not _is_beside(key)]
    refuse_misfits(
        sorted([*found["missing_keys"], *misfits]),
        sorted(surplus),
        n_wanted=len(network.state_dict()),
        origin=origin,
    )
    return network


def _is_beside(key: str) -> bool:
    return key.startswith(("pooler.", "classifier.")) or key.endswith("mask_token")


def _side(processor: dict[str, Any], default: int) -> int:
    for key in ("crop_size", "size"):
        size = processor.get(key)
        side = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
        if side and (key == "size" or processor.get("do_center_crop", True)):
            return int(side)
    return default


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from reporting what is checked, and said in one line, here."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
