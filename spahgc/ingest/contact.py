"""Some of a slide's patches, as an encoder sees them, for people to look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spahgc.ingest.fields import EmbeddingConfig, Field, patch_config
from spahgc.ingest.open_images import let_go, open_once, stain_once
from spahgc.ingest.patches import cut_patches
from spahgc.ingest.shards import (
    image_and_scale,
    load_once,
    padded_of,
)
from spahgc.store.slide import StoredSlide


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownPatch:
    """One patch of one spot."""

    slide: str
    """Name of the slide."""

    spot: str
    """Its barcode or id."""

    side_um: float
    """Width on the tissue, in µm."""

    padded_share: float
    """Share that lies outside the image, 0 to 1."""

    pixels_HW3: NDArray[np.uint8]
    """(H, W, 3) RGB."""


def show_patches(
    slide: StoredSlide, config: EmbeddingConfig, *, n_spots: int = 16, seed: int = 0
) -> list[ShownPatch]:
    """Cut the patches of some spots: those that leave the image most, then a random sample.

    Parameters
    ----------
    slide
        With its image in place.
    config
        Encoder and fields of view.
    n_spots
        Shown at most; half of them for what leaves the image.
    seed
        Of the sample.

    Returns
    -------
    list[ShownPatch]
        Spot after spot, of each its fields in their order.
    """
    path, scale = image_and_scale(slide)
    encoder = load_once(config)
    share_FS = np.stack([padded_of(slide, field) for field in config.fields])
    rows_R = _rows(share_FS.max(axis=0), n_spots=n_spots, seed=seed)
    batches = cut_patches(
        open_once(path),
        slide.centers[rows_R],
        microns_per_pixel=scale,
        configs=[patch_config(encoder, field) for field in config.fields],
        batch_size=1,
        stain=stain_once(path, config.stain),
    )
    shown = []
    for number, batch in enumerate(batches):
        row, field = rows_R[number // len(config.fields)], config.fields[batch.width]
        shown.append(_shown(slide, row, field, share_FS[batch.width, row], batch.pixels_BHWC[0]))
    let_go()
    return shown


def _shown(
    slide: StoredSlide, row: int, field: Field, share: float, pixels_HW3: NDArray[np.uint8]
) -> ShownPatch:
    return ShownPatch(
        slide=slide.name,
        spot=str(slide.spots.index[row]),
        side_um=field.side_um,
        padded_share=float(share),
        pixels_HW3=pixels_HW3,
    )


def _rows(share_S: NDArray[np.float64], *, n_spots: int, seed: int) -> NDArray[np.int64]:
    padded_P = np.flatnonzero(share_S > 0)
    worst_R = padded_P[np.argsort(-share_S[padded_P], kind="stable")][: n_spots // 2]
    others = np.setdiff1d(np.arange(len(share_S)), worst_R)
    n_others = min(n_spots - len(worst_R), len(others))
    sample_R = np.random.default_rng(seed).choice(others, n_others, replace=False)
    return np.concatenate([worst_R, np.sort(sample_R)])
