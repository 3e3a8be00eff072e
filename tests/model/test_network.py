from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from spahgc.errors import MismatchError
from spahgc.model.network import NetworkConfig, SpaHGC, graph_tensors
from tests.model import naive

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


@pytest.fixture
def network():
    return naive.random_network().eval()


@pytest.fixture
def graph():
    return naive.random_graph()


def parts(graph):
    return {
        "target_TD": graph.target_TD,
        "reference_RD": graph.reference_RD,
        "expression_RG": graph.expression_RG,
        "near_TQ": graph.near_TQ.masked_fill(~graph.near_mask_TQ, -1),
        "refer_TK": graph.refer_TK.masked_fill(~graph.refer_mask_TK, -1),
        "close_RC": graph.close_RC.masked_fill(~graph.close_mask_RC, -1),
    }


def renamed(table, old_to_new):
    return torch.where(table >= 0, old_to_new[table.clamp(min=0)], -1)


@SEEDS
def test_the_forward_pass_equals_its_equations_spot_by_spot(seed):
    network, graph = naive.random_network(seed).eval(), naive.random_graph(seed)
    output = network(graph)
    results = output.expression_TG, output.features.target_TH, output.features.reference_RH
    for fast, slow in zip(results, naive.predict(network, graph), strict=True):
        assert_close(fast, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-10)


def test_float32_agrees_with_float64_to_its_precision():
    network, graph = naive.random_network().eval(), naive.random_graph()
    single = replace(
        graph,
        target_TD=graph.target_TD.float(),
        reference_RD=graph.reference_RD.float(),
        expression_RG=graph.expression_RG.float(),
    )
    double = network(graph).expression_TG
    assert_close(network.float()(single).expression_TG.double(), double, rtol=1e-4, atol=1e-4)


def test_outputs_have_a_row_per_spot(network, graph):
    output = network(graph)
    assert output.expression_TG.shape == (7, 4)
    assert output.features.target_TH.shape == (7, 8)
    assert output.features.reference_RH.shape == (9, 8)


@SEEDS
def test_the_order_of_spots_changes_nothing(network, seed):
    graph = naive.random_graph(seed)
    given = parts(graph)
    generator = torch.Generator().manual_seed(seed)
    target, reference = (torch.randperm(n, generator=generator) for n in (7, 9))
    new_target, new_reference = target.argsort(), reference.argsort()
    shuffled = graph_tensors(
        target_TD=given["target_TD"][target],
        reference_RD=given["reference_RD"][reference],
        expression_RG=given["expression_RG"][reference],
        near_TQ=renamed(given["near_TQ"], new_target)[target],
        refer_TK=renamed(given["refer_TK"], new_reference)[target],
        close_RC=renamed(given["close_RC"], new_reference)[reference],
    )
    expected, result = network(graph), network(shuffled)
    assert_close(result.expression_TG, expected.expression_TG[target])
    assert_close(result.features.reference_RH, expected.features.reference_RH[reference])


def test_the_order_of_edges_changes_nothing(network, graph):
    given = parts(graph)
    for name in ("near_TQ", "refer_TK", "close_RC"):
        given[name] = given[name].flip(1)
    expected, result = network(graph), network(graph_tensors(**given))
    assert_close(result.expression_TG, expected.expression_TG)
    assert_close(result.features.reference_RH, expected.features.reference_RH)


def test_eval_is_deterministic_and_training_is_not(network, graph):
    assert torch.equal(network(graph).expression_TG, network(graph).expression_TG)
    network.train()
    assert not torch.equal(network(graph).expression_TG, network(graph).expression_TG)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_inputs_are_never_modified(network, graph, training):
    before = {field.name: getattr(graph, field.name).clone() for field in fields(graph)}
    network.train(training)(graph).expression_TG.sum().backward()
    for name, tensor in before.items():
        assert torch.equal(getattr(graph, name), tensor), name


def test_forward_keeps_nothing_on_the_modules(network, graph):
    before = {name: set(vars(module)) for name, module in network.named_modules()}
    network(graph)
    assert {name: set(vars(module)) for name, module in network.named_modules()} == before


