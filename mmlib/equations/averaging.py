"""Weight averaging: one shadow network, updated in place by foreach kernels without synchronisation.

Batch-norm running statistics are averaged with the same weights as the parameters (as in MBCD's port); the integer
counter `num_batches_tracked` is copied. `refresh_batch_norm` re-estimates the statistics from data instead.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mmlib.checks import Number, check


class AveragedNetwork(nn.Module):
    """A running average Θ̄ of a network's weights Θ; `module` is the network that holds them.

    `lerp_towards(network, w)` moves it: Θ̄ ← (1 − w) Θ̄ + w Θ. With w = 1 − β this is the exponential average, with
    w = 1/(n + 1) the equal average of n + 1 networks. The average gets no gradients, stays in eval mode, and has at
    least single precision, whatever the network has: with half of that, small steps would be rounded away.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False).eval()
        super()._apply(lambda value: value.float() if _is_coarse(value) else value)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "AveragedNetwork":
        """Moves it to a device, but never to less precision."""

        def moved(value: Tensor) -> Tensor:
            return value.to(changed.device) if _is_coarse(changed := function(value)) else changed

        return super()._apply(moved, recurse)

    def train(self, mode: bool = True) -> "AveragedNetwork":
        """Does nothing: an average stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def lerp_towards(self, network: nn.Module, weight: float) -> None:
        """Θ̄ ← (1 − w) Θ̄ + w Θ with w = `weight`, in place; integer buffers are copied."""
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        weights = [pair for pair in pairs if pair[0].is_floating_point()]
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        averages = [average for average, _ in weights]
        torch._foreach_lerp_(averages, [value.to(average.dtype) for average, value in weights], weight)
        if counters:
            torch._foreach_copy_(*zip(*counters, strict=True))


class ExponentialAverage(AveragedNetwork):
    """Θ̄ ← β Θ̄ + (1 − β) Θ. β follows from `half_life`, a share of all training steps, or is given as `decay`. Raises a
    ValueError for values out of range."""

    def __init__(self, network: nn.Module, half_life: float = 0.1, decay: float | None = None) -> None:
        super().__init__(network)
        check({"decay": decay}, {"decay": (None, Number(0, 1, below=True))}, "An average's own weight β")
        decay_for_half_life(half_life, 1)  # refuses a wrong value now
        self.half_life, self.given_decay, self.decay = half_life, decay, decay or 0.0

    def begin(self, total_steps: int) -> None:
        """Fix β for a run of this many steps."""
        if self.given_decay is None:
            self.decay = decay_for_half_life(self.half_life, total_steps)

    def follow(self, network: nn.Module) -> None:
        """One update with the network's current weights."""
        self.lerp_towards(network, 1 - self.decay)


def _is_coarse(value: Tensor) -> bool:
    return value.is_floating_point() and value.element_size() < 4


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def decay_for_half_life(half_life: float, total_steps: int) -> float:
    """β such that a network's weight in the average halves every `half_life` (share of all training steps).

    The random start then still has a weight of 2^(−1/half_life) at the end: half_life 0.1 → 0.1 %. Raises a ValueError
    for a half_life outside (0, 1].
    """
    check({"half_life": half_life}, {"half_life": Number(0, 1, above=True)}, "A share of training")
    return math.exp(-math.log(2) / max(1.0, half_life * total_steps))


@torch.no_grad()
def refresh_batch_norm(
    network: nn.Module, batches: Iterable[Mapping[str, Tensor]], trained: nn.Module | None = None
) -> None:
    """Re-estimate batch-norm running statistics from these input batches, equally weighted: all of them, or those that
    are in train mode in `trained`, the network of which this one is an average.

    Parameters are unchanged; modes and momenta are restored. Without batch norm, nothing happens.
    """
    pairs = zip(network.modules(), (trained or network).modules(), strict=True)
    layers = [
        layer
        for layer, model in pairs
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (trained is None or model.training)
    ]
    if not layers:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
    try:
        for inputs in batches:
            network(inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
