"""Patches → embeddings: one shard is one task, in this process or on Dask."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import ImageError, MismatchError, MissingError
from spahgc.ingest.encoders import Encoder, load_encoder
from spahgc.ingest.images import SlideImage, open_image
from spahgc.ingest.patches import PatchBatch, PatchConfig, cut_patches
from spahgc.schema import Slide
from spahgc.store.cohort import open_cohort
from spahgc.store.slide import StoredSlide
from spahgc.store.staging import EmbeddingDraft, RowRange, digest_fingerprint

BATCH_SIZE = 8
"""Patches per forward pass; on a CPU small channels-last batches stay in the cache."""

Item = TypeVar("Item")
Advance: TypeAlias = Callable[[int], None]
"""Told how many more spots are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """How to embed; everything that decides a number ends up in the fingerprint."""

    encoder: str = "lite0"
    """Name of the encoder, see `spahgc.ingest.encoders.load_encoder`."""

    weights: Path | None = None
    """Weights to take instead of the published ones."""

    side_um: float = PatchConfig().side_um
    """Width of a patch on the tissue, in µm."""

    device: str = "cpu"
    """As torch names it."""

    batch_size: int = BATCH_SIZE
    """Patches per forward pass; decides the speed and no number beyond float rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard of one slide's embedding: all a worker needs to make and write it."""

    store: Path
    """Where the store lies."""

    slide: str
    """Name of the slide."""

    rows: RowRange
    """Spots to embed."""

    config: EmbeddingConfig
    """How."""


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
    encoder = _encoder(config)
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
            _check_image(slide)
            drafts.append(draft)
    run = partial(_on_dask, workers, scheduler) if workers or scheduler else embed_shards
    padded = _embed_and_commit(drafts, config, run, advance or _ignore)
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
    encoder = _encoder(config)
    digest = digest_fingerprint(embedding_fingerprint(encoder, config))
    if fingerprint_digest not in {None, digest}:
        raise MismatchError(
            f"encoder {config.encoder!r} is not the one the run was trained with (its weights or "
            "settings differ); pass the same `--weights`"
        )
    batches = _cut(slide.image.path, slide.centers, slide.microns_per_pixel, encoder, config)
    vectors = []
    for batch in _prefetch(batches):
        vectors.append(encoder.embed(batch.pixels_BHWC))
        (advance or _ignore)(len(vectors[-1]))
    return np.concatenate(vectors)


def embedding_name(encoder: Encoder, config: EmbeddingConfig) -> str:
    """Name an embedding after its encoder, and its field of view where that is not the default."""
    default = config.side_um == PatchConfig().side_um
    return encoder.name if default else f"{encoder.name}-{config.side_um:g}um"


def embedding_fingerprint(encoder: Encoder, config: EmbeddingConfig) -> dict[str, Any]:
    """Spell everything that decides an embedding's numbers."""
    return {
        "encoder": config.encoder,
        **encoder.fingerprint(),
        "patch_um": config.side_um,
        "patch_px": encoder.input_px,
        "interpolation": "bicubic",
    }


def start_draft(slide: StoredSlide, encoder: Encoder, config: EmbeddingConfig) -> EmbeddingDraft:
    """Start or resume the embedding of one slide."""
    return EmbeddingDraft(
        slide,
        embedding_name(encoder, config),
        fingerprint=embedding_fingerprint(encoder, config),
        size=encoder.size,
    )


def embed_shards(tasks: Iterable[ShardTask], advance: Advance) -> Iterator[ShardTask]:
    """Embed and write shard after shard, and give each once it is written.

    Patches of the next shard, also of the next slide, are cut while this one is embedded.
    """
    vectors: list[NDArray[np.float32]] = []
    for task, batch in _prefetch(_batches(tasks)):
        vectors.append(_encoder(task.config).embed(batch.pixels_BHWC))
        advance(len(vectors[-1]))
        if sum(map(len, vectors)) == task.rows.stop - task.rows.start:
            slide = open_cohort(task.store)[task.slide]
            draft = start_draft(slide, _encoder(task.config), task.config)
            draft.write(task.rows, np.concatenate(vectors))
            vectors = []
            yield task


Run: TypeAlias = Callable[[Iterable[ShardTask], Advance], Iterator[ShardTask]]


