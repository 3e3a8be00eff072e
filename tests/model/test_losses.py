import pytest
import torch
from torch.testing import assert_close

from spahgc.model.losses import LossWeights, contrast, expression_loss, total_loss
from spahgc.model.masking import frozen_copy, mask_graph
from tests.model import naive


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def step():
    """One step's losses with the first view, the two encoders and what they compare to."""
    network = naive.random_network().eval()
    other = frozen_copy(naive.random_network(1).encoder).eval()
    views = mask_graph(naive.random_graph(), generator=torch.Generator().manual_seed(0))
    measured = normal(7, 4, seed=2)
    losses = total_loss(
        network(views.first), measured, other=other(views.second), weights=LossWeights()
    )
    return network, other, views, measured, losses


def test_every_loss_equals_its_equation_in_plain_loops(step):
    network, other, views, measured, losses = step
    predicted, target, reference = naive.predict(network, views.first)
    other_target, other_reference = naive.encode(other, views.second, naive.TINY)
    expected = [
        naive.expression_loss(predicted, measured.tolist()),
        naive.contrast(target, other_target),
        naive.contrast(reference, other_reference),
    ]
    expected.insert(0, expected[0] + 0.2 * expected[1] + 0.1 * expected[2])
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-9)


def test_the_total_reaches_every_parameter_but_the_stopped_encoder():
    # the same seed and size as where the prediction alone reaches them all
    network = naive.random_network(3).eval()
    other = frozen_copy(network.encoder)
    graph = naive.random_graph(3, n_targets=40, n_references=30)
    views = mask_graph(graph, generator=torch.Generator().manual_seed(0))
    measured = normal(40, 4)
    losses = total_loss(
        network(views.first), measured, other=other(views.second), weights=LossWeights()
    )
    losses.total.backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() < 1e-9
    ]
    assert silent == []
    assert all(parameter.grad is None for parameter in other.parameters())


def test_weights_of_zero_leave_the_squared_error_alone(step):
    network, other, views, measured, _ = step
    output = network(views.first)
    none = LossWeights(correlation=0, target=0, reference=0)
    losses = total_loss(output, measured, other=other(views.second), weights=none)
    assert_close(losses.total, (output.expression_TG - measured).square().mean())


def test_expression_loss_equals_its_equation():
    predicted, measured = normal(6, 3), normal(6, 3, seed=1)
    expected = naive.expression_loss(predicted.tolist(), measured.tolist())
    assert expression_loss(predicted, measured).item() == pytest.approx(expected, rel=1e-12)


def test_a_perfect_prediction_costs_nothing():
    measured = normal(6, 3)
    assert expression_loss(measured, measured).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("which", ["predicted", "measured", "both"])
def test_a_constant_gene_has_correlation_zero_and_a_finite_gradient(which, dtype):
    predicted, measured = normal(6, 3).to(dtype), normal(6, 3, seed=1).to(dtype)
    if which != "measured":
        predicted[:, 1] = 0.1
    if which != "predicted":
        measured[:, 1] = 0.3
    predicted.requires_grad_()
    loss = expression_loss(predicted, measured)
    loss.backward()
    kept = [naive.pearson(predicted[:, g].tolist(), measured[:, g].tolist()) for g in (0, 2)]
    squared = (predicted - measured).detach().square().mean().item()
    assert loss.item() == pytest.approx(squared + 0.5 * (1 - sum(kept) / 3), rel=1e-5)
    assert predicted.grad.isfinite().all()
    only_squared = 2 * (predicted - measured).detach()[:, 1] / predicted.numel()
    assert_close(predicted.grad[:, 1], only_squared)


def test_a_column_that_is_constant_but_for_rounding_counts_as_constant():
    measured = normal(6, 1).float()
    predicted = torch.full((6, 1), 0.1)
    predicted[0] = torch.nextafter(predicted[0], torch.tensor(1.0))
    squared = (predicted - measured).square().mean()
    assert_close(expression_loss(predicted, measured), squared + 0.5)


def test_a_slide_of_one_spot_has_a_loss():
    loss = expression_loss(normal(1, 3), normal(1, 3, seed=1))
    assert_close(loss, (normal(1, 3) - normal(1, 3, seed=1)).square().mean() + 0.5)


def test_contrast_runs_from_same_direction_to_opposite():
    features = normal(5, 4)
    assert contrast(features, 3 * features).item() == pytest.approx(0, abs=1e-12)
    assert contrast(features, -features).item() == pytest.approx(4)


def test_contrast_sends_no_gradient_into_the_other_view():
    online, other = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    contrast(online, other).backward()
    assert online.grad.abs().max() > 0
    assert other.grad is None


def test_contrast_of_a_zero_vector_has_a_finite_gradient():
    online = normal(5, 4).index_fill(0, torch.tensor([2]), 0.0).requires_grad_()
    loss = contrast(online, normal(5, 4, seed=1))
    loss.backward()
    assert loss.isfinite()
    assert online.grad.isfinite().all()


def test_contrast_of_no_spots_is_zero():
    assert contrast(normal(0, 4), normal(0, 4)).item() == 0
