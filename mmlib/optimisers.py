"""torch's optimisers without torch's compiler. Theirs import it when they are made, and ask it again at every step;
nothing here uses it, and importing it takes each process that trains a second."""

from inspect import unwrap  # a method as it is without the decorator that brings the compiler in

import torch


class _WithoutCompiler(torch.optim.Optimizer):
    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam`, but for `differentiable`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class SGD(_WithoutCompiler, torch.optim.SGD):
    """`torch.optim.SGD`, but for `differentiable`."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class LBFGS(_WithoutCompiler, torch.optim.LBFGS):
    """`torch.optim.LBFGS`."""
