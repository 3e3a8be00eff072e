"""One shard of one slide's embeddings: patches cut ahead, embedded, written."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from spahgc.errors import MissingError
from spahgc.ingest.encoders import Encoder, Precision, load_encoder
from spahgc.ingest.fields import (
    EmbeddingConfig,
    Field,
    embedding_fingerprint,
    embedding_name,
    patch_config,
)
from spahgc.ingest.forward import ForwardPass, choose_device
from spahgc.ingest.images import open_image
from spahgc.ingest.open_images import open_once, open_together, stain_once
from spahgc.ingest.patches import PatchBatch, cut_patches, padded_share
from spahgc.ingest.prefetch import prefetch
from spahgc.ingest.slide_image import MAX_DECODED_PIXELS, Level
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft, RowRange
from spahgc.store.slide import StoredSlide

CUTTERS: Final = min(8, os.cpu_count() or 1)
"""Threads that cut patches for a GPU, and images decoded at once for any device."""

CPU_BATCH: Final = 64
"""Patches that a CPU is given at once; how many go through its network together is less."""

CUT_AHEAD: Final = 160 * 2**20
"""Patches, in bytes, that a CPU cuts, by all its cores, before it embeds them: for some
milliseconds after each forward pass its threads stay in the way of those that cut."""

Item = TypeVar("Item")

Advance: TypeAlias = Callable[[int], None]
"""Told how many more spots are done."""

Drafts: TypeAlias = Mapping[Field, EmbeddingDraft]
"""What one slide still lacks."""

_NONE_BEGUN: Final[Mapping[str, Drafts]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """The same rows of one slide's embeddings: all a worker needs to make and write them."""

    store: str
    """Where the store lies."""

    slide: str
    """Name of the slide."""

    rows: RowRange
    """Spots to embed."""

    config: EmbeddingConfig
    """How, with the fields that these rows still lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedShard:
    """What came of a `ShardTask`."""

    task: ShardTask
    """It."""

    flat: Mapping[str, int]
    """By embedding, how many of its patches are all of one colour."""


def start_draft(
    slide: StoredSlide, encoder: Encoder, config: EmbeddingConfig, field: Field
) -> EmbeddingDraft:
    """Start or resume one embedding of one slide; refuse a finished one made in another way."""
    name = embedding_name(encoder, config, field)
    is_finished = name in slide.entry.encoders  # its image may be gone
    return EmbeddingDraft(
        slide,
        name,
        fingerprint=embedding_fingerprint(encoder, config, field),
        size=encoder.size,
        notes={} if is_finished else _notes(slide, encoder, field),
    )


def embed_shards(
    tasks: Iterable[ShardTask], advance: Advance, *, begun: Mapping[str, Drafts] = _NONE_BEGUN
) -> Iterator[FinishedShard]:
    """Embed and write shard after shard, and say of each when it is written.

    Where a GPU embeds, patches of the next shard, also of the next slide, are cut meanwhile.

    Parameters
    ----------
    tasks
        What to embed.
    advance
        Told how many more spots are done.
    begun
        By slide, the drafts that this process holds already.
    """
    vectors: dict[int, list[NDArray[np.float32]]] = {}
    n_flat: dict[int, int] = {}
    for task, slide, batch in _cut_ahead(tasks, begun):
        views = task.config.fields[batch.width].views
        vectors_BD = forward_once(task.config).embed_views(batch.pixels_BHWC, views=views)
        vectors.setdefault(batch.width, []).append(vectors_BD)
        n_flat[batch.width] = n_flat.get(batch.width, 0) + int(batch.flat_B.sum())
        if batch.width < len(task.config.fields) - 1:
            continue
        advance(len(vectors_BD))
        if sum(map(len, vectors[batch.width])) == task.rows.stop - task.rows.start:
            yield _write(task, slide, vectors, n_flat, begun.get(task.slide, {}))
            vectors, n_flat = {}, {}


def _write(
    task: ShardTask,
    slide: StoredSlide,
    vectors: Mapping[int, list[NDArray[np.float32]]],
    n_flat: Mapping[int, int],
    begun: Drafts,
) -> FinishedShard:
    encoder = load_once(task.config)
    flat = {}
    for width, field in enumerate(task.config.fields):
        draft = begun.get(field) or start_draft(slide, encoder, task.config, field)
        draft.write(task.rows, np.concatenate(vectors[width]))
        flat[draft.name] = n_flat[width]
    return FinishedShard(task=task, flat=flat)


def _cut_ahead(
    tasks: Iterable[ShardTask], begun: Mapping[str, Drafts]
) -> Iterator[tuple[ShardTask, StoredSlide, PatchBatch]]:
    tasks = iter(tasks)
    for first in tasks:
        yield from beside(first.config, _batches(itertools.chain([first], tasks), begun))


def beside(config: EmbeddingConfig, items: Iterator[Item]) -> Iterator[Item]:
    """Make the next items while a GPU embeds; a CPU has no time beside its own forward pass.

    A thread that cuts there takes a core from the others, which wait for it at every layer: it
    costs a good deal more than the time it takes.
    """
    return items if load_once(config).device.type == "cpu" else prefetch(items)


def _batches(
    tasks: Iterable[ShardTask], begun: Mapping[str, Drafts]
) -> Iterator[tuple[ShardTask, StoredSlide, PatchBatch]]:
    for together in _decoded_together(tasks, begun):
        images = open_together({image_and_scale(slide)[0] for _, slide in together})
        for task, slide in together:
            path, scale = image_and_scale(slide)
            images[path].result()  # raises what is wrong with it, after the slides before
            centers_S2 = slide.centers[task.rows.start : task.rows.stop]
            for batch in cut_all(path, centers_S2, scale, task.config):
                yield task, slide, batch
        del images  # before the next ones are decoded


def _decoded_together(
    tasks: Iterable[ShardTask], begun: Mapping[str, Drafts]
) -> Iterator[list[tuple[ShardTask, StoredSlide]]]:
    """Part tasks where their images would need more cores, or memory, than one large image."""
    together: list[tuple[ShardTask, StoredSlide]] = []
    slides: dict[str, StoredSlide] = {}
    for task in tasks:
        if task.slide not in slides:
            slide = _slide_of(task, begun.get(task.slide, {}))
            n_pixels = sum(map(_n_pixels, (*slides.values(), slide)))
            if slides and (len(slides) == CUTTERS or n_pixels > MAX_DECODED_PIXELS):
                yield together
                together, slides = [], {}
            slides[task.slide] = slide
        together.append((task, slides[task.slide]))
    if together:
        yield together


def _slide_of(task: ShardTask, begun: Drafts) -> StoredSlide:
    for draft in begun.values():
        return draft.slide
    return open_cohort(task.store)[task.slide]


def _n_pixels(slide: StoredSlide) -> int:
    return prod(slide.record["image"]["size"])


def cut_all(
    path: Path, centers_S2: NDArray[np.float64], microns_per_pixel: float, config: EmbeddingConfig
) -> Iterator[PatchBatch]:
    """Cut the patches of every field around each center, in batches."""
    encoder = load_once(config)
    batch_size = forward_once(config).batch_size
    is_on_cpu = encoder.device.type == "cpu"
    return cut_patches(
        open_once(path),
        centers_S2,
        microns_per_pixel=microns_per_pixel,
        configs=[patch_config(encoder, field) for field in config.fields],
        batch_size=max(CPU_BATCH, batch_size) if is_on_cpu else batch_size,
        ahead_bytes=CUT_AHEAD if is_on_cpu else 0,
        threads=torch.get_num_threads() if is_on_cpu else CUTTERS,
        stain=stain_once(path, config.stain),
    )


def load_once(config: EmbeddingConfig) -> Encoder:
    """Load an encoder; a process that asks again gets the same one."""
    return forward_once(config).encoder


def forward_once(config: EmbeddingConfig) -> ForwardPass:
    """Load an encoder and choose its batch size; a process that asks again gets the same one."""
    device = choose_device(config.device)
    return _forward(config.encoder, config.weights, device, config.precision, config.batch_size)


@lru_cache(maxsize=1)
def _forward(
    name: str, weights: Path | None, device: str, precision: Precision, batch_size: int | None
) -> ForwardPass:
    encoder = load_encoder(name, weights=weights, device=device, precision=precision)
    return ForwardPass(encoder, batch_size=batch_size)


def image_and_scale(slide: StoredSlide) -> tuple[Path, float]:
    """Tell where a slide's image lies and its µm per full-resolution pixel."""
    scale = slide.entry.microns_per_pixel
    if slide.entry.image is None or scale is None:
        raise MissingError(
            f"slide {slide.name} has no µm per pixel, so no patch of known width can be cut; "
            "ingest it again with `--mpp` and `--replace`"
        )
    return known_image(slide), scale


