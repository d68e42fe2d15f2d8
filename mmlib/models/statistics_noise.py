"""DSU, domain shift as uncertainty (Li et al. 2022): noise on the channel statistics of a feature map."""

import torch
from torch import Tensor


def perturb_statistics(maps: Tensor, probability: float) -> Tensor:
    """With this probability (one draw per batch), perturb each sample's channel means and standard deviations.

    Maps are (batch, channels, …). The noise is Gaussian and as large as the spread of each statistic over the batch.
    Variances are sample variances (n − 1), as in the source; that of a single value counts as 0.
    """
    if torch.rand(()) >= probability:
        return maps
    axes = tuple(range(2, maps.ndim))
    mean, deviation = maps.mean(axes, keepdim=True), _deviation(maps, axes)
    moved_mean, moved_deviation = (
        statistic + torch.randn_like(statistic) * _deviation(statistic, (0,)) for statistic in (mean, deviation)
    )
    return (maps - mean) / deviation * moved_deviation + moved_mean


def _deviation(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    several = any(values.shape[axis] > 1 for axis in axes)
    return (values.var(axes, correction=int(several), keepdim=True) + 1e-6).sqrt()
