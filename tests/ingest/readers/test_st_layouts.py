"""Each layout: which files are found, and that what was written in it is read back."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.st import PRESETS, find_sections, read_st

GENES = ["FN1", "KRT8", "IGKC"]
TISSUE = [(x, y) for y in (10, 11, 12) for x in (20, 21, 22)]
GLASS = [(x, y) for y in (8, 9) for x in (19, 20, 21, 22)]
STEP = 40.0


def pixel(step, first):
    return 60.5 + STEP * (step - first)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def counts_text(array, counts=None, genes=GENES):
    if counts is None:
        counts = [[x, 0, 100 * y] for x, y in array]
    rows = ([f"{x}x{y}", *map(int, row)] for (x, y), row in zip(array, counts, strict=True))
    return table([["", *genes], *rows])


def spots_text(array, centers=None):
    if centers is None:
        centers = [(pixel(x, 20), pixel(y, 10)) for x, y in array]
    rows = ([x, y, *map(repr, map(float, at))] for (x, y), at in zip(array, centers, strict=True))
    return table([["x", "y", "pixel_x", "pixel_y"], *rows])


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (240, 220), (230, 200, 220)).save(path)
    return path


def write_cscc(folder, name="P2_ST_rep1", *, accession="GSM4284316_", end=".tsv.gz"):
    write(folder / f"{accession}{name}_stdata{end}", counts_text([*GLASS, *TISSUE]))
    write(folder / f"{accession}spot_data-selection-{name}{end}", spots_text(TISSUE))
    write_image(folder / f"{accession}{name}.jpg")


def write_st_net(folder, name, *, end=".tsv.gz"):
    write(folder / f"{name}{end}", counts_text(TISSUE, genes=[f"ENSG0000000000{n}" for n in "123"]))
    write(folder / f"{name}.spots.txt", spots_text(TISSUE))
    write_image(folder / f"{name}.jpg")


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


@pytest.mark.parametrize("accession", ["GSM4284316_", ""], ids=["GEO", "renamed"])
@pytest.mark.parametrize("end", [".tsv", ".tsv.gz"])
def test_cscc_sections_are_found(tmp_path, accession, end):
    write_cscc(tmp_path, accession=accession, end=end)
    write_cscc(tmp_path, "P10_ST_rep3", accession=accession and "GSM4284326_", end=end)
    second, first = find_sections(tmp_path)
    assert (first.name, first.patient, first.layout) == ("P2_ST_rep1", "P2", "cscc")
    assert (second.name, second.patient) == ("P10_ST_rep3", "P10")
    assert first.counts.name == f"{accession}P2_ST_rep1_stdata{end}"
    assert first.spots.name == f"{accession}spot_data-selection-P2_ST_rep1{end}"
    assert first.image.name == f"{accession}P2_ST_rep1.jpg"


def test_cscc_is_found_in_a_folder_for_each_patient(tmp_path):
    write_cscc(tmp_path / "P2")
    write_cscc(tmp_path / "P5", "P5_ST_rep1")
    assert [files.patient for files in find_sections(tmp_path)] == ["P2", "P5"]


def test_section_in_two_folders_is_refused(tmp_path):
    write_cscc(tmp_path / "a")
    write_cscc(tmp_path / "b")
    with pytest.raises(SlideFormatError, match="found section P2_ST_rep1 in several folders"):
        find_sections(tmp_path)


def test_patient_of_another_name_is_unknown(tmp_path):
    write_cscc(tmp_path, "P2a_rep1")
    (files,) = find_sections(tmp_path)
    assert files.patient is None


def test_zipped_image_is_named_with_its_remedy(tmp_path):
    write_cscc(tmp_path)
    image = tmp_path / "GSM4284316_P2_ST_rep1.jpg"
    write(image.with_name(f"{image.name}.gz"), "never opened")
    image.unlink()
    (files,) = find_sections(tmp_path)
    assert files.image is None
    (warning, *_) = texts(read_st(files, preset="cscc"), "warning")
    assert (
        warning
        == f"{image.name}.gz is gzipped and was not used; run `gunzip --keep {image.name}.gz`"
    )


def read_cscc(folder, **options):
    write_cscc(folder)
    (files,) = find_sections(folder)
    return read_st(files, **options)


def test_unconfirmed_pitch_has_to_be_told(tmp_path):
    with pytest.raises(SlideFormatError, match=r"P2_ST_rep1: .*--pitch-um, or --preset cscc"):
        read_cscc(tmp_path)
    preset = read_cscc(tmp_path, preset="cscc")
    assert (preset.pitch_um, preset.spot_diameter_um) == PRESETS["cscc"] == (150, 110)
    assert preset.microns_per_pixel == pytest.approx(150 / STEP)
    assert "spots 150 µm apart, taken from the preset cscc" in texts(preset, "inferred")
    stated = read_cscc(tmp_path, pitch_um=160)
    assert (stated.pitch_um, stated.spot_diameter_um) == (160, None)
    both = read_cscc(tmp_path, pitch_um=160, preset="cscc")
    assert (both.pitch_um, both.spot_diameter_um) == (160, 110)


def test_whole_array_is_cut_to_the_selection(tmp_path):
    slide = read_cscc(tmp_path, preset="cscc")
    assert list(slide.spots.index) == [f"{x}x{y}" for x, y in TISSUE]
    assert (slide.patient, slide.section) == ("P2", "ST_rep1")
    assert "only in the first: 8, only in the second: 0" in texts(slide, "check")[0]
    assert "in_tissue" not in slide.spots


def test_background_is_kept_on_request_and_lies_on_the_lattice(tmp_path):
    slide = read_cscc(tmp_path, preset="cscc", keep_background=True)
    array = [*GLASS, *TISSUE]
    assert list(slide.spots.index) == [f"{x}x{y}" for x, y in array]
    assert slide.spots["in_tissue"].tolist() == [False] * 8 + [True] * 9
    assert slide.spots.loc["19x8", ["array_row", "array_col"]].tolist() == [8, 19]
    assert slide.counts.toarray()[:, 0].tolist() == [x for x, _ in array]
    expected = [(pixel(x, 20), pixel(y, 10)) for x, y in array]
    assert np.abs(slide.centers - expected).max() < 1e-6
    assert "8 of 17 spots are background and were kept" in texts(slide, "check")
    assert any("8 background spots without pixels placed" in t for t in texts(slide, "inferred"))


def test_unselected_spots_keep_their_own_pixels_as_background(tmp_path):
    rows = [line.split("\t") for line in spots_text(TISSUE).splitlines()]
    rows = [[*rows[0], "selected"], *([*row, 1] for row in rows[1:])]
    rows[1][2:] = ["61.5", "59.5", 0]
    write(tmp_path / "A_selection.tsv", table(rows))
    write(tmp_path / "A.tsv", counts_text(TISSUE))
    (files,) = find_sections(tmp_path)
    slide = read_st(files, keep_background=True)
    assert not slide.spots.loc["20x10", "in_tissue"]
    assert slide.centers[0].tolist() == [61.5, 59.5]
    assert len(read_st(files).spots) == 8


@pytest.mark.parametrize("below", ["", "Luminal_A/BC23209"], ids=["flat", "by subtype and patient"])
def test_st_net_sections_are_found(tmp_path, below):
    write_st_net(tmp_path / below, "BC23209_C1")
    write_st_net(tmp_path / below, "BC23209_C2", end=".tsv")
    write(tmp_path / below / "BC23209_C1_Coords.tsv", "spot\tx\ty\tz\ttumor\n")
    first, second = find_sections(tmp_path)
    assert (first.name, first.patient, first.layout) == ("BC23209_C1", "BC23209", "st-net")
    assert (first.spots.name, first.image.name) == ("BC23209_C1.spots.txt", "BC23209_C1.jpg")
    assert second.counts.name == "BC23209_C2.tsv"
    slide = read_st(first)
    assert (slide.pitch_um, slide.section) == (200, "C1")
    assert list(slide.genes.index) == [f"ENSG0000000000{n}" for n in "123"]


def test_spots_without_counts_are_named_when_read(tmp_path):
    write(tmp_path / "BC1_A.spots.txt", spots_text(TISSUE))
    (files,) = find_sections(tmp_path)
    with pytest.raises(SlideFormatError, match=r"BC1_A\.tsv does not exist, expected a table"):
        read_st(files)


def test_versions_of_ensembl_ids_are_cut_off(tmp_path):
    genes = ["ENSG00000000003.14", "ENSG00000000005.5", "ENSG00000000003.9"]
    write(tmp_path / "A.tsv", counts_text(TISSUE, genes=genes))
    (files,) = find_sections(tmp_path)
    summed = read_st(files)
    assert list(summed.genes.index) == ["ENSG00000000003", "ENSG00000000005"]
    assert summed.counts.toarray()[0].tolist() == [20 + 1000, 0]
    assert any("version suffixes cut off 3" in text for text in texts(summed, "inferred"))
    kept = read_st(files, duplicate_genes="suffix")
    assert list(kept.genes.index) == ["ENSG00000000003", "ENSG00000000005", "ENSG00000000003-1"]
    assert kept.counts.toarray()[0].tolist() == [20, 0, 1000]
    first = read_st(files, duplicate_genes="first")
    assert first.counts.toarray()[0].tolist() == [20, 0]


def test_folder_of_no_layout_is_named(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(SlideFormatError, match=r"no section found, expected ST-cnts"):
        find_sections(tmp_path)


def her2st_paths(folder):
    return folder / "ST-cnts" / "B1.tsv.gz", folder / "ST-spotfiles" / "B1_selection.tsv"


def cscc_paths(folder):
    stem = "GSM4284316_{}P2_ST_rep1{}"
    return (
        folder / (stem.format("", "_stdata") + ".tsv.gz"),
        folder / (stem.format("spot_data-selection-", "") + ".tsv.gz"),
    )


def st_net_paths(folder):
    return folder / "BC1_A.tsv.gz", folder / "BC1_A.spots.txt"


def flat_paths(folder):
    return folder / "one.tsv", folder / "one_selection.tsv"


LAYOUTS = {
    "her2st": (her2st_paths, "B", 200),
    "cscc": (cscc_paths, "P2", 150),
    "st-net": (st_net_paths, "BC1", 200),
    "flat": (flat_paths, None, 200),
}


@st.composite
def truths(draw):
    """Some spots of a turned lattice with counts, some of them selected."""
    n_columns, n_rows = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    column, row = (at.ravel() for at in np.indices((n_columns, n_rows)))
    array = np.stack([column + draw(st.integers(0, 28)), row + draw(st.integers(0, 30))], axis=1)
    step, angle = draw(st.floats(20, 400)), draw(st.floats(-0.3, 0.3))
    turn = step * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centers = array @ turn + 20_000 + generator.uniform(-0.05, 0.05, array.shape) * step
    counts = generator.integers(0, 2**32, (len(array), draw(st.integers(1, 4))))
    counts[generator.random(counts.shape) < 0.5] = 0
    order = generator.permutation(len(array))
    n_selected = draw(st.integers(1, len(array)))
    return (
        array[order],
        centers[order],
        counts,
        np.sort(generator.permutation(len(array))[:n_selected]),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(truth=truths())
def test_what_was_written_is_read_back(tmp_path, layout, truth):
    paths, patient, pitch_um = LAYOUTS[layout]
    array, centers, counts, selected = truth
    counts_path, spots_path = paths(tmp_path)
    genes = [f"G{n}" for n in range(counts.shape[1])]
    write(counts_path, counts_text(array, counts, genes))
    backwards = selected[::-1]  # the tables need not agree on an order
    write(spots_path, spots_text(array[backwards], centers[backwards]))
    (files,) = find_sections(tmp_path)
    slide = read_st(files, preset="cscc" if layout == "cscc" else None)
    assert (files.layout, slide.patient, slide.pitch_um) == (layout, patient, pitch_um)
    assert list(slide.spots.index) == [f"{x}x{y}" for x, y in array[selected]]
    assert slide.spots[["array_col", "array_row"]].to_numpy().tolist() == array[selected].tolist()
    assert np.array_equal(slide.counts.toarray(), counts[selected])
    assert list(slide.genes.index) == genes
    assert np.abs(slide.centers - centers[selected]).max() < 1e-6
