"""Slides of symbols and slides of Ensembl ids are trained on, predicted and audited together."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.sparse import csr_matrix, hstack

from spahgc.cli import cli
from spahgc.errors import MismatchError
from spahgc.index import ReferenceIndex
from spahgc.model.audit import audit_run
from spahgc.model.panel_rules import PanelRule
from spahgc.model.prediction import open_predictor, predict_stored
from spahgc.model.runs import train_fold
from spahgc.store.cohort import open_cohort
from spahgc.store.gene_names import GeneNames
from spahgc.store.opening import create_store
from spahgc.store.run_folders import unfinished_folder
from spahgc.store.runs import read_run, write_run
from tests.model.conftest import (
    EMBEDDING,
    N_GENES,
    RUN_CONFIG,
    SPOTS,
    draw_tissue,
    fold_of,
    put_slide,
    weights_of,
)

IDS = [f"ENSG{n:011d}" for n in range(N_GENES)]
AGAIN = "ENSG00000099999"
BY_SYMBOL = GeneNames(by="symbol")


def as_visium(slide, *, with_symbols=True):
    """Name genes by Ensembl ids, and part the counts of the fourth gene among two ids."""
    counts_SG = slide.counts.toarray()
    part_S = np.random.default_rng(0).binomial(counts_SG[:, 3], 0.4).astype(np.uint32)
    counts_SG[:, 3] -= part_S
    ids = pd.Index([*IDS, AGAIN])
    symbols = [*slide.genes.index, slide.genes.index[3]] if with_symbols else list(ids)
    return replace(
        slide,
        platform="visium",
        counts=csr_matrix(hstack([csr_matrix(counts_SG), csr_matrix(part_S[:, None])])),
        genes=pd.DataFrame({"symbol": symbols}, index=ids),
    )


def mix_store(path, **how):
    """Make a store of which patient A's slides have symbols, and B's ids."""
    store = create_store(path)
    for name in SPOTS:
        slide, embedding_SD = draw_tissue(name)
        put_slide(store, as_visium(slide, **how) if name[0] == "B" else slide, embedding_SD)
    ReferenceIndex.build(open_cohort(path), embedding=EMBEDDING)
    return open_cohort(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return mix_store(tmp_path_factory.mktemp("mixed") / "data.zarr")


@pytest.fixture(scope="module")
def with_ids_alone(tmp_path_factory):
    return mix_store(tmp_path_factory.mktemp("ids") / "data.zarr", with_symbols=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file that gives the symbols of ids."""
    path = tmp_path_factory.mktemp("table") / "symbols.tsv"
    rows = [*zip(IDS, (f"G{n}" for n in range(N_GENES)), strict=True), (f"{AGAIN}.7", "G3")]
    path.write_text("gene_id\tsymbol\n" + "".join(f"{gene}\t{symbol}\n" for gene, symbol in rows))
    return path


def train(cohort, folder, *, gene_names, **how):
    """Train, write the run and read it back."""
    config = replace(RUN_CONFIG, gene_names=gene_names, **how)
    finished = train_fold(cohort, fold_of(cohort), config=config)
    with unfinished_folder(folder, plan={}) as unfinished:
        write_run(finished.run, unfinished)
    return read_run(folder)


def verdicts(run, cohort):
    return [(finding.check, finding.verdict) for finding in audit_run(run, cohort)]


@pytest.fixture(scope="module", params=["own symbols", "symbols from a file"])
def case(request, mixed, with_ids_alone, table, tmp_path_factory):
    """A store, and a run trained on it by symbols."""
    is_own = request.param == "own symbols"
    cohort = mixed if is_own else with_ids_alone
    names = BY_SYMBOL if is_own else GeneNames.parse(str(table))
    return cohort, train(cohort, tmp_path_factory.mktemp("runs") / "run", gene_names=names)


def test_a_run_by_symbols_is_the_one_that_slides_of_symbols_alone_give(case, finished):
    _, run = case
    assert run.record.gene_names == "symbol"
    assert run.record.panel == finished.run.record.panel
    expected = weights_of(finished.run).sort_index()
    assert weights_of(run).sort_index().equals(expected)
    pd.testing.assert_frame_equal(run.scores, finished.run.scores)


def test_prediction_and_audit_name_genes_as_the_run_says(case, finished, grown):
    cohort, run = case
    predicted = predict_stored(open_predictor(run, cohort), cohort, "B2")
    expected = predict_stored(open_predictor(finished.run, grown), grown, "B2")
    assert list(predicted.var_names) == list(expected.var_names)
    assert np.array_equal(predicted.X, expected.X)
    assert predicted.uns["spahgc"]["genes_named_by"] == "symbol"
    assert verdicts(run, cohort) == verdicts(finished.run, grown)


def test_an_audit_that_names_genes_otherwise_finds_another_panel(case):
    cohort, run = case
    forged = replace(run, record=replace(run.record, gene_names="id", gene_symbols={}))
    with pytest.raises(MismatchError, match="Ensembl ids"):
        audit_run(forged, cohort)


def test_a_run_by_symbols_borrows_from_slides_of_other_stores_by_symbols(case, mixed, grown):
    cohort, run = case
    here = open_predictor(run, cohort, references=[grown])
    assert list(here.teaching.train) == list(SPOTS)
    visium = open_predictor(run, cohort, references=[mixed])
    same = predict_stored(here, cohort, "A1").X
    assert np.array_equal(predict_stored(visium, cohort, "A1").X, same)


def test_references_of_other_names_are_refused_with_the_reason(finished, with_ids_alone, tmp_path):
    store = create_store(tmp_path / "ids.zarr")
    put_slide(store, as_visium(*draw_tissue("B1")[:1]), draw_tissue("B1")[1])
    with pytest.raises(MismatchError, match=r"B1 has none of the run's genes, .* named by id"):
        open_predictor(finished.run, with_ids_alone, references=[open_cohort(store.path)])


