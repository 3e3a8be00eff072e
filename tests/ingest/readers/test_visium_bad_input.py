"""Each way to damage a Visium folder: it is read as said here, or refused in one clear line."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spahgc.demo.visium import VisiumSlide, write_visium
from spahgc.errors import ImageError, SlideFormatError, SpahgcError
from spahgc.ingest.readers.visium import read_visium

MICRONS_PER_PIXEL = 5.0
IN_TISSUE = np.arange(40) % 3 > 0


def build_truth():
    """Build a small capture area whose first barcode in the list is under tissue."""
    generator = np.random.default_rng(1)
    array = np.array([(row, column) for row in range(8) for column in range(row % 2, 10, 2)])
    drawn = generator.permutation(4**8)[: len(array)]
    in_tissue = ~IN_TISSUE
    centers = 20.25 + array[:, ::-1] * np.array([50, 50 * 3**0.5]) / MICRONS_PER_PIXEL
    counts = generator.poisson(1.0, (in_tissue.sum(), 4)).astype(np.uint32)
    counts[:, 0] += 1
    return VisiumSlide(
        barcodes=tuple("".join("ACGT"[n // 4**i % 4] for i in range(8)) + "-1" for n in drawn),
        array=array,
        centers=centers,
        in_tissue=in_tissue,
        counts=counts,
        gene_ids=tuple(f"ENSG{g:03d}" for g in range(4)),
        gene_symbols=tuple(f"S{g}" for g in range(4)),
        microns_per_pixel=MICRONS_PER_PIXEL,
        image=generator.integers(0, 255, (170, 140, 3), dtype=np.uint8),
    )


TRUTH = build_truth()
BANNER = b"%%MatrixMarket matrix coordinate integer general\n"
COMMENT = b"%" * 1023 + b"\n"
Options = dict[str, object] | None


@dataclass
class Case:
    """One way to damage a folder, and what comes of it."""

    name: str
    damage: Callable[[Path], Options]
    refused: str | None = None
    """What the message must name; None where the folder is read all the same."""
    told: str = ""
    """What a finding of a slide that is read must say."""
    lost: int = 0
    """How many of the spots are not read."""
    error: type[SpahgcError] = SlideFormatError
    matrix: Literal["h5", "mtx"] = "h5"


# Where things are, and how to change them


def outs(folder):
    return folder / "outs"


def spatial(folder, name):
    return folder / "outs" / "spatial" / name


def h5(folder):
    return folder / "outs" / "filtered_feature_bc_matrix.h5"


def mtx(folder, name):
    return folder / "outs" / "filtered_feature_bc_matrix" / f"{name}.gz"


def positions(change):
    """Change the position table's rows, header included."""

    def damage(folder):
        path = spatial(folder, "tissue_positions.csv")
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("".join(",".join(row) + "\n" for row in change(rows)))

    return damage


def cell(column, value, *, in_tissue=True):
    """Write ``value`` into one cell of the first spot that is, or is not, under tissue."""

    def change(rows):
        next(row for row in rows[1:] if row[1] == str(int(in_tissue)))[column] = value
        return rows

    return positions(change)


def bytes_of(name, change):
    """Change the bytes of a file below ``outs``."""

    def damage(folder):
        path = outs(folder) / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def unzipped(name, change):
    """Change the text of a gzipped file of the matrix folder."""

    def damage(folder):
        path = mtx(folder, name)
        path.write_bytes(
            gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode())
        )

    return damage


def dataset(name, change):
    """Change, or with None remove, a dataset of the counts."""

    def damage(folder):
        with h5py.File(h5(folder), "r+") as file:
            values = None if change is None else change(file[f"matrix/{name}"][:])
            del file[f"matrix/{name}"]
            if values is not None:
                file[f"matrix/{name}"] = values

    return damage


def first_count(value):
    def change(values):
        values = values.astype(np.float64)
        values[0] = value
        return values

    return dataset("data", change)


