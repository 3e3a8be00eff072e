"""Each kind of image file a lab may hand over: read as said here, or refused in one clear line."""

import resource
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spahgc.errors import ImageError
from spahgc.ingest.readers.image import read_image_slide

GLASS, TISSUE = (243, 241, 244), (190, 110, 170)
MICRONS_PER_PIXEL = 2.0


def painted():
    """Paint 600 x 500 px with 300 x 200 px of tissue, which hold 6 x 4 spots."""
    pixels = np.full((500, 600, 3), GLASS, np.uint8)
    pixels[150:350, 150:450] = TISSUE
    return Image.fromarray(pixels)


def noisy():
    pixels = np.asarray(painted()).astype(int)
    noise = np.random.default_rng(0).integers(-20, 21, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


@dataclass
class Case:
    """One file, and what comes of it."""

    name: str
    file: str
    write: Callable[[Path], object]
    refused: str | None = None
    """What the message must say; None where all the tissue is found."""
    mpp: float | None = MICRONS_PER_PIXEL


def converted(mode):
    return lambda path: painted().convert(mode).save(path)


def cut(length):
    """Write a file of which only the first bytes, or that share of them, are there."""

    def write(path):
        noisy().save(path)
        content = path.read_bytes()
        n_kept = length if isinstance(length, int) else int(len(content) * length)
        path.write_bytes(content[:n_kept])

    return write


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(side, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def write_bomb(path):
    path.write_bytes(png(60_000, chunk(b"IDAT", zlib.compress(bytes(100)))))


def write_text_bomb(path):
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20)))
    path.write_bytes(png(500, text, chunk(b"IDAT", zlib.compress(bytes(1501 * 500)))))


def write_short_pixels(path):
    path.write_bytes(png(500, chunk(b"IDAT", zlib.compress(bytes(100)))))


def write_sixteen_bits(path):
    Image.fromarray(np.asarray(painted().convert("L")).astype(np.uint16) * 257).save(path)


def write_pages(*others):
    return lambda path: painted().save(path, save_all=True, append_images=others)


def write_tiff_of_odd_tags(path):
    """Break the type of a tag that tells how many bits a pixel has."""
    painted().save(path)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HH", 258, 3))  # BitsPerSample as SHORT
    content[at + 2 : at + 4] = struct.pack("<H", 5)  # a fraction
    path.write_bytes(content)


def link_to_itself(path):
    path.symlink_to(path.name)


OTHER = Image.new("RGB", (600, 500), (20, 200, 20))
NO_TISSUE = "no tissue found, the fullest of 120 squares has 0%"

