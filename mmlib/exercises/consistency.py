"""Exercises of `04_gradient_consistency`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mmlib.equations import losses
from mmlib.exercises.checking import close, exercise, shaped
from mmlib.instruments.gradients import predicted_change as taylor

Loss = Callable[[Tensor], Tensor]  # weights → a number


def gradient_ahead(own_loss: Loss, fused_loss: Loss, weights: Tensor, step: float, order: int) -> tuple[Tensor, Tensor]:
    """The kit's θ', and the gradient of the fused loss there with respect to θ, shaped like the weights."""
    weights = weights.clone().requires_grad_()
    ahead = losses.look_ahead(own_loss(weights), {"weights": weights}, step, order)["weights"]
    (gradient,) = torch.autograd.grad(fused_loss(ahead), weights)
    return ahead.detach(), gradient


@exercise(gradient_ahead)
def step_ahead(answer: Callable) -> Iterator[tuple]:
    """θ' = θ − α g, then ∇ fused(θ') (first order) or (I − α H) ∇ fused(θ') (second order) [paper; port]."""
    weights, step = torch.tensor([1.0, -0.5, 2.0]), 0.1

    def own(at: Tensor) -> Tensor:  # its second derivatives depend on where it is, and mix the weights
        return (at**4).sum() / 8 + at[0] * at[1]

    def fused(at: Tensor) -> Tensor:
        return ((at - 3) ** 2).sum() + at[1] * at[2]

    slope = {loss: gradient_ahead(loss, loss, weights, 0.0, 1)[1] for loss in (own, fused)}
    found = answer(own, fused, weights, step, 1)
    yield (
        isinstance(found, tuple | list) and len(found) == 2 and all(shaped(part, 3) for part in found),
        "It must return two tensors of the weights' shape.",
        "the point ahead, then the gradient.",
    )
    ahead, first = found
    yield not close(ahead, weights + step * slope[own]), "The step goes uphill.", "a gradient points upwards."
    yield (
        not close(ahead, weights - step * slope[fused]),
        "The step goes down the fused loss.",
        "each modality looks ahead along its *own* loss; the fused one is judged there.",
    )
    yield (
        close(ahead, weights - step * slope[own]),
        "The point ahead is not θ − α ∇ own_loss(θ).",
        "`torch.autograd.grad(own_loss(weights), weights)` returns a tuple with the gradient in it.",
    )
    expected, exact = (gradient_ahead(own, fused, weights, step, order)[1] for order in (1, 2))
    yield not close(first, -expected), "The gradient has the wrong sign.", "return it as it is; who uses it turns it."
    yield (
        not close(first, slope[fused]),
        "The gradient is taken where the weights are, not at the point ahead.",
        "give `fused_loss` the point ahead.",
    )
    yield (
        not close(first, exact),
        "With order 1 the gradient still goes through the inner gradient.",
        "make a constant of the inner gradient: detach it.",
    )
    yield (
        close(first, expected),
        "With order 1 it must be the gradient of the fused loss at the point ahead.",
        "∇ at θ'.",
    )
    second = answer(own, fused, weights, step, 2)[1]
    yield (
        not close(second, expected),
        "With order 2 the gradient must depend on how the point ahead moves with the weights, and does not.",
        "do not detach the inner gradient, take it with `create_graph=True`, and differentiate with respect to the "
        "*weights*, not to the point ahead.",
    )
    yield close(second, exact), "With order 2 it must be (I − αH) ∇ fused_loss(θ').", "let autograd multiply by H."


@exercise(taylor)
def predicted_change(answer: Callable) -> Iterator[tuple]:
    """−α Σ_k ⟨g_k, g_mm⟩ [paper: what the look-ahead rewards]."""
    own = {"left": torch.tensor([1.0, 2.0]), "right": torch.tensor([3.0, 0.0, 1.0])}
    fused = {"right": torch.tensor([1.0, 5.0, 1.0]), "left": torch.tensor([2.0, 0.5])}  # in another order
    found = answer(own, fused, 0.1)
    yield torch.as_tensor(found).ndim == 0, "It must return one number for all modalities together.", "add them up."
    found = float(found)
    yield (
        not close(found, 0.7),
        "The loss would rise where the gradients agree.",
        "every encoder takes its step *against* its own gradient.",
    )
    yield (
        not any(close(found, part) for part in (-0.3, -0.4)),
        "Only one modality's step is in it.",
        "every encoder takes one, and their changes add up.",
    )
    yield not close(found, -0.35), "It averages over the modalities.", "their changes add up."
    yield not close(found, -7.0), "The step α is missing.", "half the step, half the change."
    twice = float(answer({name: 2 * value for name, value in own.items()}, fused, 0.1))
    yield (
        not close(twice, found),
        "It stays the same where the own gradients become twice as long.",
        "it is the inner product that counts; a cosine forgets the lengths.",
    )
    yield (
        close(found, -0.7),
        f"With inner products of three and four and a step of 0.1 it must be -0.7, not {found:.3g}.",
        "minus α, times the sum over modalities of the inner product of the two gradients of that name.",
    )
    yield close(answer(own, fused, 0.2), -1.4), "It does not grow with the step.", "use the step that it is given."
