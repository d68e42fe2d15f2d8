"""Flatness and curvature against closed forms in float64."""

import copy

import numpy as np
import pytest
import torch
from conftest import toy_dataset
from torch import nn

from mmlib.instruments import flatness, hessian
from mmlib.models import build_classifier


class Quadratic(nn.Module):
    """loss(w) = ½ wᵀ A w over two parameters, 2 and 4 numbers."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        self.matrix = root @ root.T
        self.first = nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))

    def forward(self):
        weights = torch.cat([self.first, self.second.flatten()])
        return 0.5 * weights @ self.matrix @ weights


def value(network):
    return network()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_loss_increase_of_a_quadratic_is_its_closed_form():
    """E[f(w + γd) − f(w)] = ½ γ² tr A / n for directions uniform on the sphere."""
    network = Quadratic()
    radii = [0.5, 1.0, 2.0]
    curve = flatness.loss_increase(network, value, radii, generator(), repeats=4000)
    expected = 0.5 * np.array(radii) ** 2 * float(network.matrix.trace()) / 6
    assert (np.abs(curve.mean - expected) < 4 * curve.standard_error).all()
    assert (curve.standard_error < 0.15 * expected).all(), "the check is not vacuous"


def test_one_direction_is_followed_exactly():
    network = Quadratic()
    (direction,) = [flatness.random_direction(dict(network.named_parameters()), generator())]
    flat = torch.cat([part.flatten() for part in direction])
    assert float(flat.norm()) == pytest.approx(1)
    curve = flatness.loss_increase(network, value, [0.3], generator(), repeats=2)
    weights = torch.cat([network.first, network.second.flatten()]).detach()
    moved = weights + 0.3 * flat
    expected = 0.5 * (moved @ network.matrix @ moved - weights @ network.matrix @ weights)
    assert curve.increases[0, 0] == pytest.approx(float(expected))


def test_filter_normalised_directions_are_as_long_as_the_filters():
    network = nn.Conv2d(3, 5, 3)
    weight, bias = flatness.random_direction(dict(network.named_parameters()), generator(), "filter")
    assert torch.allclose(weight.flatten(1).norm(dim=1), network.weight.flatten(1).norm(dim=1))
    assert not bias.any()
    with pytest.raises(ValueError, match="unit or filter"):
        flatness.random_direction(dict(network.named_parameters()), generator(), "none")


def test_filter_normalisation_does_not_see_a_rescaled_network():
    """Weights doubled and the output halved: the same function, the same curve; but flatter along unit directions."""

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.layer = nn.Linear(4, 3, bias=False, dtype=torch.float64)
            with torch.no_grad():
                self.layer.weight.copy_(torch.arange(12.0).reshape(3, 4) * scale)
            self.scale = scale

    def loss(network):
        return (network.layer(torch.ones(1, 4, dtype=torch.float64)) / network.scale).square().sum()

    def curve(scale, normalise):
        return flatness.loss_increase(Scaled(scale), loss, [0.5], generator(), 50, normalise).mean[0]

    assert curve(1.0, "filter") == pytest.approx(curve(2.0, "filter"))
    assert abs(curve(2.0, "unit")) < 0.8 * abs(curve(1.0, "unit"))


def test_lines_and_planes_of_a_quadratic():
    networks = [Quadratic() for _ in range(3)]
    for number, network in enumerate(networks):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(generator=generator(number))
    flat = [torch.cat([n.first, n.second.flatten()]).detach() for n in networks]
    matrix = networks[0].matrix

    def at(weights):
        return float(0.5 * weights @ matrix @ weights)

    line = flatness.loss_line(networks[0], networks[1], value, [-1.0, 0.0, 0.5, 1.0])
    assert np.allclose(line, [at(flat[0] + t * (flat[1] - flat[0])) for t in (-1, 0, 0.5, 1)])

    plane = flatness.loss_plane(networks, value, resolution=5, margin=0.2)
    distances = [(flat[i] - flat[j]).norm() for i, j in ((0, 1), (0, 2), (1, 2))]
    measured = [np.linalg.norm(plane.positions[i] - plane.positions[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.allclose(measured, distances)
    along = (flat[1] - flat[0]) / (flat[1] - flat[0]).norm()
    across = flat[2] - flat[0] - (flat[2] - flat[0]) @ along * along
    across /= across.norm()
    expected = [[at(flat[0] + x * along + y * across) for x in plane.x] for y in plane.y]
    assert np.allclose(plane.losses, expected)
    with pytest.raises(ValueError, match="on one line"):
        flatness.loss_plane([networks[0], networks[1], networks[1]], value)
    with pytest.raises(ValueError, match="are the same"):
        flatness.loss_plane([networks[0], networks[0], networks[1]], value)


def test_hessian_of_a_quadratic():
    network = Quadratic()
    product, size = hessian.product(network, value)
    matrix = torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(matrix, network.matrix)
    eigenvalues = np.linalg.eigvalsh(network.matrix.numpy())[::-1]
    assert np.allclose(hessian.top_eigenvalues(network, value, generator(), 3, 6), eigenvalues[:3])
    estimate = hessian.trace(network, value, generator(), 2000)
    assert abs(estimate.trace - float(network.matrix.trace())) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.05 * estimate.trace


def test_hessian_of_one_part_is_its_block():
    network = Quadratic()
    part = flatness.named_parameters(network, "second")
    product, size = hessian.product(network, value, part)
    matrix = torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(matrix, network.matrix[2:, 2:])
    with pytest.raises(ValueError, match="No parameter's name starts with 'third'"):
        flatness.named_parameters(network, "third")


def test_hessian_of_logistic_regression():
    """H = Σ_i p_i (1 − p_i) x_i x_iᵀ / N."""
    samples = torch.randn(50, 4, generator=generator(), dtype=torch.float64)
    labels = (samples[:, 0] > 0).double()
    network = nn.Linear(4, 1, bias=False, dtype=torch.float64)

    def loss(model):
        return nn.functional.binary_cross_entropy_with_logits(model(samples).squeeze(1), labels)

    probability = torch.sigmoid(network(samples)).detach()
    expected = (samples * probability * (1 - probability)).T @ samples / 50
    product, size = hessian.product(network, loss)
    matrix = torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(matrix, expected)


def test_negative_curvature_is_not_taken_for_the_top():
    class Saddle(Quadratic):
        def __init__(self):
            super().__init__()
            self.matrix = torch.diag(torch.tensor([3.0, -9.0, 1.0, 0.5, 0.1, -1.0], dtype=torch.float64))

    assert np.allclose(hessian.top_eigenvalues(Saddle(), value, generator(), 2, 6), [3.0, 1.0])


def test_a_network_is_bit_identical_afterwards_even_after_an_error():
    data = toy_dataset(60)
    networks = [build_classifier(data.input_shapes, 3, seed).train() for seed in range(3)]
    network = networks[0]
    before = copy.deepcopy(network.state_dict())
    loss = flatness.cross_entropy_on(data.whole(), chunk=25)

    def failing(_):
        raise RuntimeError("the loss failed")

    flatness.loss_increase(network, loss, [1.0, 5.0], generator(), 2)
    flatness.loss_increase(network, loss, [1.0], generator(), 2, "filter", flatness.encoder_parameters(network, "left"))
    flatness.loss_line(network, networks[1], loss, [0.0, 2.0])
    flatness.loss_plane(networks, loss, 3)
    hessian.trace(network, loss, generator(), 2)
    hessian.top_eigenvalues(network, loss, generator(), 1, 3)
    with pytest.raises(RuntimeError, match="the loss failed"):
        flatness.loss_increase(network, failing, [1.0], generator(), 2)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert network.training and all(module.training for module in network.modules())


def test_only_the_chosen_encoder_is_moved():
    data = toy_dataset(60)
    network = build_classifier(data.input_shapes, 3, 0)
    others = {name: value.clone() for name, value in network.named_parameters() if "encoders.left." not in name}

    def loss(model):
        for name, parameter in model.named_parameters():
            if name in others:
                assert torch.equal(parameter, others[name]), name
        return torch.zeros(())

    flatness.loss_increase(
        network, loss, [3.0], generator(), 2, parameters=flatness.encoder_parameters(network, "left")
    )


def test_chunks_do_not_change_the_loss():
    data = toy_dataset(60)
    network = build_classifier(data.input_shapes, 3, 0).eval()
    whole, pieces = flatness.cross_entropy_on(data.whole()), flatness.cross_entropy_on(data.whole(), chunk=7)
    assert torch.allclose(whole(network), pieces(network))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: flatness.loss_increase(n, value, [1.0], generator(), 1), "repeats must be at least 2"),
        (lambda n: hessian.trace(n, value, generator(), 1), "vectors must be at least 2"),
        (lambda n: hessian.top_eigenvalues(n, value, generator(), 9, 5), "count must lie in 1 … 5"),
        (lambda n: flatness.loss_plane([n, n], value), "needs three networks"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(Quadratic())
