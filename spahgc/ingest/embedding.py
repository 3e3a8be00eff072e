"""Embed the slides of a store, or one image: which are missing, which shards, when to commit."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.allocator import objects_left_alone
from spahgc.clusters import Cluster
from spahgc.errors import EncoderError, ImageError, MismatchError, MissingError
from spahgc.ingest.cluster import Tell, embed_on_dask
from spahgc.ingest.encoders import Encoder
from spahgc.ingest.fields import (
    EmbeddingConfig,
    Field,
    embedding_fingerprint,
    embedding_name,
)
from spahgc.ingest.open_images import let_go
from spahgc.ingest.patches import refuse_outside
from spahgc.ingest.shards import (
    Advance,
    Drafts,
    FinishedShard,
    ShardTask,
    beside,
    cut_all,
    embed_shards,
    forward_once,
    how_to_tell,
    ignore,
    image_and_scale,
    known_image,
    load_once,
    padded_of,
    reader_of,
    start_draft,
)
from spahgc.schema import Slide
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import RowRange, commit_drafts, digest_fingerprint
from spahgc.store.forgetting import forget_embeddings
from spahgc.store.slide import StoredSlide

Run: TypeAlias = Callable[[Iterable[ShardTask], Advance], Iterator[FinishedShard]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingReport:
    """What a run of `embed_slides` did."""

    embeddings: tuple[str, ...]
    """Names, one per field of view."""

    embedded: dict[str, int] = dataclasses.field(default_factory=dict)
    """Spots embedded now, by slide."""

    readers: dict[str, str] = dataclasses.field(default_factory=dict)
    """What read the image of what was embedded now, by slide."""

    kept: tuple[str, ...] = ()
    """Slides that had all of the embeddings already."""

    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    """Reason, by slide."""

    padded: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """Spots whose patch leaves the image and was filled white there, by slide and embedding."""

    flat: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """Spots whose patch, cut now, is all of one colour, by slide and embedding."""


def embed_slides(
    store: str | Path,
    *,
    config: EmbeddingConfig,
    slides: Sequence[str] | None = None,
    cluster: Cluster | None = None,
    recompute: bool = False,
    advance: Advance | None = None,
    tell: Tell | None = None,
) -> EmbeddingReport:
    """Embed every patch of the slides that have an image and lack one of these embeddings.

    Killed half-way, it goes on with the next missing shard when called again.

    Parameters
    ----------
    store
        Where the store lies.
    config
        Encoder and fields of view.
    slides
        Names; all by default.
    cluster
        Where to embed; in this process by default.
    recompute
        Embed also what is embedded already, in whatever way; it is forgotten first.
    advance
        Told how many more spots are done.
    tell
        Told where the dashboard of a cluster is.

    Raises
    ------
    EncoderError
        If the encoder cannot be had, or takes no patches of the size asked for.
    ImageError, MissingError
        If an image moved or changed since it was ingested, or has no µm per pixel.
    WorkerError
        If the cluster's workers die over and over.
    """
    cohort = open_cohort(store)
    encoder = load_once(config)
    _refuse_sizes(encoder, config)
    wanted: dict[str, Drafts] = {}
    left_out = {}
    names = list(cohort.slides if slides is None else slides)
    embeddings = tuple(embedding_name(encoder, config, field) for field in config.fields)
    if recompute:
        _forget([cohort[name] for name in names], embeddings)
        cohort = open_cohort(store)
    for slide in [cohort[name] for name in names]:
        if slide.entry.image is None:
            left_out[slide.name] = "no full-resolution image"
        elif drafts := _lacking(slide, encoder, config):
            wanted[slide.name] = drafts
    run: Run = partial(embed_shards, begun=wanted)
    if cluster is not None and wanted:
        run = partial(embed_on_dask, cluster, tell=tell or ignore)
    with objects_left_alone():
        flat = _embed_and_commit(wanted, config, run, advance or ignore)
    return EmbeddingReport(
        embeddings=embeddings,
        embedded={name: cohort[name].n_spots for name in wanted},
        readers={name: reader_of(image_and_scale(cohort[name])[0]) for name in wanted},
        kept=tuple(name for name in names if name not in wanted and name not in left_out),
        left_out=left_out,
        padded={
            name: {draft.name: n for field, draft in drafts.items() if (n := n_padded[field])}
            for name, drafts in wanted.items()
            if any((n_padded := _count_padded(cohort[name], drafts)).values())
        },
        flat=flat,
    )


def embed_image_slide(
    slide: Slide,
    config: EmbeddingConfig,
    *,
    fingerprint_digests: Sequence[str] | None = None,
    advance: Advance | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """Embed a slide that is in no store.

    Parameters
    ----------
    slide
        With an image.
    config
        Encoder and fields of view; `spahgc.ingest.fields.config_like` gives those on record.
    fingerprint_digests
        Of the embeddings these will be compared with, one per field.
    advance
        Told how many more spots are done.

    Returns
    -------
    tuple[NDArray[np.float32], ...]
        (S, D) per field, row for row with the slide's spots.

    Raises
    ------
    ImageError
        If the slide has no image or no µm per pixel.
    MismatchError
        If ``fingerprint_digests`` are given and this encoder would embed in another way.
    """
    if slide.image is None or slide.microns_per_pixel is None:
        raise ImageError(f"slide {slide.name} has no image with known µm per pixel; give `--mpp`")
    encoder = load_once(config)
    if fingerprint_digests is not None:
        _refuse_other(encoder, config, fingerprint_digests)
    vectors: list[list[NDArray[np.float32]]] = [[] for _ in config.fields]
    batches = cut_all(slide.image.path, slide.centers, slide.microns_per_pixel, config)
    for batch in beside(config, batches):
        views = config.fields[batch.width].views
        vectors_BD = forward_once(config).embed_views(batch.pixels_BHWC, views=views)
        vectors[batch.width].append(vectors_BD)
        if batch.width == len(config.fields) - 1:
            (advance or ignore)(len(batch.pixels_BHWC))
    let_go()
    return tuple(np.concatenate(of_field) for of_field in vectors)


def _embed_and_commit(
    wanted: Mapping[str, Drafts], config: EmbeddingConfig, run: Run, advance: Advance
) -> dict[str, dict[str, int]]:
    """Return the number of patches of one colour, by slide and embedding."""
    missing = {
        (name, field): list(draft.missing())
        for name, drafts in wanted.items()
        for field, draft in drafts.items()
    }

    def commit_whole(name: str, fields: Iterable[Field]) -> None:
        whole = [wanted[name][field] for field in fields if not missing[name, field]]
        if whole:
            commit_drafts(whole)

    for name, drafts in wanted.items():
        commit_whole(name, drafts)  # killed between the last shard and the commit
    tasks = list(_tasks(wanted, missing, config))
    n_spots = sum(next(iter(of_slide.values())).slide.n_spots for of_slide in wanted.values())
    advance(n_spots - sum(task.rows.stop - task.rows.start for task in tasks))  # done earlier
    flat: dict[str, dict[str, int]] = {}
    for done in run(tasks, advance):
        for field in done.task.config.fields:
            missing[done.task.slide, field].remove(done.task.rows)
        commit_whole(done.task.slide, done.task.config.fields)
        for embedding, n_flat in done.flat.items():
            of_slide_ = flat.setdefault(done.task.slide, {})
            of_slide_[embedding] = of_slide_.get(embedding, 0) + n_flat
    let_go()
    return {name: counts for name, counts in flat.items() if any(counts.values())}


def _tasks(
    wanted: Mapping[str, Drafts],
    missing: Mapping[tuple[str, Field], list[RowRange]],
    config: EmbeddingConfig,
) -> Iterator[ShardTask]:
    """Give one task for all the fields that the same rows of a slide lack."""
    for name, drafts in wanted.items():
        fields_of: dict[RowRange, list[Field]] = {}
        for field in drafts:
            for rows in missing[name, field]:
                fields_of.setdefault(rows, []).append(field)
        where = next(iter(drafts.values())).slide.store.location.address
        for rows, fields in sorted(fields_of.items(), key=lambda item: item[0].start):
            lacking = replace(config, fields=tuple(fields))
            yield ShardTask(store=where, slide=name, rows=rows, config=lacking)


def _forget(slides: Iterable[StoredSlide], embeddings: Collection[str]) -> None:
    with_image = [slide for slide in slides if slide.entry.image is not None]
    for slide in with_image:
        check_image(slide)  # what cannot be made again is not forgotten
    for slide in with_image:
        forget_embeddings(slide, embeddings)


def _lacking(slide: StoredSlide, encoder: Encoder, config: EmbeddingConfig) -> Drafts:
    fields = []
    for field in config.fields:
        if embedding_name(encoder, config, field) in slide.entry.encoders:
            start_draft(slide, encoder, config, field)  # refuses one made in another way
        else:
            fields.append(field)
    if fields:
        check_image(slide)
    for field in fields:
        _, scale = image_and_scale(slide)
        size = tuple(slide.record["image"]["size"])
        path = Path(slide.entry.image or "")
        refuse_outside(path, slide.centers, size=size, side_px=field.side_um / scale)
    return {field: start_draft(slide, encoder, config, field) for field in fields}


def _refuse_sizes(encoder: Encoder, config: EmbeddingConfig) -> None:
    sizes = {field.side_px for field in config.fields} - {None, encoder.input_px}
    for side_px in sizes:
        try:
            encoder.embed(np.zeros((1, side_px or 0, side_px or 0, 3), dtype=np.uint8))
        except (AssertionError, RuntimeError) as error:
            raise EncoderError(
                f"encoder {config.encoder!r} takes no patches of {side_px} px, expected "
                f"{encoder.input_px} px; leave `--patch-px` out"
            ) from error


def _refuse_other(encoder: Encoder, config: EmbeddingConfig, expected: Sequence[str]) -> None:
    for field, digest in zip(config.fields, expected, strict=True):
        if digest_fingerprint(embedding_fingerprint(encoder, config, field)) != digest:
            raise MismatchError(
                f"encoder {config.encoder!r} is not the one the run was trained with (its weights "
                "or settings differ); pass the same `--weights`"
            )


def check_image(slide: StoredSlide) -> None:
    """Raise if a slide's image moved or changed, or no patches can be cut from it."""
    path, recorded = known_image(slide), slide.record["image"]
    if not path.is_file():
        raise MissingError(
            f"the image of slide {slide.name} is no longer at {path}; put it back, or tell where "
            f"it is: {how_to_tell(slide)}"
        )
    if path.stat().st_size != recorded["bytes"]:
        raise ImageError(
            f"{path} is not the image that slide {slide.name} was ingested with: "
            f"{path.stat().st_size} bytes instead of {recorded['bytes']}; ingest it again with "
            "`--replace`"
        )
    image_and_scale(slide)
    if np.isnan(slide.centers).any():
        raise MissingError(
            f"slide {slide.name} has spots without pixel coordinates, so no patch can be cut; "
            "ingest it again with its spots file and `--replace`"
        )


def _count_padded(slide: StoredSlide, fields: Iterable[Field]) -> dict[Field, int]:
    return {field: int((padded_of(slide, field) > 0).sum()) for field in fields}
