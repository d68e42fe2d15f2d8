"""Every loss against a closed form, or a plain float64 rendering of its equation."""

import math

import numpy as np
import pytest
import torch

from mmlib.equations import losses


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row):
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def test_confidences_sum_the_largest_probability_of_each_sample():
    logits = {name: draw(7, 4, seed=seed, scale=2) for seed, name in enumerate("abc")}
    expected = [sum(softmax(row).max() for row in values.numpy()) for values in logits.values()]
    assert losses.confidences(logits).tolist() == pytest.approx(expected)
    logits["a"].requires_grad_()
    assert not losses.confidences(logits).requires_grad


def test_speed_ratios_compare_each_modality_with_the_others():
    confidence = torch.tensor([30.0, 20.0, 10.0], dtype=torch.float64)
    ratios = losses.speed_ratios(confidence)
    assert ratios.tolist() == pytest.approx([(30 / 20 + 30 / 10) / 2, (20 / 30 + 20 / 10) / 2, (10 / 30 + 10 / 20) / 2])
    assert ratios[2] <= 1, "the least confident modality is never faster than average"
    with pytest.raises(ValueError, match="at least two modalities"):
        losses.speed_ratios(torch.ones(1))


def test_drop_probabilities_have_the_table_of_the_method():
    ratios = torch.tensor([0.5, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0])
    expected = [0.0, 0.0, 0.05, 0.10, 0.245, 0.46, 0.76, 0.96]
    assert losses.drop_probabilities(ratios).tolist() == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("probability", [[0.3, 0.0], [0.7, 0.2, 0.0], [0.9, 0.9], [0.5, 0.5, 0.5]])
def test_dropout_has_its_rate_is_never_rescaled_and_leaves_something(probability):
    torch.manual_seed(0)
    kept = losses.draw_mask(torch.tensor(probability), 20_000)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert kept.sum(1).min() >= 1, "no sample loses everything"
    everything = math.prod(probability)  # such a sample gets one of its M modalities back
    expected = [1 - p + everything / len(probability) for p in probability]
    assert kept.mean(0).tolist() == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("order", [1, 2])
def test_the_look_ahead_on_a_quadratic(order):
    """Inner loss ½ θᵀAθ + bᵀθ, outer loss ½ θ'ᵀCθ': the outer gradient is Cθ', or (I − αA) Cθ' when exact."""
    matrix, outer = draw(4, 4), draw(4, 4, seed=1)
    matrix, outer, offset, step = matrix @ matrix.T, outer @ outer.T, draw(4, seed=2), 0.05
    theta = draw(4, seed=3).requires_grad_()
    inner = 0.5 * theta @ matrix @ theta + offset @ theta
    shifted = losses.look_ahead(inner, {"theta": theta}, step, order)["theta"]
    moved = theta.detach() - step * (matrix @ theta.detach() + offset)
    assert torch.allclose(shifted, moved)
    (gradient,) = torch.autograd.grad(0.5 * shifted @ outer @ shifted, theta)
    exact = (torch.eye(4, dtype=torch.float64) - step * matrix) @ outer @ moved
    assert torch.allclose(gradient, outer @ moved if order == 1 else exact)


def test_the_look_ahead_is_the_inner_product_to_second_order():
    """L(θ − αg) = L(θ) − α⟨g, ∇L⟩ + O(α²): halving α quarters the error."""
    weight = draw(5, 3).requires_grad_()
    inputs, labels, other = draw(8, 5, seed=1), torch.arange(8) % 3, torch.arange(8) % 2
    own = torch.nn.functional.cross_entropy(inputs @ weight, labels)
    fused = torch.nn.functional.cross_entropy(inputs.tanh() @ weight, other)
    slopes = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (own, fused)]
    errors = []
    for step in (0.2, 0.1, 0.05):
        shifted = losses.look_ahead(own, {"w": weight}, step, 1)["w"]
        change = torch.nn.functional.cross_entropy(inputs.tanh() @ shifted, other) - fused
        errors.append(abs((change + step * (slopes[0] * slopes[1]).sum()).item()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_an_unknown_order_is_named():
    with pytest.raises(ValueError, match="order must be 1"):
        losses.look_ahead(torch.ones((), requires_grad=True), {}, 0.1, 3)


def test_distillation_is_the_divergence_from_the_teacher():
    teacher, student = draw(6, 4, scale=2), draw(6, 4, seed=1, scale=2)
    rows = zip(teacher.numpy(), student.numpy(), strict=True)
    expected = np.mean([(softmax(t) * np.log(softmax(t) / softmax(s))).sum() for t, s in rows])
    assert float(losses.distillation(teacher, student)) == pytest.approx(expected)
    assert float(losses.distillation(student, teacher)) != pytest.approx(expected), "the direction matters"
    assert float(losses.distillation(teacher, teacher)) == pytest.approx(0, abs=1e-12)
    teacher.requires_grad_(), student.requires_grad_()
    losses.distillation(teacher, student).backward()
    assert teacher.grad is None
    expected = (student.softmax(1) - teacher.softmax(1)).detach() / 6
    assert torch.allclose(student.grad, expected), "the gradient is that of soft labels"


def test_norm_imbalance_takes_the_mean_over_pairs():
    directions = torch.nn.functional.normalize(draw(5, 8), dim=1)
    value = losses.norm_imbalance([2.0 * directions, 1.0 * directions, 4.0 * directions])
    assert float(value) == pytest.approx(((2 - 1) ** 2 + (2 / 4 - 1) ** 2 + (1 / 4 - 1) ** 2) / 3)
    assert float(losses.norm_imbalance([directions, directions])) == pytest.approx(0)


def test_supervised_contrast_by_plain_loops():
    views, labels = draw(4, 2, 3), torch.tensor([0, 1, 0, 2])
    points = views / views.norm(dim=2, keepdim=True)
    points, classes = points.reshape(8, 3).numpy(), labels.repeat_interleave(2).tolist()
    total = 0.0
    for a in range(8):
        others = [n for n in range(8) if n != a]
        denominator = sum(math.exp(points[a] @ points[n] / 0.1) for n in others)
        positives = [n for n in others if classes[n] == classes[a]]
        total -= np.mean([math.log(math.exp(points[a] @ points[p] / 0.1) / denominator) for p in positives])
    assert float(losses.supervised_contrast(views, labels, 0.1, base=0.1)) == pytest.approx(total / 8)
    assert float(losses.supervised_contrast(views, labels, 0.1)) == pytest.approx(total / 8 * 0.1 / 0.07)


def test_direction_distance_ignores_lengths():
    vectors = draw(5, 6)
    assert float(losses.direction_distance(vectors, 3 * vectors)) == pytest.approx(0, abs=1e-6)
    assert float(losses.direction_distance(vectors, -vectors)) == pytest.approx(2)


def test_entropy_in_nats():
    assert losses.entropy(torch.zeros(3, 5)).tolist() == pytest.approx([math.log(5)] * 3)
    assert float(losses.entropy(torch.tensor([50.0, 0.0]))) == pytest.approx(0, abs=1e-6)
