"""One shard of one embedding: patches cut ahead, embedded, written; here or on a Dask worker."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MissingError
from spahgc.ingest.encoders import Encoder, load_encoder
from spahgc.ingest.images import SlideImage, open_image
from spahgc.ingest.patches import PatchBatch, PatchConfig, cut_patches
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft, RowRange
from spahgc.store.slide import StoredSlide

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

    store: str
    """Where the store lies."""

    slide: str
    """Name of the slide."""

    rows: RowRange
    """Spots to embed."""

    config: EmbeddingConfig
    """How."""


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
    for task, batch in prefetch(_batches(tasks)):
        vectors.append(load_once(task.config).embed(batch.pixels_BHWC))
        advance(len(vectors[-1]))
        if sum(map(len, vectors)) == task.rows.stop - task.rows.start:
            slide = open_cohort(task.store)[task.slide]
            draft = start_draft(slide, load_once(task.config), task.config)
            draft.write(task.rows, np.concatenate(vectors))
            vectors = []
            yield task


def _batches(tasks: Iterable[ShardTask]) -> Iterator[tuple[ShardTask, PatchBatch]]:
    for task in tasks:
        slide = open_cohort(task.store)[task.slide]
        centers_S2 = slide.centers[task.rows.start : task.rows.stop]
        scale = slide.entry.microns_per_pixel
        if slide.entry.image is None or scale is None:
            raise MissingError(explain_missing_scale(slide))
        encoder, image = load_once(task.config), Path(slide.entry.image)
        for batch in cut_all(image, centers_S2, scale, encoder, task.config):
            yield task, batch


def cut_all(
    path: Path,
    centers_S2: NDArray[np.float64],
    microns_per_pixel: float,
    encoder: Encoder,
    config: EmbeddingConfig,
) -> Iterator[PatchBatch]:
    """Cut a patch per center, as wide as asked and in the encoder's input pixels, in batches."""
    return cut_patches(
        _image(path),
        centers_S2,
        microns_per_pixel=microns_per_pixel,
        config=PatchConfig(side_um=config.side_um, side_px=encoder.input_px),
        batch_size=config.batch_size,
    )


@lru_cache(maxsize=1)
def load_once(config: EmbeddingConfig) -> Encoder:
    """Load an encoder; a process that asks again gets the same one."""
    return load_encoder(config.encoder, weights=config.weights, device=config.device)


@lru_cache(maxsize=1)
def _image(path: Path) -> SlideImage:
    return open_image(path)


def prefetch(items: Iterator[Item], *, ahead: int = 16) -> Iterator[Item]:
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


def embed_on_dask(
    workers: int, scheduler: str | None, tasks: Iterable[ShardTask], advance: Advance
) -> Iterator[ShardTask]:
    """Embed shards on a cluster, two tasks a worker in flight, and give each once written."""
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
    return next(embed_shards([task], ignore))


def ignore(_: int) -> None:
    """Report to nobody."""


def explain_missing_scale(slide: StoredSlide) -> str:
    """Say why a slide without µm per pixel cannot be embedded, and what helps."""
    return (
        f"slide {slide.name} has no µm per pixel, so no patch of known width can be cut; "
        "ingest it again with `--mpp` and `--replace`"
    )
