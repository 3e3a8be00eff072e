"""How long it takes to resample the patches of one spot, beside Pillow.

    .venv/bin/python benchmarks/resampling.py

Squares as wide as the four default fields are at 0.69 µm/px, out of noise, on one thread; the best
of many rounds of each, one after the other in the same run.
"""

import time
from functools import partial

import numpy as np
from PIL import Image

from spahgc.ingest.boxes import moved, region_around
from spahgc.ingest.fields import DEFAULT_FIELDS
from spahgc.ingest.resampling import NEARLY, resample

MICRONS_PER_PIXEL = 0.69
OUT = (224, 224)
ROUNDS = 200


def main() -> None:
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (1200, 1300, 3), dtype=np.uint8)
    in_all = np.zeros(2)
    for field in DEFAULT_FIELDS:
        side_px = field.side_um / MICRONS_PER_PIXEL
        box = (600 - side_px / 2, 599.3 - side_px / 2, 600 + side_px / 2, 599.3 + side_px / 2)
        region = region_around(box, OUT, (1300, 1200), (1300, 1200))
        ours = partial(resample, pixels_HW3, OUT, moved(box, region), region=region)
        pillow = partial(by_pillow, pixels_HW3, moved(box, region), region)
        if not np.array_equal(ours(), pillow()):
            raise SystemExit(f"{field}: not what Pillow makes of it")
        seconds = np.array([best(ours), best(pillow)])
        in_all += seconds
        tell(f"{field.side_um:g} µm, {side_px:.0f} px", seconds)
    tell("all four", in_all)


def by_pillow(pixels_HW3, box, region) -> np.ndarray:
    left, top, right, bottom = region
    image = Image.fromarray(pixels_HW3[top:bottom, left:right])
    block = int((box[2] - box[0]) / OUT[0] * NEARLY)
    if block > 1:
        image, box = image.reduce(block), tuple(edge / block for edge in box)
    return np.array(image.resize(OUT, Image.Resampling.BICUBIC, box=box))


def best(job) -> float:
    seconds = np.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        job()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def tell(what, seconds) -> None:
    ours, pillow = seconds * 1e6
    print(f"{what:16s} {ours:5.0f} µs, Pillow {pillow:5.0f} µs: {pillow / ours:.1f} times as long")


if __name__ == "__main__":
    main()
