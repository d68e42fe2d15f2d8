"""torch's optimisers without torch's compiler. Theirs import it when they are made, and again with every step; nothing
here uses it, and it takes each process that trains a second."""

import inspect
from collections.abc import Callable
from typing import Any

import torch


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as it is without its decorators, which bring the compiler in."""
    return inspect.unwrap(method)


class _WithoutCompiler(torch.optim.Optimizer):
    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam`, but for `differentiable`."""

    step = torch.no_grad()(_plain(torch.optim.Adam.step))


class SGD(_WithoutCompiler, torch.optim.SGD):
    """`torch.optim.SGD`, but for `differentiable`."""

    step = torch.no_grad()(_plain(torch.optim.SGD.step))


class LBFGS(_WithoutCompiler, torch.optim.LBFGS):
    """`torch.optim.LBFGS`."""
