"""Exercises of `07_modality_gap_and_gmm`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import Normal

from mmlib.equations import losses
from mmlib.exercises.checking import close, exercise, shaped
from mmlib.instruments import separation_scores


def numbers(*values: float) -> Tensor:
    """A tensor in float64, as the mixtures are."""
    return torch.tensor(values, dtype=torch.double)


def gap_of_relative_scores(scores: Tensor) -> Tensor:
    """The kit's relative gap, (M, N) → (N,)."""
    return losses.modality_gap(losses.relative_scores(scores))


@exercise(gap_of_relative_scores)
def relative_gap(answer: Callable) -> Iterator[tuple]:
    """max_k r_k,i − min_k r_k,i with r_k,i = min(1, p_k,i / p̄_k)."""
    behind = torch.stack([numbers(0.9, 0.9, 0.9), numbers(0.3, 0.3, 0.3)])
    found = answer(behind)
    yield (
        shaped(found, 3),
        "It must return one gap for each sample, as a tensor (N,).",
        "modalities are the first axis.",
    )
    yield (
        close(found, torch.zeros(3)),
        f"A modality that scores 0.3 wherever the other one scores 0.9 must open no gap, not one of {found[0]:.2f}.",
        "divide each modality's scores by their own mean over the *samples*, the second axis.",
    )
    uneven = torch.stack([numbers(0.5, 1.0, 0.6, 0.3), numbers(0.2, 0.2, 0.2, 0.2)])
    found, expected = answer(uneven), numbers(1 / 6, 0, 0, 1 / 2)
    yield (
        (found >= 0).all() and (answer(uneven.flip(0)) >= 0).all(),
        "A gap is negative.",
        "subtract the smallest from the largest, whichever modality it is.",
    )
    yield (
        found[1] < 0.1,
        "A sample that one modality knows better than usual, and the other as well as usual, has a gap.",
        "as good as usual is good enough: cut the ratios off at one.",
    )
    yield (
        close(found, expected),
        f"Scores of 0.5, 1.0, 0.6 and 0.3 are (5/6, 1, 1, 1/2) of what is usual; beside an even modality the gaps are "
        f"(1/6, 0, 0, 1/2), not ({', '.join(f'{value:.2f}' for value in found)}).",
        "the usual score is the mean; divide first, cut off next, and subtract last.",
    )
    both_low = answer(torch.stack([numbers(0.2, 1.0, 0.6), numbers(0.3, 0.3, 0.6)]))
    yield (
        close(both_low[0], 5 / 12),
        "Where both modalities are worse than usual, at 1/3 and at 3/4 of their means, the gap must be 5/12.",
        "the best modality need not be as good as usual: subtract the smallest from the *largest*, not from one.",
    )
    third = torch.cat([uneven, numbers(0.1, 0.4, 0.4, 0.3)[None]])
    yield (
        close(answer(third), numbers(2 / 3, 0, 0, 1 / 2)),
        "With three modalities, the gap must lie between the best one and the worst.",
        "amax and amin over the first axis.",
    )


