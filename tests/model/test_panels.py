import hashlib

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel, choose_panel
from tests.model.conftest import N_COUNTED, draw_counts


@pytest.fixture(scope="module")
def genes():
    return [f"G{number:03d}" for number in range(N_COUNTED)]


@pytest.fixture(scope="module")
def slides():
    return draw_counts()


def test_most_variable_genes_are_those_of_scanpy(slides, genes):
    panel = choose_panel(slides, genes, rule=PanelRule.parse("hvg:15"))
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
    column = genes.index(choose_panel(slides, genes, rule=PanelRule.parse("heg:1")).genes[0])
    counts_SG[:, column] = np.arange(60) < 6
    seen_in_a_tenth = slides | {"A": csr_matrix(counts_SG)}
    assert (
        genes[column] in choose_panel(seen_in_a_tenth, genes, rule=PanelRule.parse("hvg:100")).genes
    )
    counts_SG[0, column] = 0
    seen_in_less = slides | {"A": csr_matrix(counts_SG)}
    assert (
        genes[column] not in choose_panel(seen_in_less, genes, rule=PanelRule.parse("hvg:99")).genes
    )


def test_highest_expressed_genes_have_the_highest_mean_over_all_spots(slides, genes):
    panel = choose_panel(slides, genes, rule=PanelRule.parse("heg:10"))
    mean_G = np.vstack([slides["A"].toarray(), slides["B"].toarray()]).mean(axis=0)
    assert set(panel.genes) == {genes[column] for column in np.argsort(-mean_G)[:10]}


@pytest.mark.parametrize("rule", ["hvg:15", "heg:10", "all"])
def test_panel_does_not_depend_on_the_order_of_slides_or_genes(slides, genes, rule):
    panel = choose_panel(slides, genes, rule=PanelRule.parse(rule))
    turned = {name: slides[name][:, ::-1].tocsr() for name in ("B", "A")}
    assert choose_panel(turned, genes[::-1], rule=PanelRule.parse(rule)) == panel
    assert list(panel.genes) == sorted(panel.genes)


def test_ties_are_broken_by_name():
    counts = csr_matrix(np.tile(np.arange(5, dtype=np.uint8)[:, None], (1, 3)))
    assert choose_panel({"A": counts}, ["C", "A", "B"], rule=PanelRule.parse("heg:2")).genes == (
        "A",
        "B",
    )


def test_constant_gene_is_the_last_choice_as_a_variable_one():
    counts_SG = np.random.default_rng(0).poisson(5.0, size=(30, 4))
    counts_SG[:, 1] = 7
    panel = choose_panel(
        {"A": csr_matrix(counts_SG)}, ["A", "B", "C", "D"], rule=PanelRule.parse("hvg:3")
    )
    assert panel.genes == ("A", "C", "D")


def test_all_keeps_genes_that_were_never_seen(slides, genes):
    assert choose_panel(slides, genes, rule=PanelRule.parse("all")).genes == tuple(genes)


def test_asking_for_more_genes_than_are_seen_tells_how_many_there_are(slides, genes):
    with pytest.raises(MismatchError, match="asks for 101 genes, but 100 of 120"):
        choose_panel(slides, genes, rule=PanelRule.parse("hvg:101"))


def test_list_is_kept_in_its_own_order(slides, genes, tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("G007\n\n  G001  \r\nG119\n", encoding="utf-8")
    panel = choose_panel(slides, genes, rule=PanelRule.parse(str(path)))
    assert panel.genes == ("G007", "G001", "G119")
    assert panel.columns(genes).tolist() == [7, 1, 119]


def test_list_with_unknown_genes_names_some(slides, genes, tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("G007\n" + "\n".join(f"X{number}" for number in range(9)))
    with pytest.raises(MismatchError, match=r"9 of 10 genes .*X0, X1, X2, X3, X4, …") as caught:
        choose_panel(slides, genes, rule=PanelRule.parse(f"file:{path}"))
    assert "X5" not in str(caught.value)


def test_slide_with_other_genes_is_named(slides, genes):
    with pytest.raises(MismatchError, match=r"slide 'C' .*\(4, 7\)"):
        choose_panel(
            slides | {"C": csr_matrix((4, 7), dtype=np.uint8)}, genes, rule=PanelRule.parse("all")
        )


def test_panel_without_slides_is_refused(genes):
    with pytest.raises(MismatchError, match="expected at least one"):
        choose_panel({}, genes, rule=PanelRule.parse("all"))


def test_digest_changes_with_the_order_and_not_with_the_rule():
    panel = GenePanel(genes=("A", "B"), rule=PanelRule.parse("all"))
    assert panel.digest == hashlib.sha256(b"A\nB").hexdigest()[:12]
    assert GenePanel(genes=("A", "B"), rule=PanelRule.parse("heg:2")).digest == panel.digest
    assert GenePanel(genes=("B", "A"), rule=PanelRule.parse("all")).digest != panel.digest
