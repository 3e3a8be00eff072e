import gzip
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csr_matrix

from spahgc.errors import ImageError, SlideFormatError
from spahgc.ingest.readers.st import StFiles, find_sections, read_st

GENES = ["FN1", "KRT8", "IGKC"]
ARRAY = [(x, y) for y in (10, 11, 12) for x in (20, 21, 22)]
STEP = 40


def counts_text(rows=None, genes=GENES, *, sep="\t", end="\n"):
    rows = default_rows() if rows is None else rows
    lines = [["", *genes], *rows]
    return "".join(sep.join(map(str, line)) + end for line in lines)


def default_rows():
    return [[f"{x}x{y}", x, 0, 100 * y] for x, y in ARRAY]


def spots_text(array=ARRAY, *, selected=True, end="\n"):
    lines = [["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]]
    for x, y in array:
        lines.append([x, y, x + 0.1, y - 0.1, pixel(x, 20), pixel(y, 10), 1])
    lines = lines if selected else [line[:-1] for line in lines]
    return "".join("\t".join(map(str, line)) + end for line in lines)


def pixel(step, first):
    return 60.5 + STEP * (step - first)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (220, 200), (230, 200, 220)).save(tmp_path / "C2.png")
    return StFiles(
        name="C2",
        counts=write(tmp_path / "C2.tsv", counts_text()),
        spots=write(tmp_path / "C2_selection.tsv", spots_text()),
        image=tmp_path / "C2.png",
    )


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


def test_section_becomes_a_slide(files):
    slide = read_st(files)
    assert (slide.name, slide.platform, slide.patient) == ("C2", "st", None)
    assert isinstance(slide.counts, csr_matrix)
    assert slide.counts.dtype == np.uint32
    assert slide.counts.toarray().tolist() == [row[1:] for row in default_rows()]
    assert list(slide.genes.index) == list(slide.genes["symbol"]) == GENES
    assert slide.spots.loc["21x12"].to_dict() == {"array_row": 12, "array_col": 21}
    at = slide.spots.index.get_loc("21x12")
    assert slide.centers[at].tolist() == [100.5, 140.5]
    assert slide.microns_per_pixel == pytest.approx(200 / STEP)
    assert slide.microns_per_pixel_sources == {"pitch": pytest.approx(5.0)}
    assert (slide.spot_diameter_um, slide.pitch_um) == (100, 200)
    assert (slide.image.size, slide.image.reader) == ((220, 200), "pillow")
    assert {name: t.pixels.shape for name, t in slide.thumbnails.items()} == {
        "hires": (200, 220, 3),
        "lowres": (200, 220, 3),
    }
    assert texts(slide, "warning") == []


def test_findings_say_which_file_was_taken_for_what(files):
    slide = read_st(files)
    assert texts(slide, "file") == ["counts: C2.tsv", "spots: C2_selection.tsv", "image: C2.png"]
    assert "9 spots in both" in texts(slide, "check")[0]
    assert "pitch of 40.0 px" in texts(slide, "check")[1]


@pytest.mark.parametrize(
    "text",
    [
        counts_text(end="\r\n"),
        "\ufeff" + counts_text(),
        counts_text().replace("20x10", "20.0x010").replace("21x10", '"21x10"'),
        counts_text().replace("FN1", '"FN1"'),
        counts_text().removeprefix("\t"),
        counts_text([[row[0], *(f"{n}.0" for n in row[1:])] for row in default_rows()]),
        counts_text() + "\n\n",
    ],
    ids=["CRLF", "BOM", "odd spot ids", "quotes", "R header", "whole floats", "empty lines"],
)
def test_harmless_variants_of_the_counts_read_the_same(files, text):
    expected = read_st(files)
    write(files.counts, text)
    slide = read_st(files)
    assert list(slide.spots.index) == list(expected.spots.index)
    assert list(slide.genes.index) == GENES
    assert (slide.counts != expected.counts).nnz == 0


def test_gzipped_tables_are_read_whatever_they_are_called(files, tmp_path):
    zipped = replace(
        files,
        counts=write(tmp_path / "a.tsv.gz", counts_text()),
        spots=tmp_path / "b.tsv",
    )
    zipped.spots.write_bytes(gzip.compress(spots_text(end="\r\n").encode()))
    assert (read_st(zipped).counts != read_st(files).counts).nnz == 0


def with_count(value):
    rows = default_rows()
    rows[4][2] = value
    return counts_text(rows)


BAD_COUNTS = {
    "negative": (with_count(-1), "found -1 for gene KRT8 at spot 21x11.*whole numbers from 0"),
    "fractional": (with_count(0.5), "found 0.5 for gene KRT8 at spot 21x11"),
    "missing": (with_count(""), "for gene KRT8 at spot 21x11"),
    "NaN": (with_count("NaN"), "for gene KRT8 at spot 21x11"),
    "infinite": (with_count("inf"), "found inf for gene KRT8"),
    "text": (with_count("many"), "found many for gene KRT8 at spot 21x11"),
    "boolean": (
        counts_text([[row[0], "true", 1, 2] for row in default_rows()]),
        "for gene FN1 at spot 20x10",
    ),
    "above 32 bits": (with_count(2**32), "found 4294967296 for gene KRT8"),
    "short row": (counts_text() + "30x30\t1\n", "Expected 4 columns, got 2"),
    "long row": (counts_text() + "30x30\t1\t2\t3\t4\n", "Expected 4 columns, got 5"),
    "empty": ("", "is empty"),
    "header only": (counts_text([]), "no row below its header"),
    "commas": (counts_text(sep=","), "no tab in its header, found ','"),
    "nameless gene": (counts_text(genes=["FN1", "", "IGKC"]), "a column has no gene name"),
    "no spot ids": (counts_text([["AAAC-1", 1, 2, 3]]), "no spot id like 10x21.*'AAAC-1'"),
    "genes in rows": (
        counts_text([["FN1", 1, 2, 3]], genes=["1x1", "1x2", "1x3"]),
        "expected spots in rows",
    ),
    "not text": (b"\tA\tB\n\xff\xfe\x00\t1\t2\n", "expected a tab-separated table"),
    "truncated gzip": (gzip.compress(counts_text().encode() * 99)[:-60], "found"),
    "same spot twice": (
        counts_text([*default_rows(), ["020x10", 1, 1, 1]]),
        "spot 20x10 occurs more than once, as 20x10 and 020x10",
    ),
    "same spot after rounding": (
        counts_text([*default_rows(), ["21.2x11.4", 1, 1, 1]]),
        "spot 21x11 occurs more than once, as 21x11 and 21.2x11.4",
    ),
}


@pytest.mark.parametrize("problem", BAD_COUNTS)
def test_broken_counts_are_refused_in_one_line_naming_the_file(files, problem):
    content, message = BAD_COUNTS[problem]
    write(files.counts, content)
    with pytest.raises(SlideFormatError, match=message) as caught:
        read_st(files)
    assert str(files.counts) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_several_bad_genes_are_counted(files):
    write(files.counts, counts_text([["20x10", -1, "x", 1.5]]))
    with pytest.raises(SlideFormatError, match=r"found -1 for gene FN1.*and 2 more genes"):
        read_st(files)


BAD_SPOTS = {
    "empty": ("", "is empty"),
    "commas": (spots_text().replace("\t", ","), "no column x or y among"),
    "no coordinates": ("barcode\tcluster\nA\t1\n", "no column x or y among 'barcode', 'cluster'"),
    "text": (spots_text().replace("100.5", "far", 1), "column pixel_x holds 'far' in row 2"),
    "missing x": (spots_text() + "\t10\t1\t1\t5\t5\t1\n", "column x holds nan in row 10"),
    "long row": (spots_text() + "1\t2\t3\t4\t5\t6\t7\t8\t9\n", "expected a tab-separated table"),
    "same spot twice": (
        spots_text([*ARRAY, (20.4, 10.1)]),
        "spot 20x10 occurs more than once, as 20x10 and 20.4x10.1",
    ),
}


@pytest.mark.parametrize("problem", BAD_SPOTS)
def test_broken_spots_are_refused_in_one_line_naming_the_file(files, problem):
    content, message = BAD_SPOTS[problem]
    write(files.spots, content)
    with pytest.raises(SlideFormatError, match=message) as caught:
        read_st(files)
    assert str(files.spots) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_broken_parts_are_told_at_once(files):
    write(files.counts, "")
    write(files.spots, "a\tb\n1\t2\n")
    files.image.write_bytes(b"no picture")
    with pytest.raises(SlideFormatError) as caught:
        read_st(files)
    for path in (files.counts, files.spots, files.image):
        assert str(path) in str(caught.value)


def test_broken_image_alone_is_an_image_error(files):
    files.image.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"C2\.png is no image"):
        read_st(files)


