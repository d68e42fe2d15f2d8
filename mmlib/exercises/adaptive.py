"""Exercises of `08_gmm_adaptive_training`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from mmlib.equations import losses
from mmlib.exercises.checking import close, exercise, shaped


def aligned(scores: Tensor, posterior: Tensor, alignment: float) -> Tensor:
    """The kit's (1 + κ q_i) G_i: scores (M, B), posteriors (B,) → (B,)."""
    return (1 + alignment * posterior.detach()) * losses.gap_penalty(scores)


@exercise(aligned)
def alignment_penalty(answer: Callable) -> Iterator[tuple]:
    """Values, and gradients against autograd: −(1 + κ q) for the weak score, nothing for the dominant one or for q."""
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.3, 0.6, 0.1]], requires_grad=True)
    posterior = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    found = answer(scores, posterior, 2.0)
    yield (
        shaped(found, 3),
        "It must return one penalty for each sample, (B,): no mean.",
        "modalities are the first axis.",
    )
    yield (found >= 0).all(), "A penalty is negative.", "the dominant score, whichever it is, minus the weak one."
    yield (
        not close(found, torch.tensor([1.8, 0.4, 0.8])),
        "It is strongest on balanced samples.",
        "q is the probability of being *im*balanced.",
    )
    yield (
        close(found, torch.tensor([0.6, 1.2, 0.8])),
        "For gaps of 0.6, 0.4 and 0.4, posteriors of 0, 1 and 1/2 and κ = 2, it must be (0.6, 1.2, 0.8), not "
        f"({', '.join(f'{value:.2f}' for value in found)}).",
        "the factor is one plus κ times q.",
    )
    yield found.requires_grad, "It has no gradient: nothing would be learned.", "only the dominant score is a constant."
    pulled, by_posterior = torch.autograd.grad(found.sum(), [scores, posterior], allow_unused=True)
    yield (
        by_posterior is None or close(by_posterior, torch.zeros(3)),
        "It has a gradient with respect to the posterior: calling samples balanced would lower the loss.",
        "`detach` what must stay a constant.",
    )
    dominant = torch.tensor([[True, False, True], [False, True, False]])
    yield (
        close(pulled[dominant], torch.zeros(3)),
        "Its gradient pulls the dominant modality's score down.",
        "sg(·), the stop of a gradient, is `detach`.",
    )
    yield (
        close(pulled[~dominant].sort().values, torch.tensor([-3.0, -2.0, -1.0])),
        "The gradient at a weak score must be −(1 + κ q).",
        "the weak score must not be detached, and enters once, with a minus.",
    )
    three = torch.tensor([[0.4], [0.9], [0.2]])
    yield (
        close(answer(three, torch.ones(1), 0.0), torch.tensor([0.7])),
        "With three modalities and κ = 0, it must be the largest score minus the smallest.",
        "amax and amin over the first axis.",
    )


def of_heads(scores: Tensor, posterior: Tensor, release: float, trust: float) -> Tensor:
    """The kit's weights of the heads' cross-entropies: scores (M, N), posteriors (N,) → (M, N)."""
    known = scores.amax(0) ** trust
    weak = functional.one_hot(scores.argmin(0), len(scores)).T
    return known / known.mean() * (1 - release * posterior * weak)


@exercise(of_heads)
def head_weights(answer: Callable) -> Iterator[tuple]:
    """w_i (1 − ρ q_i [k weak]) with w_i ∝ (max_k p_k,i)^ν, mean one."""
    scores, posterior = torch.tensor([[0.8, 0.2, 0.4], [0.4, 0.6, 0.1]]), torch.tensor([0.0, 1.0, 0.5])
    found = answer(scores, posterior, 0.0, 0.0)
    yield (
        shaped(found, 2, 3),
        "It must return a weight for each head and sample, (M, N).",
        "w_i is the same for all heads.",
    )
    yield close(found, torch.ones(2, 3)), "With ρ = 0 and ν = 0 all weights must be one.", "w_i has the *mean* one."
    found = answer(scores, posterior, 0.0, 1.0)
    yield (
        close(found, torch.tensor([[4 / 3, 1.0, 2 / 3]] * 2)),
        "With ν = 1 and ρ = 0, samples whose best scores are 0.8, 0.6 and 0.4 must weigh (4/3, 1, 2/3) in every head.",
        "w_i asks how well *some* modality knows the sample; divide by its mean over the samples.",
    )
    yield (
        close(answer(scores, posterior, 0.0, 2.0)[0], torch.tensor([48.0, 27.0, 12.0]) / 29),
        "With ν = 2 the weights are wrong.",
        "raise to the power ν first, and divide by the mean of what comes out.",
    )
    found = answer(scores, posterior, 1.0, 0.0)
    yield (
        found[0, 1] != found[1, 1],
        "On an imbalanced sample, both heads are treated alike.",
        "ρ concerns the weak modality alone: the one with the lowest score of the true class.",
    )
    yield found[1, 1] != 0, "It releases the dominant modality.", "the weak one has the lowest score."
    yield (
        close(found, torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.5]])),
        "With ρ = 1 and ν = 0, a weak head must keep 1 − q of its loss, and all other heads the whole.",
        "the posterior is no verdict: multiply by 1 − ρ q, without a threshold.",
    )
    three = answer(torch.tensor([[0.2], [0.9], [0.4]]), torch.ones(1), 0.5, 1.0)
    yield (
        close(three, torch.tensor([[0.5], [1.0], [1.0]])),
        "With three modalities, it must release the weakest one alone.",
        "argmin over the first axis, and `one_hot`.",
    )
