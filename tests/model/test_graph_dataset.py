import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Dataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import HeteroConv, SAGEConv
from torch_geometric.transforms import Constant

import spahgc
from spahgc.errors import MissingError
from spahgc.index import ReferenceIndex
from spahgc.schema import CLOSE, NEAR, REFER, REFERENCE, TARGET
from spahgc.store.cohort import open_cohort
from tests.model.conftest import EMBEDDING, copy_store, draw_tissue, with_counts

SLIDES = ["A1", "A2", "B1", "B2"]


@pytest.fixture(scope="module")
def dataset(grown):
    return spahgc.graphs(grown, genes="heg:6")


def same(one, other):
    assert one.slide == other.slide
    for kind in (TARGET, REFERENCE):
        for key in ("x", "y", "pos"):
            torch.testing.assert_close(one[kind][key], other[kind][key], equal_nan=True)
    for kind in (NEAR, REFER, CLOSE):
        assert torch.equal(one[kind].edge_index, other[kind].edge_index)


def test_every_slide_with_expression_is_a_valid_graph(dataset):
    assert isinstance(dataset, Dataset)
    assert [graph.slide for graph in dataset] == SLIDES == list(dataset.slides)
    for graph in dataset:
        assert graph.validate(raise_on_error=True)
        assert graph.genes == list(dataset.genes)
        assert graph[TARGET].y.shape == (graph[TARGET].num_nodes, 6)
        assert graph.slide not in graph.reference_slides


def test_a_two_layer_network_of_convolutions_learns_on_a_store(grown):
    class Network(nn.Module):
        def __init__(self, n_genes, hidden=16):
            super().__init__()
            self.layers = nn.ModuleList(
                HeteroConv({kind: SAGEConv((-1, -1), hidden) for kind in (NEAR, REFER, CLOSE)})
                for _ in range(2)
            )
            self.head = nn.Linear(hidden, n_genes)

        def forward(self, graph):
            nodes = {
                TARGET: graph[TARGET].x,
                REFERENCE: torch.cat([graph[REFERENCE].x, graph[REFERENCE].y], 1),
            }
            for layer in self.layers:
                nodes = {kind: x.relu() for kind, x in layer(nodes, graph.edge_index_dict).items()}
            return self.head(nodes[TARGET])

    torch.manual_seed(0)
    train = spahgc.graphs(grown, slides=["A1", "A2", "B1"], genes="heg:6")
    (test,) = spahgc.graphs(grown, slides=["B2"], references=train.slides, genes="heg:6")
    network = Network(len(train.genes))
    network(train[0])  # sizes of inputs are found out
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        for graph in DataLoader(train, shuffle=True):
            loss = nn.functional.mse_loss(network(graph), graph[TARGET].y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    error = nn.functional.mse_loss(network(test), test[TARGET].y)
    mean = torch.cat([graph[TARGET].y for graph in train]).mean(0)
    assert error < 0.8 * nn.functional.mse_loss(mean.expand_as(test[TARGET].y), test[TARGET].y)


def test_references_are_those_named_and_never_the_slide_itself(grown):
    (graph,) = spahgc.graphs(grown, slides=["B2"], references=["A1", "B2"], genes="heg:6")
    assert graph.reference_slides == ["A1"]
    (graph,) = spahgc.graphs(
        grown, slides=["A1"], references=SLIDES, genes="heg:6", exclude="patient"
    )
    assert graph.reference_slides == ["B1", "B2"]


def test_genes_are_chosen_on_references_alone(grown, tmp_path):
    how = {"slides": ["B2"], "references": ["A1", "A2"], "genes": "heg:4"}
    expected = spahgc.graphs(grown, **how).genes
    slide, _ = draw_tissue("B2")
    other = copy_store(grown, tmp_path / "data.zarr", with_counts(slide, seed=5))
    assert spahgc.graphs(other, **how).genes == expected


def test_a_store_is_named_by_its_place_too_and_its_index_is_used(grown, dataset, monkeypatch):
    opened = []
    open_index = ReferenceIndex.open

    def noting(cohort, **how):
        opened.append(how["embedding"])
        return open_index(cohort, **how)

    monkeypatch.setattr(ReferenceIndex, "open", noting)
    same(spahgc.graphs(str(grown.where), genes="heg:6")[1], dataset[1])
    assert opened == [EMBEDDING]


def test_transforms_work_and_workers_open_the_store_themselves(grown, dataset):
    marked = spahgc.graphs(grown, genes="heg:6", transform=Constant(node_types=TARGET))
    assert marked[0][TARGET].x.shape[1] == dataset[0][TARGET].x.shape[1] + 1
    same(pickle.loads(pickle.dumps(dataset))[2], dataset[2])  # noqa: S301  our own bytes
    loaded = list(DataLoader(dataset, num_workers=2, multiprocessing_context="spawn"))
    assert [graph.slide for graph in loaded] == [[name] for name in SLIDES]
    assert np.array_equal(loaded[3][TARGET].x, dataset[3][TARGET].x)


def test_a_pickle_holds_no_array_and_stays_at_its_commit(grown):
    dataset = spahgc.graphs(grown, genes="heg:6")
    assert dataset[0].num_nodes
    assert len(pickle.dumps(dataset)) < 4_000
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert again._place == (str(grown.where), open_cohort(grown.where).commit.number)


def test_what_is_not_there_is_said_by_name(grown):
    with pytest.raises(MissingError, match="no slide 'Z9'"):
        spahgc.graphs(grown, slides=["Z9"])
    with pytest.raises(MissingError, match="embedding 'uni'"):
        spahgc.graphs(grown, embedding="uni")


def test_the_package_is_imported_without_torch():
    code = "import sys, spahgc; dir(spahgc); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'grapes'"):
        spahgc.grapes  # noqa: B018
