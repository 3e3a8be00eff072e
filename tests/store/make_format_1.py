"""Write the store of format 1 that `test_format_1.py` reads for ever.

    python -m tests.store.make_format_1 tests/data/format-1.zarr

It was run once. Run it again only to look at what today's writer makes of the same slides: the
committed store stays as it is, since it stands for all those that were written by then.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.index import ReferenceIndex
from spahgc.schema import Slide, Thumbnail
from spahgc.store.care import collect_garbage
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import set_facts
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.store.crashes import NOTHING_IS_SPARED

COUNTS = np.array([[0, 1, 2], [3, 0, 70_000], [0, 0, 0], [5, 6, 7]], np.uint32)
EMBEDDINGS = {
    "A1": np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32),
    "B1": np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32),
}


def make_measured() -> Slide:
    """Make a slide with all that one can have."""
    return Slide(
        name="A1",
        platform="visium",
        spots=pd.DataFrame(
            {
                "array_row": [0, 0, 1, 1],
                "array_col": [0, 2, 1, 3],
                "in_tissue": [True, True, False, True],
                "tissue_fraction": [1.0, 0.5, 0.0, 0.25],
                "label": ["tumour", "stroma", "stroma", "tumour"],
            },
            index=pd.Index(["AAAC-1", "AAAG-1", "AAAT-1", "AACA-1"]),
        ),
        centers=np.array([[10.5, 20.0], [30.0, 20.0], [20.0, 40.25], [40.0, 40.0]]),
        counts=csr_matrix(COUNTS),
        genes=pd.DataFrame(
            {"symbol": ["TP53", "GAPDH", "ACTB"]},
            index=pd.Index(["ENSG00000141510", "ENSG00000111640", "ENSG00000075624"]),
        ),
        microns_per_pixel=0.5,
        microns_per_pixel_sources={"pitch": 0.5},
        spot_diameter_um=55.0,
        pitch_um=100.0,
        patient="7",
        section="1",
        tissue="breast",
        thumbnails={
            "hires": Thumbnail(
                pixels=np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3), scale=0.1
            )
        },
    )


def make_unmeasured() -> Slide:
    """Make a slide of an image alone: no genes, no patient, no scale."""
    return Slide(
        name="B1",
        platform="image",
        spots=pd.DataFrame(index=pd.Index(["0x0", "0x1"])),
        centers=np.array([[5.0, 6.0], [7.0, 8.0]]),
        counts=csr_matrix((2, 0), dtype=np.uint32),
        genes=pd.DataFrame({"symbol": pd.Series([], dtype=str)}, index=pd.Index([], dtype=str)),
        microns_per_pixel=None,
    )


def write_store(place: Path) -> None:
    """Write both slides, their embeddings, an index and a note."""
    store = create_store(place)
    for slide in (make_measured(), make_unmeasured()):
        add_slide(store, slide)
        draft = EmbeddingDraft(
            open_cohort(place)[slide.name],
            "lite0",
            fingerprint={"architecture": "none", "weights": "0" * 64},
            size=2,
            notes={"licence": "for trying only"},
        )
        for rows in draft.missing():
            draft.write(rows, EMBEDDINGS[slide.name][rows.start : rows.stop])
        draft.commit()
    ReferenceIndex.build(open_cohort(place), embedding="lite0")
    set_facts(open_store(place), "A1", {"licence": "CC0-1.0"})
    collect_garbage(place, older_than=NOTHING_IS_SPARED)


if __name__ == "__main__":
    with (
        patch("getpass.getuser", return_value="somebody"),
        patch("socket.gethostname", return_value="somewhere"),
    ):
        write_store(Path(sys.argv[1]))
