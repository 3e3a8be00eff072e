import pytest
import torch
from torch.testing import assert_close

from spahgc.model.layers import (
    AttentionPooling,
    BackwardAttention,
    Dropout,
    ForwardAttention,
    GraphLayer,
    NeighbourMean,
    NeighbourTable,
    Nodes,
)
from tests.model import naive

TINY = naive.TINY
ATTENTION = {"n_heads": 2, "slope": 0.2, "dropout": 0.0}


def as_table(rows):
    sender_VP = torch.tensor(rows)
    return NeighbourTable(sender_VP.clamp(min=0), sender_VP >= 0)


def as_tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def layer():
    return naive.random_network().eval().encoder.layers[0]


@pytest.fixture
def graph():
    return naive.random_graph()


@pytest.fixture
def nodes(graph):
    n_targets, n_references = len(graph.target_TD), len(graph.reference_RD)
    return Nodes(normal(n_targets, 8), normal(n_references, 8, seed=1), normal(n_references, 8))


def test_a_layer_equals_its_equations_spot_by_spot(layer, graph, nodes):
    result = layer(nodes, near=graph.near, refer=graph.refer, close=graph.close)
    tables = [naive.senders(*table) for table in (graph.near, graph.refer, graph.close)]
    expected = naive.step(layer, *[part.tolist() for part in nodes], tables, TINY)
    for part, slow in zip(result, expected, strict=True):
        assert_close(part, as_tensor(slow))


def test_pooling_equals_its_equations_spot_by_spot(graph, nodes):
    pooling = naive.random_network().eval().pooling
    expected = naive.pool(
        pooling,
        nodes.target_TH.tolist(),
        nodes.reference_RH.tolist(),
        naive.senders(*graph.refer),
        TINY,
    )
    result = pooling(nodes.target_TH, nodes.reference_RH, graph.refer)
    assert_close(result, as_tensor(expected))


def test_the_mean_of_an_isolated_node_is_zero():
    module = NeighbourMean(8).double()
    nodes_VH = normal(3, 8)
    result = module(nodes_VH, as_table([[1, 2], [-1, -1], [0, -1]]))
    assert_close(result[1], module.itself(nodes_VH[1]) + module.neighbours.bias)


def test_the_mean_counts_only_neighbours_that_exist():
    module = NeighbourMean(8).double()
    nodes_VH = normal(3, 8)
    result = module(nodes_VH, as_table([[1, -1, -1], [0, 2, -1], [0, -1, -1]]))
    assert_close(result[0], module.itself(nodes_VH[0]) + module.neighbours(nodes_VH[1]))
    expected = module.itself(nodes_VH[1]) + module.neighbours((nodes_VH[0] + nodes_VH[2]) / 2)
    assert_close(result[1], expected)


def test_a_target_without_references_gets_the_output_bias(layer, graph, nodes):
    told_RU = torch.cat([nodes.reference_RH, nodes.expression_RH], dim=1)
    result = layer.to_target(nodes.target_TH, told_RU, graph.refer)
    assert_close(result[1], layer.to_target.output.bias)


def test_a_reference_without_targets_gets_the_output_bias(layer, graph, nodes):
    told_RU = torch.cat([nodes.reference_RH, nodes.expression_RH], dim=1)
    result = layer.to_reference(nodes.target_TH, told_RU, graph.refer)
    assert_close(result[-1], layer.to_reference.output.bias)


def test_a_missing_neighbour_tells_nothing_to_the_reference_it_stands_on():
    module = BackwardAttention(8, **ATTENTION).double()
    torch.nn.init.normal_(module.output.bias, generator=torch.Generator().manual_seed(0))
    result = module(normal(2, 8), normal(2, 16), as_table([[1, -1], [-1, 1]]))
    assert_close(result[0], module.output.bias)


def test_an_only_reference_is_taken_whole():
    module = ForwardAttention(8, **ATTENTION).double()
    told_RU = normal(3, 16)
    result = module(normal(1, 8), told_RU, as_table([[2]]))
    assert_close(result[0], module.output(module.value(told_RU[2])))


