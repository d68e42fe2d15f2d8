"""What is to be known of a GPU before its numbers are believed: that it agrees with the CPU and never waits inside a
step, what captured steps and shared trainings bring, and what the papers' networks take.

Every function also runs on a CPU, where there is nothing to capture, to wait for or to share memory on.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmlib import methods
from mmlib.data.dataset import Batch, move
from mmlib.data.splits import Splits
from mmlib.models import build_classifier
from mmlib.models.architecture import Architecture
from mmlib.training import Run, TrainingConfig, train_runs
from mmlib.training.loop import tensor_float_32
from mmlib.training.timing import floor_of_mbcd, shortest_seconds, training_step

METHODS = (*methods.GRIDS, "mbcd: second-order")
SEEDS, SHARING = 8, 4  # trainings, and processes that share the GPU
# Name → method, architecture, input shapes, classes and batch size of a paper.
PAPERS: dict[str, tuple[str, Architecture, dict[str, tuple[int, ...]], int, int]] = {
    "GMM: ResNet-18 × 2": (
        "gmm-adaptive",
        Architecture("resnet18"),
        {"audio": (1, 257, 188), "image": (3, 1, 224, 224)},
        6,
        64,
    ),
    "MBCD: SlowFast-R101 + SlowOnly-R50 + ResNet-18": (
        "mbcd",
        Architecture("resnet18", (("video", "slowfast-r101"), ("flow", "slowonly-r50")), fused_head="mlp", frozen=True),
        {"video": (3, 32, 224, 224), "flow": (2, 8, 224, 224), "audio": (1, 257, 1004)},
        8,
        16,
    ),
}


def tables(splits: Splits, device: torch.device) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables, each as soon as it is measured; splits that are preprocessed."""
    train = splits.train
    batch, shapes, classes = next(train.batches(64)), train.input_shapes, len(train.class_names)

    def build(name: str) -> methods.Method:
        return methods.build(name, build_classifier(shapes, classes, 0))

    yield (
        "compared with the CPU, float64",
        pd.DataFrame({name: _against_cpu(build, name, batch, device) for name in METHODS}).T,
    )
    yield "a step at batch 64, ms", _steps(build, batch, device)
    yield f"{SEEDS} trainings of MBCD, 3 epochs", _trainings(splits, device)
    yield "the papers' networks", pd.DataFrame({name: _of_paper(device, *about) for name, about in PAPERS.items()}).T


class DrawnOnCpu(TorchDispatchMode):
    """All random numbers are drawn on the CPU and then copied, so that devices can be compared."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*arguments, **options)
        given = [value for value in arguments if isinstance(value, Tensor)]
        device = options.get("device") or (given[0].device if given else torch.device("cpu"))
        arguments = tree_map_only(Tensor, lambda value: value.cpu(), arguments)
        drawn = function(*arguments, **options | ({"device": "cpu"} if "device" in options else {}))
        if function._schema.is_mutable:
            return given[0].copy_(drawn)
        return tree_map_only(Tensor, lambda value: value.to(device), drawn)


def _against_cpu(
    build: Callable[[str], methods.Method], name: str, batch: Batch, device: torch.device
) -> dict[str, Any]:
    """Largest difference of a step's losses and gradients, relative to the largest of them; and whether a step waits
    for the device."""
    doubled = batch._replace(inputs={key: value.double() for key, value in batch.inputs.items()})
    found = []
    for where in (torch.device("cpu"), device):
        method = build(name).double().to(where).train()
        method.on_train_start(1000, 100)
        torch.manual_seed(0)
        with DrawnOnCpu():
            losses = method.step_losses(move(doubled, where))
            method.backward(losses)
        gradients = [value.grad.flatten() for value in method.parameters() if value.grad is not None]
        found.append((torch.stack(list(losses.values())).detach().cpu(), torch.cat(gradients).cpu()))
    apart = [float((one - two).abs().max() / one.abs().max()) for one, two in zip(*found, strict=True)]
    return {"losses": f"{apart[0]:.0e}", "gradients": f"{apart[1]:.0e}", "waits": _waits(build(name), batch, device)}


def _waits(method: methods.Method, batch: Batch, device: torch.device) -> str:
    """The first wait for a GPU in a step, in torch's words."""
    if device.type != "cuda":
        return "—"
    step = training_step(method, batch, TrainingConfig(device=str(device)))
    step()  # what libraries set up once
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


def _steps(build: Callable[[str], methods.Method], batch: Batch, device: torch.device) -> pd.DataFrame:
    """Of each method, ordinary and captured, beside ERM's; and MBCD's over its bare passes."""
    columns = {"ordinary": TrainingConfig(device=str(device))}
    if device.type == "cuda":
        columns["captured"] = TrainingConfig(device=str(device), capture=True)
    steps = {
        (name, column): training_step(build(name), batch, config)
        for name in METHODS
        for column, config in columns.items()
        if column == "ordinary" or build(name).static
    }
    for step in steps.values():
        for _ in range(5):  # captured by now
            step()
    floor = {("floor of mbcd", "ordinary"): floor_of_mbcd(build("erm").model, move(batch, device))}
    by_column: dict[str, dict[str, float]] = {}
    for (name, column), seconds in shortest_seconds(steps | floor).items():
        by_column.setdefault(column, {})[name] = 1000 * seconds
    frame = pd.DataFrame(by_column)
    frame["÷ erm"] = frame["ordinary"] / frame.loc["erm", "ordinary"]
    return frame.round(2)


def _trainings(splits: Splits, device: torch.device) -> pd.DataFrame:
    """Seconds per seed, one after the other and side by side."""
    runs = [Run("mbcd", splits.train.domain_names[0], seed, splits.train.modalities) for seed in range(SEEDS)]
    config = TrainingConfig(epochs=3, device=str(device))
    seconds = {}
    for jobs in (1, SHARING):
        train_runs(runs[:jobs], splits, config, jobs=jobs, cached=False)  # starts the processes
        started = time.perf_counter()
        train_runs(runs, splits, config, jobs=jobs, cached=False)
        seconds[f"{jobs} at a time"] = (time.perf_counter() - started) / SEEDS
    return pd.DataFrame({"s per seed": seconds}).round(2)


def _of_paper(
    device: torch.device,
    name: str,
    architecture: Architecture,
    shapes: dict[str, tuple[int, ...]],
    classes: int,
    size: int,
) -> dict[str, float]:
    """Milliseconds of a step in each precision, and the most memory that it took."""
    inputs = {key: torch.randn(size, *shape) for key, shape in shapes.items()}
    labels = torch.arange(size) % classes
    batch = Batch(inputs, labels, torch.zeros_like(labels), torch.arange(size))
    found = {}
    for precision in ("float32", "tf32", "bfloat16") if device.type == "cuda" else ("float32",):
        method = methods.build(name, architecture.build(shapes, classes, 0))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step = training_step(method, batch, TrainingConfig(device=str(device), precision=precision))
        with tensor_float_32(precision == "tf32"):
            found[f"{precision}, ms"] = round(1000 * shortest_seconds({name: step}, repeats=5)[name], 1)
        if device.type == "cuda":
            found[f"{precision}, GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return found
