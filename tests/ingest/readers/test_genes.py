import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.genes import resolve_duplicates, strip_versions


def genes_of(ids, symbols=None):
    return pd.DataFrame({"symbol": symbols or ids}, index=pd.Index(ids, dtype=object))


COUNTS = csr_matrix(np.array([[1, 2, 3, 0], [0, 5, 0, 7]], np.uint32))


def test_unique_genes_are_left_as_they_are():
    genes = genes_of(["A", "B", "C", "D"])
    resolved = resolve_duplicates(COUNTS, genes)
    assert resolved.counts is COUNTS
    assert resolved.genes is genes
    assert resolved.findings == []


@pytest.mark.parametrize(
    ("rule", "ids", "first_row"),
    [
        ("sum", ["A", "B", "C"], [4, 2, 0]),
        ("first", ["A", "B", "C"], [1, 2, 0]),
        ("suffix", ["A", "B", "A-1", "C"], [1, 2, 3, 0]),
    ],
)
def test_each_rule_does_what_it_says(rule, ids, first_row):
    genes = genes_of(["A", "B", "A", "C"], ["a", "b", "a2", "c"])
    counts, named, findings = resolve_duplicates(COUNTS, genes, rule=rule)
    assert list(named.index) == ids
    assert counts.toarray()[0].tolist() == first_row
    assert counts.dtype == np.uint32
    assert named.loc["A", "symbol"] == "a"
    assert findings[0].kind == "warning"
    assert findings[0].text.startswith("genes with several columns, ")


def test_suffix_passes_over_names_that_are_taken():
    counts = csr_matrix(np.ones((1, 5), np.uint32))
    resolved = resolve_duplicates(counts, genes_of(["A", "A-1", "A", "A", "A-1"]), rule="suffix")
    assert list(resolved.genes.index) == ["A", "A-1", "A-2", "A-3", "A-1-1"]


def test_sum_that_does_not_fit_is_refused():
    counts = csr_matrix(np.full((1, 2), 2**31, np.uint32))
    with pytest.raises(SlideFormatError, match=r"\(A\) sum up to 4294967296.*--duplicate-genes"):
        resolve_duplicates(counts, genes_of(["A", "A"]))


def test_versions_are_cut_off_ids_and_of_symbols_that_repeat_them():
    ids = ["ENSG00000141510.12", "ENSMUSG00000059552.14", "ENSG00000182378.15_PAR_Y", "TP53.1"]
    genes, findings = strip_versions(genes_of(ids, [ids[0], "Trp53", "PLCXD1", "TP53.1"]))
    stable = ["ENSG00000141510", "ENSMUSG00000059552", "ENSG00000182378_PAR_Y", "TP53.1"]
    assert list(genes.index) == stable
    assert list(genes["symbol"]) == [stable[0], "Trp53", "PLCXD1", "TP53.1"]
    assert "version suffixes cut off 3 Ensembl ids" in findings[0].text


def test_ids_without_versions_are_left_as_they_are():
    genes = genes_of(["ENSG00000141510", "FN1"])
    assert strip_versions(genes) == (genes, [])


@given(
    ids=st.lists(st.sampled_from(["A", "B", "A-1", "A-2", "C"]), min_size=1, max_size=12),
    rule=st.sampled_from(["sum", "first", "suffix"]),
    seed=st.integers(0, 1000),
)
def test_ids_become_unique_and_sums_and_suffixes_lose_nothing(ids, rule, seed):
    counts = csr_matrix(np.random.default_rng(seed).integers(0, 9, (3, len(ids))).astype(np.uint32))
    resolved = resolve_duplicates(counts, genes_of(ids), rule=rule)
    assert resolved.genes.index.is_unique
    assert resolved.counts.shape == (3, len(resolved.genes))
    assert set(ids) <= set(resolved.genes.index)
    if rule != "first":
        assert np.array_equal(resolved.counts.sum(axis=1), counts.sum(axis=1))
