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


def test_squidpy_draws_the_spots_over_the_picture(table):
    squidpy.pl.spatial_scatter(table, color=table.var_names[0])
    axes = plt.gcf().axes[0]
    (picture,) = axes.images
    height, width = table.uns["spatial"]["C1"]["images"]["hires"].shape[:2]
    assert picture.get_array().shape[:2] == (height, width)
    assert len(axes.collections) > 0
    scale = table.uns["spatial"]["C1"]["scalefactors"]["tissue_hires_scalef"]
    boxes = [c.get_datalim(axes.transData) for c in axes.collections]
    middle = table.obsm["spatial"].mean(axis=0) * scale
    assert any(box.contains(*middle) for box in boxes)
    plt.close("all")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scanpy_draws_the_spots_over_the_picture(table):
    (axes,) = scanpy.pl.spatial(table, color=table.var_names[0], show=False)
    assert len(axes.images) == 1
    assert len(axes.collections) > 0
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Calling `spatial_neighbors`:FutureWarning")
def test_squidpy_joins_neighbouring_spots(table):
    squidpy.gr.spatial_neighbors(table, n_neighs=6, coord_type="grid")
    assert table.obsp["spatial_connectivities"].nnz > table.n_obs
