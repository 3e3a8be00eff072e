import gc
import tracemalloc

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csc_matrix, csr_matrix, random_array

from spahgc.errors import ImageError, SlideFormatError
from spahgc.ingest.readers.h5ad import read_h5ad_slide

GENES = ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419"]
SYMBOLS = ["TSPAN6", "TNMD", "DPM1"]


def hexagonal(rows=6, columns=5, *, pitch_px=50.0, first=(60.0, 70.0)):
    """Array rows and columns of a Visium-like lattice, and its centers in pixels."""
    row, column = np.nonzero(np.add.outer(np.arange(rows), np.arange(2 * columns)) % 2 == 0)
    step = np.array([pitch_px / 2, pitch_px * np.sqrt(3) / 2])
    return row, column, np.stack([column, row], axis=1) * step + first


def build(counts=None, *, lattice=None, **parts):
    row, column, centers = hexagonal() if lattice is None else lattice
    n = len(row)
    if counts is None:
        counts = np.random.default_rng(0).poisson(2, (n, len(GENES)))
    obs = pd.DataFrame(
        {"array_row": row, "array_col": column, "in_tissue": 1},
        index=[f"SPOT{i}-1" for i in range(n)],
    )
    parts = {"obs": obs, "var": pd.DataFrame({"symbol": SYMBOLS}, index=GENES), **parts}
    return anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)), obsm={"spatial": centers}, **parts
    )


def write(adata, path):
    adata.write_h5ad(path)
    return path


@pytest.fixture
def path(tmp_path):
    return write(build(), tmp_path / "brain.h5ad")


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


def test_file_becomes_a_slide(path):
    truth = build()
    slide = read_h5ad_slide(path)
    assert (slide.name, slide.platform, slide.patient) == ("brain", "h5ad", None)
    assert slide.counts.dtype == np.uint32
    assert np.array_equal(slide.counts.toarray(), truth.X.toarray())
    assert np.array_equal(slide.centers, truth.obsm["spatial"])
    assert list(slide.spots.index) == list(truth.obs_names)
    assert list(slide.genes.index) == GENES
    assert list(slide.genes["symbol"]) == SYMBOLS
    assert slide.spots["in_tissue"].dtype == bool
    assert slide.spots["array_col"].dtype == np.int64
    assert slide.microns_per_pixel == pytest.approx(100 / 50)
    assert slide.pitch_um == 100
    assert texts(slide, "file") == ["table: brain.h5ad", "counts: X"]
    assert texts(slide, "warning") == ["no image: the slide cannot be embedded"]


def test_image_is_checked_and_pictured(path, tmp_path):
    Image.new("RGB", (400, 420), (220, 190, 210)).save(tmp_path / "he.png")
    slide = read_h5ad_slide(path, image=tmp_path / "he.png", name="B1", patient="P1")
    assert (slide.name, slide.patient, slide.image.size) == ("B1", "P1", (400, 420))
    assert slide.thumbnails["lowres"].pixels.shape == (420, 400, 3)
    Image.new("RGB", (100, 90)).save(tmp_path / "small.png")
    with pytest.raises(SlideFormatError, match=r"brain: .* spots lie outside small\.png"):
        read_h5ad_slide(path, image=tmp_path / "small.png")
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        read_h5ad_slide(path, image=tmp_path / "gone.png")


def normalised(adata):
    adata.X = csr_matrix(np.log1p(adata.X.toarray() / 3))
    return adata


@pytest.mark.parametrize("place", ["layer", "raw", "dense", "csc"])
def test_raw_counts_are_found_where_they_are(tmp_path, place):
    truth = build()
    adata = build()
    if place == "layer":
        adata.layers["counts"] = adata.X.copy()
        normalised(adata)
    elif place == "raw":
        wider = build()
        adata.raw = wider
        adata = normalised(adata)[:, :2].copy()
    else:
        adata.X = csc_matrix(adata.X) if place == "csc" else adata.X.toarray()
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert np.array_equal(slide.counts.toarray(), truth.X.toarray())
    assert list(slide.genes.index) == GENES
    expected = {"layer": "layers/counts", "raw": "raw/X"}.get(place, "X")
    assert f"counts: {expected}" in texts(slide, "file")