def known_image(slide: StoredSlide) -> Path:
    """Tell where a slide's image lies, or how to tell it."""
    if slide.image_path is None:
        raise MissingError(
            f"where the image of slide {slide.name} lies is not known here: the slide was handed "
            f"on with its name alone, {slide.entry.image}; tell it: {how_to_tell(slide)}"
        )
    return slide.image_path


def how_to_tell(slide: StoredSlide) -> str:
    """Spell the command that tells where a slide's image lies."""
    return f"`spahgc store set {slide.name} image=FILE --store {slide.store.where}`"


def _notes(slide: StoredSlide, encoder: Encoder, field: Field) -> dict[str, Any]:
    """Say how a slide's patches came from its image: it differs from slide to slide."""
    path, scale = image_and_scale(slide)
    patch = patch_config(encoder, field)
    share_S = padded_of(slide, field)
    padded_P = np.flatnonzero(share_S > 0)
    level = _level(path, patch.side_um / scale / patch.side_px)
    return {
        **encoder.provenance(),
        "image_um_per_px": scale,
        "level_um_per_px": scale * level.downsample,
        "patch_um_per_px": patch.side_um / patch.side_px,
        "level": level.number,
        "reader": reader_of(path).split(",")[0],
        "padded_rows": padded_P.tolist(),
        "padded_share": share_S[padded_P].round(4).tolist(),
    }


def padded_of(slide: StoredSlide, field: Field) -> NDArray[np.float64]:
    """Tell which share of each spot's patch lies outside the slide's image: (S,), 0 to 1."""
    _, scale = image_and_scale(slide)
    size = tuple(slide.record["image"]["size"])
    return padded_share(slide.centers, size=size, side_px=field.side_um / scale)


@lru_cache(maxsize=1024)
def reader_of(path: Path) -> str:
    """Say which library reads an image, and through which file where it is not the image's own."""
    with open_image(path) as image:
        return image.reader


@lru_cache(maxsize=1024)
def _level(path: Path, wanted: float) -> Level:
    # not `open_once`, whose decoded image is still being cut while a shard is written
    with open_image(path) as image:
        return image.level_for(wanted)


def ignore(_: object) -> None:
    """Report to nobody."""
