"""A small slide with an image that shows its own coordinates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spahgc.schema import Slide, SlideImageFile
from tests.conftest import build_slide
from tests.ingest.fake_hub import hub

__all__ = ["hub"]  # a fixture for all tests below


def write_noise(path: Path, *, size: tuple[int, int] = (700, 600), seed: int = 0) -> Path:
    """Write a PNG of coloured noise, blurred so that resampling hardly matters."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pictured_slide(tmp_path) -> Slide:
    """A slide of 9 spots over a 700 x 600 px image at 1 µm/px; border patches leave the image."""
    path = write_noise(tmp_path / "slide.png")
    return with_image(build_slide(n_spots=9), path, size=(700, 600))


def with_image(slide: Slide, path: Path, *, size: tuple[int, int]) -> Slide:
    """Lay a slide's spots over an image."""
    return replace(
        slide,
        image=SlideImageFile(path=path, size=size, reader="pillow"),
        microns_per_pixel=1.0,
    )
