"""Whether spots that a prediction flags as unlike its references are predicted worse.

    .venv/bin/python benchmarks/flagged_spots.py her2st     # the folder of the study

A run of the default preset learns from sections C2, C3 and C4. It predicts C5, and copies of C5
whose image was damaged while the counts stayed. Told is, of each copy, which share of the spots is
flagged, and the mean PCC over genes of the flagged spots and of the others, each beside what the
intact image gives on the same spots.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
from PIL import Image, ImageFilter, ImageOps

FEWEST = 10  # spots that a correlation is told of
TAUGHT, ASKED = ("C2", "C3", "C4"), "C5"


def intact(image: Image.Image) -> Image.Image:
    return image


def out_of_focus(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(10))


def left_half_out_of_focus(image: Image.Image) -> Image.Image:
    half = image.crop((0, 0, image.width // 2, image.height))
    image = image.copy()
    image.paste(out_of_focus(half))
    return image


def coarse(image: Image.Image) -> Image.Image:
    return image.reduce(16).resize(image.size, Image.Resampling.BILINEAR)


def another_stain(image: Image.Image) -> Image.Image:
    """Scale the absorbed light: red less, green and blue more."""
    level = np.arange(256) / 255
    table = [255 * level**power for power in (0.7, 1.3, 1.2)]
    return image.point(np.concatenate(table).round().astype(int).tolist())


def inverted(image: Image.Image) -> Image.Image:
    return ImageOps.invert(image)


DAMAGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "intact": intact,
    "left half out of focus (10 px)": left_half_out_of_focus,
    "all out of focus": out_of_focus,
    "a sixteenth of the resolution": coarse,
    "another stain": another_stain,
    "colours inverted": inverted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    asked = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = make_store(folder, asked.study)
        run_program("index", "build", store=folder)
        left_out = [f"--leave-out={slide}" for slide in slides[1:]]
        run_program("train", f"--test={slides[0]}", *left_out, f"--out={folder}/run", store=folder)
        tell(folder, slides)


def make_store(folder: Path, study: Path) -> list[str]:
    """Store and embed the taught slides and every copy of the asked one; name the copies."""
    from spahgc.ingest.embedding import embed_slides
    from spahgc.ingest.fields import DEFAULT_FIELDS, EmbeddingConfig
    from spahgc.ingest.readers.st import find_sections, read_st
    from spahgc.store.opening import create_store
    from spahgc.store.staging import add_slide

    store, copies = create_store(folder / "data.zarr"), []
    slides = {slide.name: slide for slide in map(read_st, find_sections(study))}
    for name in TAUGHT:
        add_slide(store, slides[name])
    for number, damage in enumerate(DAMAGES.values()):
        copy = slides[ASKED]
        if damage is not intact:
            path = folder / f"{ASKED}-{number}.jpg"
            with Image.open(copy.image.path) as image:
                damage(image).save(path, quality=95)
            copy = replace(copy, name=path.stem, image=replace(copy.image, path=path))
        add_slide(store, copy)
        copies.append(copy.name)
    embed_slides(store.path, config=EmbeddingConfig(device="cpu", fields=DEFAULT_FIELDS))
    return copies


def run_program(*arguments: str, store: Path) -> None:
    program = Path(sys.executable).with_name("spahgc")
    command = [str(program), *arguments, f"--store={store / 'data.zarr'}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def tell(folder: Path, slides: list[str]) -> None:
    from spahgc.model.prediction import open_predictor, predict_stored
    from spahgc.model.spots import expression_of
    from spahgc.store.cohort import open_cohort
    from spahgc.store.runs import read_run

    cohort = open_cohort(folder / "data.zarr")
    predictor = open_predictor(read_run(folder / "run"), cohort)
    measured_SG = expression_of(predictor.teaching.read(slides[0]))
    tables = [predict_stored(predictor, cohort, slide) for slide in slides]
    print("| image of C5 | flagged | PCC of flagged spots | intact | PCC of the others | intact |")
    print("|---|---|---|---|---|---|")
    for damage, table in zip(DAMAGES, tables, strict=True):
        flagged_S = table.obs["unlike_references"].to_numpy()
        cells = [damage, f"{flagged_S.mean():.0%}"]
        for some_S in (flagged_S, ~flagged_S):
            cells += [mean_pcc(one, measured_SG, some_S) for one in (table, tables[0])]
        print(f"| {' | '.join(cells)} |")
        if damage.startswith("left half"):
            left_S = table.obsm["spatial"][:, 0] < middle(slides[0], cohort)
            print(f"flagged: {flagged_S[left_S].mean():.0%} of the blurred spots, ", end="")
            print(f"{flagged_S[~left_S].mean():.0%} of the sharp ones", flush=True)


def middle(slide: str, cohort) -> float:
    return cohort[slide].record["image"]["size"][0] / 2


def mean_pcc(table: anndata.AnnData, measured_SG: np.ndarray, some_S: np.ndarray) -> str:
    from spahgc.metrics import score_genes

    if some_S.sum() < FEWEST:
        return "–"
    genes = list(map(str, table.var_names))
    scores = score_genes(measured_SG[some_S], np.asarray(table.X)[some_S], genes=genes)
    return f"{scores['pcc'].mean():.3f}"


if __name__ == "__main__":
    main()
