"""DSU, domain shift as uncertainty (Li et al. 2022): noise on the channel statistics of a feature map."""

import torch
from torch import Tensor


def perturb_statistics(maps: Tensor, probability: float) -> Tensor:
    """With this probability (one draw per batch), move each sample's channel means and standard deviations.

    The noise of each statistic is as large as its own spread over the batch. Maps are (batch, channels, …).
    """
    if torch.rand(()) >= probability:
        return maps
    axes = tuple(range(2, maps.ndim))
    mean = maps.mean(axes, keepdim=True)
    deviation = (maps.var(axes, correction=0, keepdim=True) + 1e-6).sqrt()
    moved_mean, moved_deviation = (
        statistic + torch.randn_like(statistic) * (statistic.var(0, correction=0, keepdim=True) + 1e-6).sqrt()
        for statistic in (mean, deviation)
    )
    return (maps - mean) / deviation * moved_deviation + moved_mean
