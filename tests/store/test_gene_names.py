import gzip
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError
from spahgc.store.cohort import open_cohort
from spahgc.store.gene_names import BY_ID, GeneNames, named_genes, note_mixed
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

IDS = [f"ENSG{n:011d}" for n in range(4)]
BY_SYMBOL = GeneNames(by="symbol")


class Slide:
    """Stands for a stored one."""

    def __init__(self, genes, counts=None):
        self.genes = pd.DataFrame({"symbol": list(genes.values())}, index=list(genes))
        self.counts = np.zeros((2, len(genes)), np.uint32) if counts is None else counts

    def read_counts(self):
        return csr_matrix(self.counts)


def test_counts_of_one_symbol_are_summed_in_the_order_they_come():
    counts = np.array([[2**32 - 1, 2, 2**32 - 1, 4], [0, 0, 7, 0]], np.uint32)
    slide = Slide(dict(zip(IDS, ["B", "A", "B", "C"], strict=True)), counts)
    summed, names = BY_SYMBOL.read(slide)
    assert list(names) == ["B", "A", "C"]
    assert summed.toarray().tolist() == [[2**33 - 2, 2, 4], [7, 0, 0]]
    same, ids = BY_ID.read(slide)
    assert list(ids) == IDS
    assert same.dtype == np.uint32


@given(st.lists(st.sampled_from(["A", "B", "C", "", "D"]), min_size=1, max_size=9), st.randoms())
def test_no_count_of_any_spot_is_lost_or_made_by_symbols(symbols, random):
    counts = np.array([[random.randrange(9) for _ in symbols] for _ in range(3)], np.uint32)
    ids = [f"ENSG{n:011d}" for n in range(len(symbols))]
    summed, names = BY_SYMBOL.read(Slide(dict(zip(ids, symbols, strict=True)), counts))
    assert summed.sum(axis=1).A1.tolist() == counts.sum(axis=1).tolist()
    assert names.is_unique
    named = [symbol or gene for gene, symbol in zip(ids, symbols, strict=True)]
    for name, column in zip(names, summed.toarray().T, strict=True):
        of_name = [place for place, other in enumerate(named) if other == name]
        assert (column == counts[:, of_name].sum(axis=1)).all()


def test_a_gene_without_symbol_keeps_its_id():
    slide = Slide({IDS[0]: "A", IDS[1]: "", IDS[2]: None, IDS[3]: float("nan")})
    assert list(BY_SYMBOL.of(slide)) == ["A", *IDS[1:]]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "zipped"])
@pytest.mark.parametrize("tab", ["\t", ","])
def test_a_file_of_ids_and_symbols_goes_before_the_slides_own(tmp_path, pack, tab):
    rows = ["gene_id,symbol", f"{IDS[0]}.12,NA,Gene Expression", "", f'"{IDS[1]}","B"']
    path = tmp_path / "features.tsv"
    path.write_bytes(pack(("\ufeff" + "\r\n".join(rows)).replace(",", tab).encode()))
    names = GeneNames.parse(str(path))
    assert list(names.of(Slide({IDS[0]: "old", IDS[1]: IDS[1], IDS[2]: "C"}))) == ["NA", "B", "C"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no line in it"),
        (b"ENSG1\n", "line 1: 'ENSG1', expected a gene id and a symbol"),
        (b"ENSG1\tA\nENSG2\t\n", "line 2: "),
        (b"ENSG1,A\nENSG1,B\n", "line 2: ENSG1 is B, and A in an earlier line"),
        (b"\x89PNG\xff", "cannot be read as text"),
        (gzip.compress(b"ENSG1\tA\n")[:-9], "cannot be read as text"),
        (gzip.compress(bytes(65 << 20)), "more than 64 MiB"),
    ],
    ids=["empty", "one column", "no symbol", "two symbols", "binary", "cut", "bomb"],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, content, found):
    path = tmp_path / "genes.csv"
    path.write_bytes(content)
    with pytest.raises(MismatchError, match=found) as refused:
        GeneNames.parse(str(path))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("text", ["", "ids", "nowhere.tsv"])
def test_what_is_neither_rule_nor_file_is_refused(text):
    with pytest.raises(MismatchError, match="expected id, symbol, or a file with two columns"):
        GeneNames.parse(text)


def test_slides_of_two_species_are_not_told_to_meet_by_symbol():
    human = Slide({gene: gene for gene in ("ERBB2", "TP53", "ACTB")})
    mouse = Slide({f"ENSMUSG{n:011d}": s for n, s in enumerate(("Erbb2", "Trp53", "Actb"))})
    with pytest.raises(MismatchError, match="by symbol they share 0, too: are they of one species"):
        BY_ID.share({"H1": human, "M1": mouse})
    with pytest.raises(MismatchError, match=r"H1, M1 share no gene symbol: .*--gene-ids FILE"):
        BY_SYMBOL.share({"H1": human, "M1": mouse})


def test_a_name_that_both_happen_to_have_does_not_let_them_meet():
    symbols = Slide({**{f"G{n}": f"G{n}" for n in range(30)}, IDS[0]: IDS[0]})
    ids = Slide({f"ENSG{n:011d}": f"G{n}" for n in range(30)})
    with pytest.raises(MismatchError, match="they share 1 gene; by symbol they share 30: give"):
        BY_ID.share({"A": symbols, "B": ids})
    assert BY_ID.share({"A": symbols, "C": Slide({IDS[0]: "x", "G1": "y"})}) == ["G1", IDS[0]]


def test_a_symbol_of_several_genes_is_refused_in_a_list():
    slide = Slide(dict(zip(IDS, ["A", "A", "B", "C"], strict=True)))
    with pytest.raises(MismatchError, match=f"gene A of the list stands for {IDS[0]} and {IDS[1]}"):
        BY_ID.find(["A"], {"S": slide})
    assert BY_SYMBOL.find([IDS[1], "B"], {"S": slide}) == ("A", "B")
    with pytest.raises(MismatchError, match=f"B and {IDS[2]} of the list are one gene, B"):
        BY_SYMBOL.find(["B", IDS[2]], {"S": slide})
    assert BY_ID.find(["nobody's"], {"S": slide}) == ("nobody's",)


def test_of_a_symbol_of_several_genes_the_one_that_all_slides_have_is_meant():
    one = Slide(dict(zip(IDS, ["A", "A", "B", "C"], strict=True)))
    other = Slide(dict(zip(IDS[1:], ["A", "B", "C"], strict=True)))
    assert BY_ID.find(["A", "C"], {"S": one, "T": other}) == (IDS[1], IDS[3])


def test_what_names_genes_is_told_by_most_of_them():
    assert named_genes(pd.Index([])) is None
    assert named_genes(pd.Index(["lnc1", *IDS])) == (True, IDS[0])
    assert named_genes(pd.Index([IDS[0], "ERBB2", "TP53"])) == (False, "ERBB2")
    ids, symbols = named_genes(pd.Index(IDS)), named_genes(pd.Index(["ERBB2"]))
    assert note_mixed({"A": ids, "B": ids}) is None
    assert "slide B names genes by Ensembl ids" in note_mixed({"A": symbols, "B": ids})
    assert note_mixed({"A": symbols, "B": ids, "C": ids}, of="C").startswith("slide C names")


def test_the_ids_of_genes_are_read_without_the_rest(tmp_path):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, replace(build_slide("A1"), name="A1"))
    slide = open_cohort(store.path)["A1"]
    assert list(slide.gene_ids) == list(slide.genes.index) == ["G0", "G1", "G2"]
