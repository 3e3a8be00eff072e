from dataclasses import replace

import numpy as np
import pytest
import torch

from spahgc.errors import MismatchError
from spahgc.index import ReferenceIndex
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.panel_rules import PanelRule
from spahgc.model.teaching import gather_teaching
from spahgc.schema import REFERENCE, TARGET
from spahgc.store.splits import Fold
from tests.model.conftest import (
    EMBEDDING,
    PATIENTS,
    copy_store,
    draw_tissue,
    fold_of,
    with_counts,
    without_gene,
)


def gather(cohort, fold, panel_rule="hvg:5"):
    return gather_teaching(
        cohort,
        ReferenceIndex.open(cohort, embedding=EMBEDDING),
        fold,
        panel_rule=PanelRule.parse(panel_rule),
        graph_config=GraphConfig(),
        features=FeatureConfig(embeddings=(EMBEDDING,)),
    )


def by_patient(train=("A1", "A2", "B1"), validation=(), test=("B2",)):
    return Fold(name="-", train=train, validation=validation, test=test, groups=PATIENTS)


def slides_seen(teaching, graph):
    """Tell by their embeddings which slides a graph's references lie on."""
    reference_RD = graph[REFERENCE].x.numpy()
    return {
        name
        for name, spots in teaching.spots.items()
        if (reference_RD[:, None] == spots.embedding_SD).all(axis=2).any()
    }


def assert_same(first, second):
    assert first.metadata() == second.metadata()
    for one, other in zip(first.stores, second.stores, strict=True):
        assert list(one.keys()) == list(other.keys())
        for key, value in one.items():
            is_tensor = isinstance(value, torch.Tensor)
            assert value.equal(other[key]) if is_tensor else value == other[key], key


@pytest.mark.parametrize("rule", ["hvg:5", "heg:5"])
def test_a_test_slides_counts_change_neither_panel_nor_graphs(tmp_path, grown, rule):
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    other = copy_store(grown, tmp_path / "data.zarr", slide)
    before, after = (gather(cohort, fold_of(cohort), rule) for cohort in (grown, other))
    assert after.panel == before.panel
    for name in before.train:
        assert_same(before.graph(before.spots[name]), after.graph(after.spots[name]))
    first, second = (teaching.graph(teaching.read("B2")) for teaching in (before, after))
    assert not first[TARGET].y.equal(second[TARGET].y)  # the truth has changed, and nothing else
    for graph in (first, second):
        del graph[TARGET].y
    assert_same(first, second)


def test_a_training_slides_counts_change_the_panel(tmp_path, grown):
    slide = with_counts(draw_tissue("B1")[0], seed=1)
    other = copy_store(grown, tmp_path / "data.zarr", slide)
    assert gather(grown, fold_of(grown)).panel != gather(other, fold_of(other)).panel


def test_no_test_or_validation_slide_is_a_reference(grown):
    teaching = gather(grown, fold_of(grown))
    assert list(teaching.spots) == ["A2", "B1"]
    assert slides_seen(teaching, teaching.graph(teaching.read("B2"))) == {"A2", "B1"}
    assert slides_seen(teaching, teaching.graph(teaching.spots["A2"])) == {"B1"}


def test_a_slide_never_borrows_from_its_own_group(grown):
    teaching = gather(grown, by_patient())
    assert slides_seen(teaching, teaching.graph(teaching.spots["A1"])) == {"B1"}
    assert slides_seen(teaching, teaching.graph(teaching.spots["B1"])) == {"A1", "A2"}
    assert slides_seen(teaching, teaching.graph(teaching.read("B2"))) == {"A1", "A2"}


def test_what_training_slides_find_together_each_finds_alone(grown):
    teaching = gather(grown, by_patient())
    k = teaching.graph_config.n_refer
    for name, spots in teaching.spots.items():
        together = teaching.search(spots, k=k)
        alone = teaching.search(replace(spots), k=k)  # read elsewhere, so it is searched for
        assert together.slides == alone.slides == tuple(teaching.among(spots))
        assert np.array_equal(together.spot_SK, alone.spot_SK), name
        assert np.array_equal(together.distance_SK, alone.distance_SK)


def test_a_new_image_with_a_training_slides_name_finds_its_own_neighbours(grown):
    teaching = gather(grown, by_patient())
    spots = teaching.spots["A1"]
    image = replace(spots, embedding_SD=spots.embedding_SD[::-1].copy())
    k = teaching.graph_config.n_refer
    found = teaching.search(image, k=k)
    assert np.array_equal(found.spot_SK[::-1], teaching.search(spots, k=k).spot_SK)
    assert not np.array_equal(found.spot_SK, teaching.search(spots, k=k).spot_SK)


def test_a_slide_of_no_known_group_borrows_from_all(grown):
    teaching = gather(grown, by_patient(test=()))
    assert "B2" not in teaching.groups
    assert slides_seen(teaching, teaching.graph(teaching.read("B2"))) == {"A1", "A2", "B1"}


def test_a_slide_with_nobody_to_borrow_from_is_refused(grown):
    teaching = gather(grown, by_patient(train=("B1",)))
    with pytest.raises(MismatchError, match="no reference spot was found"):
        teaching.graph(teaching.read("B2"))


def test_a_gene_that_a_test_slides_files_lack_is_unknown_there(tmp_path, grown):
    slide = without_gene(draw_tissue("B2")[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    teaching = gather(cohort, fold_of(cohort), "all")
    assert "G3" in teaching.panel.genes
    expression_SG = teaching.read("B2").expression_SG
    unknown_G = np.array([gene == "G3" for gene in teaching.panel.genes])
    assert np.isnan(expression_SG[:, unknown_G]).all()
    assert np.isfinite(expression_SG[:, ~unknown_G]).all()


@pytest.mark.parametrize("name", ["A1", "B1"], ids=["validation", "training"])
def test_only_genes_of_all_slides_that_teach_or_choose_are_in_the_panel(tmp_path, grown, name):
    slide = without_gene(draw_tissue(name)[0], "G3")
    cohort = copy_store(grown, tmp_path / "data.zarr", slide)
    panel = gather(cohort, fold_of(cohort), "all").panel
    assert panel.genes == tuple(sorted(f"G{n}" for n in range(12) if n != 3))
