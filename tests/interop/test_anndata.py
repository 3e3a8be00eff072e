"""AnnData, scanpy and squidpy work on a slide as it lies in the store, and on its export."""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy
import squidpy
from anndata.experimental import read_lazy


@pytest.fixture
def table(folder):
    return anndata.read_zarr(folder / "data.zarr" / "tables" / "C1")


@pytest.fixture(params=["stored", "exported", "slide.h5ad", "slide.zarr", "image.h5ad"])
def drawn(request, folder):
    """A measured slide, an image without expression, and predictions."""
    if request.param == "stored":
        return anndata.read_zarr(folder / "data.zarr" / "tables" / "C1")
    if request.param == "exported":
        return anndata.read_h5ad(folder / "h5ad" / "A1.h5ad")
    if request.param.endswith(".zarr"):
        return anndata.read_zarr(folder / "predicted" / request.param)
    return anndata.read_h5ad(folder / "predicted" / request.param)


def test_anndata_reads_a_slide_as_it_lies_there(folder, expected):
    expected.check(anndata.read_zarr(folder / "data.zarr" / "tables" / expected.name))


def test_anndata_reads_a_slide_lazily(folder, expected):
    lazy = read_lazy(folder / "data.zarr" / "tables" / expected.name)
    assert lazy.shape == expected.arrays["counts"].shape
    expected.check(lazy.to_memory())


def test_a_lazy_read_takes_some_rows_only(folder, expected):
    lazy = read_lazy(folder / "data.zarr" / "tables" / expected.name)
    few = lazy[3:7].to_memory()
    assert np.array_equal(few.X.toarray(), expected.arrays["counts"][3:7])
    assert np.array_equal(few.obsm["spatial"], expected.arrays["spatial"][3:7])


def test_anndata_reads_an_h5ad_export(folder, expected):
    expected.check(anndata.read_h5ad(folder / "h5ad" / f"{expected.name}.h5ad"))


def test_an_export_can_be_written_and_read_again(folder, expected, tmp_path):
    table = anndata.read_h5ad(folder / "h5ad" / f"{expected.name}.h5ad")
    table.write_h5ad(tmp_path / "again.h5ad")
    expected.check(anndata.read_h5ad(tmp_path / "again.h5ad"))


def test_scanpy_preprocesses_a_slide(table):
    scanpy.pp.calculate_qc_metrics(table, inplace=True, percent_top=None)
    assert np.array_equal(table.obs["total_counts"], np.asarray(table.X.sum(axis=1)).ravel())
    scanpy.pp.normalize_total(table, target_sum=1e4)
    scanpy.pp.log1p(table)
    scanpy.pp.pca(table, n_comps=5)
    scanpy.pp.neighbors(table, use_rep="lite0", n_neighbors=5)
    assert table.obsp["distances"].shape == (table.n_obs, table.n_obs)


def test_squidpy_draws_the_spots_over_the_picture(drawn):
    squidpy.pl.spatial_scatter(drawn, color=drawn.var_names[0])
    check_drawing(plt.gcf().axes[0], drawn)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scanpy_draws_the_spots_over_the_picture(drawn):
    (axes,) = scanpy.pl.spatial(drawn, color=drawn.var_names[0], show=False)
    check_drawing(axes, drawn)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_both_colour_a_prediction_by_symbol_and_by_what_is_known_of_its_spots(folder):
    predicted = anndata.read_h5ad(folder / "predicted" / "slide.h5ad")
    predicted.var_names = [f"ENSG{n:05}" for n in range(predicted.n_vars)]
    symbol = predicted.var["symbol"].iloc[0]
    scanpy.pl.spatial(predicted, color=symbol, gene_symbols="symbol", show=False)
    squidpy.pl.spatial_scatter(predicted, color=symbol, alt_var="symbol")
    for column in ("nearness", "unlike_references"):
        scanpy.pl.spatial(predicted, color=column, show=False)
    flag = predicted.obs["unlike_references"].astype("category")  # squidpy takes no truth values
    predicted.obs["unlike_references"] = flag
    for column in ("nearness", "unlike_references"):
        squidpy.pl.spatial_scatter(predicted, color=column)
    plt.close("all")


def test_a_prediction_says_what_its_values_are(folder):
    predicted = anndata.read_h5ad(folder / "predicted" / "image.h5ad")
    assert predicted.uns["spahgc"]["units"].startswith("log1p of counts per 10000, predicted, rel")


def check_drawing(axes, table):
    """Check that a drawing has the whole picture, and each spot on it where the spot belongs."""
    ((name, spatial),) = table.uns["spatial"].items()
    (picture,) = axes.images
    pixels = spatial["images"]["hires"]
    assert picture.get_array().shape[:2] == pixels.shape[:2]
    assert axes.yaxis_inverted() == (picture.origin == "upper")
    scale = spatial["scalefactors"]["tissue_hires_scalef"]
    (circles,) = [drawn for drawn in axes.collections if len(drawn.get_paths()) == table.n_obs]
    boxes = [path.get_extents() for path in circles.get_paths()]
    drawn = sorted(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in boxes)
    expected = sorted(map(tuple, np.asarray(table.obsm["spatial"]) * scale))
    np.testing.assert_allclose(drawn, expected, atol=0.01)
    diameter = spatial["scalefactors"]["spot_diameter_fullres"] * scale
    np.testing.assert_allclose([box.width for box in boxes], diameter, rtol=0.02)
    on_tissue = [pixels[int(y), int(x)].mean() for x, y in expected]
    assert np.mean(on_tissue) < pixels.mean(), name
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Calling `spatial_neighbors`:FutureWarning")
def test_squidpy_joins_neighbouring_spots(table):
    squidpy.gr.spatial_neighbors(table, n_neighs=6, coord_type="grid")
    assert table.obsp["spatial_connectivities"].nnz > table.n_obs
