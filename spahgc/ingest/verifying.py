"""Embed some spots again and compare them with what a store holds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.ingest.embedding import check_image, embed_image_slide
from spahgc.ingest.fields import (
    EmbeddingConfig,
    Field,
    embedding_fingerprint,
    embedding_name,
)
from spahgc.ingest.shards import load_once
from spahgc.schema import Slide, SlideImageFile
from spahgc.store.cohort import open_cohort
from spahgc.store.slide import StoredSlide

SAMPLE: Final = 32
"""Spots embedded again."""

_TOLERANCE: Final = {"float32": 1e-4}
"""Of 1 - cosine; another device or batch size moves it by some 1e-6, a shift of one pixel more."""

_MIXED_TOLERANCE: Final = 2e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How an embedding in a store compares with the same spots embedded again."""

    slide: str
    """Name of the slide."""

    embedding: str
    """Name of the embedding."""

    differs: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    """Recorded and present value of each part of the fingerprint that differs."""

    n_spots: int = 0
    """Spots embedded again; none where the fingerprint differs."""

    min_cosine: float = float("nan")
    """Smallest cosine between a stored vector and the same spot's new one."""

    max_difference: float = float("nan")
    """Largest absolute difference between their components."""

    worst_spot: str | None = None
    """The spot with the smallest cosine."""

    is_same: bool = False
    """Whether the fingerprint is the same and the vectors are, beyond float rounding."""


def verify_embeddings(
    store: str | Path, *, config: EmbeddingConfig, slides: Sequence[str] | None = None
) -> Iterator[Verification]:
    """Embed a sample of the spots of slides again and compare.

    Parameters
    ----------
    store
        Where the store lies.
    config
        The encoder, fields of view and device to embed with.
    slides
        Names; by default all that have one of the embeddings.

    Raises
    ------
    MissingError
        If a slide that is named lacks the embedding, or its image is no longer there.
    ImageError
        If its image changed since it was ingested.
    """
    cohort = open_cohort(store)
    encoder = load_once(config)
    names = {embedding_name(encoder, config, field): field for field in config.fields}
    for slide in [cohort[n] for n in (cohort.slides if slides is None else slides)]:
        alike = {}
        for name, field in names.items():
            if slides is None and name not in slide.entry.encoders:
                continue
            recorded = slide.embedding_record(name)["fingerprint"]
            differs = _differences(recorded, embedding_fingerprint(encoder, config, field))
            if differs:
                yield Verification(slide=slide.name, embedding=name, differs=differs)
            else:
                alike[name] = field
        if alike:
            yield from _compare(slide, alike, config)


def _differences(
    recorded: Mapping[str, Any], present: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    return {
        key: (recorded.get(key), present.get(key))
        for key in sorted(recorded.keys() | present.keys())
        if recorded.get(key) != present.get(key)
    }


def _compare(
    slide: StoredSlide, fields: Mapping[str, Field], config: EmbeddingConfig
) -> Iterator[Verification]:
    rows_R = sample_rows(slide.n_spots)
    asked = replace(config, fields=tuple(fields.values()))
    vectors = embed_image_slide(_sample_slide(slide, rows_R), asked)
    for name, again_RD in zip(fields, vectors, strict=True):
        stored_RD = slide.read_embedding(name)[rows_R]
        cosine_R = _cosine(stored_RD.astype(np.float64), again_RD.astype(np.float64))
        worst = int(cosine_R.argmin())
        tolerance = _TOLERANCE.get(config.precision, _MIXED_TOLERANCE)
        yield Verification(
            slide=slide.name,
            embedding=name,
            n_spots=len(rows_R),
            min_cosine=float(cosine_R[worst]),
            max_difference=float(np.abs(stored_RD - again_RD).max()),
            worst_spot=str(slide.spots.index[rows_R[worst]]),
            is_same=bool(1 - cosine_R[worst] <= tolerance),
        )


def sample_rows(n_spots: int) -> NDArray[np.int64]:
    """Choose at most `SAMPLE` of ``n_spots`` rows, spread over all, the same ones each time."""
    return np.unique(np.linspace(0, n_spots - 1, min(SAMPLE, n_spots)).round().astype(np.int64))


def _sample_slide(slide: StoredSlide, rows_R: NDArray[np.int64]) -> Slide:
    """Give some spots of a stored slide over its image, without their counts."""
    check_image(slide)
    width, height = slide.record["image"]["size"]
    path = Path(slide.entry.image or "")
    return Slide(
        name=slide.name,
        platform="image",
        spots=slide.spots.iloc[rows_R],
        centers=slide.centers[rows_R],
        counts=csr_matrix(np.empty((len(rows_R), 0), dtype=np.uint32)),
        genes=pd.DataFrame({"symbol": []}),
        microns_per_pixel=slide.entry.microns_per_pixel,
        image=SlideImageFile(path=path, size=(width, height), reader=""),
    )


def _cosine(a_RD: NDArray[np.float64], b_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    norm_R = np.linalg.norm(a_RD, axis=1) * np.linalg.norm(b_RD, axis=1)
    product_R = (a_RD * b_RD).sum(axis=1)
    # a patch that nothing answers to is like itself alone
    both_zero_R = ~(a_RD.any(axis=1) | b_RD.any(axis=1))
    cosine_R = np.divide(product_R, norm_R, out=np.zeros_like(norm_R), where=norm_R > 0)
    return np.where(both_zero_R, 1.0, cosine_R)