def test_the_prediction_alone_reaches_every_parameter():
    # a key's bias moves all scores of a query alike, which the softmax undoes unless LeakyReLU
    # meets scores of both signs: this graph and these parameters make some in every head
    network = naive.random_network(3).eval()
    graph = naive.random_graph(3, n_targets=40, n_references=30)
    network(graph).expression_TG.square().sum().backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() < 1e-9
    ]
    assert silent == []


def test_a_target_far_from_a_change_does_not_see_it(network):
    graph = naive.random_graph()
    alone = graph_tensors(
        **parts(graph)
        | {
            "near_TQ": torch.full((7, 1), -1),
            "refer_TK": torch.full((7, 1), -1),
        }
    )
    changed = replace(alone, target_TD=alone.target_TD.index_fill(0, torch.tensor([3]), 9.0))
    different = (network(changed).expression_TG != network(alone).expression_TG).any(dim=1)
    assert different.tolist() == [t == 3 for t in range(7)]


def test_a_graph_without_any_reference_still_predicts(network, graph):
    empty = graph_tensors(
        **parts(graph)
        | {
            "reference_RD": graph.reference_RD[:0],
            "expression_RG": graph.expression_RG[:0],
            "refer_TK": torch.full((7, 3), -1),
            "close_RC": torch.empty(0, 2, dtype=torch.int64),
        }
    )
    output = network(empty)
    assert output.expression_TG.isfinite().all()
    assert output.features.reference_RH.shape == (0, 8)


def test_the_defaults_are_those_of_the_paper():
    config = NetworkConfig(embedding_size=20, n_genes=6)
    network = SpaHGC(config)
    hidden, layers = 256, 4
    square, vector = hidden * hidden, hidden
    sage = 2 * square + vector
    forward = 6 * square + 4 * vector
    backward = 5 * square + 4 * vector
    expected = (
        hidden * (20 + 26 + 6)
        + (square + 2 * vector)
        + layers * (2 * sage + 2 * vector + forward + backward)
        + 4 * (square + vector)
        + 6 * (hidden + 1)
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert len(network.encoder.layers) == layers
    assert network.encoder.input.block[1].p == 0.2
    assert {layer.to_target.dropout.p for layer in network.encoder.layers} == {0.1}


def test_heads_that_do_not_share_the_hidden_size_are_refused():
    with pytest.raises(MismatchError, match=r"hidden_size 250 .* n_heads 4"):
        NetworkConfig(embedding_size=5, n_genes=4, hidden_size=250)


def test_missing_neighbours_become_masked_entries(graph):
    assert not graph.near_mask_TQ[0].any()
    assert not graph.refer_mask_TK[1].any()
    assert graph.refer_mask_TK[2].tolist() == [False, False, True, False]
    assert graph.near_TQ.min() == graph.refer_TK.min() == graph.close_RC.min() == 0


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        pytest.param(
            "near_TQ", torch.full((7, 2), 7), "'near'.* names 8.*at most 7", id="near row"
        ),
        pytest.param("refer_TK", torch.full((7, 2), 9), "'refer'.*at most 9", id="refer row"),
        pytest.param(
            "close_RC", torch.zeros(8, 2).long(), "'close' has 8 rows.*expected 9", id="rows"
        ),
        pytest.param("reference_RD", torch.zeros(9, 6), r"\(9, 6\), expected \(9, 5\)", id="size"),
        pytest.param(
            "expression_RG", torch.zeros(3, 4), r"\(9, 5\), expected \(3, 5\)", id="spots"
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(graph, name, wrong, message):
    with pytest.raises(MismatchError, match=message):
        graph_tensors(**parts(graph) | {name: wrong})


def test_a_graph_moves_to_a_device_whole(graph):
    moved = graph.to("meta")
    assert {getattr(moved, field.name).device.type for field in fields(moved)} == {"meta"}
    assert graph.target_TD.device.type == "cpu"