def test_missing_file_is_named(files, tmp_path):
    with pytest.raises(SlideFormatError, match=r"gone\.tsv does not exist"):
        read_st(replace(files, counts=tmp_path / "gone.tsv"))


def test_spots_are_joined_by_id_and_both_sides_are_counted(files):
    write(files.spots, spots_text([(22, 12), (30, 30), (20, 10), (21, 11), (20, 12), (31, 30)]))
    slide = read_st(files)
    assert list(slide.spots.index) == ["20x10", "21x11", "20x12", "22x12"]
    assert slide.counts.toarray()[:, 0].tolist() == [20, 21, 20, 22]
    assert slide.centers[:, 0].tolist() == [60.5, 100.5, 60.5, 140.5]
    assert "only in the first: 5, only in the second: 2" in texts(slide, "check")[0]


def test_repeated_spots_outside_the_join_do_no_harm(files):
    write(files.counts, counts_text([*default_rows(), ["1x1", 1, 1, 1], ["1.2x1", 1, 1, 1]]))
    write(files.spots, spots_text([*ARRAY, (50, 50), (50.1, 50)]))
    assert len(read_st(files).spots) == 9


def test_tables_without_a_common_spot_are_refused(files):
    write(files.spots, spots_text([(1, 1), (1, 2), (2, 2)]))
    with pytest.raises(SlideFormatError, match=r"none of the 9 spots of .*C2\.tsv is among the 3"):
        read_st(files)


