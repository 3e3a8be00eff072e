import hashlib

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError
from spahgc.model.expression import GenePanel, PanelRule, choose_panel, log_depth, normalise

N_GENES = 120


@pytest.fixture(scope="module")
def genes():
    return [f"G{number:03d}" for number in range(N_GENES)]


@pytest.fixture(scope="module")
def slides():
    """Two slides whose genes differ in level and in spread; the last 20 genes are hardly seen."""
    generator = np.random.default_rng(0)
    level_G = generator.uniform(0.5, 20.0, size=N_GENES)
    shape_G = generator.uniform(0.5, 5.0, size=N_GENES)
    level_G[-20:] = 0.01

    def slide(n_spots):
        rate_SG = generator.gamma(shape_G, level_G / shape_G, size=(n_spots, N_GENES))
        return csr_matrix(generator.poisson(rate_SG).astype(np.uint16))

    return {"A": slide(60), "B": slide(80)}


def test_normalising_equals_scaling_then_log_of_one_plus(slides):
    counts_SG = slides["A"].toarray().astype(np.float64)
    expected_SG = np.log1p(counts_SG / counts_SG.sum(axis=1, keepdims=True) * 1e4)
    normalised = normalise(slides["A"])
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.toarray(), expected_SG, rtol=1e-5)


def test_library_size_can_be_chosen(slides):
    scaled_SG = np.expm1(normalise(slides["A"], target_sum=100.0).toarray())
    np.testing.assert_allclose(scaled_SG.sum(axis=1), 100.0, rtol=1e-4)


def test_spot_without_counts_stays_zero_and_leaves_its_neighbours_alone():
    counts = csr_matrix(np.array([[0, 0], [1, 3], [0, 0], [5, 0]], dtype=np.uint32))
    normalised_SG = normalise(counts, target_sum=4.0).toarray()
    expected_SG = np.log1p([[0, 0], [1, 3], [0, 0], [4, 0]])
    np.testing.assert_allclose(normalised_SG, expected_SG, rtol=1e-6)


def test_slide_without_any_count_normalises_to_zero():
    assert normalise(csr_matrix((3, 2), dtype=np.uint32)).nnz == 0


def test_stored_zeros_do_not_shift_the_entries():
    counts = csr_matrix(([0, 2, 0, 6], ([0, 1, 2, 2], [0, 1, 0, 1])), shape=(3, 2))
    normalised_SG = normalise(counts, target_sum=1.0).toarray()
    np.testing.assert_allclose(normalised_SG, np.log1p([[0, 0], [0, 1], [0, 1]]), rtol=1e-6)


def test_normalising_leaves_the_counts_as_they_were(slides):
    before_SG = slides["A"].toarray()
    normalise(slides["A"])
    np.testing.assert_array_equal(slides["A"].toarray(), before_SG)


def test_log_depth_is_the_log_of_all_counts_of_a_spot():
    counts = csr_matrix(np.array([[0, 0], [1, 3]], dtype=np.uint8))
    np.testing.assert_allclose(log_depth(counts), np.log([1, 5]))


def test_depth_of_small_integers_does_not_wrap_around():
    counts = csr_matrix(np.full((1, 3), 200, dtype=np.uint8))
    np.testing.assert_allclose(log_depth(counts), np.log([601]))


@pytest.mark.parametrize("text", ["hvg:50", "heg:1", "all"])
def test_rule_reads_back_as_it_was_written(text):
    assert str(PanelRule.parse(text)) == text


def test_path_of_a_list_is_a_rule_with_and_without_its_prefix(tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("A\n")
    assert PanelRule.parse(f"file:{path}") == PanelRule.parse(str(path))
    assert PanelRule.parse(str(path)).path == path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("hvg:x", "'x' is not a number of genes", id="a letter"),
        pytest.param("hvg:", "'' is not a number of genes", id="nothing"),
        pytest.param("hvg", "'' is not a number of genes", id="no colon"),
        pytest.param("heg:0", "'0' is not a number of genes", id="zero"),
        pytest.param("hvg:-5", "'-5' is not a number of genes", id="negative"),
        pytest.param("hvg:5.5", "'5.5' is not a number of genes", id="fraction"),
        pytest.param("foo:5", "not a rule and no such file", id="unknown rule"),
        pytest.param("", "not a rule and no such file", id="empty"),
        pytest.param("file:nowhere.txt", "no file nowhere.txt", id="missing file"),
    ],
)
def test_rule_that_cannot_be_read_names_the_ones_that_can(text, problem):
    with pytest.raises(MismatchError) as caught:
        PanelRule.parse(text)
    assert problem in str(caught.value)
    assert "hvg:N, heg:N, all" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_most_variable_genes_are_those_of_scanpy(slides, genes):
    panel = choose_panel(slides, genes, rule="hvg:15")
    counts_SG = np.vstack([slides["A"].toarray(), slides["B"].toarray()])[:, :-20]
    table = ad.AnnData(np.log1p(counts_SG.astype(np.float32)))
    by_scanpy = sc.pp.highly_variable_genes(table, n_top_genes=15, inplace=False)
    by_scanpy.index = genes[:-20]
    # scanpy returns every gene tied for the last place; a panel has as many as were asked for
    lowest = by_scanpy.loc[list(panel.genes), "dispersions_norm"].min()
    assert len(panel.genes) == 15
    assert set(panel.genes) <= set(by_scanpy.index[by_scanpy["highly_variable"]])
    assert set(panel.genes) >= set(by_scanpy.index[by_scanpy["dispersions_norm"] > lowest])


