"""What a training step costs compared with others, all timed in turn."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mmlib import optimisers
from mmlib.data.dataset import Batch, move
from mmlib.equations.averaging import AveragedNetwork
from mmlib.methods.base import Method
from mmlib.models.classifier import MultimodalClassifier
from mmlib.seeding import one_thread
from mmlib.training.loop import TrainingConfig, optimiser_of, step_of


def training_step(method: Method, batch: Batch, config: TrainingConfig) -> Callable[[], object]:
    """One full step of this method on this batch, from losses to update, as a function to be timed."""
    device = config.torch_device
    method.to(device).train()
    method.on_train_start(1000, 100)
    optimiser, batch = optimiser_of(method, config), move(batch, device)
    step = step_of(method, optimiser, config)

    def whole() -> None:
        step(batch)
        method.after_step()

    return whole


def floor_of_mbcd(model: MultimodalClassifier, batch: Batch) -> Callable[[], object]:
    """MBCD's arithmetic floor: its forward and backward passes and nothing else, as a function to be timed.

    The trunks once forward and back; the last stages twice forward and three times back (the inner gradient, the
    uni-modal losses, the fused loss at the shifted weights); the teacher once forward; optimiser and average.
    """
    average = AveragedNetwork(model.to(batch.labels.device).train())
    optimiser = optimisers.Adam(model.parameters(), fused=True)
    names = model.modalities
    tails = {name: [model.encoders[name].last_stage, model.encoders[name].head] for name in names}
    parameters = [value for parts in tails.values() for part in parts for value in part.parameters()]

    def features(below: dict[str, Tensor]) -> dict[str, Tensor]:
        return model.normalise({name: tails[name][1](tails[name][0](below[name])) for name in names})

    def step() -> None:
        below = {name: model.encoders[name].trunk(batch.inputs[name]) for name in names}
        logits = model.unimodal_logits(features(below))
        own = sum(functional.cross_entropy(value, batch.labels) for value in logits.values())
        torch.autograd.grad(own, parameters, retain_graph=True)
        fused = functional.cross_entropy(model.fuse(features(below)), batch.labels)
        with torch.no_grad():
            average.module(batch.inputs)
        optimiser.zero_grad(set_to_none=True)
        (own + fused).backward()
        optimiser.step()
        average.lerp_towards(model, 0.01)

    return step


def shortest_seconds(steps: Mapping[str, Callable[[], object]], repeats: int = 25) -> dict[str, float]:
    """The shortest time of each function in seconds; they are timed in turn, so that a busy machine affects all alike,
    and with one thread."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    with one_thread():
        for _ in range(repeats):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in times.items()}