def test_unselected_spots_are_left_out_and_counted(files):
    write(files.spots, spots_text().replace("\t1\n", "\t0\n", 2))
    slide = read_st(files)
    assert len(slide.spots) == 7
    assert "2 of 9 spots are not selected and were left out" in texts(slide, "check")


def test_spots_file_without_selected_column_keeps_all(files):
    write(files.spots, spots_text(selected=False))
    assert len(read_st(files).spots) == 9


def test_slide_without_spots_file_is_kept_without_places(files):
    slide = read_st(replace(files, spots=None, image=None))
    assert np.isnan(slide.centers).all()
    assert slide.spots.loc["22x11"].to_dict() == {"array_row": 11, "array_col": 22}
    assert slide.microns_per_pixel is None
    warnings = "; ".join(texts(slide, "warning"))
    for part in ("no spots file", "no image", "9 of 9 spots have no pixel", "nothing tells"):
        assert part in warnings


def test_spots_file_without_pixels_is_kept_without_places(files):
    write(files.spots, "x\ty\n" + "".join(f"{x}\t{y}\n" for x, y in ARRAY))
    slide = read_st(files, microns_per_pixel=0.7)
    assert np.isnan(slide.centers).all()
    assert slide.microns_per_pixel == 0.7
    assert "9 of 9 spots have no pixel coordinates" in texts(slide, "warning")[0]


def test_negative_and_decimal_array_coordinates_are_rounded(files):
    array = [(-1, 3), (0, 3), (0.2, 4.1), (1, 4)]
    write(files.counts, counts_text([[f"{x}x{y}", 1, 2, 3] for x, y in array]))
    slide = read_st(replace(files, spots=None, image=None))
    assert list(slide.spots.index) == ["-1x3", "0x3", "0x4", "1x4"]
    assert slide.spots["array_col"].tolist() == [-1, 0, 0, 1]


def test_columns_of_one_gene_are_summed_and_named(files):
    write(files.counts, counts_text(genes=["FN1", "KRT8", "FN1"]))
    slide = read_st(files)
    assert list(slide.genes.index) == ["FN1", "KRT8"]
    assert slide.counts.dtype == np.uint32
    assert slide.counts.toarray()[0].tolist() == [20 + 1000, 0]
    assert "genes with several columns, summed: FN1" in texts(slide, "warning")


def test_labels_are_joined_by_rounded_coordinates(files, tmp_path):
    text = "Row.names\tx\ty\tlabel\n9x9\t20.04\t9.97\tcancer in situ\n8x8\t21\t12\tadipose\n"
    labels = write(tmp_path / "labels.tsv", text + "7x7\t40\t40\tadipose\n6x6\t22\t12\t\n")
    slide = read_st(replace(files, labels=labels))
    assert slide.spots.loc["20x10", "label"] == "cancer in situ"
    assert slide.spots.loc["21x12", "label"] == "adipose"
    assert slide.spots.loc["22x12", "label"] == ""
    assert (slide.spots["label"] != "").sum() == 2
    assert "2 of 9 spots have a label; labels of no spot here: 1" in texts(slide, "check")


def test_two_labels_of_one_spot_are_refused(files, tmp_path):
    labels = write(tmp_path / "labels.tsv", "x\ty\tlabel\n20\t10\ta\n20.1\t10\tb\n")
    with pytest.raises(SlideFormatError, match="spot 20x10 is labelled 'a' and 'b'"):
        read_st(replace(files, labels=labels))
    write(labels, "x\ty\tlabel\n20\t10\ta\n20.1\t10\ta\n")
    assert read_st(replace(files, labels=labels)).spots.loc["20x10", "label"] == "a"