def test_normalised_x_is_refused_and_the_option_is_named(tmp_path):
    adata = normalised(build())
    adata.layers["umi"] = build().X
    path = write(adata, tmp_path / "a.h5ad")
    with pytest.raises(SlideFormatError, match=r"looks normalised.*--counts-layer.*layers/umi"):
        read_h5ad_slide(path)
    slide = read_h5ad_slide(path, counts_layer="umi")
    assert np.array_equal(slide.counts.toarray(), build().X.toarray())
    with pytest.raises(SlideFormatError, match="no layer 'counts', found layers/umi, X"):
        read_h5ad_slide(path, counts_layer="counts")
    with pytest.raises(SlideFormatError, match=r"in X.*looks normalised"):
        read_h5ad_slide(path, counts_layer="X")


def test_layer_that_only_claims_to_hold_counts_is_passed_over(tmp_path):
    adata = build()
    adata.layers["counts"] = adata.X * 0.5
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert np.array_equal(slide.counts.toarray(), build().X.toarray())
    assert any("layers/counts holds" in text for text in texts(slide, "warning"))


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf, 2.0**32], ids=str)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_anything_but_counts_is_refused(tmp_path, value, kind):
    adata = build()
    values = adata.X.toarray()
    values[3, 1] = value
    adata.X = values if kind == "dense" else csr_matrix(values)
    with pytest.raises(SlideFormatError, match=r"a\.h5ad: found .* in X.*expected raw counts"):
        read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))


def test_odd_value_far_from_the_start_is_found_too(tmp_path, monkeypatch):
    monkeypatch.setattr("spahgc.ingest.readers.h5ad_counts._PEEKED", 10)
    adata = build()
    adata.X.data[-1] = 0.5
    with pytest.raises(SlideFormatError, match=r"found 0\.5 in X, expected raw counts"):
        read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))


def test_dense_counts_are_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("spahgc.ingest.readers.h5ad_counts._BLOCK_VALUES", 7)
    adata = build()
    adata.X = adata.X.toarray()
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert np.array_equal(slide.counts.toarray(), adata.X)