def test_what_stands_where_no_neighbour_exists_does_not_matter(layer, graph, nodes):
    def elsewhere(table):
        return table._replace(sender_VP=table.sender_VP.masked_fill(~table.exists_VP, 5))

    tables = {"near": graph.near, "refer": graph.refer, "close": graph.close}
    moved = {name: elsewhere(table) for name, table in tables.items()}
    assert any((moved[name].sender_VP != tables[name].sender_VP).any() for name in tables)
    for part, other in zip(layer(nodes, **tables), layer(nodes, **moved), strict=True):
        assert_close(part, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "kind", [ForwardAttention, BackwardAttention], ids=lambda kind: kind.__name__
)
def test_huge_scores_overflow_nowhere(kind):
    module = kind(8, **ATTENTION)
    torch.nn.init.normal_(module.query.weight, std=1e4, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module.key.weight, std=1e4, generator=torch.Generator().manual_seed(1))
    target_TH = normal(300, 8).float().requires_grad_()
    told_RU = normal(2, 16).float().requires_grad_()
    result = module(target_TH, told_RU, as_table([[0, 1]] * 200 + [[0, -1]] * 100))
    result.square().sum().backward()
    assert result.isfinite().all()
    assert target_TH.grad.isfinite().all()
    assert told_RU.grad.isfinite().all()


@pytest.mark.parametrize(
    "kind", [ForwardAttention, BackwardAttention], ids=lambda kind: kind.__name__
)
def test_gradients_of_attention_equal_finite_differences(kind):
    module = kind(4, **ATTENTION).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(2))
    table = as_table([[0, 1], [0, -1], [0, 2], [-1, -1]])
    inputs = normal(4, 4).requires_grad_(), normal(4, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: module(*given, table), inputs)


def test_gradients_of_pooling_equal_finite_differences():
    module = AttentionPooling(4, n_heads=2, slope=0.2).double()
    table = as_table([[0, 1], [0, -1], [-1, -1]])
    inputs = normal(3, 4).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: module(*given, table), inputs)


def test_pooling_drops_nothing_in_training(graph, nodes):
    pooling = naive.random_network().train().pooling
    first = pooling(nodes.target_TH, nodes.reference_RH, graph.refer)
    assert torch.equal(first, pooling(nodes.target_TH, nodes.reference_RH, graph.refer))


@pytest.mark.parametrize("kind", ["to_target", "to_reference"])
def test_attention_drops_in_training_both_ways(kind, graph, nodes):
    module = getattr(naive.random_network().train().encoder.layers[0], kind)
    module.dropout.p = 0.5
    told_RU = torch.cat([nodes.reference_RH, nodes.expression_RH], dim=1)
    first = module(nodes.target_TH, told_RU, graph.refer)
    assert not torch.equal(first, module(nodes.target_TH, told_RU, graph.refer))


@pytest.mark.parametrize(
    "kind", [ForwardAttention, BackwardAttention], ids=lambda kind: kind.__name__
)
def test_attention_maps_start_small_and_without_bias(kind):
    module = kind(256, **ATTENTION)
    for name in ("query", "key", "value", "output"):
        linear = getattr(module, name)
        assert not linear.bias.any()
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.weight.mean().abs() < 1e-3


def test_a_layer_leaves_the_expression_token_unnormalised(layer, graph, nodes):
    result = layer(nodes, near=graph.near, refer=graph.refer, close=graph.close)
    assert_close(
        result.expression_RH,
        torch.where(nodes.expression_RH >= 0, nodes.expression_RH, 0.2 * nodes.expression_RH),
    )


def test_layers_share_no_parameter():
    layers = naive.random_network().encoder.layers
    assert all(isinstance(layer, GraphLayer) for layer in layers)
    parameters = [id(parameter) for layer in layers for parameter in layer.parameters()]
    assert len(parameters) == len(set(parameters)) == len(layers) * (2 * 3 + 2 + 2 * 8)


def test_dropout_hides_its_share_and_keeps_the_mean():
    ones = torch.ones(400, 300, requires_grad=True)
    torch.manual_seed(0)
    dropped = Dropout(0.3).train()(ones)
    hidden = dropped == 0
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.01)
    assert_close(dropped[~hidden], torch.full((int((~hidden).sum()),), 1 / 0.7))
    dropped.sum().backward()
    assert_close(ones.grad, dropped.detach())


@pytest.mark.parametrize(("p", "training", "kept"), [(0.5, False, 1), (0, True, 1), (1, True, 0)])
def test_dropout_of_nothing_or_all(p, training, kept):
    ones = torch.ones(5, 4)
    assert torch.equal(Dropout(p).train(training)(ones), ones * kept)
