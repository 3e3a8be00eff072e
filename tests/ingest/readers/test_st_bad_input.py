"""Each way to damage an ST study: it is read as said here, or refused in one clear line."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spahgc.demo.st_study import StSection, write_st_study
from spahgc.errors import ImageError, SlideFormatError, SpahgcError
from spahgc.ingest.readers.st import find_sections, read_st

PITCH_PX = 40
ARRAY = np.array([(x, y) for y in range(10, 14) for x in range(20, 25)])
COUNTS = "ST-cnts/A1.tsv.gz"
SPOTS = "ST-spotfiles/A1_selection.tsv"
LABELS = "ST-pat/lbl/A1_labeled_coordinates.tsv"
IMAGE = "ST-imgs/A/A1/A1.jpg"


def build_truth():
    generator = np.random.default_rng(3)
    counts = generator.poisson(2.0, (len(ARRAY), 4)).astype(np.uint32)
    counts[:, 0] = 11 + np.arange(len(ARRAY))
    return StSection(
        name="A1",
        array=ARRAY,
        offsets=np.zeros(ARRAY.shape),
        centers=30.25 + PITCH_PX * (ARRAY - [20, 10]),
        is_measured=np.ones(len(ARRAY), np.bool_),
        counts=counts,
        genes=("FN1", "KRT8", "IGKC", "MUCL1"),
        labels=tuple("ab"[n % 2] for n in range(len(ARRAY))),
        image=generator.integers(0, 255, (190, 230, 3), dtype=np.uint8),
    )


TRUTH = build_truth()
IDS = list(TRUTH.spot_ids)


@dataclass
class Case:
    """One way to damage a study, and what comes of it."""

    name: str
    damage: Callable[[Path], object]
    refused: str | None = None
    """What the message must say; None where the study is read all the same."""
    told: str = ""
    """What a finding of a slide that is read must say."""
    lost: tuple[int, ...] = ()
    """Which spots are not read."""
    placed: bool = True
    """Whether the spots that are read have their true places."""
    error: type[SpahgcError] = SlideFormatError
    options: dict[str, object] = field(default_factory=dict)


# How to change things


def in_bytes(name, change):
    """Change the bytes of a file as they lie on the disk."""

    def damage(study):
        path = study / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def in_text(name, change):
    """Change the text of a table, zipped or not."""

    def changed(content):
        if not name.endswith(".gz"):
            return change(content.decode()).encode()
        return gzip.compress(change(gzip.decompress(content).decode()).encode(), mtime=0)

    return in_bytes(name, changed)


def in_rows(name, change):
    """Change the cells of a table, header included."""

    def changed(text):
        rows = change([line.split("\t") for line in text.splitlines()])
        return "".join("\t".join(map(str, row)) + "\n" for row in rows)

    return in_text(name, changed)


def cell(name, row, column, value):
    """Write into one cell; row 0 is the header."""

    def change(rows):
        rows[row][column] = value
        return rows

    return in_rows(name, change)


def column_without(name, *unwanted):
    def change(rows):
        kept = [n for n, title in enumerate(rows[0]) if title not in unwanted]
        return [[row[n] for n in kept] for row in rows]

    return in_rows(name, change)


def replaced(name, put):
    def damage(study):
        path = study / name
        path.unlink()
        put(path)

    return damage


def by_loop(path):
    path.symlink_to(path.name)


def by_folder(path):
    path.mkdir()


def image(change):
    def damage(study):
        path = study / IMAGE
        with Image.open(path) as own:
            own.load()
            change(own).save(path)

    return damage


def second_image(study):
    Image.new("RGB", (4, 4)).save((study / IMAGE).with_name("other.png"))


def counts_twice(study):
    (study / "ST-cnts" / "A1.tsv").write_bytes(gzip.decompress((study / COUNTS).read_bytes()))


def link_to_itself(study):
    (study / "ST-cnts" / "again").symlink_to(".")
    (study / "up").symlink_to("..")


def cut(content):
    return content[: len(content) * 2 // 3]


def empty(content):
    return b""


def renamed(rows, row, spot):
    rows[row][0] = spot
    return rows


def moved(rows, by):
    return [rows[0], *([int(row[0]) + by, *row[1:]] for row in rows[1:])]


def shuffled_places(rows):
    order = np.random.default_rng(0).permutation(len(rows) - 1)
    return [
        rows[0],
        *([*row[:4], *rows[1 + n][4:]] for row, n in zip(rows[1:], order, strict=True)),
    ]


COUNTS_FILE = r"A1\.tsv\.gz"
SPOTS_FILE = r"A1_selection\.tsv"
IMAGE_FILE = r"A1\.jpg"
LAST = len(ARRAY) - 1

CASES = [
    # the file of counts as a whole
    Case("counts cut short", in_bytes(COUNTS, cut), refused=COUNTS_FILE + ": found .*end"),
    Case(
        "counts with a flipped byte",
        in_bytes(COUNTS, lambda b: b[:-6] + bytes([b[-6] ^ 1]) + b[-5:]),
        refused=COUNTS_FILE + ": found CRC check failed",
    ),
    Case("counts not zipped but named so", in_bytes(COUNTS, gzip.decompress)),
    Case("zero bytes of counts", in_bytes(COUNTS, empty), refused=COUNTS_FILE + " is empty"),
    Case(
        "a zipped file of nothing",
        in_bytes(COUNTS, lambda _: gzip.compress(b"")),
        refused=COUNTS_FILE + " is empty",
    ),
    Case(
        "counts that are no text",
        in_bytes(COUNTS, lambda _: gzip.compress(bytes(range(256)) * 9)),
        refused=COUNTS_FILE + ": found",
    ),
    Case(
        "a folder for counts",
        replaced(COUNTS, by_folder),
        refused=COUNTS_FILE + " is a folder, expec",
    ),
    Case(
        "a link to itself for counts",
        replaced(COUNTS, by_loop),
        refused=COUNTS_FILE + " is a link that leads nowhere, expected a table",
    ),
    Case(
        "spots of far more text than their file",
        in_bytes(SPOTS, lambda b: gzip.compress(b.splitlines()[0] + b"\n1\t2" * 2**24, 1)),
        refused=SPOTS_FILE + ": found more than 64 MiB once unzipped",
    ),
    Case("counts twice", counts_twice, refused=r"found A1\.tsv, A1\.tsv\.gz, expected only one"),
    # its text
    Case("a byte order mark", in_text(COUNTS, lambda text: "\ufeff" + text)),
    Case("CRLF line ends", in_text(COUNTS, lambda text: text.replace("\n", "\r\n"))),
    Case("no line end at the end", in_text(COUNTS, str.rstrip)),
    Case(
        "commas",
        in_text(COUNTS, lambda text: text.replace("\t", ",")),
        refused=COUNTS_FILE + ": no tab in its header, found ',', expected tabs",
    ),
    Case(
        "spaces between cells",
        in_text(COUNTS, lambda text: text.replace("\t", " ")),
        refused=COUNTS_FILE + ": no tab in its header, found ' ', expected tabs",
    ),
    Case(
        "a short row",
        in_rows(COUNTS, lambda rows: [*rows[:4], rows[4][:3], *rows[5:]]),
        refused=COUNTS_FILE + ": found .*Expected 5 columns, got 3",
    ),
    Case(
        "a long row",
        in_rows(COUNTS, lambda rows: [*rows[:4], [*rows[4], 1], *rows[5:]]),
        refused=COUNTS_FILE + ": found .*Expected 5 columns, got 6",
    ),
    Case(
        "a header alone",
        in_rows(COUNTS, lambda rows: rows[:1]),
        refused=COUNTS_FILE + ": no row below its header",
    ),
    Case(
        "no header",
        in_rows(COUNTS, lambda rows: rows[1:]),
        refused=COUNTS_FILE + ": its first line is that of spot 20x10, expected a header",
    ),
    Case("the header of R", in_rows(COUNTS, lambda rows: [rows[0][1:], *rows[1:]])),
    Case(
        "a gene without a name",
        cell(COUNTS, 0, 2, " "),
        refused=COUNTS_FILE + ": a column has no gene name",
    ),
    # cells
    *(
        Case(
            f"a count of {value!r}",
            cell(COUNTS, 2, 3, value),
            refused=COUNTS_FILE + f": found {found} for gene IGKC at spot {IDS[1]}, expected",
        )
        for value, found in (
            ("-1", "-1"),
            ("0.5", "0.5"),
            ("NaN", ".*"),
            ("", ".*"),
            ("many", "many"),
            ("4294967296", "4294967296"),
            ("1e400", ".*"),
        )
    ),
    Case(
        "whole numbers with decimals",
        in_rows(
            COUNTS, lambda rows: [rows[0], *([r[0], *(f"{n}.0" for n in r[1:])] for r in rows[1:])]
        ),
    ),
    Case("quotes", in_rows(COUNTS, lambda rows: [[f'"{cell}"' for cell in row] for row in rows])),
    # spot ids
    Case("spaces in ids", in_rows(COUNTS, lambda rows: renamed(rows, 3, " 22 x 10 "))),
    Case("an id with zeros in front", in_rows(COUNTS, lambda rows: renamed(rows, 3, "022x010"))),
    Case("an id with decimals", in_rows(COUNTS, lambda rows: renamed(rows, 3, "22.0x10.0"))),
    Case(
        "two spots that round to one id",
        in_rows(COUNTS, lambda rows: renamed(rows, 3, "21.2x9.9")),
        refused=COUNTS_FILE + ": spot 21x10 occurs more than once, as 21x10 and 21.2x9.9",
    ),
    Case(
        "one id twice",
        in_rows(COUNTS, lambda rows: renamed(rows, 3, "21x10")),
        refused=COUNTS_FILE + ": spot 21x10 occurs more than once",
    ),
    Case(
        "barcodes for ids",
        in_rows(COUNTS, lambda rows: renamed(rows, 3, "ACGT-1")),
        refused=COUNTS_FILE + ": 1 of 20 rows have no spot id like 10x21.*'ACGT-1'",
    ),
    Case(
        "an empty id",
        in_rows(COUNTS, lambda rows: renamed(rows, 3, "")),
        refused=COUNTS_FILE + ": 1 of 20 rows have no spot id",
    ),
    Case(
        "genes in rows",
        in_rows(COUNTS, lambda rows: list(map(list, zip(*rows, strict=True)))),
        refused=COUNTS_FILE + ": 4 of 4 rows have no spot id .*expected spots in rows",
    ),
    Case(
        "a gene twice",
        cell(COUNTS, 0, 4, "IGKC"),
        told="genes with several columns, summed: IGKC",
    ),
    # counts and spots together
    Case(
        "a negative id in the counts",
        in_rows(COUNTS, lambda rows: renamed(rows, LAST + 1, "-3x13")),
        told="19 spots in both .*; only in the first: 1, only in the second: 1",
        lost=(LAST,),
    ),
    Case(
        "fewer spots than counts",
        in_rows(SPOTS, lambda rows: rows[:-2]),
        told="18 spots in both .*; only in the first: 2, only in the second: 0",
        lost=(LAST - 1, LAST),
    ),
    Case(
        "fewer counts than spots",
        in_rows(COUNTS, lambda rows: rows[:-3]),
        told="17 spots in both .*; only in the first: 0, only in the second: 3",
        lost=(LAST - 2, LAST - 1, LAST),
    ),
    Case(
        "no spot in common",
        in_rows(SPOTS, lambda rows: moved(rows, 100)),
        refused="none of the 20 spots of .*" + COUNTS_FILE + " is among the 20 of .*" + SPOTS_FILE,
    ),
    Case(
        "no spot selected",
        in_rows(SPOTS, lambda rows: [rows[0], *([*row[:-1], 0] for row in rows[1:])]),
        refused="is among the 0 of .*" + SPOTS_FILE,
    ),
    # the file of spots
    Case("zero bytes of spots", in_bytes(SPOTS, empty), refused=SPOTS_FILE + " is empty"),
    Case(
        "spots as zip",
        in_bytes(SPOTS, lambda _: b"PK\3\4\xff\xfe\0\0" * 9),
        refused=SPOTS_FILE + ": ",
    ),
    Case(
        "a folder for spots", replaced(SPOTS, by_folder), refused=SPOTS_FILE + " is a folder, expe"
    ),
    Case(
        "a link to itself for spots",
        replaced(SPOTS, by_loop),
        refused=SPOTS_FILE + " is a link that leads nowhere",
    ),
    Case(
        "no spots file",
        lambda study: (study / SPOTS).unlink(),
        told="no spots file: the spots have no place",
        placed=False,
    ),
    Case("spots zipped without being named so", in_bytes(SPOTS, gzip.compress)),
    Case(
        "spots zipped and cut short",
        in_bytes(SPOTS, lambda b: cut(gzip.compress(b))),
        refused=SPOTS_FILE + ": found",
    ),
    Case("a byte order mark in the spots", in_text(SPOTS, lambda text: "\ufeff" + text)),
    Case("CRLF in the spots", in_text(SPOTS, lambda text: text.replace("\n", "\r\n"))),
    Case(
        "semicolons in the spots",
        in_text(SPOTS, lambda text: text.replace("\t", ";")),
        refused=SPOTS_FILE + ": no column x or y among",
    ),
    Case(
        "no header of the spots",
        in_rows(SPOTS, lambda rows: rows[1:]),
        refused=SPOTS_FILE + ": no column x or y among '20', '10'",
    ),
    Case(
        "a long row of spots",
        in_rows(SPOTS, lambda rows: [*rows[:3], [*rows[3], 1, 1], *rows[4:]]),
        refused=SPOTS_FILE + ": found .*Expected 7 fields in line 4, saw 9",
    ),
    Case(
        "a header of spots alone",
        in_rows(SPOTS, lambda rows: rows[:1]),
        refused="is among the 0 of .*" + SPOTS_FILE,
    ),
    Case(
        "one spot twice",
        in_rows(SPOTS, lambda rows: [*rows, rows[1]]),
        refused=SPOTS_FILE + ": spot 20x10 occurs more than once",
    ),
    Case(
        "two spots of one rounded place",
        in_rows(SPOTS, lambda rows: [*rows, [20.3, 10.2, *rows[1][2:]]]),
        refused=SPOTS_FILE + r": spot 20x10 occurs more than once, as 20x10 and 20\.3x10\.2",
    ),
    Case("decimal array coordinates", cell(SPOTS, 1, 0, "20.0")),
    Case(
        "a negative array coordinate",
        cell(SPOTS, LAST + 1, 0, "-24"),
        told="19 spots in both .*; only in the first: 1, only in the second: 1",
        lost=(LAST,),
    ),
    Case(
        "text for an array coordinate",
        cell(SPOTS, 2, 1, "ten"),
        refused=SPOTS_FILE + ": column y holds 'ten' in row 2, expected a number",
    ),
    Case(
        "an infinite pixel",
        cell(SPOTS, 2, 4, "inf"),
        refused=SPOTS_FILE + ": column pixel_x holds 'inf' in row 2",
    ),
    Case(
        "no pixel columns",
        column_without(SPOTS, "pixel_x", "pixel_y"),
        told="20 of 20 spots have no pixel coordinates",
        placed=False,
    ),
    Case(
        "one pixel column alone",
        column_without(SPOTS, "pixel_y"),
        told="20 of 20 spots have no pixel coordinates",
        placed=False,
    ),
    Case(
        "a spot with NaN for pixels",
        cell(SPOTS, 1, 4, "NaN"),
        told="1 of 20 spots have no pixel coordinates",
        placed=False,
    ),
    Case("no column selected", column_without(SPOTS, "selected")),
    Case(
        "swapped pixel columns",
        in_rows(SPOTS, lambda rows: [rows[0], *([*r[:4], r[5], r[4], r[6]] for r in rows[1:])]),
        told="x and y look swapped",
        placed=False,
    ),
    Case(
        "pixels that follow no lattice",
        in_rows(SPOTS, shuffled_places),
        refused="A1: the spots' pixel coordinates do not follow their array",
    ),
    # image and labels
    Case(
        "zero bytes of image",
        in_bytes(IMAGE, empty),
        refused=IMAGE_FILE + " is empty",
        error=ImageError,
    ),
    Case(
        "an image cut short",
        in_bytes(IMAGE, cut),
        refused=IMAGE_FILE + " cannot be read as an image",
        error=ImageError,
    ),
    Case(
        "text for an image",
        in_bytes(IMAGE, lambda _: b"<html>gone</html>"),
        refused=IMAGE_FILE + " is no image",
        error=ImageError,
    ),
    Case(
        "the image of another slide",
        image(lambda own: own.crop((0, 0, 80, 60))),
        refused=r"A1: 1[6-9] of 20 spots lie outside A1\.jpg of 80 x 60 px",
    ),
    Case("a grey image", image(lambda own: own.convert("L"))),
    Case("a CMYK image", image(lambda own: own.convert("CMYK"))),
    Case("two images", second_image, refused=r"A1: found A1\.jpg, other\.png, expected only one"),
    Case(
        "a folder for the image",
        replaced(IMAGE, by_folder),
        refused=IMAGE_FILE + " is a folder, expected an image",
        error=ImageError,
    ),
    Case(
        "a link to itself for the image",
        replaced(IMAGE, by_loop),
        refused=IMAGE_FILE + " is a link that leads nowhere, expected an image",
        error=ImageError,
    ),
    Case("no image", lambda study: (study / IMAGE).unlink(), told="no image: the slide cannot be"),
    Case("zero bytes of labels", in_bytes(LABELS, empty), refused="coordinates.tsv is empty"),
    Case(
        "two labels of one spot",
        in_rows(LABELS, lambda rows: [rows[0], *([r[0], 99, *r[2:]] for r in rows[1:])]),
        refused="spot 99x10 is labelled 'a' and 'b', expected one label",
    ),
    # folders
    Case("links to folders above", link_to_itself),
    Case(
        "several broken parts",
        lambda study: [(study / name).write_bytes(b"") for name in (COUNTS, SPOTS, LABELS, IMAGE)],
        refused=rf"{COUNTS_FILE} is empty.*{SPOTS_FILE} is empty.*labeled.*{IMAGE_FILE} is empty",
    ),
]


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


def read_only_section(study, **options):
    (files,) = find_sections(study)
    return read_st(files, **options)


def assert_is_true(slide, case):
    """Check every spot that was read against what was written."""
    kept = [n for n in range(len(ARRAY)) if n not in case.lost]
    assert list(slide.spots.index) == [IDS[n] for n in kept]
    expected = TRUTH.counts[kept]
    if "summed" in case.told:
        expected = np.column_stack([expected[:, :2], expected[:, 2] + expected[:, 3]])
    assert np.array_equal(slide.counts.toarray(), expected)
    if case.placed:
        assert np.array_equal(slide.centers, TRUTH.centers[kept])
        assert slide.microns_per_pixel == pytest.approx(200 / PITCH_PX)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_damaged_study_is_read_as_said_or_refused_in_one_line(tmp_path, case):
    study = tmp_path / "in" / "study"
    write_st_study(study, TRUTH)
    case.damage(study)
    before = fingerprint(tmp_path / "in")
    if case.refused is None:
        slide = read_only_section(study, **case.options)
        assert_is_true(slide, case)
        assert pd.Series([f.text for f in slide.findings]).str.contains(case.told).any()
    else:
        with pytest.raises(case.error, match=case.refused) as caught:
            read_only_section(study, **case.options)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
    assert fingerprint(tmp_path / "in") == before


def test_the_cases_are_many_and_named_once():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_spots_without_pixels_keep_nan_places(tmp_path):
    write_st_study(tmp_path, TRUTH)
    column_without(SPOTS, "pixel_x", "pixel_y")(tmp_path)
    slide = read_only_section(tmp_path)
    assert np.isnan(slide.centers).all()
    assert slide.spots["array_col"].tolist() == TRUTH.array[:, 0].tolist()
    assert slide.microns_per_pixel is None


def test_a_spot_with_one_nan_pixel_alone_has_no_place(tmp_path):
    write_st_study(tmp_path, TRUTH)
    cell(SPOTS, 1, 4, "NaN")(tmp_path)
    slide = read_only_section(tmp_path)
    assert np.isnan(slide.centers[0, 0])
    assert np.array_equal(slide.centers[1:], TRUTH.centers[1:])


def test_swapped_pixels_are_kept_as_they_are_and_doubted(tmp_path):
    write_st_study(tmp_path, TRUTH)
    next(case for case in CASES if case.name == "swapped pixel columns").damage(tmp_path)
    slide = read_only_section(tmp_path)
    assert np.array_equal(slide.centers, TRUTH.centers[:, ::-1])


@pytest.mark.parametrize(
    "name", ["Ünïcode 样本", "with spaces ", "semi;colon,comma", "-dash", "[x]*?"]
)
def test_any_characters_in_paths_are_fine(tmp_path, name):
    write_st_study(tmp_path / name / name, TRUTH)
    slide = read_only_section(tmp_path / name / name)
    assert_is_true(slide, Case("whole", lambda _: None))
    assert slide.image is not None
    assert (slide.spots["label"] == list(TRUTH.labels)).all()


def test_a_name_too_long_for_the_disk_is_one_line(tmp_path):
    write_st_study(tmp_path, TRUTH)
    (files,) = find_sections(tmp_path)
    for part in ("counts", "spots", "labels", "image"):
        changed = {part: tmp_path / ("x" * 300)}
        with pytest.raises((SlideFormatError, ImageError), match="File name too long") as caught:
            read_st(type(files)(name="A1", **{"counts": files.counts, **changed}))
        assert "\n" not in str(caught.value)