def _embed_and_commit(
    drafts: Sequence[EmbeddingDraft], config: EmbeddingConfig, run: Run, advance: Advance
) -> dict[str, int]:
    missing = {draft.slide.name: list(draft.missing()) for draft in drafts}
    by_name = {draft.slide.name: draft for draft in drafts}
    for name in [name for name, rows in missing.items() if not rows]:
        by_name[name].commit()  # killed between its last shard and its commit
    tasks = [
        ShardTask(store=by_name[name].slide.store.path, slide=name, rows=rows, config=config)
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


def _batches(tasks: Iterable[ShardTask]) -> Iterator[tuple[ShardTask, PatchBatch]]:
    for task in tasks:
        slide = open_cohort(task.store)[task.slide]
        centers_S2 = slide.centers[task.rows.start : task.rows.stop]
        scale = slide.entry.microns_per_pixel
        if slide.entry.image is None or scale is None:
            raise MissingError(_no_scale(slide))
        encoder, image = _encoder(task.config), Path(slide.entry.image)
        for batch in _cut(image, centers_S2, scale, encoder, task.config):
            yield task, batch


def _cut(
    path: Path,
    centers_S2: NDArray[np.float64],
    microns_per_pixel: float,
    encoder: Encoder,
    config: EmbeddingConfig,
) -> Iterator[PatchBatch]:
    return cut_patches(
        _image(path),
        centers_S2,
        microns_per_pixel=microns_per_pixel,
        config=PatchConfig(side_um=config.side_um, side_px=encoder.input_px),
        batch_size=config.batch_size,
    )


def _check_image(slide: StoredSlide) -> None:
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
        raise MissingError(_no_scale(slide))
    if np.isnan(slide.centers).any():
        raise MissingError(
            f"slide {slide.name} has spots without pixel coordinates, so no patch can be cut; "
            "ingest it again with its spots file and `--replace`"
        )


def _no_scale(slide: StoredSlide) -> str:
    return (
        f"slide {slide.name} has no µm per pixel, so no patch of known width can be cut; "
        "ingest it again with `--mpp` and `--replace`"
    )


def _count_padded(slide: StoredSlide, config: EmbeddingConfig) -> int:
    width, height = slide.record["image"]["size"]
    half = config.side_um / (slide.entry.microns_per_pixel or 1) / 2
    low_S2, high_S2 = slide.centers - half, slide.centers + half
    inside_S = (low_S2 >= 0).all(axis=1) & (high_S2 <= [width, height]).all(axis=1)
    return int((~inside_S).sum())


@lru_cache(maxsize=1)
def _encoder(config: EmbeddingConfig) -> Encoder:
    return load_encoder(config.encoder, weights=config.weights, device=config.device)


@lru_cache(maxsize=1)
def _image(path: Path) -> SlideImage:
    return open_image(path)


def _prefetch(items: Iterator[Item], *, ahead: int = 16) -> Iterator[Item]:
    """Give ``items`` while a thread already makes the next ones."""
    queue: Queue[tuple[Item | None, BaseException | None]] = Queue(maxsize=ahead)
    stopped = Event()

    def fill() -> None:
        try:
            for item in items:
                queue.put((item, None))
                if stopped.is_set():
                    return
            queue.put((None, None))
        except BaseException as error:  # noqa: BLE001  raised again below, in the caller's thread
            queue.put((None, error))

    thread = Thread(target=fill, name="spahgc-patches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for a place in a full queue
            with suppress(Empty):
                queue.get(timeout=0.05)


def _on_dask(
    workers: int, scheduler: str | None, tasks: Iterable[ShardTask], advance: Advance
) -> Iterator[ShardTask]:
    from distributed import Client, LocalCluster, as_completed

    pending = list(tasks)
    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster)
        client = stack.enter_context(Client(address))
        ahead = 2 * max(1, len(client.scheduler_info()["workers"]))
        running = as_completed(
            [client.submit(_embed_shard, t, pure=False) for t in pending[:ahead]]
        )
        waiting = iter(pending[ahead:])
        for future in running:
            task: ShardTask = future.result()
            advance(task.rows.stop - task.rows.start)
            if (following := next(waiting, None)) is not None:
                running.add(client.submit(_embed_shard, following, pure=False))
            yield task


def _embed_shard(task: ShardTask) -> ShardTask:
    return next(embed_shards([task], _ignore))


def _ignore(_: int) -> None:
    """Report to nobody."""
