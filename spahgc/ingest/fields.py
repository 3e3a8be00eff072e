"""What of each spot is embedded, and how: fields of view, their names, their fingerprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spahgc.errors import MismatchError
from spahgc.ingest.patches import PatchConfig
from spahgc.ingest.stain import Stain

if TYPE_CHECKING:
    from spahgc.ingest.encoders import Encoder, Precision  # imports torch, which commands avoid

VIEWS: Final = (1, 4, 8)
"""Ways of looking at a patch: as it lies; four rotations; those and their mirror images."""

BARE_UM: Final = 112.0
"""An embedding of this width is named after its encoder alone; 224 px at 0.5 µm/px."""

WIDTHS_UM: Final = (1.0, 10_000.0)
"""Narrower than a cell organelle or wider than a section is a slip of the keyboard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What one embedding sees of a spot and its surroundings."""

    side_um: float = BARE_UM
    """Width and height on the tissue, in µm."""

    side_px: int | None = None
    """Width and height in the network's input pixels; None is the encoder's own."""

    views: int = 1
    """How many flips and rotations of a patch are averaged, one of `VIEWS`."""

    def __post_init__(self) -> None:
        narrowest, widest = WIDTHS_UM
        if not narrowest <= self.side_um <= widest:
            raise MismatchError(
                f"a patch of {self.side_um:g} µm cannot be meant, expected {narrowest:g} to "
                f"{widest:g} µm"
            )
        if self.views not in VIEWS:
            raise MismatchError(f"{self.views} views of a patch, expected 1, 4 or 8")


DEFAULT_FIELDS: Final = (
    Field(side_um=77),
    Field(side_um=154),
    Field(side_um=308),
    Field(side_um=616),
)
"""What commands embed where nobody asks for anything else: a few cells, a spot, its neighbours, the
tissue. They predict far better than one field; averaging 8 views each adds a little, at 8 times the
cost (docs/model.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """How to embed; everything that decides a number ends up in a fingerprint."""

    encoder: str = "lite0"
    """Name of the encoder, see `spahgc.ingest.encoders.load_encoder`."""

    weights: Path | None = None
    """Weights to take instead of the published ones."""

    fields: tuple[Field, ...] = (Field(),)
    """One embedding each, all cut from one decoding of the image."""

    stain: Stain | None = None
    """How a slide's colours are brought to a reference's; None leaves them as they are."""

    name: str | None = None
    """What to call the embeddings in place of the encoder's name."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""

    precision: Precision = "float32"
    """Of the forward pass."""

    batch_size: int | None = None
    """Patches per forward pass; decides the speed and no number beyond float rounding. None is
    what suits the device."""


def patch_config(encoder: Encoder, field: Field) -> PatchConfig:
    """Say how wide a field's patches are, on the tissue and in the encoder's eye."""
    return PatchConfig(side_um=field.side_um, side_px=field.side_px or encoder.input_px)


def embedding_name(encoder: Encoder, config: EmbeddingConfig, field: Field) -> str:
    """Name an embedding after its encoder, and its field of view where that is not the default."""
    name = config.name or "-".join([encoder.name, *filter(None, [config.stain])])
    parts = [f"{field.side_um:g}um"]
    if field.side_px not in {None, encoder.input_px}:
        parts.append(f"{field.side_px}px")
    if field.views > 1:
        parts.append(f"{field.views}views")
    return name if parts == [f"{BARE_UM:g}um"] else "-".join([name, *parts])


def embedding_fingerprint(
    encoder: Encoder, config: EmbeddingConfig, field: Field
) -> dict[str, Any]:
    """Spell everything that decides an embedding's numbers."""
    patch = patch_config(encoder, field)
    return {
        "encoder": config.encoder,
        **encoder.fingerprint(),
        "patch_um": float(patch.side_um),
        "patch_px": patch.side_px,
        "views": field.views,
        "interpolation": "box, bicubic",
        **({} if config.stain is None else {"stain": config.stain}),
    }


def config_like(
    fingerprints: Sequence[Mapping[str, Any]], *, weights: Path | None = None, device: str = "auto"
) -> EmbeddingConfig:
    """Say how to embed as recorded: one field per fingerprint, in their order.

    Parameters
    ----------
    fingerprints
        Of embeddings of one encoder, as a slide's or a run's record has them.
    weights
        Weights the encoder was given, where it was.
    device
        As in `EmbeddingConfig`.

    Raises
    ------
    MismatchError
        If the fingerprints are of several encoders.
    """
    asked = sorted(
        {(str(f["encoder"]), f.get("precision", "float32"), f.get("stain")) for f in fingerprints},
        key=str,
    )
    if len(asked) != 1:
        found = ", ".join(
            f"{encoder} in {precision}{f', stain {stain}' if stain else ''}"
            for encoder, precision, stain in asked
        )
        raise MismatchError(
            f"embeddings of {len(asked)} encoders ({found}) in one pass, expected one at a time"
        )
    ((encoder, precision, stain),) = asked
    fields = tuple(
        Field(
            side_um=float(fingerprint["patch_um"]),
            side_px=fingerprint.get("patch_px"),
            views=fingerprint.get("views", 1),
        )
        for fingerprint in fingerprints
    )
    return EmbeddingConfig(
        encoder=encoder,
        weights=weights,
        fields=fields,
        stain=stain,
        precision=precision,
        device=device,
    )
