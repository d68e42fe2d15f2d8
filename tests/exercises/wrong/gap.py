"""Wrong answers to the exercises of `07_modality_gap_and_gmm`, and a part of what each must be told."""

import torch
from torch.distributions import Normal


def difference(ratios):
    return ratios.amax(0) - ratios.amin(0)


def usual(scores):
    return scores.mean(1, keepdim=True)


def joint(gaps, weights, means, variances):
    return weights * Normal(means, variances.sqrt()).log_prob(gaps[:, None]).exp()


def naive(gaps, weights, means, variances):
    parts = joint(gaps, weights, means, variances)
    return parts[:, means.argmax()] / parts.sum(1)


def half_sorted(gaps, weights, means, variances):
    order = means.argsort()
    return joint(gaps, weights[order], means[order], variances).log().softmax(1)[:, 1]


def nearer(gaps, weights, means, variances):
    found = naive(gaps, weights, means, variances)
    return torch.where(found.isnan(), (gaps - means.amin() > means.amax() - gaps).double(), found)


def over_pairs(gaps, bad, value):
    return value(gaps[bad][:, None] - gaps[~bad]).double().mean()


def second(gaps, weights, means, variances):
    return joint(gaps, weights, means, variances).log().softmax(1)[:, 1]


def first(gaps, weights, means, variances):
    return joint(gaps, weights, means, variances).log().softmax(1)[:, 0]


def without_weights(gaps, weights, means, variances):
    return naive(gaps, weights * 0 + 0.5, means, variances)


def variance_for_deviation(gaps, weights, means, variances):
    logs = weights.log() + Normal(means, variances).log_prob(gaps[:, None])
    return logs.softmax(1)[:, means.argmax()]


def without_the_root(gaps, weights, means, variances):
    logs = weights.log() - (gaps[:, None] - means).square() / (2 * variances)
    return logs.softmax(1)[:, means.argmax()]


def step(gaps, share, centre=None, divisor=None, weights=None, root=False):
    mass = share.sum(1)
    divisor = mass if divisor is None else divisor
    means = share @ gaps / divisor
    around = means[:, None] if centre is None else centre
    variances = (share * (gaps - around).square()).sum(1) / mass
    return mass / len(gaps) if weights is None else weights, means, variances.sqrt() if root else variances


def shares(q):
    return torch.stack([1 - q, q])


def pairs(gaps, degraded):
    return gaps[degraded][:, None] - gaps[~degraded]


WRONG = {
    "relative_gap": [
        (lambda scores: 1 - (scores / usual(scores)).clamp(max=1).amin(0), "not from one"),
        (difference, "must open no gap"),
        (lambda p: difference((p / p.mean(0)).clamp(max=1)), "their own mean over the *samples*"),
        (lambda p: difference(p / usual(p)), "cut the ratios off at one"),
        (lambda p: (p / usual(p)).clamp(max=1).diff(dim=0)[0], "A gap is negative"),
        (lambda p: difference((p / p.amax(1, keepdim=True)).clamp(max=1)), "the usual score is the mean"),
        (lambda p: (p / usual(p)).clamp(max=1)[:2].diff(dim=0)[0].abs(), "With three modalities"),
        (lambda p: (p / usual(p)).clamp(max=1), "one gap for each sample"),
    ],
    "posterior": [
        (half_sorted, "unequal variances in the other order"),
        (nearer, "no rule of your own for the tails"),
        (naive, "both densities round to zero"),
        (second, "whatever its index"),
        (first, "the probability of the balanced component"),
        (without_weights, "each density counts with its weight"),
        (variance_for_deviation, "takes variances for standard deviations"),
        (without_the_root, "a wide density is a low one"),
        (lambda *given: joint(*given)[:, 1] * 1e5, "A probability lies between zero and one"),
        (lambda *given: joint(*given), "one probability for each gap"),
    ],
    "m_step": [
        (lambda g, q: step(g, shares(q), divisor=len(g)), "divide by the sum of the *shares*"),
        (lambda g, q: step(g, shares(q), centre=g.mean()), "the component's own new mean"),
        (lambda g, q: step(g, shares(q), weights=shares(q).sum(1)), "not to one"),
        (lambda g, q: step(g, shares(q).flip(0)), "The balanced component comes first"),
        (lambda g, q: step(g, shares(q).round()), "a sample counts in both components"),
        (lambda g, q: step(g, shares(q), root=True), "standard deviations"),
        (lambda g, q: step(g, shares(q), weights=q[:2] * 0 + 0.5), "the mean of its shares"),
        (lambda g, q: q @ g, "three tensors"),
    ],
    "auc": [
        (lambda g, bad: 0.5 if len(g.unique()) == 1 else over_pairs(g, bad, lambda d: d > 0), "half for each tie"),
        (lambda g, bad: over_pairs((g * 100).round(), bad, lambda d: (d.sign() + 1) / 2), "five of six pairs"),
        (lambda g, bad: (pairs(g, bad) > 0).double().mean(), "a tie counts one half"),
        (lambda g, bad: (pairs(g, bad) >= 0).double().mean(), "a tie counts one half"),
        (lambda g, bad: (pairs(g, bad) < 0).double().mean(), "the other order"),
        (lambda g, bad: (g[:, None] > g).double().mean(), "divide by the number of those"),
        (lambda g, bad: 0.5 + pairs(g, bad).mean() / 2, "how much larger a gap is does not matter"),
    ],
}