def bomb(path, n_mib, *, line, first=b""):
    """Put a file there that unpacks to many MiB."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(first)
        for _ in range(n_mib):
            file.write(line * (2**20 // len(line) + 1))


def large_claim(name):
    """Let a dataset of the counts claim 4 GiB of which none is written."""

    def damage(folder):
        with h5py.File(h5(folder), "r+") as file:
            del file[f"matrix/{name}"]
            file.create_dataset(f"matrix/{name}", (2**30,), "i4", chunks=(2**16,))

    return damage


def replaced_by_folder(name):
    def damage(folder):
        (outs(folder) / name).unlink()
        (outs(folder) / name).mkdir()

    return damage


def replaced_by_loop(name):
    def damage(folder):
        path = outs(folder) / name
        path.unlink()
        path.symlink_to(path.name)

    return damage


def scale_factors(change):
    def damage(folder):
        path = spatial(folder, "scalefactors_json.json")
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def without(*keys):
    return scale_factors(lambda factors: {k: v for k, v in factors.items() if k not in keys})


def image(change):
    """Give another image than the slide's own, made from it."""

    def damage(folder):
        path = folder / "other.png"
        with Image.open(folder / "image.tif") as own:
            change(own.convert("RGB")).save(path)
        return {"image": path}

    return damage