def test_gene_hardly_seen_on_one_slide_is_never_chosen(slides, genes):
    counts_SG = slides["A"].toarray()
    column = genes.index(choose_panel(slides, genes, rule="heg:1").genes[0])
    counts_SG[:, column] = np.arange(60) < 6
    seen_in_a_tenth = slides | {"A": csr_matrix(counts_SG)}
    assert genes[column] in choose_panel(seen_in_a_tenth, genes, rule="hvg:100").genes
    counts_SG[0, column] = 0
    seen_in_less = slides | {"A": csr_matrix(counts_SG)}
    assert genes[column] not in choose_panel(seen_in_less, genes, rule="hvg:99").genes


def test_highest_expressed_genes_have_the_highest_mean_over_all_spots(slides, genes):
    panel = choose_panel(slides, genes, rule="heg:10")
    mean_G = np.vstack([slides["A"].toarray(), slides["B"].toarray()]).mean(axis=0)
    assert set(panel.genes) == {genes[column] for column in np.argsort(-mean_G)[:10]}


@pytest.mark.parametrize("rule", ["hvg:15", "heg:10", "all"])
def test_panel_does_not_depend_on_the_order_of_slides_or_genes(slides, genes, rule):
    panel = choose_panel(slides, genes, rule=rule)
    turned = {name: slides[name][:, ::-1].tocsr() for name in ("B", "A")}
    assert choose_panel(turned, genes[::-1], rule=rule) == panel
    assert list(panel.genes) == sorted(panel.genes)


def test_ties_are_broken_by_name():
    counts = csr_matrix(np.tile(np.arange(5, dtype=np.uint8)[:, None], (1, 3)))
    assert choose_panel({"A": counts}, ["C", "A", "B"], rule="heg:2").genes == ("A", "B")


def test_constant_gene_is_the_last_choice_as_a_variable_one():
    counts_SG = np.random.default_rng(0).poisson(5.0, size=(30, 4))
    counts_SG[:, 1] = 7
    panel = choose_panel({"A": csr_matrix(counts_SG)}, ["A", "B", "C", "D"], rule="hvg:3")
    assert panel.genes == ("A", "C", "D")


def test_all_keeps_genes_that_were_never_seen(slides, genes):
    assert choose_panel(slides, genes, rule="all").genes == tuple(genes)


def test_asking_for_more_genes_than_are_seen_tells_how_many_there_are(slides, genes):
    with pytest.raises(MismatchError, match="asks for 101 genes, but 100 of 120"):
        choose_panel(slides, genes, rule="hvg:101")


def test_list_is_kept_in_its_own_order(slides, genes, tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("G007\n\n  G001  \r\nG119\n", encoding="utf-8")
    panel = choose_panel(slides, genes, rule=str(path))
    assert panel.genes == ("G007", "G001", "G119")
    assert panel.columns(genes).tolist() == [7, 1, 119]


def test_list_with_unknown_genes_names_some(slides, genes, tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("G007\n" + "\n".join(f"X{number}" for number in range(9)))
    with pytest.raises(MismatchError, match=r"9 of 10 genes .*X0, X1, X2, X3, X4, …") as caught:
        choose_panel(slides, genes, rule=f"file:{path}")
    assert "X5" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("A\nB\nA\n", "A listed twice", id="twice"),
        pytest.param(" \n", "no gene in it", id="empty"),
    ],
)
def test_list_that_is_no_panel_is_refused(slides, genes, tmp_path, text, problem):
    path = tmp_path / "panel.txt"
    path.write_text(text)
    with pytest.raises(MismatchError, match=problem):
        choose_panel(slides, genes, rule=str(path))


def test_slide_with_other_genes_is_named(slides, genes):
    with pytest.raises(MismatchError, match=r"slide 'C' .*\(4, 7\)"):
        choose_panel(slides | {"C": csr_matrix((4, 7), dtype=np.uint8)}, genes, rule="all")


def test_panel_without_slides_is_refused(genes):
    with pytest.raises(MismatchError, match="expected at least one"):
        choose_panel({}, genes, rule="all")


def test_digest_changes_with_the_order_and_not_with_the_rule():
    panel = GenePanel(genes=("A", "B"), rule="all")
    assert panel.digest == hashlib.sha256(b"A\nB").hexdigest()[:12]
    assert GenePanel(genes=("A", "B"), rule="heg:2").digest == panel.digest
    assert GenePanel(genes=("B", "A"), rule="all").digest != panel.digest
