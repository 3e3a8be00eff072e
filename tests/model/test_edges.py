"""Products and sums along edges are what their definitions say."""

import pytest
import torch

from spahgc.model.edges import (
    edge_products,
    softmax_of_senders,
    sum_to_receivers,
    sum_to_senders,
)

V, S, P, N, W = 7, 5, 3, 2, 4


def draw(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def rows(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)

    table = torch.randint(S - 1, (V, P), generator=generator)  # nobody asks the last one
    exists = torch.rand(V, P, generator=generator) < 0.7
    return rows(V, N * W), rows(S, N * W), rows(V, P, N), table, exists


CALLS = ("products", "to receivers", "to senders", "softmax")


def call(name, own, other, weight, table, exists):
    if name == "products":
        return edge_products(own, other, table, n_heads=N)
    if name == "to receivers":
        return sum_to_receivers(weight, other, table)
    if name == "to senders":
        return sum_to_senders(weight, own, table, n_senders=S)
    return softmax_of_senders(weight, exists, table, n_senders=S)


def slowly(name, own, other, weight, table, exists):
    """From the definitions, edge by edge."""
    found = {
        "products": torch.zeros(V, P, N),
        "to receivers": torch.zeros(V, N * W),
        "to senders": torch.zeros(S, N * W),
        "softmax": torch.zeros(V, P, N),
    }[name].double()
    for v in range(V):
        for p in range(P):
            s = int(table[v, p])
            for n in range(N):
                head = slice(n * W, (n + 1) * W)
                if name == "products":
                    found[v, p, n] = own[v, head] @ other[s, head]
                elif name == "to receivers":
                    found[v, head] += weight[v, p, n] * other[s, head]
                elif name == "to senders":
                    found[s, head] += weight[v, p, n] * own[v, head]
                elif exists[v, p]:
                    rivals = weight[..., n][(table == s) & exists]
                    found[v, p, n] = weight[v, p, n].exp() / rivals.exp().sum()
    return found


@pytest.mark.parametrize("name", CALLS)
def test_each_is_what_its_definition_says(name):
    drawn = draw()
    torch.testing.assert_close(call(name, *drawn).detach(), slowly(name, *drawn).detach())


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_finite_differences(name):
    *rows, table, exists = draw()
    assert torch.autograd.gradcheck(
        lambda *some: call(name, *some, table, exists), rows, check_undefined_grad=False
    )


@pytest.mark.parametrize("name", CALLS)
def test_rows_may_lie_anyhow_in_memory(name):
    own, other, weight, table, exists = draw()
    strewn = [rows.detach().repeat_interleave(2, dim=-1)[..., ::2] for rows in (own, other, weight)]
    table_of_two = torch.stack([table, table], dim=-1)[..., 0]
    found = call(name, *strewn, table_of_two, exists)
    torch.testing.assert_close(found, call(name, own, other, weight, table, exists).detach())


def test_scores_too_large_to_be_raised_are_weighed_all_the_same():
    score = torch.tensor([[[1000.0]], [[1000.0]], [[-1000.0]]])
    table, exists = torch.tensor([[0], [0], [1]]), torch.ones(3, 1, dtype=torch.bool)
    weight = softmax_of_senders(score, exists, table, n_senders=2)
    assert weight.flatten().tolist() == [0.5, 0.5, 1.0]


def test_a_table_without_places_brings_nothing():
    own, other, _, table, exists = draw()
    none, nobody = table[:, :0], exists[:, :0]
    weight = edge_products(own, other, none, n_heads=N)
    assert weight.shape == (V, 0, N)
    assert softmax_of_senders(weight, nobody, none, n_senders=S).shape == (V, 0, N)
    assert not sum_to_receivers(weight, other, none).any()
    assert not sum_to_senders(weight, own, none, n_senders=S).any()