def test_sparse_counts_are_never_dense_in_memory(tmp_path):
    n_spots, n_genes = 3000, 20_000
    matrix = random_array((n_spots, n_genes), density=0.002, format="csr", rng=1)
    matrix.data = np.ceil(matrix.data * 5).astype(np.float32)
    adata = anndata.AnnData(
        X=csr_matrix(matrix),
        obs=pd.DataFrame(index=[f"s{i}" for i in range(n_spots)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
        obsm={"spatial": np.random.default_rng(0).random((n_spots, 2))},
        layers={"unused": csr_matrix(matrix)},
    )
    path = write(adata, tmp_path / "a.h5ad")
    del adata
    gc.collect()
    tracemalloc.start()
    slide = read_h5ad_slide(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert slide.counts.sum() == matrix.data.sum()
    assert peak < n_spots * n_genes  # one byte per element; a dense float32 is four


@pytest.mark.parametrize("column", ["gene_symbols", "gene_name", "SYMBOL", "feature_name"])
def test_symbols_are_found_under_their_usual_names(tmp_path, column):
    var = pd.DataFrame({column: pd.Categorical(SYMBOLS)}, index=GENES)
    slide = read_h5ad_slide(write(build(var=var), tmp_path / "a.h5ad"))
    assert list(slide.genes["symbol"]) == SYMBOLS


def test_ids_beside_symbols_become_the_index(tmp_path):
    var = pd.DataFrame({"gene_ids": GENES}, index=SYMBOLS)
    slide = read_h5ad_slide(write(build(var=var), tmp_path / "a.h5ad"))
    assert list(slide.genes.index) == GENES
    assert list(slide.genes["symbol"]) == SYMBOLS


def test_gene_without_symbol_keeps_its_id(tmp_path):
    var = pd.DataFrame({"symbol": ["TSPAN6", np.nan, "DPM1"]}, index=GENES)
    slide = read_h5ad_slide(write(build(var=var), tmp_path / "a.h5ad"))
    assert list(slide.genes["symbol"]) == ["TSPAN6", GENES[1], "DPM1"]


def test_versions_are_cut_off_and_their_genes_summed(tmp_path):
    var = pd.DataFrame(index=["ENSG00000000003.14", "ENSG00000000003.9", "ENSG00000000419.1"])
    path = write(build(var=var), tmp_path / "a.h5ad")
    counts = build().X.toarray()
    slide = read_h5ad_slide(path)
    assert list(slide.genes.index) == [GENES[0], GENES[2]]
    assert np.array_equal(slide.counts.toarray()[:, 0], counts[:, 0] + counts[:, 1])
    first = read_h5ad_slide(path, duplicate_genes="first")
    assert np.array_equal(first.counts.toarray(), counts[:, [0, 2]])


def test_other_features_are_left_out_and_counted(tmp_path):
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression"]
    var = pd.DataFrame({"symbol": SYMBOLS, "feature_types": kinds}, index=GENES)
    slide = read_h5ad_slide(write(build(var=var), tmp_path / "a.h5ad"))
    assert list(slide.genes["symbol"]) == ["TSPAN6", "DPM1"]
    assert "1 features that are not of type Gene Expression left out" in texts(slide, "check")


def test_simple_columns_are_kept_and_others_named(tmp_path):
    row, _, _ = hexagonal()
    n = len(row)
    obs = pd.DataFrame(
        {
            "region": pd.Categorical(["cortex", "hippocampus"] * (n // 2)),
            "note": ["a", ""] * (n // 2),
            "score": np.linspace(0, 1, n),
            "passed": [True, False] * (n // 2),
            "clone": pd.array([1, None] * (n // 2), dtype="Int64"),
        },
        index=[f"s{i}" for i in range(n)],
    )
    slide = read_h5ad_slide(write(build(obs=obs), tmp_path / "a.h5ad"))
    assert list(slide.spots.columns) == list(obs.columns)
    assert slide.spots["region"].tolist() == obs["region"].tolist()
    assert slide.spots["note"].tolist() == obs["note"].tolist()
    assert slide.spots["passed"].dtype == bool
    assert "no array_row and array_col" in "; ".join(texts(slide, "warning"))


@pytest.mark.parametrize("values", [[0.5], [np.nan], ["left"]], ids=str)
def test_array_places_that_are_no_integers_are_left_out(tmp_path, values):
    adata = build()
    rows = adata.obs["array_row"].astype(object).tolist()
    rows[0] = values[0]
    as_text = isinstance(values[0], str)
    adata.obs["array_row"] = [str(row) if as_text else float(row) for row in rows]
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert not {"array_row", "array_col"} & set(slide.spots.columns)
    warnings = "; ".join(texts(slide, "warning"))
    assert "array_row of obs was left out" in warnings
    assert "nothing tells the pixel size" in warnings


def with_scale(adata, **factors):
    adata.uns["spatial"] = {"lib": {"scalefactors": factors, "images": {}}}
    return adata


def test_spot_diameter_is_the_last_resort_and_doubted(tmp_path):
    adata = with_scale(build(), spot_diameter_fullres=130.0)
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert slide.microns_per_pixel == pytest.approx(0.5)
    assert "wrong in some files: check it, or give --mpp" in "; ".join(texts(slide, "warning"))


def test_spot_diameter_that_contradicts_the_lattice_only_warns(tmp_path):
    path = write(with_scale(build(), spot_diameter_fullres=65.0), tmp_path / "a.h5ad")
    slide = read_h5ad_slide(path)
    assert slide.microns_per_pixel == pytest.approx(2.0)
    assert list(slide.microns_per_pixel_sources) == ["pitch", "spot_diameter_65um"]
    assert any("differ by 50%" in text for text in texts(slide, "warning"))


def test_stated_pixel_size_and_measures_win(path):
    slide = read_h5ad_slide(path, microns_per_pixel=2.05, pitch_um=101, spot_diameter_um=55)
    assert slide.microns_per_pixel == 2.05
    assert slide.microns_per_pixel_sources["pitch"] == pytest.approx(101 / 50)
    assert (slide.pitch_um, slide.spot_diameter_um) == (101, 55)


def test_pitch_of_a_square_lattice_has_to_be_told(tmp_path):
    row, column = (at.ravel() for at in np.indices((5, 6)))
    lattice = row, column, np.stack([column, row], axis=1) * 40.0 + 100
    path = write(build(lattice=lattice), tmp_path / "a.h5ad")
    slide = read_h5ad_slide(path)
    assert (slide.microns_per_pixel, slide.pitch_um) == (None, None)
    assert any("give --pitch-um" in text for text in texts(slide, "warning"))
    assert read_h5ad_slide(path, pitch_um=200).microns_per_pixel == pytest.approx(5.0)


def test_swapped_centers_are_named(tmp_path):
    adata = build()
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert any("x and y look swapped" in text for text in texts(slide, "warning"))


def test_shuffled_centers_are_refused(tmp_path):
    adata = build()
    order = np.random.default_rng(1).permutation(adata.n_obs)
    adata.obsm["spatial"] = adata.obsm["spatial"][order]
    with pytest.raises(SlideFormatError, match="a: the spots' pixel coordinates do not follow"):
        read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))


def test_small_pictures_of_the_file_are_kept_without_an_image(tmp_path):
    adata = build()
    images = {
        "hires": np.full((40, 38, 3), 0.5, np.float32),
        "lowres": np.full((20, 19, 4), 7, np.uint8),
        "mask": np.zeros((20, 19), np.uint8),
    }
    factors = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05, "tissue_mask_scalef": 1.0}
    adata.uns["spatial"] = {"lib": {"scalefactors": factors, "images": images}}
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert {name: t.scale for name, t in slide.thumbnails.items()} == {"hires": 0.1, "lowres": 0.05}
    assert slide.thumbnails["hires"].pixels.shape == (40, 38, 3)
    assert slide.thumbnails["hires"].pixels[0, 0].tolist() == [128, 128, 128]


def test_file_of_several_slides_is_refused(tmp_path):
    adata = build()
    adata.uns["spatial"] = {"A1": {"scalefactors": {}}, "A2": {"scalefactors": {}}}
    with pytest.raises(SlideFormatError, match=r"found 2 slides \(A1, A2\), expected one"):
        read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    adata.obs["library_id"] = pd.Categorical(["A2"] * adata.n_obs)
    assert read_h5ad_slide(write(adata, tmp_path / "b.h5ad")).name == "b"
    adata.obs["library_id"] = pd.Categorical(["A1", "A2"] * (adata.n_obs // 2))
    with pytest.raises(SlideFormatError, match=r"adata\[adata\.obs\['library_id'\] == 'A1'\]"):
        read_h5ad_slide(write(adata, tmp_path / "c.h5ad"))


def without(part):
    def damage(path):
        with h5py.File(path, "a") as file:
            del file[part]

    return damage


def replace_with(part, value):
    def damage(path):
        with h5py.File(path, "a") as file:
            del file[part]
            file[part] = value

    return damage


def unknown_kind(path):
    with h5py.File(path, "a") as file:
        file["X"].attrs["encoding-type"] = "matrix of tomorrow"


def repeat_names(path):
    with h5py.File(path, "a") as file:
        file["obs/_index"][1] = file["obs/_index"][0]


def claim(path, part, shape):
    with h5py.File(path, "a") as file:
        attributes = dict(file[part].attrs) if isinstance(file[part], h5py.Dataset) else {}
        del file[part]
        chunks = (2**8,) * len(shape)
        file.create_dataset(part, shape, "f4", chunks=chunks).attrs.update(attributes)


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be read.*expected an h5ad file"),
    "text": (lambda path: path.write_text("a,b\n" * 99), "cannot be read"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cannot be read"),
    "no centers": (without("obsm/spatial"), "found nothing in obsm, expected 'spatial'"),
    "no obs": (without("obs"), "cannot be read"),
    "no X": (without("X"), "found no matrix"),
    "no data in X": (without("X/data"), "cannot be read"),
    "centers in 3-D": (replace_with("obsm/spatial", np.zeros((30, 3))), "is 30 x 3, expected 30"),
    "too few centers": (replace_with("obsm/spatial", np.zeros((29, 2))), "is 29 x 2, expected 30"),
    "NaN centers": (
        replace_with("obsm/spatial", np.full((30, 2), np.nan)),
        "30 of 30 spots have no place in obsm/spatial",
    ),
    "X of 4 GiB that are not there": (
        lambda path: claim(path, "X", (2**15, 2**15)),
        "X is 32768 x 32768, expected 30 spots x 3 genes",
    ),
    "a column of 4 GiB that are not there": (
        lambda path: claim(path, "obs/in_tissue", (2**30,)),
        "obs/in_tissue claims 4096 MiB, expected at most 256 MiB in a file of its size",
    ),
    "no spots": (lambda path: write(build()[:0].copy(), path), "found no spot in obs"),
    "wrong indices": (replace_with("X/indices", np.full(3, 99, np.int32)), "X|cannot be read"),
    "old table": (
        replace_with("var", np.zeros(3, [("index", "S4")])),
        "var is no table of today's AnnData",
    ),
    "other encoding": (unknown_kind, "X cannot be read.*write the file again"),
    "repeated spots": (repeat_names, "spot SPOT0-1 occurs more than once"),
}


@pytest.mark.parametrize("problem", BAD_FILES)
def test_broken_file_is_refused_in_one_line_naming_it(path, problem):
    damage, message = BAD_FILES[problem]
    damage(path)
    with pytest.raises(SlideFormatError, match=message) as caught:
        read_h5ad_slide(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(SlideFormatError, match=r"gone\.h5ad does not exist"):
        read_h5ad_slide(tmp_path / "gone.h5ad")
    with pytest.raises(SlideFormatError, match="is a folder, expected an h5ad file"):
        read_h5ad_slide(tmp_path)


def test_file_is_left_as_it_was(path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    read_h5ad_slide(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@st.composite
def truths(draw):
    rows, columns = draw(st.tuples(st.integers(2, 5), st.integers(2, 4)))
    pitch = draw(st.floats(20, 400))
    first = draw(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)))
    lattice = hexagonal(rows, columns, pitch_px=pitch, first=first)
    n_genes = draw(st.integers(1, 4))
    counts = draw(
        st.lists(
            st.lists(st.integers(0, 2**24), min_size=n_genes, max_size=n_genes),
            min_size=len(lattice[0]),
            max_size=len(lattice[0]),
        )
    )
    kind = draw(st.sampled_from(["csr", "csc", "dense"]))
    place = draw(st.sampled_from(["X", "layer", "raw"]))
    return lattice, np.array(counts), kind, place, pitch


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(truth=truths())
def test_what_was_written_is_read_back(tmp_path, truth):
    lattice, counts, kind, place, pitch = truth
    row, column, centers = lattice
    matrix = {"csr": csr_matrix, "csc": csc_matrix, "dense": np.asarray}[kind](
        counts.astype(np.float32)
    )
    adata = anndata.AnnData(
        X=matrix,
        obs=pd.DataFrame(
            {"array_row": row, "array_col": column}, index=[f"s{i}" for i in range(len(row))]
        ),
        var=pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])]),
        obsm={"spatial": centers},
    )
    if place == "layer":
        adata.layers["counts"] = adata.X.copy()
    if place == "raw":
        adata.raw = adata.copy()
    if place != "X":
        adata.X = adata.X * 0.25 + 0
    slide = read_h5ad_slide(write(adata, tmp_path / "a.h5ad"))
    assert np.array_equal(slide.counts.toarray(), counts)
    assert np.abs(slide.centers - centers).max() < 1e-6
    assert np.array_equal(slide.spots["array_row"], row)
    assert np.array_equal(slide.spots["array_col"], column)
    assert slide.microns_per_pixel == pytest.approx(100 / pitch)
