"""Exercises of `06_mbcd_domain_generalization`."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from mmlib.exercises.checking import close, exercise
from mmlib.training.estimates import distinguishable, paired_difference


def interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The kit's mean and half-width of the paired difference of two methods, (n,) each."""
    difference = paired_difference(pd.Series(first), pd.Series(second))
    return difference.mean, difference.half_width


@exercise(interval)
def paired_interval(answer: Callable) -> Iterator[tuple]:
    """d̄ ± t(n − 1) s/√n of the differences d."""
    first, second = np.array([81.0, 70.0, 77.0, 92.0, 64.0]), np.array([80.0, 68.0, 74.0, 88.0, 59.0])
    found = answer(first, second)
    yield (
        isinstance(found, tuple | list) and len(found) == 2 and all(np.ndim(part) == 0 for part in found),
        "It must return two numbers.",
        "the mean of the differences, then the half-width.",
    )
    mean, half = map(float, found)
    yield not close(mean, -3.0), "The mean has the wrong sign.", "first minus second."
    yield (
        close(mean, 3.0),
        f"The mean difference of the methods in this check is 3, not {mean:.2f}.",
        "first minus second.",
    )
    count, spread = 5, np.sqrt(2.5)
    apart = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / count)
    yield (
        half < 3 * spread
        and not np.isclose(half / apart, [1.96, stdtrit(4, 0.975), stdtrit(8, 0.975)], rtol=1e-2).any(),
        "This is the interval of two groups that have nothing to do with each other; it is far too wide.",
        "subtract seed by seed first: what a seed does to both methods cancels.",
    )
    error, quantile = spread / math.sqrt(count), stdtrit(count - 1, 0.975)
    yield not close(half, error), "This is the standard error.", "how many of them make a 95 % interval?"
    yield (
        not close(half, quantile * spread),
        "This says how far *single* seeds differ, not how well their mean is known.",
        "the mean of n values varies less than one of them: divide by the root of n.",
    )
    yield (
        not np.isclose(half / error / math.sqrt(0.8), [quantile, ndtri(0.975)], rtol=3e-3).any(),
        "The standard deviation divides by n.",
        "the mean was taken from the same values; it left n − 1 of them free. `ddof`.",
    )
    yield (
        not close(half, ndtri(0.975) * error, 3e-3),
        "The quantile is the normal distribution's: too narrow where the spread is estimated from a few seeds.",
        "Student's t, `stats.t.ppf`.",
    )
    yield (
        not close(half, stdtrit(count - 1, 0.95) * error),
        "This interval leaves out one twentieth on *each* side.",
        "one fortieth on each side makes 95 %.",
    )
    yield not close(half, stdtrit(count, 0.975) * error), "Student's t has the wrong degrees of freedom.", "not n."
    yield not close(half, 2 * quantile * error), "This is the whole width of the interval.", "half of it on each side."
    yield (
        close(half, quantile * error),
        f"The half-width for the differences 1, 2, 3, 4, 5 is {quantile * error:.3f}, not {half:.3f}.",
        "the quantile, times the standard deviation of the differences, divided by the root of their number.",
    )


@exercise(distinguishable)
def holm(answer: Callable) -> Iterator[tuple]:
    """p_(1) ≤ level/m, p_(2) ≤ level/(m − 1), … up to the first that is not (Holm 1979)."""

    def told(*p_values: float, level: float = 0.05) -> list[bool]:
        return [bool(one) for one in answer(list(p_values), level)]

    found = told(0.9, 0.001)
    yield len(found) == 2, "It must return a truth value for each p-value.", "a list as long as `p_values`."
    yield (
        found != [True, False],
        "The verdicts are in the wrong places.",
        "sort the *places*, not the p-values, and write each verdict to its own.",
    )
    yield (
        found == [False, True],
        "Of p-values of 0.9 and 0.001 the second alone must hold.",
        "begin with the smallest p-value, wherever it stands; it is the one that must be at most level/m.",
    )
    found = told(0.03, 0.04)
    yield (
        found != [True, True],
        "Two p-values of 0.03 and 0.04 both pass: nothing is corrected, or one starts from the largest.",
        "the smallest must be at most level/2 here.",
    )
    yield (
        found != [False, True],
        "It goes on after a p-value that is too large.",
        "the first that fails ends it: those after it fail as well.",
    )
    found = told(0.045, 0.012, 0.02, 0.016)
    yield (
        found != [False, True, False, False],
        "Every p-value is held against level/m: this is Bonferroni's correction, which gives away more than it must.",
        "after the first, m − 1 comparisons are left.",
    )
    yield (
        found == [True] * 4,
        "Of 0.012, 0.016, 0.02 and 0.045, whatever their order, all must hold.",
        "sort first; the bounds are level/4, level/3, level/2 and level.",
    )
    yield told(0.03) == [True], "A single comparison needs no correction.", "where m is one, the bound is the level."
    yield told(0.03, level=0.01) == [False], "It does not use the level that it is given.", "`level`, not 0.05."
    yield told(float("nan"), 0.03) == [False, False], "A p-value that is not a number holds.", "ask for `p <= bound`."
