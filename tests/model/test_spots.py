from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from spahgc.errors import MissingError
from spahgc.model.features import FeatureConfig
from spahgc.model.panels import GenePanel
from spahgc.model.spots import (
    NearConfig,
    NearRing,
    depth_of,
    expression_of,
    near_of,
    nearest_others,
    read_spots,
)
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.model.conftest import EMBEDDING, draw_tissue, put_slide

PANEL = GenePanel(genes=("G7", "G2", "missing", "G0"), rule="file:panel.txt")


def read(cohort, name, panel=PANEL):
    return read_spots(
        cohort[name], features=FeatureConfig(embeddings=(EMBEDDING,)), panel=panel, target_sum=1e4
    )


def test_expression_is_log1p_of_counts_per_library_in_panel_order(grown):
    spots = read(grown, "A1")
    counts_SG = grown["A1"].read_counts().toarray().astype(np.float64)
    expected_SG = np.log1p(1e4 * counts_SG / counts_SG.sum(axis=1, keepdims=True))
    assert spots.expression_SG.dtype == np.float32
    np.testing.assert_allclose(spots.expression_SG[:, [0, 1, 3]], expected_SG[:, [7, 2, 0]], 1e-5)
    np.testing.assert_allclose(depth_of(spots), np.log1p(counts_SG.sum(axis=1)))


def test_a_gene_the_files_do_not_list_is_unknown_and_not_zero(grown):
    expression_SG = expression_of(read(grown, "A1"))
    assert np.isnan(expression_SG[:, 2]).all()
    assert np.isfinite(expression_SG[:, [0, 1, 3]]).all()


def test_rows_are_those_of_the_stored_slide(grown):
    spots, slide = read(grown, "B1"), grown["B1"]
    assert spots.name == "B1"
    assert spots.spot_names == tuple(slide.spots.index)
    assert np.array_equal(spots.embedding_SD, slide.read_embedding(EMBEDDING))
    assert np.array_equal(spots.centers_S2, slide.centers)
    assert spots.near_SQ.shape == (slide.n_spots, 8)  # two rings of a square lattice


def test_a_slide_without_expression_still_has_spots(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    slide, embedding_SD = draw_tissue("A1")
    bare = replace(slide, counts=slide.counts[:, :0], genes=slide.genes[:0])
    put_slide(store, bare, embedding_SD)
    spots = read(open_cohort(store.path), "A1")
    assert spots.embedding_SD.shape == (30, 8)
    for measured_of in (expression_of, depth_of):
        with pytest.raises(MissingError, match="slide A1 has no expression"):
            measured_of(spots)


def test_a_slide_that_was_never_embedded_is_refused(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, draw_tissue("A1")[0])
    with pytest.raises(MissingError, match="slide A1 has no embedding 'tiny'"):
        read(open_cohort(store.path), "A1")


@settings(max_examples=100, deadline=None)
@given(
    points_SD=arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.integers(-3, 3).map(float),  # so that many lie on the same place
    ),
    n_nearest=st.integers(1, 7),
)
def test_the_nearest_others_are_the_nearest_and_never_oneself(points_SD, n_nearest):
    table_SQ = nearest_others(points_SD, n_nearest)
    n_found = min(n_nearest, len(points_SD) - 1)
    assert table_SQ.shape == (len(points_SD), n_nearest)
    assert (table_SQ[:, n_found:] == -1).all()
    distance_SS = cdist(points_SD, points_SD)
    for spot, row in enumerate(table_SQ[:, :n_found]):
        assert spot not in row
        assert len(set(row)) == n_found
        nearest = np.sort(np.delete(distance_SS[spot], spot))[:n_found]
        np.testing.assert_allclose(distance_SS[spot][row], nearest, atol=1e-6)


def test_all_spots_on_one_place_are_still_joined_to_others():
    table_SQ = nearest_others(np.zeros((20, 2)), 6)
    assert (table_SQ >= 0).all()
    assert all(spot not in row for spot, row in enumerate(table_SQ))


def stored(tmp_path, slide):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)
    return open_cohort(store.path)[slide.name]


def laid(lattice, *, columns=12, rows=12, step=(50.0, 50.0), recorded=True):
    """A slide with one spot at each place of a lattice, 0.5 µm a pixel."""
    at = [(c, r) for r in range(rows) for c in range(columns)]
    at = np.array([(c, r) for c, r in at if lattice == "square" or (c + r) % 2 == 0])
    plain = build_slide("L1", n_spots=len(at), n_genes=3)
    return replace(
        plain,
        spots=plain.spots.assign(array_col=at[:, 0], array_row=at[:, 1]),
        centers=at * np.array(step),
        lattice=lattice if recorded else None,
        microns_per_pixel=0.5,
    )


RINGS = {
    "square 4": ("square", (400, 400), NearConfig(square=4), 4, 200),
    "square 8": ("square", (400, 400), NearConfig(), 8, 282.8),
    "square of bins": ("square", (32, 32), NearConfig(square=4), 4, 16),
    "staggered 4": ("staggered", (200, 223), NearConfig(staggered=4), 4, 149.8),
    "staggered 8": ("staggered", (200, 223), NearConfig(), 8, 223),
    "hexagonal": ("hexagonal", (100, 173.2), NearConfig(square=4), 6, 100),
}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an older store"])
@pytest.mark.parametrize("case", RINGS)
def test_near_spots_are_whole_rings_of_the_slides_lattice(tmp_path, case, recorded):
    lattice, step, config, n_near, radius_um = RINGS[case]
    slide = stored(tmp_path, laid(lattice, step=step, recorded=recorded))
    near_SQ, ring = near_of(slide, config)
    assert ring == NearRing(
        lattice=lattice, n_near=n_near, radius_um=pytest.approx(radius_um, rel=0.01)
    )
    far_SS = cdist(slide.centers, slide.centers) * 0.5
    np.fill_diagonal(far_SS, np.inf)
    for row, far_S in zip(near_SQ, far_SS, strict=True):
        assert set(row[row >= 0]) == set(np.flatnonzero(far_S < 1.01 * radius_um))


def test_spots_without_array_coordinates_have_the_rings_that_their_places_show(tmp_path):
    slide = laid("hexagonal", step=(100, 173.2))
    bare = replace(slide, spots=slide.spots.drop(columns=["array_row", "array_col"]), lattice=None)
    near_SQ, ring = near_of(stored(tmp_path, bare), NearConfig())
    assert ring == NearRing(lattice="hexagonal", n_near=6, radius_um=pytest.approx(100))
    assert (near_SQ >= 0).sum(axis=1).min() < 6


def test_scattered_spots_and_runs_without_rings_take_the_six_nearest(tmp_path):
    slide = laid("square", step=(400, 400))
    near_SQ, ring = near_of(stored(tmp_path / "square", slide), None)
    assert (ring.lattice, ring.n_near) == (None, 6)
    assert (near_SQ >= 0).all()
    scattered = replace(
        slide,
        spots=slide.spots.drop(columns=["array_row", "array_col"]),
        centers=np.random.default_rng(0).uniform(0, 5000, slide.centers.shape),
        lattice=None,
    )
    near_SQ, ring = near_of(stored(tmp_path / "scattered", scattered), NearConfig())
    assert (ring.lattice, ring.n_near) == (None, 6)
    np.testing.assert_array_equal(near_SQ, nearest_others(scattered.centers, 6))