@pytest.mark.parametrize("test", ["A1", "B2"])
def test_by_id_mixed_slides_are_refused_with_what_to_give(mixed, with_ids_alone, test):
    found = r"B1, B2 \(as ENSG00000000000\) have Ensembl ids and A1, A2 \(as G0\) have symbols"
    with pytest.raises(MismatchError, match=f"{found}.* share {N_GENES}: give `--gene-ids symbol`"):
        train_fold(mixed, fold_of(mixed, test=test), config=RUN_CONFIG)
    with pytest.raises(MismatchError, match=f"{found}.*give `--gene-ids FILE` with two columns"):
        train_fold(with_ids_alone, fold_of(mixed, test=test), config=RUN_CONFIG)


def test_a_test_slide_of_other_names_is_refused_before_training(mixed, tmp_path):
    store = create_store(tmp_path / "data.zarr")
    for name in SPOTS:
        slide, embedding_SD = draw_tissue(name)
        put_slide(store, as_visium(slide) if name == "B2" else slide, embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    cohort = open_cohort(store.path)
    with pytest.raises(MismatchError, match=r"B2 \(as ENSG00000000000\) has Ensembl ids"):
        train_fold(cohort, fold_of(cohort), config=RUN_CONFIG)


@pytest.mark.parametrize("by", ["id", "symbol"])
def test_a_list_names_genes_by_ids_or_symbols(tmp_path, mixed, by):
    path = tmp_path / "genes.txt"
    path.write_text(f"G5\n{IDS[2]}.4\n{IDS[8]}\nG1\n")
    store = create_store(tmp_path / "data.zarr")
    for name in SPOTS:
        slide, embedding_SD = draw_tissue(name)
        put_slide(store, as_visium(slide), embedding_SD)
    ReferenceIndex.build(open_cohort(store.path), embedding=EMBEDDING)
    cohort = open_cohort(store.path)
    rule = PanelRule.parse(str(path))
    run = train(cohort, tmp_path / "run", gene_names=GeneNames(by=by), panel_rule=rule)
    named = {"symbol": ("G5", "G2", "G8", "G1"), "id": (IDS[5], IDS[2], IDS[8], IDS[1])}
    assert run.record.panel == named[by]
    assert run.record.panel_rule == "file:genes.txt"
    assert ("panel", "caveat") in verdicts(run, cohort)
    assert not [check for check, verdict in verdicts(run, cohort) if verdict == "leak"]


def test_the_commands_lead_through_a_mixed_store(mixed, tmp_path, monkeypatch):
    shutil.copytree(mixed.store.path, tmp_path / "data.zarr")
    monkeypatch.chdir(tmp_path)

    def spahgc(*arguments):
        return CliRunner().invoke(cli, [*arguments], prog_name="spahgc")

    how = ("--embedding", EMBEDDING, "--genes", "heg:6", "--test", "B2")
    refused = spahgc("train", *how, "--out", "run")
    assert refused.exit_code == 1
    assert "give `--gene-ids symbol`" in refused.stderr
    assert spahgc("train", *how, "--out", "run", "--gene-ids", "symbol").exit_code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["gene_names"] == "symbol"
    assert spahgc("predict", "--run", "run", "--slide", "B2", "--out", "b2.h5ad").exit_code == 0
    assert spahgc("audit", "run").exit_code == 0
    (tmp_path / "genes.txt").write_text(f"G1\n{AGAIN}\nG7\n")  # symbols, and an id of G3
    for place, panel in {"all": "heg:6", "listed": "genes.txt"}.items():
        judged = spahgc(
            *("evaluate", *how[:2], "--no-paper", "--gene-ids", "symbol", "--genes", panel),
            *("--split", "leave-one-slide-out", "--out", place),
        )
        assert judged.exit_code == 0, judged.output
    listed = json.loads(next((tmp_path / "listed").rglob("run.json")).read_text())
    assert listed["panel"] == ["G1", "G3", "G7"]
    info = spahgc("store", "info", "--json")
    (note,) = json.loads(info.stdout)["notes"]
    assert "slide B1 names genes by Ensembl ids (ENSG00000000000), slide A1 by symbols" in note
    assert "give `--gene-ids symbol` to train and evaluate" in " ".join(
        spahgc("store", "info").stdout.split()
    )
    strange = spahgc("train", *how, "--gene-ids", "none.tsv")
    assert "expected id, symbol, or a file with two columns" in strange.stderr


def test_a_store_of_one_kind_has_no_note(grown):
    info = CliRunner().invoke(cli, ["store", "info", str(grown.store.path), "--json"])
    assert json.loads(info.stdout)["notes"] == []


def test_real_slides_of_symbols_and_of_ids_meet_by_symbol(real_slides, tmp_path):
    where = ["--store", str(tmp_path / "data.zarr"), "--no-embed"]
    mouse = [["st", str(real_slides / "st_mob")], ["visium", str(real_slides / "visium/colon_d0")]]
    for what in mouse:
        done = CliRunner().invoke(cli, ["ingest", *what, *where])
        assert done.exit_code == 0, done.output
    assert "names genes by Ensembl ids" in done.output
    cohort = open_cohort(tmp_path / "data.zarr")
    with pytest.raises(MismatchError, match=r"by symbol they share \d+: give `--gene-ids symbol`"):
        cohort.shared_genes(cohort.slides)
    assert len(cohort.shared_genes(cohort.slides, BY_SYMBOL)) > 1000
    for slide in cohort.slides.values():
        counts, names = BY_SYMBOL.read(slide)
        assert names.is_unique
        assert counts.sum() == slide.read_counts().sum()
