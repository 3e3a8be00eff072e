import numpy as np
import pytest
import torch

from spahgc.model.blocks import ask_network
from spahgc.model.network import NetworkConfig, SpaHGC, graph_tensors

N_GENES = 5


def draw_graph(
    *, n_targets=90, n_references=40, n_refer=7, seed=0, missing=0.2, dtype=torch.float64
):
    generator = np.random.default_rng(seed)

    def table(n_rows, n_senders, n_places):
        rows = generator.integers(n_senders, size=(n_rows, n_places))
        gone = generator.random(rows.shape) < missing
        return torch.from_numpy(np.sort(np.where(gone, -1, rows), axis=1)[:, ::-1].copy())

    def features(n_rows, n_columns):
        return torch.from_numpy(generator.normal(size=(n_rows, n_columns))).to(dtype)

    return graph_tensors(
        target_TD=features(n_targets, 8),
        reference_RD=features(n_references, 8),
        expression_RG=features(n_references, N_GENES),
        near_TQ=table(n_targets, n_targets, 6),
        refer_TK=table(n_targets, n_references, n_refer),
        close_RC=table(n_references, n_references, 3),
    )


def draw_network(*, n_layers=4, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    config = NetworkConfig(
        embedding_size=8, n_genes=N_GENES, hidden_size=16, n_heads=4, n_layers=n_layers
    )
    network = SpaHGC(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # attention that is far from even
    return network


@pytest.mark.parametrize("block", [1, 7, 30, 89, 90, 1000])
@pytest.mark.parametrize("n_layers", [0, 1, 4])
def test_a_slide_in_blocks_is_the_whole_slide(block, n_layers):
    network, graph = draw_network(n_layers=n_layers), draw_graph()
    with torch.inference_mode():
        whole_TG = network(graph).expression_TG
    torch.testing.assert_close(
        ask_network(network, graph, block=block), whole_TG, rtol=1e-10, atol=1e-10
    )


def test_in_single_precision_it_is_within_the_promised_tolerance():
    network = draw_network(dtype=torch.float32)
    graph = draw_graph(n_targets=500, dtype=torch.float32)
    with torch.inference_mode():
        whole_TG = network(graph).expression_TG
    assert (ask_network(network, graph, block=64) - whole_TG).abs().max() < 1e-4


def test_a_reference_that_only_one_block_or_none_uses_is_right_too():
    graph = draw_graph(n_references=200, n_refer=1, missing=0.5)
    network = draw_network()
    with torch.inference_mode():
        whole_TG = network(graph).expression_TG
    torch.testing.assert_close(ask_network(network, graph, block=10), whole_TG)


def test_targets_far_apart_that_share_a_reference_hear_of_each_other():
    network, graph = draw_network(), draw_graph(missing=0)
    before_TG = ask_network(network, graph, block=10)
    graph.target_TD[-1] += 3
    after_TG = ask_network(network, graph, block=10)
    assert (after_TG[0] - before_TG[0]).abs().max() > 1e-6


def test_no_gradient_is_kept():
    assert not ask_network(draw_network(), draw_graph(), block=10).requires_grad