def test_labels_of_another_section_are_a_warning(files, tmp_path):
    labels = write(tmp_path / "labels.tsv", "x\ty\tlabel\n1\t1\ta\n")
    slide = read_st(replace(files, labels=labels))
    assert "0 of 9 spots have a label" in texts(slide, "warning")[0]


def test_another_pitch_changes_the_pixel_size(files):
    slide = read_st(files, pitch_um=150)
    assert slide.pitch_um == 150
    assert slide.microns_per_pixel == pytest.approx(150 / STEP)


@pytest.mark.parametrize(
    ("stated", "n_warnings"), [(5.1, 0), (5.5, 1), (9.0, 1)], ids=["2 %", "9 %", "44 %"]
)
def test_stated_pixel_size_wins_and_differences_are_told(files, stated, n_warnings):
    slide = read_st(files, microns_per_pixel=stated)
    assert slide.microns_per_pixel == stated
    assert slide.microns_per_pixel_sources == {"stated": stated, "pitch": pytest.approx(5.0)}
    warnings = texts(slide, "warning")
    assert len(warnings) == n_warnings
    assert all("µm per pixel differ" in text for text in warnings)


def test_pixel_size_and_pitch_must_be_positive(files):
    with pytest.raises(SlideFormatError, match="expected positive numbers"):
        read_st(files, microns_per_pixel=-1)
    with pytest.raises(SlideFormatError, match="expected positive numbers"):
        read_st(files, pitch_um=0)


def write_tiled_image(path, microns_per_pixel):
    tifffile.imwrite(
        path,
        np.full((200, 220, 3), 220, np.uint8),
        tile=(64, 64),
        photometric="rgb",
        resolution=(10_000 / microns_per_pixel,) * 2,
        resolutionunit="CENTIMETER",
    )
    return path


def test_image_that_contradicts_the_pitch_is_refused_unless_the_scale_is_stated(files, tmp_path):
    close = replace(files, image=write_tiled_image(tmp_path / "close.tif", 5.5))
    slide = read_st(close)
    assert list(slide.microns_per_pixel_sources) == ["pitch", "image"]
    assert "differ by 10%" in texts(slide, "warning")[0]
    other = replace(files, image=write_tiled_image(tmp_path / "other.tif", 8.0))
    with pytest.raises(SlideFormatError, match=r"differ by 60%.*--mpp"):
        read_st(other)
    assert read_st(other, microns_per_pixel=5.0).microns_per_pixel == 5.0


def test_spots_outside_the_image_are_counted(files, tmp_path):
    Image.new("RGB", (130, 200)).save(tmp_path / "narrow.png")
    slide = read_st(replace(files, image=tmp_path / "narrow.png"))
    assert "3 of 9 spots lie outside narrow.png of 130 x 200 px" in texts(slide, "warning")[0]


def test_image_that_most_spots_lie_outside_is_refused(files, tmp_path):
    Image.new("RGB", (90, 90)).save(tmp_path / "small.png")
    with pytest.raises(
        SlideFormatError, match=r"8 of 9 spots lie outside small\.png of 90 x 90 px"
    ):
        read_st(replace(files, image=tmp_path / "small.png"))


def test_shuffled_pixel_columns_are_refused(files):
    lines = [line.split("\t") for line in spots_text().splitlines()]
    places = [line[4:6] for line in lines[1:]]
    order = np.random.default_rng(2).permutation(len(places))
    for line, at in zip(lines[1:], order, strict=True):
        line[4:6] = places[at]
    write(files.spots, "\n".join("\t".join(line) for line in lines) + "\n")
    with pytest.raises(SlideFormatError, match="C2: the spots' pixel coordinates do not follow"):
        read_st(files)


def test_patient_given_goes_before_the_folder(files):
    slide = read_st(replace(files, patient="C"))
    assert (slide.patient, slide.section) == ("C", "2")
    slide = read_st(replace(files, name="P2_rep1", patient="C"), patient="P2")
    assert (slide.patient, slide.section) == ("P2", "rep1")