CASES = [
    Case("plain PNG", "a.png", lambda path: painted().save(path)),
    Case("RGBA", "a.png", converted("RGBA")),
    Case("palette", "a.png", converted("P")),
    Case("CMYK", "a.jpg", converted("CMYK")),
    Case("TIFF of several pages", "a.tif", write_pages(OTHER, OTHER)),
    Case("animated PNG", "a.png", write_pages(OTHER)),
    Case("JPEG named PNG", "a.png", lambda path: painted().save(path, format="JPEG")),
    Case("no ending", "biopsy", lambda path: painted().save(path, format="PNG")),
    Case("unicode path", "größe 組織.png", lambda path: painted().save(path)),
    Case("odd characters", "[x]*; 'y'.png", lambda path: painted().save(path)),
    Case("decompression bomb", "a.png", write_bomb, "cannot be read as an image"),
    Case("bomb in a comment", "a.png", write_text_bomb, "cannot be read as an image"),
    Case("16 bits", "a.png", write_sixteen_bits, "of 16 bits, expected 8 bits per channel"),
    Case("16 bits in a TIFF", "a.tif", write_sixteen_bits, "of 16 bits, expected 8 bits per"),
    Case("grey", "a.png", converted("L"), NO_TISSUE + ".*the image has no colour"),
    Case(
        "all white",
        "a.png",
        lambda path: Image.new("RGB", (600, 500), "white").save(path),
        NO_TISSUE,
    ),
    Case("zero bytes", "a.png", lambda path: path.write_bytes(b""), "is empty, expected JPEG"),
    Case("text named JPEG", "a.jpg", lambda path: path.write_text("hello"), "is no image"),
    Case("GIF", "a.gif", lambda path: painted().save(path), "is no image, expected JPEG"),
    Case("PNG without its last part", "a.png", cut(0.6), "cannot be read as an image"),
    Case("PNG without pixels", "a.png", cut(40), "is no image"),
    Case("PNG of too few pixels", "a.png", write_short_pixels, "cannot be read as an image"),
    Case("JPEG without its last part", "a.jpg", cut(0.6), "cannot be read as an image"),
    Case("JPEG without pixels", "a.jpg", cut(200), "cannot be read as an image"),
    Case("TIFF without its last part", "a.tif", cut(0.6), "cannot be read as an image"),
    Case("TIFF cut in its header", "a.tif", cut(40), "cannot be read as an image"),
    Case("TIFF of odd tags", "a.tif", write_tiff_of_odd_tags, "cannot be read as an image"),
    Case("folder", "a.png", Path.mkdir, "is a folder, expected an image file"),
    Case("missing", "a.png", lambda _: None, "does not exist, expected an image file"),
    Case("link to itself", "a.png", link_to_itself, "is a link that leads nowhere"),
    Case(
        "no scale",
        "a.png",
        lambda path: painted().save(path),
        "does not state its pixel size, expected µm per pixel: give --mpp",
        mpp=None,
    ),
    Case(
        "a scale that makes it smaller than a spot",
        "a.png",
        lambda path: painted().save(path),
        "does not fit into 600 x 500 px; check --mpp",
        mpp=0.1,
    ),
]


def fingerprint(folder):
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.name} {path.lstat().st_mtime_ns}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_kind_of_file_is_read_or_refused_in_one_line(tmp_path, case, capfd):
    path = tmp_path / case.file
    case.write(path)
    before = fingerprint(tmp_path)
    capfd.readouterr()
    if case.refused is None:
        slide = read_image_slide(path, microns_per_pixel=case.mpp)
        assert slide.name == path.stem
        assert slide.image.size == (600, 500)
        low, high = slide.centers.min(axis=0), slide.centers.max(axis=0)
        assert (low.tolist(), high.tolist()) == ([175, 175], [425, 325])
        assert len(slide.spots) == 24
    else:
        with pytest.raises(ImageError, match=case.refused) as caught:
            read_image_slide(path, microns_per_pixel=case.mpp)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")
    assert fingerprint(tmp_path) == before


def test_the_cases_are_many_and_named_once():
    assert len({case.name for case in CASES}) == len(CASES) >= 30


def test_a_file_that_claims_more_pixels_than_it_holds_is_refused_undecoded(tmp_path):
    write_bomb(tmp_path / "a.png")
    peak, start = peak_mib(), time.perf_counter()
    with pytest.raises(ImageError, match="cannot be read as an image"):
        read_image_slide(tmp_path / "a.png", microns_per_pixel=0.5)
    assert time.perf_counter() - start < 5
    assert peak_mib() - peak < 50  # decoded it would be 10 GiB


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_random_damage_never_surprises(tmp_path, ending, capfd):
    path = tmp_path / f"a.{ending}"
    noisy().save(path)
    content = path.read_bytes()
    generator = np.random.default_rng(7)
    messages = []
    for n in range(60):
        damaged = bytearray(content)
        for at in generator.integers(0, len(content) if n % 2 else 300, 6):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        messages.append(message_of(path))
    refused = [message for message in messages if message is not None]
    assert refused
    assert all(str(path) in message and "\n" not in message for message in refused)
    assert capfd.readouterr() == ("", "")


def message_of(path):
    """Tell why a file is refused; None where it is read."""
    try:
        read_image_slide(path, microns_per_pixel=MICRONS_PER_PIXEL)
    except ImageError as error:
        return str(error)
    return None
