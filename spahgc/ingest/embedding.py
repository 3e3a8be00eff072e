"""Embed the slides of a store, or one image: which are missing, which shards, when to commit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import ImageError, MismatchError, MissingError
from spahgc.ingest.patches import count_padded
from spahgc.ingest.shards import (
    Advance,
    EmbeddingConfig,
    ShardTask,
    cut_all,
    embed_on_dask,
    embed_shards,
    embedding_fingerprint,
    embedding_name,
    explain_missing_scale,
    ignore,
    load_once,
    prefetch,
    start_draft,
)
from spahgc.schema import Slide
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft, digest_fingerprint
from spahgc.store.slide import StoredSlide


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingReport:
    """What a run of `embed_slides` did."""

    embedding: str
    """Name of the embedding."""

    embedded: dict[str, int] = field(default_factory=dict)
    """Spots embedded now, by slide."""

    kept: tuple[str, ...] = ()
    """Slides that had the embedding already."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Reason, by slide."""

    padded: dict[str, int] = field(default_factory=dict)
    """Spots whose patch leaves the image and was filled white there, by slide."""


def embed_slides(
    store: Path,
    *,
    config: EmbeddingConfig,
    slides: Sequence[str] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    advance: Advance | None = None,
) -> EmbeddingReport:
    """Embed every patch of the slides that have an image and lack this embedding.

    Killed half-way, it goes on with the next missing shard when called again.

    Parameters
    ----------
    store
        Where the store lies.
    config
        Encoder and patch width.
    slides
        Names; all by default.
    workers
        Processes of a Dask cluster on this machine; 0 embeds in this process.
    scheduler
        Address of a running Dask scheduler, instead of ``workers``.
    advance
        Told how many more spots are done.

    Raises
    ------
    EncoderError
        If the encoder cannot be had.
    ImageError, MissingError
        If an image moved or changed since it was ingested, or has no µm per pixel.
    """
    cohort = open_cohort(store)
    encoder = load_once(config)
    name = embedding_name(encoder, config)
    drafts, kept, left_out = [], [], {}
    for slide in [cohort[n] for n in (cohort.slides if slides is None else slides)]:
        if slide.entry.image is None:
            left_out[slide.name] = "no full-resolution image"
            continue
        draft = start_draft(slide, encoder, config)  # refuses one made in another way
        if name in slide.entry.encoders:
            kept.append(slide.name)
        else:
            check_image(slide)
            drafts.append(draft)
    run = partial(embed_on_dask, workers, scheduler) if workers or scheduler else embed_shards
    padded = _embed_and_commit(drafts, config, run, advance or ignore)
    return EmbeddingReport(
        embedding=name,
        embedded={draft.slide.name: draft.slide.n_spots for draft in drafts},
        kept=tuple(kept),
        left_out=left_out,
        padded=padded,
    )


def embed_image_slide(
    slide: Slide,
    config: EmbeddingConfig,
    *,
    fingerprint_digest: str | None = None,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """Embed a slide that is in no store: (S, D) float32, row for row with its spots.

    Parameters
    ----------
    slide
        With an image.
    config
        Encoder and patch width.
    fingerprint_digest
        Of the embeddings it will be compared with.
    advance
        Told how many more spots are done.

    Raises
    ------
    ImageError
        If the slide has no image or no µm per pixel.
    MismatchError
        If ``fingerprint_digest`` is given and this encoder would embed in another way.
    """
    if slide.image is None or slide.microns_per_pixel is None:
        raise ImageError(f"slide {slide.name} has no image with known µm per pixel; give `--mpp`")
    encoder = load_once(config)
    digest = digest_fingerprint(embedding_fingerprint(encoder, config))
    if fingerprint_digest not in {None, digest}:
        raise MismatchError(
            f"encoder {config.encoder!r} is not the one the run was trained with (its weights or "
            "settings differ); pass the same `--weights`"
        )
    batches = cut_all(slide.image.path, slide.centers, slide.microns_per_pixel, encoder, config)
    vectors = []
    for batch in prefetch(batches):
        vectors.append(encoder.embed(batch.pixels_BHWC))
        (advance or ignore)(len(vectors[-1]))
    return np.concatenate(vectors)


Run: TypeAlias = Callable[[Iterable[ShardTask], Advance], Iterator[ShardTask]]


def _embed_and_commit(
    drafts: Sequence[EmbeddingDraft], config: EmbeddingConfig, run: Run, advance: Advance
) -> dict[str, int]:
    missing = {draft.slide.name: list(draft.missing()) for draft in drafts}
    by_name = {draft.slide.name: draft for draft in drafts}
    for name in [name for name, rows in missing.items() if not rows]:
        by_name[name].commit()  # killed between its last shard and its commit
    tasks = [
        ShardTask(
            store=by_name[name].slide.store.location.address, slide=name, rows=rows, config=config
        )
        for name, shards in missing.items()
        for rows in shards
    ]
    for draft in drafts:  # what an earlier call already wrote
        todo = sum(rows.stop - rows.start for rows in missing[draft.slide.name])
        advance(draft.slide.n_spots - todo)
    for task in run(tasks, advance):
        missing[task.slide].remove(task.rows)
        if not missing[task.slide]:
            by_name[task.slide].commit()
    return {n: count for n, d in by_name.items() if (count := _count_padded(d.slide, config))}


def check_image(slide: StoredSlide) -> None:
    """Raise if a slide's image moved or changed, or no patches can be cut from it."""
    path = Path(slide.entry.image or "")
    recorded = slide.record["image"]
    if not path.is_file():
        raise MissingError(
            f"the image of slide {slide.name} is no longer at {path}; put it back, or ingest the "
            "slide again with `--image` and `--replace`"
        )
    if path.stat().st_size != recorded["bytes"]:
        raise ImageError(
            f"{path} is not the image that slide {slide.name} was ingested with: "
            f"{path.stat().st_size} bytes instead of {recorded['bytes']}; ingest it again with "
            "`--replace`"
        )
    if slide.entry.microns_per_pixel is None:
        raise MissingError(explain_missing_scale(slide))
    if np.isnan(slide.centers).any():
        raise MissingError(
            f"slide {slide.name} has spots without pixel coordinates, so no patch can be cut; "
            "ingest it again with its spots file and `--replace`"
        )


def _count_padded(slide: StoredSlide, config: EmbeddingConfig) -> int:
    side_px = config.side_um / (slide.entry.microns_per_pixel or 1)
    return count_padded(slide.centers, size=tuple(slide.record["image"]["size"]), side_px=side_px)
