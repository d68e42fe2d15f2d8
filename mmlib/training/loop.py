"""Train any method on any data and device: `fit`, and the `History` it returns."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmlib import optimisers
from mmlib.checks import Number, Text, Whole, check
from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.data.transforms import Augmentation, augment
from mmlib.methods.base import Method
from mmlib.models.evaluate import evaluate
from mmlib.seeding import seed_for, torch_generator
from mmlib.training.capture import CapturedStep
from mmlib.training.checkpoint import Checkpoint

DEVICE = Text(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:1 … (on a Mac, the CPU is used)")


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
    capture: bool = False  # on a GPU: steps as CUDA graphs, for methods whose steps are all alike (`Method.static`)

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
            "capture": bool,
        }
        check(vars(self), allowed, "TrainingConfig")
        object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs))  # a list will do
        if self.torch_device.type != "cuda" and self.capture:
            raise ValueError("TrainingConfig: capture=True makes CUDA graphs and needs a GPU; leave it out here.")

    @property
    def torch_device(self) -> torch.device:
        """The device that `device` stands for here."""
        return resolve_device(self.device)


class Diverged(ArithmeticError):
    """A training whose loss or weights are no longer finite numbers: nothing that it learned can be used."""


@dataclass
class History:
    """One row per epoch: mean training losses by part, validation and monitored accuracies and losses, seconds; and
    the tensors that `fit`'s `measure` returned, by name, one per epoch."""

    rows: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int = 0  # counted from 1; the epoch of the predictor's weights
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The rows as a table, by epoch."""
        return pd.DataFrame(self.rows).set_index("epoch")

    def add(self, row: Mapping[str, float], measured: Mapping[str, float | Tensor]) -> None:
        """An epoch's row, with the numbers among what was measured; tensors are kept separately, on the CPU."""
        numbers = {name: value for name, value in measured.items() if not isinstance(value, Tensor)}
        self.rows.append({**row, **numbers})
        for name in measured.keys() - numbers.keys():
            self.tensors.setdefault(name, []).append(measured[name].cpu())