def bayes(gaps: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """The posterior of the component with the higher mean, gaps (N,), components (2,) → (N,): Bayes' rule as it is,
    which gives both tails to the wider component; `Mixture.posterior` does not."""
    logs = weights.log() + Normal(means, variances.sqrt()).log_prob(gaps[:, None])
    return logs.softmax(1)[:, means.argmax()]


@exercise(bayes, finite=False)
def posterior(answer: Callable) -> Iterator[tuple]:
    """π_imb N_imb / (π_bal N_bal + π_imb N_imb)."""
    weights, means, same = numbers(2 / 3, 1 / 3), numbers(0.1, 0.8), numbers(0.01, 0.01)
    halfway = numbers(0.45, 0.45, 0.45)
    found = answer(halfway, weights, means, same)
    yield (
        shaped(found, 3),
        "It must return one probability for each gap, as a tensor (N,).",
        "of the two, that of the imbalanced.",
    )
    yield (
        ((found >= 0) & (found <= 1)).all(),
        f"A probability lies between zero and one, not at {found[0]:.3g}.",
        "divide the imbalanced component's part of the density by the whole density.",
    )
    yield (
        not close(found, numbers(2 / 3, 2 / 3, 2 / 3)),
        "This is the probability of the balanced component.",
        "the imbalanced one has the larger mean.",
    )
    yield (
        close(found, halfway * 0 + 1 / 3),
        f"Halfway between the means, with equal variances, both components are equally dense: the posterior is the "
        f"weight, 1/3, not {found[0]:.3f}.",
        "each density counts with its weight π.",
    )
    yield (
        close(answer(halfway, weights.flip(0), means.flip(0), same), halfway * 0 + 1 / 3),
        "The same two components in the other order have another posterior.",
        "the imbalanced component is the one with the larger mean, whatever its index.",
    )
    spread, gaps = numbers(0.01, 0.09), numbers(0.2, 0.35, 0.7)
    found = answer(gaps, weights, means, spread)
    yield (
        not close(found, bayes(gaps, weights, means, spread**2)),
        "It takes variances for standard deviations.",
        "a normal density divides the squared distance by twice the variance, as it is.",
    )
    yield (
        close(found, bayes(gaps, weights, means, spread)),
        "With unequal variances it is wrong.",
        "a wide density is a low one: divide by σ, or in logarithms subtract half of log σ².",
    )
    turned = (part.flip(0) for part in (weights, means, spread))
    yield (
        close(answer(gaps, *turned), bayes(gaps, weights, means, spread)),
        "The same two components of unequal variances in the other order have another posterior.",
        "weight, mean and variance of a component stand at the same index: turn none of them without the others.",
    )
    narrow = numbers(1e-4, 1e-4)
    ends = [answer(numbers(end, end), weights, pair, narrow)[0] for end, pair in ((1, means / 8), (0, 0.9 + means / 8))]
    yield (
        close(torch.stack(ends), numbers(1, 0)),
        f"Far from two narrow components it is {ends[0]:.3g} on one side and {ends[1]:.3g} on the other, not one and "
        "zero: both densities round to zero.",
        "stay with logarithms, and let a softmax or a sigmoid take them back.",
    )
    tail = answer(numbers(4.0, -3.0), weights, numbers(0.1, 0.8), numbers(1e-2, 1e-3))
    yield (
        close(tail, numbers(0, 0)),
        "Far from both means, the wider component must have the sample, whichever mean is nearer.",
        "the exponents differ by more and more: compute their difference, and no rule of your own for the tails.",
    )


def from_posterior(gaps: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kit's M step: weights, means and variances, (2,) each, from gaps and posteriors, (N,) each."""
    share = torch.stack([1 - posterior, posterior])
    mass = share.sum(1)
    means = share @ gaps / mass
    return mass / len(gaps), means, (share * (gaps - means[:, None]).square()).sum(1) / mass


@exercise(from_posterior)
def m_step(answer: Callable) -> Iterator[tuple]:
    """Shares of 1 − q and q: their mean, the mean and the variance of the gaps weighted by them."""
    gaps, given = numbers(0.1, 0.2, 0.6, 0.9), numbers(0.0, 0.2, 0.8, 0.4)
    found, expected = answer(gaps, given), from_posterior(gaps, given)
    yield (
        isinstance(found, tuple | list) and len(found) == 3 and all(shaped(part, 2) for part in found),
        "It must return three tensors, (2,) each.",
        "weights, means, variances; in each of them the balanced component first.",
    )
    weights, means, variances = found
    yield close(weights.sum(), 1.0), f"The weights add up to {weights.sum():.3g}, not to one.", "divide by N."
    yield not close(weights, expected[0].flip(0)), "The balanced component comes first.", "its shares are 1 − q."
    yield (
        not close(weights, numbers(0.75, 0.25)),
        "It decides for every sample where it belongs.",
        "a sample counts in both components, in one with q and in the other with 1 − q.",
    )
    yield close(weights, expected[0]), "A component's weight is wrong.", "it is the mean of its shares."
    yield (
        close(means, expected[1]),
        "A component's mean is not that of its samples.",
        "weigh every gap by its share, and divide by the sum of the *shares*, not by the number of samples.",
    )
    yield not close(variances, expected[2].sqrt()), "These are standard deviations.", "leave the root out."
    yield (
        close(variances, expected[2]),
        "A component's variance is wrong.",
        "squared distances from the component's own new mean, weighed by the shares and divided by their sum.",
    )


def area(gaps: Tensor, degraded: Tensor) -> float:
    """The kit's area under the ROC curve."""
    return separation_scores(gaps, degraded)["AUC"]


@exercise(area)
def auc(answer: Callable) -> Iterator[tuple]:
    """P(a degraded sample has the larger gap) + ½ P(equal gaps), over pairs of a degraded sample and another."""
    gaps, degraded = numbers(0.1, 0.4, 0.35, 0.8, 0.05), torch.tensor([False, False, True, True, False])
    found = float(answer(degraded.double(), degraded))
    yield (
        not close(found, 0.0),
        "Where every degraded sample has the larger gap, it is zero.",
        "that is the other order.",
    )
    yield (
        close(found, 1.0),
        f"Where every degraded sample has a larger gap than every other one, it must be 1, not {found:.3f}.",
        "only pairs of a degraded sample and another one count: divide by the number of those.",
    )
    found = float(answer(degraded.double() * 0, degraded))
    yield close(found, 0.5), f"Where all gaps are equal it must be 1/2, not {found:.3f}.", "a tie counts one half."
    found = float(answer(gaps / 100, degraded))
    yield (
        close(found, 5 / 6),
        "With degraded samples at 0.0035 and 0.008 and others at 0.0005, 0.001 and 0.004, five of six pairs are in "
        f"order: not {found:.3f}.",
        "compare each degraded sample with each other one, and count; how much larger a gap is does not matter.",
    )
    found = float(answer(numbers(0.2, 0.4, 0.4, 0.8, 0.4), degraded))
    yield close(found, 5 / 6), f"With two ties among six pairs it must be 5/6, not {found:.3f}.", "half for each tie."
