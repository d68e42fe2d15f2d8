"""Wrong answers to the exercises of `06_mbcd_domain_generalization`, and a part of what each must be told."""

import numpy as np
from scipy.special import ndtri, stdtrit


def half(difference, quantile=None, ddof=1, root=0.5):
    count = len(difference)
    quantile = stdtrit(count - 1, 0.975) if quantile is None else quantile
    return quantile * difference.std(ddof=ddof) / count**root


def interval(**options):
    """The right answer, or one that goes wrong in the way these options say."""
    return lambda first, second: ((first - second).mean(), half(first - second, **options))


def unpaired(first, second):
    error = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return first.mean() - second.mean(), stdtrit(2 * len(first) - 2, 0.975) * error


def sum_of_half_widths(first, second):
    return first.mean() - second.mean(), half(first) + half(second)


def steps(order=sorted, bound=lambda level, count, rank: level / (count - rank), stop=True, in_place=True):
    """Holm's steps, or what goes wrong in the way these options say."""

    def answer(p_values, level=0.05):
        told = [False] * len(p_values)
        for rank, place in enumerate(order(range(len(p_values)), key=lambda one: p_values[one])):
            if p_values[place] <= bound(level, len(p_values), rank):
                told[place if in_place else rank] = True
            elif stop:
                break
        return told

    return answer


WRONG = {
    "paired_interval": [
        (unpaired, "subtract seed by seed"),
        (sum_of_half_widths, "subtract seed by seed"),
        (interval(ddof=0), "it left n − 1 of them free"),
        (interval(quantile=1.96, ddof=0), "it left n − 1 of them free"),
        (interval(quantile=ndtri(0.975)), "the normal distribution's"),
        (interval(quantile=1.96), "the normal distribution's"),
        (interval(root=0.0), "how far *single* seeds differ"),
        (interval(quantile=1.0), "This is the standard error"),
        (interval(quantile=stdtrit(4, 0.95)), "on *each* side"),
        (interval(quantile=stdtrit(5, 0.975)), "degrees of freedom"),
        (interval(quantile=2 * stdtrit(4, 0.975)), "the whole width"),
        (interval(root=1.0), "divided by the root of their number"),
        (lambda first, second: interval()(second, first), "wrong sign"),
        (lambda first, second: (first - second).mean(), "two numbers"),
    ],
    "holm": [
        (steps(bound=lambda level, count, rank: level / count), "Bonferroni"),
        (steps(bound=lambda level, count, rank: level), "nothing is corrected"),
        (steps(stop=False), "the first that fails ends it"),
        (steps(order=lambda places, key: list(places)), "begin with the smallest"),
        (steps(order=lambda places, key: sorted(places, key=key, reverse=True)), "begin with the smallest"),
        (steps(in_place=False), "in the wrong places"),
        (steps(bound=lambda level, count, rank: level / (count + 1 - rank)), "whatever their order"),
        (steps(bound=lambda level, count, rank: 0.05 / (count - rank)), "does not use the level"),
        (lambda p_values, level=0.05: [True], "a list as long"),
        (lambda p_values, level=0.05: [not p > level / len(p_values) for p in p_values], "Bonferroni"),
    ],
}
