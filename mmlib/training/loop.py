"""Train any method on any data and device: `fit`, `History`, and checkpoints that resume exactly."""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmlib.checks import Number, Whole, check
from mmlib.data.cache import atomic_path, spelled
from mmlib.data.dataset import Batch, MultimodalDataset, move
from mmlib.data.transforms import Augmentation, augment
from mmlib.methods.base import Method
from mmlib.models.evaluate import evaluate
from mmlib.seeding import seed_for, torch_generator


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the method says what is minimised. Wrong values raise a ValueError that names the field."""

    epochs: int = 12
    batch_size: int = 64
    optimiser: str = "adam"  # "adam", or "sgd" with momentum
    learning_rate: float = 1e-3
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    decay_epochs: tuple[int, ...] = ()  # after each of these epochs the learning rate is multiplied …
    decay_factor: float = 0.1  # … by this
    seed: int = 0  # of shuffling, augmentation and dropout
    device: str = "auto"  # "auto": a GPU where there is one; "cpu"; "cuda"; "cuda:1" …
    precision: str = "float32"  # full; "tf32": faster, coarser products on GPUs; "bfloat16": autocast

    def __post_init__(self) -> None:
        allowed = {
            "epochs": Whole(1),
            "batch_size": Whole(2),  # batch norm needs two
            "optimiser": ("adam", "sgd"),
            "learning_rate": Number(0, math.inf, above=True, below=True),
            "momentum": Number(0, 1, below=True),
            "weight_decay": Number(0),
            "decay_factor": Number(0, 1, above=True),
            "precision": ("float32", "tf32", "bfloat16"),
        }
        check(vars(self), allowed, "TrainingConfig")
        resolve_device(self.device)


@dataclass
class History:
    """One row per epoch: mean training losses by part, validation and monitored accuracies and losses, seconds."""

    rows: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int = 0  # counted from 1; the epoch whose predictor was kept

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).set_index("epoch")


def resolve_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one. Asking for a GPU that is not there is an error, never a silent CPU run."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices.")
    return device


def fit(
    method: Method,
    train: MultimodalDataset,
    validation: MultimodalDataset,
    config: TrainingConfig,
    *,
    monitors: Mapping[str, MultimodalDataset] | None = None,
    measure: Callable[[Method], Mapping[str, float]] | None = None,
    augmentations: Mapping[str, Augmentation] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> History:
    """Train the method in place; afterwards `method.predictor` holds the selected weights.

    Selection sees `validation` (source domains) only. `monitors` are evaluated and `measure` is called every epoch, in
    columns of their own, to be looked at; they never influence anything. With `checkpoint`, state is written after
    every epoch, whole or not at all; a run that finds one of the same configuration and data goes on from it and, on a
    CPU, ends with the identical weights.
    """
    device = resolve_device(config.device)
    train, validation = train.resident(device), validation.resident(device)
    watched = {name: dataset.resident(device) for name, dataset in (monitors or {}).items()}
    method.to(device)
    optimiser = _optimiser(method, config, device)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(config.decay_epochs), config.decay_factor)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    method.on_train_start(config.epochs * steps_per_epoch, steps_per_epoch)

    history, best = History(), None
    identity = "" if checkpoint is None else _identity(method, train, validation, config, augmentations or {})
    if checkpoint is not None and checkpoint.exists():
        history, best = _resume(checkpoint, identity, method, optimiser, schedule, device)
    remaining = range(len(history.rows) + 1, config.epochs + 1)
    for epoch in tqdm(remaining, desc=type(method).__name__, leave=False, disable=not progress):
        started = time.perf_counter()
        with _tensor_float_32(config.precision == "tf32"):
            losses = _train_epoch(method, train, optimiser, config, epoch, device, augmentations or {})
        schedule.step()
        validated = evaluate(method.predictor, validation, "validation ")
        row = {"epoch": epoch, **losses, **validated}
        for name, dataset in watched.items():
            row |= evaluate(method.predictor, dataset, f"{name} ")
        row |= measure(method) if measure else {}
        method.on_epoch_end(validated)
        history.rows.append(row | {"seconds": time.perf_counter() - started})
        score = [row["validation accuracy"], -row["validation loss"]]  # the loss breaks ties
        if best is None or score > best["score"]:
            weights = copy.deepcopy(method.predictor.state_dict())
            best = {"score": score, "epoch": epoch, "weights": weights}
        if checkpoint is not None:
            _save(checkpoint, identity, method, optimiser, schedule, history, best)

    method.on_train_end(train, config.batch_size)
    if method.selection == "best":
        method.predictor.load_state_dict(best["weights"])
    history.selected_epoch = best["epoch"] if method.selection == "best" else config.epochs
    method.eval()
    return history


def _train_epoch(
    method: Method,
    train: MultimodalDataset,
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
    epoch: int,
    device: torch.device,
    augmentations: Mapping[str, Augmentation],
) -> dict[str, float]:
    """One pass over the training data; mean of each part of the loss and of what the method watches, weighted by batch
    size.

    Everything random is seeded by (seed, epoch): nothing else has to be stored to resume. Nothing in the loop waits for
    the device; the sums are read once at the end.
    """
    rows = method.on_epoch_start(epoch, train)
    method.train()
    shuffling = torch_generator("shuffle", config.seed, epoch)
    augmenting = torch_generator("augment", config.seed, epoch, device=device)
    sums: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for("dropout", config.seed, epoch))
        for batch in train.batches(config.batch_size, shuffling, device, rows, stored=True):
            batch = augment(batch, train.front_end, augmentations, augmenting)
            losses = _step(method, batch, optimiser, config)
            seen = {f"train {name} loss": loss.detach() for name, loss in losses.items()}
            for name, value in (seen | method.watched).items():
                sums[name] = sums.get(name, 0.0) + value * len(batch.labels)
    count = len(train) if rows is None else len(rows)
    return {name: float(total) / count for name, total in sums.items()}


def _step(method: Method, batch: Batch, optimiser: torch.optim.Optimizer, config: TrainingConfig) -> dict[str, Tensor]:
    """One step, losses to update; its losses."""
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        losses = method.step_losses(batch)
    optimiser.zero_grad(set_to_none=True)
    method.backward(losses)
    optimiser.step()
    method.after_step()
    return losses


@contextmanager
def _tensor_float_32(allowed: bool) -> Iterator[None]:
    """TF32 for matrix products and convolutions (torch allows it for the latter by default); restored afterwards."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def _optimiser(method: Method, config: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, **shared)
    return torch.optim.SGD(parameters, momentum=config.momentum, **shared)


