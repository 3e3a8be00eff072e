"""Open slide images, whichever library reads them.

Whole-slide formats are read piece by piece by OpenSlide; plain JPEG, PNG and striped TIFF are
decoded once into memory, or, where they are too large for that, through a tiled copy.
"""

from pathlib import Path

import openslide

from spahgc.errors import ImageError
from spahgc.ingest.decoding import decoder_of, opened, orientation_remarks, refuse_undecodable
from spahgc.ingest.pixel_size import plausible_microns_per_pixel
from spahgc.ingest.plain_images import PlainImage
from spahgc.ingest.pyramids import PyramidImage
from spahgc.ingest.slide_image import MAX_DECODED_PIXELS, SlideImage, as_image_errors
from spahgc.ingest.tiff import is_tiff, page_remarks, read_ome_pixel_size
from spahgc.ingest.tiled_copies import TiledCopyImage


def open_image(path: Path) -> SlideImage:
    """Open a slide image, reading no more than its header.

    Raises
    ------
    ImageError
        If there is no such file, it is no image that can be read, or not clear which of its
        pictures is the slide.
    """
    with as_image_errors(path):
        if not path.is_file():
            missing = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
            found = "is a folder" if path.is_dir() else missing
            raise ImageError(f"{path} {found}, expected an image file")
        vendor = openslide.OpenSlide.detect_format(path)
        # What a scanner's maker wrote keeps its own rules.
        is_plain_tiff = vendor in (None, "generic-tiff") and is_tiff(path)
        stated = read_ome_pixel_size(path) if is_plain_tiff else None
        remarks = page_remarks(path) if is_plain_tiff else ()
        if vendor is not None:
            return PyramidImage(path, stated=stated, remarks=remarks)
        return _open_plain(path, stated, remarks)


def _open_plain(
    path: Path, stated: tuple[float, float] | None, remarks: tuple[str, ...]
) -> PlainImage | TiledCopyImage:
    told: list[str] = []
    with opened(path, remarks=told) as image:
        refuse_undecodable(path, image)
        width, height = image.size
        remarks = (*remarks, *orientation_remarks(path, image), *told)
        scale = plausible_microns_per_pixel(stated)
        if width * height <= MAX_DECODED_PIXELS:
            return PlainImage(
                path,
                size=image.size,
                decoder=decoder_of(image),
                microns_per_pixel=scale,
                remarks=remarks,
            )
        return TiledCopyImage(
            path, size=image.size, mode=image.mode, microns_per_pixel=scale, remarks=remarks
        )
