"""The Hessian of a loss over a network's parameters: products, trace, top eigenvalues.

Networks, losses and parameters as in `flatness`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.instruments.flatness import Loss, named_parameters

HessianProduct = Callable[[Tensor], Tensor]


def product(
    network: nn.Module, loss: Loss, parameters: dict[str, nn.Parameter] | None = None
) -> tuple[HessianProduct, int]:
    """v → H v for the Hessian of the loss over these parameters (flattened, P numbers), and P.

    The gradient is linearised once by `torch.func.vjp`; each product is one backward pass through it.
    """
    parameters = parameters or named_parameters(network)
    values = {name: value.detach() for name, value in parameters.items()}
    shapes = [value.shape for value in values.values()]
    sizes = [value.numel() for value in values.values()]

    def loss_of(chosen: dict[str, Tensor]) -> Tensor:
        return loss(_Functional(network, chosen))

    was_training = network.training
    network.eval()
    _, pull_back = torch.func.vjp(torch.func.grad(loss_of), values)
    network.train(was_training)

    def times(vector: Tensor) -> Tensor:
        pieces = [piece.reshape(shape) for piece, shape in zip(vector.split(sizes), shapes, strict=True)]
        (result,) = pull_back(dict(zip(values, pieces, strict=True)))
        return torch.cat([tensor.flatten() for tensor in result.values()]).detach()

    return times, sum(sizes)


class _Functional:
    """A network called with some of its parameters replaced."""

    def __init__(self, network: nn.Module, replaced: dict[str, Tensor]) -> None:
        self._network, self._replaced = network, replaced

    def __call__(self, *arguments: object) -> object:
        return torch.func.functional_call(self._network, self._replaced, arguments)


@dataclass(frozen=True)
class TraceEstimate:
    """Hutchinson's estimate of a trace and its standard error over the random vectors."""

    trace: float
    standard_error: float


def trace(
    network: nn.Module,
    loss: Loss,
    generator: torch.Generator,
    vectors: int = 16,
    parameters: dict[str, nn.Parameter] | None = None,
) -> TraceEstimate:
    """tr H = E[vᵀ H v] over Rademacher vectors v (Hutchinson). Raises a ValueError for fewer than two vectors."""
    if vectors < 2:
        raise ValueError(f"vectors must be at least 2 for a standard error, not {vectors}.")
    times, size = product(network, loss, parameters)
    like = next(iter((parameters or named_parameters(network)).values()))
    values = quadratic_forms(times, size, generator, vectors, like)
    return TraceEstimate(float(values.mean()), float(values.std() / vectors**0.5))


def quadratic_forms(times: HessianProduct, size: int, generator: torch.Generator, vectors: int, like: Tensor) -> Tensor:
    """vᵀ H v, (vectors,) float64, for Rademacher vectors v, (size,), where and as precise as `like` is."""
    draws = []
    for _ in range(vectors):
        signs = torch.randint(0, 2, (size,), generator=generator, device=generator.device) * 2 - 1
        vector = signs.to(like)
        draws.append(vector @ times(vector))
    return torch.stack(draws).double()


def top_eigenvalues(
    network: nn.Module,
    loss: Loss,
    generator: torch.Generator,
    count: int = 1,
    iterations: int = 40,
    parameters: dict[str, nn.Parameter] | None = None,
) -> np.ndarray:
    """The `count` largest eigenvalues of the Hessian, descending, by Lanczos with full re-orthogonalisation. Raises a
    ValueError where `count` exceeds the iterations or the number of parameters."""
    times, size = product(network, loss, parameters)
    if not 1 <= count <= min(iterations, size):
        raise ValueError(f"count must lie in 1 … {min(iterations, size)}, not {count}.")
    like = next(iter((parameters or named_parameters(network)).values()))
    vector = torch.randn(size, generator=generator, device=generator.device).to(like)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(iterations, size)):
        image = times(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # a single pass loses orthogonality in single precision
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        if length < 1e-6 * max(map(abs, diagonal)):
            break  # the space is exhausted
        off_diagonal.append(length)
        basis.append(image / length)
    inner = off_diagonal[: len(diagonal) - 1]
    tridiagonal = np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1)
    return np.linalg.eigvalsh(tridiagonal)[::-1][:count]