def half(picture):
    return picture.resize((picture.width // 2, picture.height // 2))


def image_bytes(suffix, change):
    def damage(folder):
        path = folder / f"other.{suffix}"
        with Image.open(folder / "image.tif") as own:
            own.convert("RGB").save(path)
        path.write_bytes(change(path.read_bytes()))
        return {"image": path}

    return damage


def as_parquet(change=lambda table: table):
    def damage(folder):
        path = spatial(folder, "tissue_positions.csv")
        change(pd.read_csv(path)).to_parquet(path.with_suffix(".parquet"))
        path.unlink()

    return damage


def broken_parquet(folder):
    as_parquet()(folder)
    path = spatial(folder, "tissue_positions.parquet")
    path.write_bytes(path.read_bytes()[:200])


def list_with_header(folder):
    path = spatial(folder, "tissue_positions.csv")
    path.rename(path.with_name("tissue_positions_list.csv"))


def link_to_itself_as_folder(folder):
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def link_to_the_parent(folder):
    (outs(folder) / "spatial" / "up").symlink_to("..")
    (outs(folder) / "again").symlink_to(".")


def both_without_suffix(folder):
    positions(lambda rows: [[row[0].removesuffix("-1"), *row[1:]] for row in rows])(folder)
    dataset("barcodes", lambda names: np.array([name.removesuffix(b"-1") for name in names]))(
        folder
    )


def both_aggregated(folder):
    positions(lambda rows: [[row[0].replace("-1", "-2"), *row[1:]] for row in rows])(folder)
    dataset("barcodes", lambda names: np.array([n.replace(b"-1", b"-2") for n in names]))(folder)


def no_image_pixels(folder):
    for name in ("hires", "lowres"):
        spatial(folder, f"tissue_{name}_image.png").unlink()
    return image_bytes("jpg", lambda content: content[: len(content) // 3])(folder)


def no_features(folder):
    with h5py.File(h5(folder), "r+") as file:
        del file["matrix/features"]


def repeat_first(rows):
    return [*rows[:2], rows[1], *rows[2:]]


def beyond_the_area(rows):
    return [*rows, ["AAAAAAAAAA-1", "0", "200", "10", "3484.35", "120.25"]]


def cut(content):
    return content[: len(content) * 2 // 3]


def empty(content):
    return b""


N_TISSUE = int(TRUTH.in_tissue.sum())
POSITIONS = r"tissue_positions\.csv"
COUNTS = r"filtered_feature_bc_matrix\.h5"
HIRES = "spatial/tissue_hires_image.png"

CASES = [
    # positions
    Case("a list with a header", list_with_header),
    Case("no header in the newer file", positions(lambda rows: rows[1:])),
    Case(
        "a header in another order",
        positions(lambda rows: [[*row[:4], row[5], row[4]] for row in rows]),
        refused=POSITIONS + r": its header is barcode,.*, expected barcode,",
    ),
    Case(
        "swapped pixel columns",
        positions(lambda rows: [rows[0], *([*row[:4], row[5], row[4]] for row in rows[1:])]),
        refused="spots lie outside image.tif",
    ),
    Case("NaN coordinates", cell(4, "nan"), refused="1 of 14 spots have no pixel coordinates"),
    Case("an empty coordinate", cell(5, ""), refused="1 of 14 spots have no pixel coordinates"),
    Case("negative coordinates", cell(5, "-4"), refused="1 of 14 spots have negative pixel"),
    Case("infinite coordinates", cell(5, "inf"), refused=POSITIONS + ": found 'inf' as pxl_col"),
    Case("NaN off the tissue", cell(4, "nan", in_tissue=False)),
    Case("text for a number", cell(4, "here"), refused=POSITIONS + ": found 'here' as pxl_row"),
    Case("in_tissue 2", cell(1, "2"), refused=POSITIONS + ": found '2' as in_tissue"),
    Case(
        "a fractional array row", cell(2, "1.5"), refused=POSITIONS + ": found '1.5' as array_row"
    ),
    Case("a negative array row", cell(2, "-1"), refused=POSITIONS + ": found '-1' as array_row"),
    Case(
        "positions cut in the middle",
        positions(lambda rows: rows[:21]),
        told="7 spots in both .*; only in the first: 7, only in the second: 13",
        lost=7,
    ),
    Case(
        "positions broken off within a row",
        positions(lambda rows: [*rows[:20], rows[20][:3]]),
        refused=POSITIONS + ": found 3 columns in spot row 20, expected 6",
    ),
    Case(
        "positions beyond the array", positions(beyond_the_area), told="array rows reach 200 .* 127"
    ),
    Case(
        "one spot missing in the positions",
        positions(lambda rows: [rows[0], *rows[2:]]),
        told="13 spots in both .*; only in the first: 1, ",
        lost=1,
    ),
    Case(
        "a repeated barcode in the positions",
        positions(repeat_first),
        refused=POSITIONS + ": found 1 times a barcode that another spot has too",
    ),
    Case(
        "two spots at one place",
        positions(lambda rows: [*rows[:2], [rows[2][0], *rows[1][1:]], *rows[3:]]),
        refused=POSITIONS + ": found 1 times an array row and column that another",
    ),
    Case(
        "an odd lattice",
        positions(
            lambda rows: [rows[0], *([*r[:3], str(int(r[3]) + 1), *r[4:]] for r in rows[1:])]
        ),
        told="40 of 40 spots have an odd sum",
    ),
    Case(
        "pixels that follow no lattice",
        positions(lambda rows: [rows[0], *([*r[:4], *o[4:]] for r, o in shuffled(rows[1:]))]),
        refused="do not follow their array coordinates",
    ),
    Case(
        "semicolons",
        bytes_of("spatial/tissue_positions.csv", lambda b: b.replace(b",", b";")),
        refused=POSITIONS + ": found 1 columns in spot row 1, expected 6",
    ),
    Case(
        "a byte order mark", bytes_of("spatial/tissue_positions.csv", lambda b: b"\xef\xbb\xbf" + b)
    ),
    Case(
        "CRLF line ends",
        bytes_of("spatial/tissue_positions.csv", lambda b: b.replace(b"\n", b"\r\n")),
    ),
    Case(
        "spaces around cells",
        bytes_of("spatial/tissue_positions.csv", lambda b: b.replace(b",", b" , ")),
    ),
    Case(
        "positions that are no text",
        bytes_of("spatial/tissue_positions.csv", lambda b: b"\xff\xfe" + b),
        refused=POSITIONS + ": found no text",
    ),
    Case(
        "zero bytes of positions",
        bytes_of("spatial/tissue_positions.csv", empty),
        refused=POSITIONS + ": found no spot",
    ),
    Case(
        "a folder for positions",
        replaced_by_folder("spatial/tissue_positions.csv"),
        refused=POSITIONS + ", which is a folder, expected spatial/tissue_positions.csv",
    ),
    Case(
        "a link to itself for positions",
        replaced_by_loop("spatial/tissue_positions.csv"),
        refused=POSITIONS + ", which is a link that leads nowhere",
    ),
    Case("positions as parquet", as_parquet()),
    Case("broken parquet", broken_parquet, refused=r"tissue_positions\.parquet: found a file that"),
    Case(
        "parquet without a column",
        as_parquet(lambda table: table.drop(columns="array_row")),
        refused=r"tissue_positions\.parquet: found the columns .* expected array_row too",
    ),
    # barcodes on both sides
    Case(
        "one barcode of the counts unknown to the positions",
        dataset("barcodes", lambda names: np.array([b"TTTTTTTTTT-1", *names[1:]])),
        told="13 spots in both .*; only in the first: 1, ",
        lost=1,
    ),
    Case(
        "a spot under tissue without counts",
        cell(1, "1", in_tissue=False),
        told="14 spots in both .*; only in the first: 0, only in the second: 26",
    ),
    Case(
        "no barcode in common",
        positions(lambda rows: [rows[0], *(["T" + row[0], *row[1:]] for row in rows[1:])]),
        refused=r"none of the 14 barcodes of .*\.h5 .*expected the same slide",
    ),
    Case(
        "positions without -1",
        positions(lambda rows: [[row[0].removesuffix("-1"), *row[1:]] for row in rows]),
        refused="none of the 14 barcodes .*differ only in what follows the dash",
    ),
    Case("no -1 on either side", both_without_suffix),
    Case("-2 on both sides", both_aggregated),
    Case(
        "a repeated barcode in the counts",
        dataset("barcodes", lambda names: np.array([names[1], *names[1:]])),
        refused=COUNTS + ": found 1 barcodes more than once",
    ),
    # counts as HDF5
    Case("zero bytes of counts", bytes_of(COUNTS.replace("\\", ""), empty), refused=COUNTS),
    Case(
        "text for HDF5",
        bytes_of(COUNTS.replace("\\", ""), lambda _: b"no such format\n" * 99),
        refused=COUNTS + ": found a file that cannot be read",
    ),
    Case(
        "HDF5 cut short",
        bytes_of(COUNTS.replace("\\", ""), cut),
        refused=COUNTS + ": found a file that cannot be read",
    ),
    *(
        Case(f"no {part}", dataset(part, None), refused=COUNTS + ": a part is missing")
        for part in ("barcodes", "data", "indices", "indptr", "shape", "features/id")
    ),
    Case("no features at all", no_features, refused=COUNTS + ": a part is"),
    Case(
        "a shape that does not fit",
        dataset("shape", lambda shape: shape + 1),
        refused=COUNTS + ": its shape states 15 spots and 5 features",
    ),
    Case("negative counts", first_count(-1), refused=COUNTS + ": found -1.0 among the counts"),
    Case("fractional counts", first_count(0.5), refused=COUNTS + ": found 0.5 among the counts"),
    Case("NaN counts", first_count(np.nan), refused=COUNTS + ": found nan among the counts"),
    Case(
        "negative whole counts",
        dataset("data", lambda data: -data),
        refused=COUNTS + ": found -.* among the counts",
    ),
    Case(
        "only zeros",
        dataset("data", lambda data: data * 0),
        refused=COUNTS + ": found no count above 0 at 14 spots",
    ),
    Case(
        "genes beyond the list",
        dataset("indices", lambda genes: genes + 2**33),
        refused=COUNTS + ": its data, indices and indptr do not fit",
    ),
    *(
        Case(
            f"{name} of 4 GiB that are not there",
            large_claim(name),
            refused=COUNTS + f": matrix/{name} claims 4096 MiB, expected at most 256 MiB",
        )
        for name in ("data", "indptr")
    ),
    Case(
        "a folder for counts",
        replaced_by_folder(COUNTS.replace("\\", "")),
        refused=COUNTS + ", which is a folder",
    ),
    Case(
        "a link to itself for counts",
        replaced_by_loop(COUNTS.replace("\\", "")),
        refused=COUNTS + ", which is a link that leads nowhere",
    ),
    # counts as a matrix folder
    *(
        Case(
            f"zero bytes of {name}",
            lambda folder, name=name: mtx(folder, name).write_bytes(b"") and None,
            refused=name.replace(".", r"\.") + r"\.gz|matrix\.mtx\.gz",
            matrix="mtx",
        )
        for name in ("matrix.mtx", "features.tsv", "barcodes.tsv")
    ),
    *(
        Case(
            f"{name} broken off",
            lambda folder, name=name: (
                mtx(folder, name).write_bytes(cut(mtx(folder, name).read_bytes())) and None
            ),
            refused=name.replace(".", r"\.") + r"\.gz: found a file that cannot be read",
            matrix="mtx",
        )
        for name in ("matrix.mtx", "features.tsv", "barcodes.tsv")
    ),
    Case(
        "a shape line with more counts than there are",
        unzipped("matrix.mtx", lambda text: shape_line(text, "4 14 99")),
        refused=r"matrix\.mtx\.gz: found a file that cannot be read",
        matrix="mtx",
    ),
    Case(
        "a shape line with fewer counts than there are",
        unzipped("matrix.mtx", lambda text: shape_line(text, "4 14 3")),
        refused=r"matrix\.mtx\.gz: found a file that cannot be read",
        matrix="mtx",
    ),
    Case(
        "a shape line of another size",
        unzipped("matrix.mtx", lambda text: shape_line(text, "4 15")),
        refused=r"matrix\.mtx\.gz: found 4 x 15, expected 4 features x 14 barcodes",
        matrix="mtx",
    ),
    Case(
        "a shape line with too few genes",
        unzipped("matrix.mtx", lambda text: shape_line(text, "2 14")),
        refused=r"matrix\.mtx\.gz: found 2 x 14, expected 4 features x 14 barcodes",
        matrix="mtx",
    ),
    Case(
        "text among the counts",
        unzipped("matrix.mtx", lambda text: last_count(text, "many")),
        refused=r"matrix\.mtx\.gz: found a file that cannot be read",
        matrix="mtx",
    ),
    Case(
        "fractional counts in text",
        unzipped("matrix.mtx", lambda text: last_count(text, "1.5").replace("integer", "real")),
        refused=r"matrix\.mtx\.gz: found 1.5 among the counts",
        matrix="mtx",
    ),
    Case(
        "negative counts in text",
        unzipped("matrix.mtx", lambda text: last_count(text, "-2")),
        refused=r"matrix\.mtx\.gz: found -2 among the counts",
        matrix="mtx",
    ),
    Case(
        "no header of the matrix",
        unzipped("matrix.mtx", lambda text: text.partition("\n")[2]),
        refused=r"matrix\.mtx\.gz: found a file that cannot be read",
        matrix="mtx",
    ),
    Case(
        "features of two columns",
        unzipped("features.tsv", lambda text: text.replace("\tGene Expression", "")),
        matrix="mtx",
    ),
    Case(
        "features of one column",
        unzipped("features.tsv", lambda text: text.replace("\t", " ")),
        refused=r"features\.tsv\.gz: found rows of 1 columns",
        matrix="mtx",
    ),
    Case(
        "ragged features",
        unzipped("features.tsv", lambda text: text.replace("\tGene Expression", "", 1)),
        refused=r"features\.tsv\.gz: found rows of 2 and 3 columns",
        matrix="mtx",
    ),
    Case(
        "too few features",
        unzipped("features.tsv", lambda text: text.partition("\n")[2]),
        refused=r"matrix\.mtx\.gz: found 4 x 14, expected 3 features x 14 barcodes",
        matrix="mtx",
    ),
    Case(
        "no features file",
        lambda folder: mtx(folder, "features.tsv").unlink(),
        refused=r"found matrix\.mtx\.gz alone, expected features\.tsv",
        matrix="mtx",
    ),
    Case(
        "CRLF in barcodes",
        unzipped("barcodes.tsv", lambda text: text.replace("\n", "\r\n")),
        matrix="mtx",
    ),
    Case(
        "a matrix of far more text than its file",
        lambda folder: bomb(mtx(folder, "matrix.mtx"), 65, first=BANNER, line=COMMENT),
        refused=r"matrix\.mtx\.gz: found more than 64 MiB once unzipped.*`gunzip --keep matrix",
        matrix="mtx",
    ),
    Case(
        "a shape line with more counts than the file can hold",
        unzipped("matrix.mtx", lambda text: shape_line(text, "4 14 99999999")),
        refused=r"matrix\.mtx\.gz: its header announces 99999999 counts, expected at most",
        matrix="mtx",
    ),
    Case(
        "features of far more text than their file",
        lambda folder: bomb(mtx(folder, "features.tsv"), 65, line=b"ENSG1\tA\tB\n"),
        refused=r"features\.tsv\.gz: found more than 64 MiB once unzipped",
        matrix="mtx",
    ),
    # scale factors
    Case(
        "JSON of far more text than its file",
        lambda folder: bomb(spatial(folder, "scalefactors_json.json"), 2, line=b" "),
        refused=r"scalefactors_json\.json: found more than 1 MiB once unzipped",
    ),
    Case("JSON cut short", bytes_of("spatial/scalefactors_json.json", cut), refused="no JSON"),
    Case(
        "zero bytes of JSON", bytes_of("spatial/scalefactors_json.json", empty), refused="no JSON"
    ),
    Case(
        "a JSON list",
        scale_factors(lambda factors: [factors]),
        refused="json: found a list, expect",
    ),
    Case(
        "a negative scale",
        scale_factors(lambda factors: factors | {"tissue_hires_scalef": -1}),
        refused="scalefactors_json.json: tissue_hires_scalef is -1, expected a positive number",
    ),
    Case(
        "no scale of the hires image", without("tissue_hires_scalef"), told="left out: no tissue_h"
    ),
    Case("no spot diameter", without("spot_diameter_fullres"), told="taken from: pitch"),
    Case(
        "a folder for JSON",
        replaced_by_folder("spatial/scalefactors_json.json"),
        told="no scale factors found",
    ),
    # pictures
    Case(
        "zero bytes of a small picture", bytes_of(HIRES, empty), told="tissue_hires_image.png cann"
    ),
    Case(
        "a small picture cut short", bytes_of(HIRES, cut), told="tissue_hires_image.png cannot be"
    ),
    Case(
        "the image of another slide",
        image(lambda picture: picture.crop((0, 0, 60, 100))),
        refused="spots lie outside .*other.png of 60 x 100 px.*give the right one with --image",
    ),
    Case(
        "an image of half the size",
        image(half),
        refused=r"other.png of 70 x 85 px looks like a copy at about 0\.500 .*--rescale-image",
    ),
    Case(
        "zero bytes of image",
        image_bytes("png", empty),
        refused=r"other\.png",
        error=ImageError,
    ),
    Case(
        "text for an image", image_bytes("tif", lambda _: b"no"), refused="other", error=ImageError
    ),
    *(
        Case(
            f"a {suffix} cut short",
            image_bytes(suffix, cut),
            refused=rf"other\.{suffix}",
            error=ImageError,
        )
        for suffix in ("png", "jpg", "tif")
    ),
    Case(
        "an image cut short without small ones",
        no_image_pixels,
        refused=r"other\.jpg",
        error=ImageError,
    ),
    Case(
        "a folder for the image",
        lambda folder: {"image": folder / "outs"},
        refused="outs is a folder, expected an image",
        error=ImageError,
    ),
    # folders
    Case("a folder that is a link to itself", link_to_itself_as_folder, refused="does not exist"),
    Case("links to folders above", link_to_the_parent),
]


def shuffled(rows):
    return zip(
        rows, [rows[i] for i in np.random.default_rng(0).permutation(len(rows))], strict=True
    )


def shape_line(text, start):
    """Put other numbers at the start of the line that states the size."""
    lines = text.split("\n")
    at = next(n for n, line in enumerate(lines) if line and not line.startswith("%"))
    stated = lines[at].split()
    stated[: len(start.split())] = start.split()
    lines[at] = " ".join(stated)
    return "\n".join(lines)


def last_count(text, value):
    head, last = text.rstrip("\n").rsplit("\n", 1)
    return f"{head}\n{' '.join([*last.split()[:2], value])}\n"


def fingerprint(folder):
    """Digest names, links, times and content of everything below a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mtime_ns}".encode())
        if path.is_symlink():
            digest.update(str(path.readlink()).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def make_read_only(folder):
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def check(case, folder, options):
    if case.refused is not None:
        with pytest.raises(case.error, match=case.refused) as caught:
            read_visium(folder, **options)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
        return
    slide = read_visium(folder, **options)
    assert len(slide.spots) == N_TISSUE - case.lost
    assert_is_true(slide)
    assert pd.Series([finding.text for finding in slide.findings]).str.contains(case.told).any()


def assert_is_true(slide):
    """Check every spot that was read, by the stem of its barcode."""
    under_tissue = np.flatnonzero(TRUTH.in_tissue)
    row_of = {TRUTH.barcodes[spot][:8]: row for row, spot in enumerate(under_tissue)}
    rows = [row_of[barcode[:8]] for barcode in slide.spots.index]
    assert np.array_equal(slide.counts.toarray(), TRUTH.counts[rows])
    assert np.array_equal(slide.centers, TRUTH.centers[under_tissue[rows]])
    assert slide.microns_per_pixel == pytest.approx(MICRONS_PER_PIXEL)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_damaged_input_is_read_as_said_or_refused_in_one_line(tmp_path, case):
    folder = tmp_path / "in" / "V1"
    write_visium(folder, TRUTH, matrix=case.matrix)
    options = case.damage(folder) or {}
    before = fingerprint(tmp_path / "in")
    check(case, folder, options)
    make_read_only(tmp_path / "in")
    check(case, folder, options)
    assert fingerprint(tmp_path / "in") == before


def test_the_cases_are_many_and_named_once():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize(
    "name", ["Ünïcode 样本", "with spaces ", "semi;colon,comma", "-dash", "[x]*?"]
)
@pytest.mark.parametrize("matrix", ["h5", "mtx"])
def test_any_characters_in_paths_are_fine(tmp_path, name, matrix):
    write_visium(tmp_path / name / name, TRUTH, matrix=matrix)
    slide = read_visium(tmp_path / name / name)
    assert slide.name == name
    assert_is_true(slide)
    assert slide.image is not None
