"""Statistics over runs: intervals and paired differences, with "not distinguishable" among the verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean over independent runs with the half-width of its 95 % interval (Student's t, n − 1). Runs without a result
    are left out, and counted: the text says how many."""

    mean: float
    half_width: float
    count: int
    left_out: int = 0

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half_width

    @property
    def deviation(self) -> float:
        """The values' standard deviation (n − 1), as the interval implies; NaN for one value."""
        return self.half_width * math.sqrt(self.count) / _quantile(self.count) if self.count > 1 else math.nan

    @property
    def above_zero(self) -> bool | None:
        """True or False where the interval excludes zero; None: not distinguishable."""
        if math.isnan(self.low) or self.low <= 0 <= self.high:
            return None
        return self.low > 0

    @property
    def p_value(self) -> float:
        """Of the two-sided t-test of a mean of zero; NaN for one value."""
        if self.half_width == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.count - 1, -abs(self.mean) * _quantile(self.count) / self.half_width))

    @property
    def runs_to_decide(self) -> int | None:
        """How many runs of this spread would exclude zero if their mean were this one: planning, not evidence. None:
        more than 1000, or the spread is unknown."""
        enough = (count for count in range(2, 1001) if _half_width(self.deviation, count) < abs(self.mean))
        return next(enough, None)

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        without = f" ({self.left_out} left out)" if self.left_out else ""
        number = spec.replace("+", "")
        mean = f"{self.mean:{'+' * ('+' in spec)}z{number}}"  # never -0.0
        return f"{mean} ± {self.half_width:{number}}{without}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval. One value has no interval: its half-width is NaN. NaN stands for a run without a result
    and is left out. Raises a ValueError where no value is left."""
    series = pd.Series(list(values), dtype=float).dropna()
    if series.empty:
        raise ValueError(f"An estimate needs at least one value that is not NaN, not {list(values)}.")
    count, left_out = len(series), len(values) - len(series)
    if count == 1:
        return Estimate(float(series.iloc[0]), math.nan, 1, left_out)
    return Estimate(float(series.mean()), float(_half_width(series.std(ddof=1), count)), count, left_out)


def holm(estimates: Sequence[Estimate], level: float = 0.05) -> list[bool | None]:
    """Whether each is above zero (True), below (False), or not distinguishable from it (None): in at most this share of
    tables is any that is zero called otherwise (by `distinguishable`). Single intervals would do so in more than a
    quarter of the tables with seven equal rivals.
    """
    told = distinguishable([one.p_value for one in estimates], level)
    return [one.mean > 0 if clear else None for one, clear in zip(estimates, told, strict=True)]


def distinguishable(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of these comparisons hold together (Holm 1979), in their order: of m, the smallest p-value must be at most
    level/m, the next one level/(m − 1), and so on up to the first that is not. NaN never holds."""
    told = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(told)), key=lambda n: (math.isnan(p_values[n]), p_values[n]))):
        if not p_values[place] <= level / (len(told) - rank):
            break
        told[place] = True
    return told


def _quantile(count: int) -> float:
    """Student's t: the half-width of the 95 % interval of a mean of this many values, in standard errors."""
    return stdtrit(count - 1, 0.975)


def _half_width(deviation: float, count: int) -> float:
    """Of the 95 % interval of a mean of this many values with this standard deviation."""
    return _quantile(count) * deviation / math.sqrt(count)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The estimate of all values together, from estimates of disjoint groups of them. This is exact: mean, half-width
    and count determine each group's sum and sum of squares."""
    if len(estimates) == 1:
        return estimates[0]
    count = sum(group.count for group in estimates)
    mean = sum(group.count * group.mean for group in estimates) / count
    squares = 0.0
    for group in estimates:
        squares += group.count * (group.mean - mean) ** 2
        if group.count > 1:
            squares += (group.count - 1) * group.deviation**2
    left_out = sum(group.left_out for group in estimates)
    return Estimate(float(mean), float(_half_width(math.sqrt(squares / (count - 1)), count)), count, left_out)


def paired_difference(first: pd.Series, second: pd.Series) -> Estimate:
    """Mean of first − second over runs paired by their index (seed, or target and seed), with its interval. A pair with
    a NaN is left out. Raises a ValueError where the indices differ or repeat."""
    if not first.index.sort_values().equals(second.index.sort_values()):
        raise ValueError("Paired values must have the same index (the same seeds and targets).")
    if first.index.has_duplicates:
        raise ValueError("Paired values must have a unique index.")
    return estimate(first - second.reindex(first.index))


def over_targets(table: pd.DataFrame, score: str) -> pd.Series:
    """Mean of a score over targets, per seed: seeds are the independent repetitions, targets are not. NaN for a seed
    with a run that has none: a mean over fewer targets is another measurement."""
    by_seed = table.groupby("seed")[score]
    return by_seed.mean().where(by_seed.count() == by_seed.size())