def make_study(folder):
    for name in ("A1", "B10", "B2"):
        write(folder / "ST-cnts" / f"{name}.tsv.gz", counts_text())
        write(folder / "ST-spotfiles" / f"{name}_selection.tsv", spots_text())
    write(folder / "ST-cnts" / "._A1.tsv.gz", b"")
    image = folder / "ST-imgs" / "A" / "A1" / "HE_D1.jpg"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (220, 200)).save(image)
    write(folder / "ST-pat" / "lbl" / "B2_labeled_coordinates.tsv", "x\ty\tlabel\n20\t10\ta\n")
    return folder


def test_study_layout_is_found(tmp_path):
    sections = {files.name: files for files in find_sections(make_study(tmp_path))}
    assert list(sections) == ["A1", "B10", "B2"]
    assert sections["A1"].patient == "A"
    assert sections["A1"].image == tmp_path / "ST-imgs" / "A" / "A1" / "HE_D1.jpg"
    assert sections["A1"].labels is None
    assert (sections["B10"].patient, sections["B10"].image) == ("B", None)
    assert sections["B2"].labels.name == "B2_labeled_coordinates.tsv"
    assert read_st(sections["B2"]).spots.loc["20x10", "label"] == "a"


def test_two_images_of_one_section_are_named(tmp_path):
    make_study(tmp_path)
    Image.new("RGB", (5, 5)).save(tmp_path / "ST-imgs" / "A" / "A1" / "other.png")
    with pytest.raises(SlideFormatError, match=r"found HE_D1\.jpg, other\.png, expected only one"):
        find_sections(tmp_path)


def test_flat_folder_is_found(tmp_path):
    for name in ("s1", "s2.b"):
        write(tmp_path / f"{name}.tsv.gz", counts_text())
        write(tmp_path / f"{name}_selection.tsv.gz", spots_text())
        Image.new("RGB", (220, 200)).save(tmp_path / f"{name}.png")
    write(tmp_path / "s2.b_labeled_coordinates.tsv", "x\ty\tlabel\n20\t10\ta\n")
    first, second = find_sections(tmp_path)
    assert (first.name, first.patient, first.image.name) == ("s1", None, "s1.png")
    assert (second.name, second.image.name) == ("s2.b", "s2.b.png")
    assert second.labels is not None
    assert len(read_st(first).spots) == 9


def test_counts_given_twice_are_refused(tmp_path):
    write(tmp_path / "s1.tsv", counts_text())
    write(tmp_path / "s1.tsv.gz", counts_text())
    with pytest.raises(SlideFormatError, match=r"found s1\.tsv, s1\.tsv\.gz, expected only one"):
        find_sections(tmp_path)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "no section found, expected ST-cnts"),
        ("gone", "gone does not exist, expected one that holds"),
    ],
    ids=["empty", "missing"],
)
def test_folder_without_sections_is_named(tmp_path, folder, message):
    with pytest.raises(SlideFormatError, match=message):
        find_sections(tmp_path / folder)


def test_input_folder_is_left_as_it_was(tmp_path):
    make_study(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for files in find_sections(tmp_path):
        read_st(files)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.fixture
def her2st():
    if "SPAHGC_TEST_DATA" not in os.environ:
        pytest.skip("SPAHGC_TEST_DATA is not set")
    return Path(os.environ["SPAHGC_TEST_DATA"]) / "her2st"


@pytest.mark.real
def test_all_five_sections_are_found(her2st):
    found = {files.name: files for files in find_sections(her2st)}
    assert list(found) == ["C2", "C3", "C4", "C5", "H1"]
    assert found["C3"].image.name == "5714_HE_BT_D1.jpg"
    assert (found["H1"].image, found["H1"].patient) == (None, "H")


@pytest.mark.real
@pytest.mark.parametrize("name", ["C2", "C3", "C4", "C5", "H1"])
def test_spots_counts_and_centers_equal_a_plain_join(her2st, name):
    (files,) = (files for files in find_sections(her2st) if files.name == name)
    slide = read_st(files)
    counts = pd.read_csv(files.counts, sep="\t", index_col=0)
    spots = pd.read_csv(files.spots, sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    shared = [spot for spot in counts.index if spot in spots.index]
    assert list(slide.spots.index) == shared
    assert list(slide.genes.index) == list(counts.columns)
    assert np.array_equal(slide.counts.toarray(), counts.loc[shared])
    assert np.array_equal(slide.centers, spots.loc[shared, ["pixel_x", "pixel_y"]])
    assert slide.microns_per_pixel == pytest.approx(0.687, abs=0.003)


@pytest.mark.real
def test_every_spot_of_h1_has_its_label(her2st):
    (files,) = (files for files in find_sections(her2st) if files.name == "H1")
    labels = read_st(files).spots["label"]
    assert (labels != "").all()
    assert labels.value_counts()["connective tissue"] == 169