def training_step(method: Method, batch: Batch, config: TrainingConfig) -> Callable[[], object]:
    """One whole step of this method on this batch, losses to update, as a function to be timed."""
    device = resolve_device(config.device)
    method.to(device).train()
    method.on_train_start(1000, 100)
    optimiser, batch = _optimiser(method, config, device), move(batch, device)
    return lambda: _step(method, batch, optimiser, config)


def shortest_seconds(steps: Mapping[str, Callable[[], object]], repeats: int = 25) -> dict[str, float]:
    """The shortest time of each function, taken in turns, so that a busy machine treats all alike; with one thread."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return {name: min(values) for name, values in times.items()}


def _identity(
    method: Method,
    train: MultimodalDataset,
    validation: MultimodalDataset,
    config: TrainingConfig,
    augmentations: Mapping[str, Augmentation],
) -> str:
    """What a checkpoint belongs to: settings, data, augmentations, and the method's parts with their plain values."""
    settings = {name: value for name, value in asdict(config).items() if name != "device"}
    augmented = sorted((name, spelled(function)) for name, function in augmentations.items())
    text = repr((settings, description(method), augmented, train.fingerprint(), validation.fingerprint()))
    return hashlib.sha256(text.encode()).hexdigest()


def description(method: Method) -> str:
    """A method's parts with their plain values, and the shapes of all tensors: equal for methods set up alike."""
    plain = [
        (
            type(part).__name__,
            sorted((k, v) for k, v in vars(part).items() if k != "training" and isinstance(v, int | float | str)),
        )
        for part in method.modules()
    ]
    return repr((plain, {name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}))


def _save(
    path: Path,
    identity: str,
    method: Method,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    history: History,
    best: dict[str, Any],
) -> None:
    state = {
        "identity": identity,
        "method": method.state_dict(),
        "counters": method.counters(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "rows": history.rows,
        "best": best,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path,
    identity: str,
    method: Method,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
) -> tuple[History, dict[str, Any]]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["identity"]
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint or is damaged ({error}). Delete it to start anew.") from error
    if found != identity:
        raise ValueError(
            f"{path} belongs to a run with other settings, method or data. Delete it or name another checkpoint."
        )
    method.load_state_dict(state["method"])
    method.load_counters(state["counters"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return History(state["rows"]), state["best"]
