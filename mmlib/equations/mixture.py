"""One-dimensional Gaussian mixtures of the modality gaps: fitted on the device, tested, and turned into a posterior."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-4  # of each component: a standard deviation of 0.01 in the score


class Inseparable(ValueError):
    """There is nothing to fit a mixture to: too few values, or all of them equal."""


def averaged_scores(scores: Tensor, smoothing: float = 0.7) -> Tensor:
    """Scores by epoch (epochs, …) → their exponential average up to each epoch, the past with the weight `smoothing`:
    p̄_t = smoothing · p̄_{t−1} + (1 − smoothing) · p_t, starting with the first epoch's."""
    averaged = [scores[0]]
    for new in scores[1:]:
        averaged.append(torch.lerp(new, averaged[-1], smoothing))
    return torch.stack(averaged)


def heads_have_peaked(accuracies: Sequence[float], patience: int = 4, smoothing: float = 0.5) -> bool:
    """The warm-up rule: whether the heads' mean validation accuracy by epoch, averaged over epochs (the past with the
    weight `smoothing`), has had no new maximum for `patience` epochs.

    As long as a head learns what generalises, clean samples' scores grow; once it memorises bad samples, their gap
    closes, and its accuracy on others gets no better. The averaged scores of the gaps lag behind by a few epochs, and
    so does the rule. No ground truth is needed. [kit]
    """
    averaged: list[float] = []
    for accuracy in accuracies:
        averaged.append(smoothing * averaged[-1] + (1 - smoothing) * accuracy if averaged else accuracy)
    peak = max(range(len(averaged)), key=averaged.__getitem__, default=0)
    return len(averaged) - 1 - peak >= patience


@dataclass(frozen=True)
class Mixture:
    """f(x) = Σ_c π_c N(x; μ_c, σ_c²), components in the order of their means, fitted to `count` values."""

    weights: Tensor  # (K,) float64, like the others
    means: Tensor
    variances: Tensor
    log_likelihood: Tensor  # (), of all values together
    count: int

    @property
    def bic(self) -> Tensor:
        """−2 log L + (3K − 1) log N: lower is better."""
        return (3 * len(self.means) - 1) * math.log(self.count) - 2 * self.log_likelihood

    def densities(self, values: Tensor) -> Tensor:
        """π_c N(x; μ_c, σ_c²), (…) → (K, …)."""
        return _log_densities(values.double(), self.weights, self.means, self.variances).exp()

    def posterior(self, values: Tensor) -> Tensor:
        """P(component of the higher mean | x) of two components, in 0 … 1 and non-decreasing in x. Raises a
        ValueError for another number of components.

        The log odds are a parabola in x whose vertex lies outside (μ_bal, μ_imb). Beyond the vertex Bayes' rule would
        give the wider component both tails; there the odds keep the vertex's value. [kit]
        """
        if len(self.means) != 2:
            raise ValueError(f"The posterior is that of two components, not of {len(self.means)}.")
        low, high = (1 / (2 * self.variances)).unbind()
        curvature, slope = low - high, 2 * (high * self.means[1] - low * self.means[0])
        vertex = -slope / (2 * curvature)
        values = values.double()
        values = torch.where(
            curvature > 0, values.maximum(vertex), torch.where(curvature < 0, values.minimum(vertex), values)
        )
        logs = _log_densities(values, self.weights, self.means, self.variances)
        return (logs[1] - logs[0]).sigmoid()


