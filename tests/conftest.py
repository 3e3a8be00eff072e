"""What several test folders share: real slides, a small slide built in memory, S3 servers."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from spahgc.schema import Slide, Thumbnail
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from tests.servers import S3Server, start_rclone_s3, start_seaweed


@pytest.fixture
def real_slides() -> Path:
    """The folder of real slides, or a skipped test."""
    folder = os.environ.get("SPAHGC_TEST_DATA")
    if not folder:
        pytest.skip("SPAHGC_TEST_DATA is not set")
    return Path(folder).absolute()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server with put-if-absent, one for the whole session."""
    with start_seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server without put-if-absent, one for the whole session."""
    with start_rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def s3_place(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a place in S3 where nothing lies yet, and the environment that opens it."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed.url(f"{uuid.uuid4().hex}.zarr")


@pytest.fixture
def careless_s3_place(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a place in an S3 without put-if-absent, and the environment that opens it."""
    for name, value in rclone.environment.items():
        monkeypatch.setenv(name, value)
    return rclone.url(f"{uuid.uuid4().hex}.zarr")


def build_slide(name: str = "A1", *, n_spots: int = 5, n_genes: int = 3, seed: int = 0) -> Slide:
    """Build a slide in memory, without an image."""
    generator = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), side)
    genes = [f"G{n}" for n in range(n_genes)]
    return Slide(
        name=name,
        platform="st",
        spots=pd.DataFrame(
            {"array_row": row, "array_col": column, "in_tissue": row % 2 == 0},
            index=pd.Index([f"{x}x{y}" for x, y in zip(column, row, strict=True)]),
        ),
        centers=np.stack([column, row], axis=1) * 100.0 + 50.5,
        counts=csr_matrix(generator.poisson(1.5, (n_spots, n_genes)).astype(np.uint32)),
        genes=pd.DataFrame({"symbol": genes}, index=pd.Index(genes)),
        microns_per_pixel=0.5,
        spot_diameter_um=100.0,
        patient=name[0],
        thumbnails={"hires": Thumbnail(pixels=np.full((8, 9, 3), 7, np.uint8), scale=0.1)},
    )


def embed_slide(place: str | Path, name: str, *, size: int = 4, seed: int = 0) -> None:
    """Give a stored slide the embedding ``lite0``: random numbers of one fingerprint."""
    slide = open_cohort(place)[name]
    draft = EmbeddingDraft(slide, "lite0", fingerprint={"weights": "random"}, size=size)
    generator = np.random.default_rng(seed)
    for rows in draft.missing():
        draft.write(rows, generator.random((rows.stop - rows.start, size), dtype=np.float32))
    draft.commit()
