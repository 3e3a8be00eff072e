"""How close embedding slides comes to the encoder's own forward pass, and to a usual loop.

    .venv/bin/python benchmarks/embedding_rate.py [her2st study folder] [--model TIMM] [--one-field]
        [--workers N]

Without a study it grows synthetic sections. Without ``--model`` it takes lite0, with it that timm
model (vit_small_patch16_224, say) with random weights; the four fields of view that ``ingest``
embeds, or one. In each of some rounds, one after the other in the same run: the forward pass alone
on as many patches, the whole pipeline (images decoded, patches cut, embeddings written and
committed), the same by N Dask workers of this machine, which start anew each time, and a plain
PyTorch DataLoader over PIL crops. The best round of each counts. The last column is this process's
own time of the processor, which other programs on the machine disturb less. At the end, of every
round of the pipeline, the share of its time that it spent in the forward pass: no two jobs meet the
machine at the same speed, and this is one job.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from spahgc.clusters import Cluster
from spahgc.ingest.embedding import embed_slides
from spahgc.ingest.fields import DEFAULT_FIELDS, EmbeddingConfig, Field
from spahgc.ingest.networks.timm_networks import timm
from spahgc.ingest.readers.st import find_sections, read_st
from spahgc.ingest.shards import forward_once
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--one-field", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = asked.study or grow(Path(folder) / "slides")
        store = create_store(Path(folder) / "data.zarr")
        for files in find_sections(study):
            add_slide(store, read_st(files))
        config = make_config(asked.model, Path(folder))
        if not asked.one_field:
            config = replace(config, fields=DEFAULT_FIELDS)
        measure(store, config, asked.rounds, asked.workers)


def measure(store, config, n_rounds: int, n_workers: int) -> None:
    slides = [s for s in open_cohort(store.path).slides.values() if s.entry.image is not None]
    n_patches = sum(slide.n_spots for slide in slides) * len(config.fields)
    forward = forward_once(config)
    jobs = {
        "forward pass alone": lambda _: forward_alone(forward, n_patches),
        "whole pipeline": lambda n: pipeline(store, config, n),
        "DataLoader over PIL crops": lambda _: usual_loop(forward, slides, config.fields),
    }
    if n_workers:
        jobs["by Dask workers"] = lambda n: on_workers(store, config, n, n_workers)
    shares = share_in_forward(forward, jobs)
    wall, processor = dict.fromkeys(jobs, np.inf), dict.fromkeys(jobs, np.inf)
    forward_alone(forward, 32)
    for number in range(n_rounds):
        for name, job in jobs.items():
            start, cpu = time.perf_counter(), time.process_time()
            job(number)
            wall[name] = min(wall[name], time.perf_counter() - start)
            processor[name] = min(processor[name], time.process_time() - cpu)
    print(f"{config.encoder}: {len(slides)} slides, {n_patches} patches, batches of", end=" ")
    print(f"{forward.batch_size}, {torch.get_num_threads()} threads, best of {n_rounds}")
    alone = "forward pass alone"
    for name in jobs:
        share, rate = wall[alone] / wall[name], n_patches / wall[name]
        cost = processor[name] / n_patches * 1e3
        print(
            f"{name:26s} {rate:7.1f} patches/s, {share:.2f} of the forward pass; "
            f"{cost:.1f} ms of processor a patch ({processor[alone] / processor[name]:.2f})"
        )
    told = ", ".join(f"{share:.3f}" for share in shares)
    print(f"share of its time that the pipeline was in the forward pass: {told}")


def share_in_forward(forward, jobs) -> list[float]:
    """Have the pipeline tell, of each round, which share of its time it embedded."""
    embed_views, run, spent, shares = forward.embed_views, jobs["whole pipeline"], [0.0], []

    def timed_embed(*patches, **how):
        start = time.perf_counter()
        vectors = embed_views(*patches, **how)
        spent[0] += time.perf_counter() - start
        return vectors

    def timed_run(number: int) -> None:
        spent[0], start = 0.0, time.perf_counter()
        run(number)
        shares.append(spent[0] / (time.perf_counter() - start))

    forward.embed_views, jobs["whole pipeline"] = timed_embed, timed_run
    return shares


def make_config(model: str | None, folder: Path) -> EmbeddingConfig:
    if model is None:
        return EmbeddingConfig(device="cpu")
    torch.manual_seed(0)
    weights = folder / "random.pth"
    torch.save(timm.create_model(model, num_classes=0).state_dict(), weights)
    return EmbeddingConfig(encoder=f"timm:{model}", weights=weights, device="cpu")


def grow(folder: Path) -> Path:
    from spahgc.demo.formats import write_demo_slides

    return write_demo_slides(folder).st_study


def forward_alone(forward, n_patches: int) -> None:
    side_px = forward.encoder.input_px
    generator = np.random.default_rng(0)
    shape = (forward.batch_size, side_px, side_px, 3)
    patches = generator.integers(0, 255, shape, dtype=np.uint8)
    for _ in range(-(-n_patches // forward.batch_size)):
        forward.embed(patches)


def pipeline(store, config: EmbeddingConfig, number: int) -> None:
    embed_slides(store.path, config=replace(config, name=f"round{number}"))


def on_workers(store, config: EmbeddingConfig, number: int, n_workers: int) -> None:
    again = replace(config, name=f"workers{number}")
    embed_slides(store.path, config=again, cluster=Cluster(workers=n_workers))


class Crops(Dataset):
    """What is usually written: open with PIL, crop around the spot, resize."""

    def __init__(self, slide, *, field: Field, input_px: int) -> None:
        Image.MAX_IMAGE_PIXELS = None
        self.image = Image.open(slide.entry.image).convert("RGB")
        self.centers, self.input_px = slide.centers, input_px
        self.side_px = round(field.side_um / slide.entry.microns_per_pixel)

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, row: int) -> torch.Tensor:
        left, top = (self.centers[row] - self.side_px / 2).round().astype(int)
        box = (left, top, left + self.side_px, top + self.side_px)
        patch = self.image.crop(box).resize((self.input_px, self.input_px))
        return torch.from_numpy(np.array(patch)).permute(2, 0, 1).float() / 255


def usual_loop(forward, slides, fields: Iterable[Field]) -> None:
    encoder = forward.encoder
    mean = torch.tensor(encoder.mean).view(3, 1, 1)
    std = torch.tensor(encoder.std).view(3, 1, 1)
    network = encoder.network
    with torch.inference_mode():
        for slide, field in itertools.product(slides, fields):
            crops = Crops(slide, field=field, input_px=encoder.input_px)
            for batch in DataLoader(crops, batch_size=32, num_workers=2):
                network((batch - mean) / std)


if __name__ == "__main__":
    main()