def fit_mixture(
    values: Tensor,
    components: int = 2,
    *,
    iterations: int = 2000,
    variance_floor: float = VARIANCE_FLOOR,
) -> Mixture:
    """Maximum likelihood by EM from several starts, on the values' device and in float64.

    EM runs on the sums of 1, x and x² within narrow bins, so an iteration's cost does not depend on N. It ends after
    `iterations`, or when 50 of them gain less than 1e-9 in log-likelihood per value; nothing else synchronises with the
    device. The starts split the sorted values at different quantiles: nothing is random. Raises Inseparable for fewer
    than 10 values per component or values that are all (nearly) equal, and a ValueError for NaN and infinities.
    """
    values = values.detach().flatten().double()
    _check(values, components)
    count, total, square = _binned(values)
    weights, means, variances = _starts(values, components, variance_floor)
    centre = total / count.clamp(min=1)
    reached = values.new_full((), -math.inf)
    for iteration in range(iterations):
        logs = _log_densities(centre, weights, means, variances)  # (K, R, bins)
        density = logs.logsumexp(0)
        if iteration % 50 == 0:
            likelihood = (density * count).sum(-1).amax()
            if likelihood - reached < 1e-9 * len(values):
                break
            reached = likelihood
        share = (logs - density).exp()
        mass = (share * count).sum(-1).clamp(min=1e-9)
        means = (share * total).sum(-1) / mass
        variances = ((share * square).sum(-1) / mass - means.square()).clamp(min=variance_floor)
        weights = mass / mass.sum(0)
    best = (_log_densities(centre, weights, means, variances).logsumexp(0) * count).sum(-1).argmax()
    order = means[:, best].argsort()
    chosen = [part[:, best][order] for part in (weights, means, variances)]
    return Mixture(*chosen, _log_densities(values, *chosen).logsumexp(0).sum(), len(values))


@dataclass(frozen=True)
class Separation:
    """Two components compared with one, with a verdict that can be negative."""

    values: Tensor  # (N,)
    mixture: Mixture  # of two components
    bic_gain: Tensor  # (), BIC of one component minus BIC of two

    @property
    def two_components(self) -> bool:
        """Whether BIC prefers two components by more than 10 (Kass and Raftery's "very strong")."""
        return bool(self.bic_gain > 10)

    @property
    def posterior(self) -> Tensor:
        """P(component of the higher mean | value), (N,) float64. Zeros where one component is enough: then no value
        counts as imbalanced."""
        return self.mixture.posterior(self.values) if self.two_components else torch.zeros_like(self.values).double()

    @property
    def verdict(self) -> str:
        """ "one component is enough", "two components, one peak" (skewed and heavy-tailed values need two components as
        well), or "two peaks". Two peaks are no proof of two populations: scores that saturate at 0 and 1 make two of
        one population."""
        if not self.two_components:
            return "one component is enough"
        return "two peaks" if has_two_peaks(self.values) else "two components, one peak"


def separate(values: Tensor, variance_floor: float = VARIANCE_FLOOR) -> Separation:
    """Fit one and two components and compare. Raises like `fit_mixture`."""
    two = fit_mixture(values, 2, variance_floor=variance_floor)
    one = fit_mixture(values, 1, iterations=1, variance_floor=variance_floor)
    return Separation(values.detach().flatten(), two, one.bic - two.bic)


def kept_samples(posterior: Tensor, scores: Tensor, threshold: float, known: float) -> Tensor:
    """Purification's filter, (N,) booleans: the samples whose posterior q_i, (N,), is at most `threshold` and that some
    modality knows, with a score, (M, N), of at least `known`. The second condition is this kit's [kit]."""
    return (posterior <= threshold) & (scores.amax(0) >= known)


_EXCESS_OF_UNIFORM = 1.06  # of Δ·√N; twice that of the dip


def has_two_peaks(values: Tensor) -> bool:
    """Whether the values' density has two peaks, at the 5 % level: a test for the shape alone, which skewness cannot
    deceive. Raises like `excess_mass`.

    One peak is rejected where Δ·√N exceeds the 95 % quantile for uniform values, which of all densities with one peak
    imitate two most often (Hartigan and Hartigan 1985).
    """
    return bool(excess_mass(values) * math.sqrt(values.numel()) > _EXCESS_OF_UNIFORM)