def resolve_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one. Raises a ValueError for what is no `DEVICE`, and for a GPU that does not
    exist: never a silent CPU run."""
    check({"device": name}, {"device": DEVICE})
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was requested, but there are {torch.cuda.device_count()} CUDA devices.")
    return device


def fit(
    method: Method, train: MultimodalDataset, validation: MultimodalDataset, config: TrainingConfig, **options: Any
) -> History:
    """Train the method in place; afterwards `method.predictor` holds the selected weights. Options, selection and
    errors: `fit_together`."""
    (history,) = fit_together([method], train, validation, config, **options)
    return history


def fit_together(
    methods: Sequence[Method],
    train: MultimodalDataset,
    validation: MultimodalDataset,
    config: TrainingConfig,
    *,
    monitors: Mapping[str, MultimodalDataset] | None = None,
    measure: Callable[[Method], Mapping[str, float | Tensor]] | None = None,
    augmentations: Mapping[str, Augmentation] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> list[History]:
    """Train one network for all of these methods at once: the network itself, and averages of it. Each ends as if it
    had been trained alone, with a network and a history of its own, and its predictor holds its selected weights.

    All methods are built around the same model and minimise the same losses, which are taken from the first; what
    happens after a step or an epoch changes their averages only.

    Selection sees `validation` (source domains) only. `monitors` are evaluated and `measure` is called every epoch, in
    columns of their own (tensors separately), for observation only; they never influence training. A run that finds
    its `checkpoint` resumes from there and, on a CPU, ends with identical weights and history.

    Raises Diverged at the end of an epoch in which a part of the loss was not finite, naming the first such step, or
    after which the validation loss or a weight is not. Raises a ValueError for a single training sample.
    """
    if len(train) < 2:
        raise ValueError("A training needs at least two samples: batch norm cannot be computed from one.")
    device = config.torch_device
    train, validation = train.resident(device), validation.resident(device)
    watched = {name: dataset.resident(device) for name, dataset in (monitors or {}).items()}
    steps_per_epoch = max(1, math.ceil((len(train) - 1) / config.batch_size))  # a single sample is no last batch
    for method in methods:
        method.to(device)
    optimiser = optimiser_of(methods[0], config)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(config.decay_epochs), config.decay_factor)
    for method in methods:
        method.on_train_start(config.epochs * steps_per_epoch, steps_per_epoch)

    courses = [_Course(method, config) for method in methods]
    stateful = {"optimiser": optimiser, "schedule": schedule}
    if checkpoint is not None and (state := checkpoint.read(device)) is not None:
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        for name, course in zip(checkpoint.runs, courses, strict=True):
            course.load(state["courses"][name])
    remaining = range(len(courses[0].history.rows) + 1, config.epochs + 1)
    for epoch in tqdm(remaining, desc=type(methods[0]).__name__, leave=False, disable=not progress):
        started = time.perf_counter()
        with tensor_float_32(config.precision == "tf32"):
            losses = _train_epoch(methods, train, optimiser, config, epoch, device, augmentations or {})
        schedule.step()
        row = {"epoch": epoch, **losses, "seconds": time.perf_counter() - started}
        for course in courses:
            course.end_epoch(row, validation, watched, measure)
        if checkpoint is not None:
            kept = {name: part.state_dict() for name, part in stateful.items()}
            states = (course.state() for course in courses)
            checkpoint.write(kept | {"courses": dict(zip(checkpoint.runs, states, strict=True))})

    for method in methods[1:]:
        method.model = copy.deepcopy(method.model)  # the first may go back to earlier weights
    for course in courses:
        course.end(train)
    return [course.history for course in courses]


class _Course:
    """What happens to one method besides the steps: its history, its best epoch so far, its end."""

    def __init__(self, method: Method, config: TrainingConfig) -> None:
        self.method, self.config = method, config
        self.history, self.best = History(), None

    def end_epoch(
        self,
        row: Mapping[str, float],
        validation: MultimodalDataset,
        monitors: Mapping[str, MultimodalDataset],
        measure: Callable[[Method], Mapping[str, float | Tensor]] | None,
    ) -> None:
        """Evaluate the predictor, and keep it if it is the best; `row` says what the steps of this epoch did, and how
        long they took."""
        started, predictor = time.perf_counter(), self.method.predictor
        validated = evaluate(predictor, validation, "validation ")
        _require_finite(self.method, self.config, f"after epoch {row['epoch']}", validated["validation loss"])
        row = row | validated
        for name, dataset in monitors.items():
            row |= evaluate(predictor, dataset, f"{name} ")
        measured = measure(self.method) if measure else {}
        self.method.on_epoch_end(validated)
        self.history.add(row | {"seconds": row["seconds"] + time.perf_counter() - started}, measured)
        score = [row["validation accuracy"], -row["validation loss"]]  # the loss breaks ties
        if self.best is None or score > self.best["score"]:
            self.best = {"score": score, "epoch": row["epoch"], "weights": copy.deepcopy(predictor.state_dict())}

    def state(self) -> dict[str, Any]:
        """All that `load` needs, as plain values and tensors."""
        return {
            "method": self.method.state_dict(),
            "counters": self.method.counters(),
            "watched": self.method.watched,
            "rows": self.history.rows,
            "tensors": self.history.tensors,
            "best": self.best,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.method.load_state_dict(state["method"])
        self.method.load_counters(state["counters"])
        self.method.watched.update(state["watched"])
        tensors = {name: [one.cpu() for one in by_epoch] for name, by_epoch in state["tensors"].items()}
        self.history, self.best = History(state["rows"], tensors=tensors), state["best"]

    def end(self, train: MultimodalDataset) -> None:
        """After the last epoch: select."""
        method, best = self.method, self.method.selection == "best"
        method.on_train_end(train, self.config.batch_size)
        _require_finite(method, self.config, "at the end")
        if best:
            method.predictor.load_state_dict(self.best["weights"])
        self.history.selected_epoch = self.best["epoch"] if best else self.config.epochs
        method.eval()


def _train_epoch(
    methods: Sequence[Method],
    train: MultimodalDataset,
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
    epoch: int,
    device: torch.device,
    augmentations: Mapping[str, Augmentation],
) -> dict[str, float]:
    """One pass over the training data; mean of each part of the loss and of what the first method watches, weighted by
    batch size.

    Everything random is seeded by (seed, epoch): nothing else has to be stored to resume. Nothing in the loop
    synchronises with the device; the sums are read once at the end. Raises Diverged where a loss was not finite.
    """
    method = methods[0]
    rows = method.on_epoch_start(epoch, train)
    method.train()
    shuffling = torch_generator("shuffle", config.seed, epoch)
    augmenting = torch_generator("augment", config.seed, epoch, device=device)
    sums: dict[str, Tensor] = {}
    steps: list[dict[str, Tensor]] = []
    step = step_of(method, optimiser, config)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for("dropout", config.seed, epoch))
        for batch in train.batches(config.batch_size, shuffling, device, rows, stored=True):
            batch = augment(batch, train.front_end, augmentations, augmenting)
            losses = step(batch)
            for one in methods:
                one.after_step()
            steps.append({f"train {name} loss": loss.detach() for name, loss in losses.items()})
            for name, value in (steps[-1] | method.watched).items():
                sums[name] = sums.get(name, 0.0) + value * len(batch.labels)
    count = len(train) if rows is None else len(rows)
    means = {name: float(total) / count for name, total in sums.items()}
    if not all(math.isfinite(means[name]) for losses in steps for name in losses):
        raise _diverged(method, config, f"in epoch {epoch}, {_first_fault(steps)}")
    return means


def _first_fault(steps: Sequence[Mapping[str, Tensor]]) -> str:
    """The first step with a loss that is not finite, and which; where only their sum over the epoch is not, so."""
    for number, losses in enumerate(steps, 1):
        if broken := [f"{name} {value}" for name, loss in losses.items() if not math.isfinite(value := float(loss))]:
            return f"step {number} of {len(steps)}: {', '.join(broken)}"
    return "the sum of its losses overflows"


def _require_finite(method: Method, config: TrainingConfig, when: str, validation_loss: float = 0.0) -> None:
    """Raises Diverged where the validation loss, a weight or a statistic is not finite."""
    state = {name: value for name, value in method.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
    broken = [name for name, fine in zip(state, finite, strict=True) if not fine]
    if not math.isfinite(validation_loss):
        raise _diverged(method, config, f"{when}: its validation loss is {validation_loss}")
    if broken:
        raise _diverged(method, config, f"{when}: {broken[0]} is not finite")


def _diverged(method: Method, config: TrainingConfig, what: str) -> Diverged:
    return Diverged(
        f"{type(method).__name__} diverged {what}. Try a learning_rate below {config.learning_rate}, or look for "
        "damaged or very large values in the data."
    )


def step_of(
    method: Method, optimiser: torch.optim.Optimizer, config: TrainingConfig
) -> Callable[[Batch], dict[str, Tensor]]:
    """`update` as a function of the batch, for one epoch; captured where the configuration and the method allow it."""
    step = partial(update, method, optimiser=optimiser, config=config)
    return CapturedStep(step) if config.capture and method.static else step


def update(method: Method, batch: Batch, optimiser: torch.optim.Optimizer, config: TrainingConfig) -> dict[str, Tensor]:
    """One step, from losses to new weights; returns its losses. The method's `after_step` is to follow."""
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        losses = method.step_losses(batch)
    optimiser.zero_grad(set_to_none=True)
    method.backward(losses)
    optimiser.step()
    return losses


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
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


def optimiser_of(method: Method, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser for everything that a method trains."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.optimiser == "adam":
        return optimisers.Adam(parameters, **shared, capturable=config.capture)
    return optimisers.SGD(parameters, momentum=config.momentum, **shared)
