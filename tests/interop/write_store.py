"""Write a small store of synthetic slides, its exports, predictions, and what spahgc reads of it.

    python tests/interop/write_store.py FOLDER

makes ``FOLDER/data.zarr``, ``FOLDER/h5ad``, ``FOLDER/spatialdata``, ``FOLDER/predicted`` and
``FOLDER/expected``, for the tests beside this file, which run in an environment without spahgc.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from spahgc.cli import cli
from spahgc.demo.formats import write_demo_slides
from spahgc.store.cohort import open_cohort
from spahgc.store.slide import StoredSlide


def write_everything(folder: Path) -> None:
    """Fill ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    demo = write_demo_slides(folder / "slides", seed=8, scale=0.35)
    place = folder / "data.zarr"
    store, one_field = ["--store", str(place)], ["--patch-um", "112"]
    scale = ["--mpp", f"{demo.image_microns_per_pixel}"]
    test, run, predicted = demo.st_slides[-1], str(folder / "run"), folder / "predicted"
    predict = ["predict", "--run", run, *store]
    for arguments in [
        ["ingest", "st", str(demo.st_study), *one_field, *store],
        ["ingest", "visium", str(demo.visium_slides[0]), "--patient", "C", *one_field, *store],
        ["ingest", "image", str(demo.image), *scale, *one_field, *store],
        ["index", "build", *store],
        ["store", "export", "--all", "--to", "h5ad", str(folder / "h5ad"), *store],
        ["store", "export", "--all", "--to", "spatialdata", str(folder / "spatialdata"), *store],
        [
            *("train", "--test", test, "--leave-out", "C1", "--embedding", "lite0"),
            *("--genes", "heg:10", "--out", run, *store),
        ],
        [
            *(*predict, "--slide", test, "--out", str(predicted / "slide.h5ad")),
            *("--out", str(predicted / "slide.zarr")),
        ],
        [*predict, "--image", str(demo.image), *scale, "--out", str(predicted / "image.h5ad")],
    ]:
        cli.main(arguments, prog_name="spahgc", standalone_mode=False)
    (folder / "expected").mkdir()
    for name, slide in open_cohort(place).slides.items():
        write_expected(slide, folder / "expected" / name)


def write_expected(slide: StoredSlide, folder: Path) -> None:
    """Write what spahgc reads of a slide in a way that needs nothing but NumPy."""
    folder.mkdir()
    counts = slide.read_counts()
    arrays = {"counts": counts.toarray(), "spatial": slide.centers}
    arrays |= {encoder: slide.read_embedding(encoder) for encoder in slide.entry.encoders}
    np.savez(folder / "arrays.npz", **arrays)
    document = {
        "spots": list(map(str, slide.spots.index)),
        "genes": list(map(str, slide.genes.index)),
        "columns": list(map(str, slide.spots.columns)),
        "encoders": sorted(slide.entry.encoders),
    }
    (folder / "names.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    write_everything(Path(sys.argv[1]))