def excess_mass(values: Tensor) -> Tensor:
    """Δ = max over λ of E_2(λ) − E_1(λ), (), where E_m(λ) is the largest P(C) − λ|C| of m intervals C: how much more of
    the values two intervals hold than one where their density exceeds λ (Müller and Sawitzki 1991).

    This is twice Hartigan's dip: the distance between the distribution and the nearest one with a single peak. λ is
    searched on ever finer grids; of more than 4096 values, as many quantiles are looked at. Rounded values have a peak
    at each step. Raises Inseparable for
    fewer than 10 values or equal ones, and a ValueError for NaN and infinities.
    """
    values = values.detach().flatten().double()
    _check(values, 1)
    rank = torch.linspace(0, len(values) - 1, min(len(values), 4096), dtype=torch.double, device=values.device)
    rank = rank.round().long()
    place = values.sort().values[rank]
    place = (place - place[0]) / (place[-1] - place[0])
    share = torch.stack([rank, rank + 1], -1).double() / len(values)  # of values below each place, and up to it
    low, high = -2.0, 3.0  # log10 of λ, in units of the mean density
    for _ in range(3):
        levels = torch.linspace(low, high, 60, dtype=torch.double, device=values.device)
        height = (share - 10 ** levels[:, None, None] * place[:, None]).flatten(1)
        until = (height - height.cummin(1).values).cummax(1).values  # E_1 of what lies left of each place
        ahead = height.flip(1)
        since = (ahead.cummax(1).values - ahead).cummax(1).values.flip(1)  # … and right of it
        gain = (until + since).amax(1) - until[:, -1]
        best = float(levels[gain.argmax()])
        low, high = best - (high - low) / 59, best + (high - low) / 59
    return gain.amax()


def _log_densities(values: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """log π_c N(x; μ_c, σ_c²): values (…), parameters (K, *rest) → (K, *rest, …)."""
    shape = (*weights.shape, *[1] * values.ndim)
    weights, means, variances = (part.reshape(shape) for part in (weights, means, variances))
    return weights.log() - 0.5 * ((values - means).square() / variances + (2 * math.pi * variances).log())


def _check(values: Tensor, components: int) -> None:
    if len(values) < 10 * components:
        raise Inseparable(f"{components} components need at least {10 * components} values, not {len(values)}.")
    broken, low, high = torch.stack([(~values.isfinite()).sum(), *values.nan_to_num().aminmax()]).tolist()
    if broken:
        raise ValueError(f"{broken:.0f} of {len(values)} values are NaN or infinite: a mixture cannot be fitted.")
    if high - low < 1e-6:
        raise Inseparable(f"All {len(values)} values are (nearly) equal, {low:.6g}: there is nothing to separate.")


_BINS = 1024


def _binned(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, sum and sum of squares of the values in each of `_BINS` equal intervals, (bins,) each."""
    low, high = values.aminmax()
    place = ((values - low) / (high - low) * _BINS).long().clamp(max=_BINS - 1)
    parts = torch.stack([torch.ones_like(values), values, values.square()])
    return tuple(values.new_zeros(3, _BINS).index_add_(1, place, parts))


_CUTS = (0.5, 1.0, 2.0, 4.0)  # the k-th of K cuts lies at the quantile (k/K)^(1/cut)


def _starts(values: Tensor, components: int, variance_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and variances (K, starts): the sorted values split into K runs, differently for each start."""
    ordered = values.sort().values
    starts = []
    for power in _CUTS:
        edges = [round((k / components) ** (1 / power) * len(values)) for k in range(components + 1)]
        runs = [ordered[low:high] for low, high in pairwise(edges)]
        weights = values.new_tensor([len(run) / len(values) for run in runs])
        means = torch.stack([run.mean() for run in runs])
        variances = torch.stack([run.var(correction=0) for run in runs]).clamp(min=variance_floor)
        starts.append(torch.stack([weights, means, variances]))
    return tuple(torch.stack(starts, -1))
