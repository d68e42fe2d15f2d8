"""What a training step costs compared with others, all timed in turn."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from mmlib.data.dataset import Batch, move
from mmlib.methods.base import Method
from mmlib.seeding import one_thread
from mmlib.training.capture import CapturedStep
from mmlib.training.loop import TrainingConfig, optimiser_of, update


def training_step(method: Method, batch: Batch, config: TrainingConfig) -> Callable[[], object]:
    """One full step of this method on this batch, from losses to update, as a function to be timed."""
    device = config.torch_device
    method.to(device).train()
    method.on_train_start(1000, 100)
    optimiser, batch = optimiser_of(method, config, device), move(batch, device)
    step = partial(update, method, optimiser=optimiser, config=config)
    if config.capture and method.static:
        step = CapturedStep(step)

    def whole() -> None:
        step(batch)
        method.after_step()

    return whole


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
