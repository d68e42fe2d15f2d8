"""Flatness: how the loss changes when the weights do. Random directions, lines, planes, and the Hessian.

All functions see a network through a `loss`: a callable that maps it to a scalar tensor, e.g.
`cross_entropy_on(batch)`. Selected `parameters` (all by default, or `encoder_parameters(network, "audio")`) are moved
in place by foreach kernels on one resident batch, and are restored bit for bit. Memory: one copy of the parameters
and one direction, whatever the number of points.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlib.data.dataset import Batch

Loss = Callable[[nn.Module], Tensor]
Direction = list[Tensor]  # one tensor per selected parameter


def cross_entropy_on(batch: Batch, chunk: int = 1024) -> Loss:
    """The fused head's mean cross-entropy on this batch, computed in chunks of samples to bound memory."""

    def loss(network: nn.Module) -> Tensor:
        total = torch.zeros((), device=batch.labels.device)
        for start in range(0, len(batch.labels), chunk):
            piece = slice(start, start + chunk)
            outputs = network({name: tensor[piece] for name, tensor in batch.inputs.items()})
            total = total + functional.cross_entropy(outputs.fused_logits, batch.labels[piece], reduction="sum")
        return total / len(batch.labels)

    return loss


def named_parameters(network: nn.Module, prefix: str = "") -> dict[str, nn.Parameter]:
    """The network's parameters whose names start with `prefix`. Raises a ValueError where there are none."""
    chosen = {name: value for name, value in network.named_parameters() if name.startswith(prefix)}
    if not chosen:
        raise ValueError(f"No parameter's name starts with {prefix!r}.")
    return chosen


def encoder_parameters(network: nn.Module, modality: str) -> dict[str, nn.Parameter]:
    """The parameters of one modality's encoder of a `MultimodalClassifier`."""
    return named_parameters(network, f"encoders.{modality}.")


def random_direction(
    parameters: dict[str, nn.Parameter], generator: torch.Generator, normalise: str = "unit"
) -> Direction:
    """A Gaussian direction over these parameters.

    * "unit": the whole direction has norm 1, as in SWAD's flatness (Cha et al. 2021);
    * "filter": each filter (row of a weight) of the direction has the norm of the network's own, and biases
      and normalisation weights are not moved (Li et al. 2018), so that networks of different scale can be compared.
    """
    if normalise not in ("unit", "filter"):
        raise ValueError(f"normalise must be unit or filter, not {normalise!r}.")
    noise = [
        torch.randn(value.shape, generator=generator, device=generator.device, dtype=value.dtype).to(value.device)
        for value in parameters.values()
    ]
    if normalise == "unit":
        length = torch.sqrt(sum(tensor.square().sum() for tensor in noise))
        return [tensor / length for tensor in noise]
    return [_like_filters(tensor, value.detach()) for tensor, value in zip(noise, parameters.values(), strict=True)]


