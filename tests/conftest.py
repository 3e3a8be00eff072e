"""What several test folders share: the real slides, and a small slide built in memory."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from spahgc.schema import Slide, Thumbnail


@pytest.fixture
def real_slides() -> Path:
    """The folder of real slides, or a skipped test."""
    folder = os.environ.get("SPAHGC_TEST_DATA")
    if not folder:
        pytest.skip("SPAHGC_TEST_DATA is not set")
    return Path(folder).absolute()


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
