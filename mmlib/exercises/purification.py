"""Exercises of `09_data_purification`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mmlib.equations.mixture import kept_samples
from mmlib.exercises.checking import close, exercise, shaped


@exercise(kept_samples)
def keeps(answer: Callable) -> Iterator[tuple]:
    """q_i ≤ threshold and max_k r_k,i ≥ known."""
    posterior = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.5, 0.9])
    scores = torch.tensor([[0.9, 0.2, 0.9, 0.2, 0.1, 0.6], [0.8, 0.1, 0.2, 0.1, 0.5, 0.6]])
    found = answer(posterior, scores, 0.5, 0.5)
    yield (
        shaped(found, 6) and found.dtype == torch.bool,
        "It must return a true or a false for each sample, as a tensor (N,).",
        "a comparison of tensors is one; no rows, no numbers.",
    )
    expected = torch.tensor([True, False, False, False, True, False])
    yield (
        not found[5] or found[2],
        "It keeps a sample with a high posterior, because its scores are alike.",
        "compare the posterior with the threshold, not the gap.",
    )
    yield not found[2] or found[0], "It keeps the imbalanced samples.", "q is the probability of being imbalanced."
    yield (
        not (found[1] or found[2]),
        "It keeps samples that meet one condition of the two.",
        "both must hold: `&`, with each comparison in parentheses.",
    )
    yield found[0], "It keeps not even a balanced sample that both modalities know.", "look at each condition alone."
    yield (
        found[4] or bool(answer(posterior, torch.ones_like(scores), 0.5, 0.5)[4]),
        "A posterior just at the threshold counts as balanced.",
        "q ≤ the threshold.",
    )
    yield (
        found[4],
        "It removes a balanced sample that one modality knows just well enough, and the other does not.",
        "*some* modality has to know it, with a score of at least `known`: the largest score decides.",
    )
    yield close(found, expected), "It keeps other samples than it should.", "look at each condition alone."
    yield (
        not answer(posterior, scores, 0.05, 0.5).any() and answer(posterior, scores, 1.0, 0.0).all(),
        "Its limits are not those that it is given.",
        "use `threshold` and `known`, not one half.",
    )
    yield (
        not answer(posterior, scores.flip(1), 0.5, 0.95).any() and answer(posterior, scores.flip(0), 0.5, 0.5)[4],
        "Which modality knows a sample must not matter, and the scores are not to be added up or divided once more.",
        "the largest of a sample's scores, as they are: they have been made relative already, where that is wanted.",
    )


def recall_of_removal(kept: Tensor, degraded: Tensor) -> float:
    """The kit's share of the degraded samples that a filter removes; booleans, (N,) each."""
    return (~kept)[degraded].double().mean().item()


@exercise(recall_of_removal)
def share_removed(answer: Callable) -> Iterator[tuple]:
    """P(removed | degraded) = 1 − P(kept) P(degraded | kept) / P(degraded)."""
    kept, degraded = torch.arange(10) < 5, torch.tensor([True] + [False] * 5 + [True] * 3 + [False])
    found = float(answer(kept, degraded))
    yield (
        not close(found, 0.6),
        "This is the precision: what share of the removed samples is degraded.",
        "of all *degraded* samples, which share is removed? Their number stands below the line.",
    )
    yield not close(found, 0.25), "This is the share of degraded samples that is kept.", "one minus it."
    yield not close(found, 0.3), "Divided by all samples.", "divide by the number of degraded ones."
    yield (
        close(found, 0.75),
        "Ten samples, four of them degraded; five are kept, one of these degraded: three of the four are removed, not "
        f"{found:.3f}.",
        "how many are degraded, and how many of those are not kept?",
    )
    yield (
        close(float(answer(kept, kept)), 0.0) and close(float(answer(kept, ~kept)), 1.0),
        "A filter that keeps all degraded samples removes none of them, and one that keeps none removes all.",
        "count, instead of assuming the shares of one example.",
    )