def _like_filters(noise: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(noise)
    axes = tuple(range(1, weight.ndim))
    length = torch.linalg.vector_norm(noise, dim=axes, keepdim=True).clamp_min(1e-12)
    return noise * torch.linalg.vector_norm(weight, dim=axes, keepdim=True) / length


@dataclass(frozen=True)
class RadiusCurve:
    """Loss increase along random directions: `radii` (R,), `increases` (repeats, R)."""

    radii: np.ndarray
    increases: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the directions, (R,)."""
        return self.increases.mean(0)

    @property
    def standard_error(self) -> np.ndarray:
        """Of that mean, (R,)."""
        return self.increases.std(0, ddof=1) / np.sqrt(len(self.increases))


def loss_increase(
    network: nn.Module,
    loss: Loss,
    radii: Sequence[float],
    generator: torch.Generator,
    repeats: int = 20,
    normalise: str = "unit",
    parameters: dict[str, nn.Parameter] | None = None,
) -> RadiusCurve:
    """E[loss(Θ + γ d) − loss(Θ)] for each radius γ, over `repeats` random directions d (SWAD's flatness). Raises a
    ValueError for fewer than two repeats."""
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 for a standard error, not {repeats}.")
    parameters = parameters or named_parameters(network)
    increases = []
    with _movable(network, parameters) as move:
        base = loss(network)
        for _ in range(repeats):
            direction = random_direction(parameters, generator, normalise)
            losses = [move([direction], [radius], loss) if radius else base for radius in radii]
            increases.append(torch.stack(losses) - base)
    return RadiusCurve(np.asarray(radii, float), torch.stack(increases).double().cpu().numpy())


def loss_line(first: nn.Module, second: nn.Module, loss: Loss, positions: Sequence[float]) -> np.ndarray:
    """Loss at (1 − t)·first + t·second for each t. Batch norm uses the batch's own statistics (see `loss_plane`)."""
    difference = torch._foreach_sub(_weights(second), _weights(first))
    with _movable(first, named_parameters(first)) as move, _batch_statistics(first):
        return torch.stack([move([difference], [t], loss) for t in positions]).double().cpu().numpy()


@dataclass(frozen=True)
class Plane:
    """Losses on the plane through three networks: `losses` (rows y, columns x), and the networks' positions (3, 2)."""

    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    positions: np.ndarray


def loss_plane(networks: Sequence[nn.Module], loss: Loss, resolution: int = 15, margin: float = 0.3) -> Plane:
    """The loss on the plane through three networks, in units of weight distance.

    The first lies at the origin, the second on the x-axis. Running statistics of batch norm belong to one network and
    mean nothing between two, so here batch norm uses the statistics of the batch that the loss is computed on. Raises a
    ValueError where the networks span no plane.
    """
    if len(networks) != 3:
        raise ValueError(f"A plane needs three networks, not {len(networks)}.")
    origin, *others = (_weights(network) for network in networks)
    first, second = (torch._foreach_sub(other, origin) for other in others)
    length = _dot(first, first).sqrt()
    if float(length) == 0:
        raise ValueError("The first two networks are the same: they span no plane.")
    along = torch._foreach_div(first, float(length))
    shift = float(_dot(second, along))
    across = torch._foreach_sub(second, torch._foreach_mul(along, shift))
    height = float(_dot(across, across).sqrt())
    if height < 1e-6 * float(length):
        raise ValueError("The three networks lie on one line: they span no plane.")
    across = torch._foreach_div(across, height)
    positions = np.array([[0.0, 0.0], [float(length), 0.0], [shift, height]])
    x, y = (_axis(positions[:, column], margin, resolution) for column in (0, 1))
    network = networks[0]
    with _movable(network, named_parameters(network)) as move, _batch_statistics(network):
        losses = torch.stack([torch.stack([move([along, across], [a, b], loss) for a in x]) for b in y])
    return Plane(x, y, losses.double().cpu().numpy(), positions)


def _axis(values: np.ndarray, margin: float, resolution: int) -> np.ndarray:
    spread = values.max() - values.min()
    return np.linspace(values.min() - margin * spread, values.max() + margin * spread, resolution)


def _dot(first: Direction, second: Direction) -> Tensor:
    return sum((a * b).sum() for a, b in zip(first, second, strict=True))


def _weights(network: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in network.parameters()]


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the current batch; running statistics are restored afterwards."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer, (training, buffers) in zip(layers, before, strict=True):
            layer.train(training)
            layer.load_state_dict(buffers, strict=False)


@contextmanager
def _movable(
    network: nn.Module, tensors: dict[str, Tensor]
) -> Iterator[Callable[[list[Direction], list[float], Loss], Tensor]]:
    """`move(directions, amounts, loss)`: the loss at start + Σ amount·direction; everything is restored at the end."""
    targets = [value.detach() for value in tensors.values()]
    start = [value.clone() for value in targets]
    was_training = network.training
    network.eval()

    def move(directions: list[Direction], amounts: list[float], loss: Loss) -> Tensor:
        torch._foreach_copy_(targets, start)
        for direction, amount in zip(directions, amounts, strict=True):
            torch._foreach_add_(targets, direction, alpha=float(amount))
        return loss(network)

    try:
        with torch.no_grad():
            yield move
    finally:
        torch._foreach_copy_(targets, start)
        network.train(was_training)
