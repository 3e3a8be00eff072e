import pytest
import torch
from torch.testing import assert_close

from spahgc.model.masking import complementary_masks, frozen_copy, mask_graph, update_average
from tests.model import naive


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_every_element_is_kept_by_exactly_one_view(share):
    first, second = complementary_masks((50, 40), share, generator=generator())
    assert (first ^ second).all()
    assert (~first).double().mean().item() == pytest.approx(share, abs=0.03)


def test_masks_are_elementwise_not_by_row_or_column():
    first, _ = complementary_masks((50, 40), 0.5, generator=generator())
    for dim in (0, 1):
        assert first.any(dim=dim).all()
        assert not first.all(dim=dim).any()


def test_the_same_seed_masks_the_same_and_the_next_draw_differs():
    source = generator(3)
    first = complementary_masks((20, 20), 0.5, generator=source).first
    assert torch.equal(first, complementary_masks((20, 20), 0.5, generator=generator(3)).first)
    assert not torch.equal(first, complementary_masks((20, 20), 0.5, generator=source).first)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match=str(share)):
        complementary_masks((2, 2), share, generator=generator())


@pytest.mark.parametrize("name", ["target_TD", "reference_RD", "expression_RG"])
def test_what_one_view_hides_the_other_keeps(name):
    graph = naive.random_graph(n_targets=40, n_references=40)
    views = mask_graph(graph, generator=generator())
    first, second, whole = (getattr(g, name) for g in (views.first, views.second, graph))
    assert ((first == 0) ^ (second == 0)).all()
    assert_close(first + second, whole, rtol=0, atol=0)


def test_the_first_view_hides_little_of_the_targets_and_most_of_the_references():
    graph = naive.random_graph(n_targets=200, n_references=200)
    first = mask_graph(graph, generator=generator()).first
    hidden = [
        (part == 0).double().mean().item()
        for part in (first.target_TD, first.reference_RD, first.expression_RG)
    ]
    assert hidden == pytest.approx([0.1, 0.9, 0.9], abs=0.04)


def test_shares_can_be_set():
    views = mask_graph(
        naive.random_graph(), generator=generator(), target_share=0, reference_share=1
    )
    assert views.first.target_TD.all()
    assert not views.second.target_TD.any()
    assert not views.first.reference_RD.any()
    assert not views.first.expression_RG.any()


def test_views_share_the_tables_and_leave_the_graph_whole():
    graph = naive.random_graph()
    before = graph.target_TD.clone(), graph.reference_RD.clone(), graph.expression_RG.clone()
    views = mask_graph(graph, generator=generator())
    for view in views:
        assert view.refer_TK is graph.refer_TK
        assert view.near_mask_TQ is graph.near_mask_TQ
    after = graph.target_TD, graph.reference_RD, graph.expression_RG
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_the_expression_token_sees_only_what_its_view_keeps():
    graph = naive.random_graph()
    view = mask_graph(graph, generator=generator(), reference_share=1.0).first
    encoder = naive.random_network().eval().encoder
    nodes = encoder.input(view.target_TD, view.reference_RD, view.expression_RG)
    assert not nodes.expression_RH.any()


def test_a_frozen_copy_is_equal_and_asks_for_no_gradient():
    encoder = naive.random_network().encoder
    copied = frozen_copy(encoder)
    pairs = zip(encoder.parameters(), copied.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not copied(naive.random_graph()).target_TH.requires_grad


def test_a_frozen_copy_stays_when_the_original_learns():
    encoder = naive.random_network().encoder
    copied = frozen_copy(encoder)
    before = [parameter.clone() for parameter in copied.parameters()]
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(naive.random_graph()).target_TH.sum().backward()
    optimiser.step()
    assert all(torch.equal(*p) for p in zip(before, copied.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_average_keeps_its_share_of_itself(decay):
    target = naive.random_network(0).encoder.requires_grad_(requires_grad=False)
    online = naive.random_network(1).encoder
    expected = [
        decay * a + (1 - decay) * b
        for a, b in zip(target.parameters(), online.parameters(), strict=True)
    ]
    untouched = [parameter.clone() for parameter in online.parameters()]
    update_average(target, online, decay=decay)
    for parameter, value in zip(target.parameters(), expected, strict=True):
        assert_close(parameter, value)
        assert not parameter.requires_grad
    assert all(torch.equal(*p) for p in zip(untouched, online.parameters(), strict=True))
