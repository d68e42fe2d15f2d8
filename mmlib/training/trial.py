"""Two steps with a method before any training: what is wrong with it, in words that say what to do."""

import copy
import dataclasses
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmlib import methods
from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.data.splits import Splits
from mmlib.methods.own import WrongMethod, line_in
from mmlib.models.classifier import MultimodalClassifier
from mmlib.seeding import one_thread
from mmlib.training.loop import TrainingConfig, optimiser_of
from mmlib.training.run import DEFAULT

_SAMPLES = 16
_HINTS = {  # a part of an error's message → what it means
    "Module.__init__() call": "Call super().__init__(model) first in __init__.",
    "has no attribute 'model'": "Call super().__init__(model) first in __init__.",
    "modified by an inplace operation": "Something is changed in place (x += …, x[…] = …): make a new tensor.",
    "leaf Variable that requires grad is being used in an in-place": "Weights are changed by the optimiser alone.",
    "does not require grad": "Some loss was detached, or computed under no_grad.",
}


def try_method(name: str, splits: Splits) -> dict[str, str]:
    """Build the method of this name around a small network, train it for two steps on a few samples, twice, and resume
    it after the first; property → what was found. Warns of parameters of its own that get no gradient.

    Raises WrongMethod for what would end a training, or make its result another one than it seems: options that never
    reach the method, losses that are no mapping of names to finite scalars with gradients, changes to the batch, a
    predictor of another shape, steps that the seed does not determine, or that cannot be resumed.
    """
    trial = _Trial(name, splits.train.thinned(_SAMPLES).subset(range(_SAMPLES)).seen())
    with one_thread(), torch.random.fork_rng(devices=[]):
        first = trial.steps(2)
        trial.check_gradients()
        trial.check_predictor()
        trial.check_repeats(first)
        trial.check_resumes(first)
    model, total = trial.method.model, sum(value.numel() for value in trial.method.parameters() if value.requires_grad)
    of_model = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return {
        "losses of the first step": ", ".join(f"{part} {value:.3f}" for part, value in first[0].items()),
        "trained parameters": f"{of_model} of the network, {total - of_model} of the method",
        "without a gradient": ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in trial.idle))
        or "none",
        "for the test": "the network itself" if trial.method.predictor is model else "another one with its shape",
    }


class _Trial:
    """A method that is being tried."""

    def __init__(self, name: str, data: MultimodalDataset) -> None:
        self.name, self.data, self.batch = name, data, data.whole()
        self.variant = methods.variant(name)
        self.files = {
            member.__code__.co_filename
            for kind in self.variant.classes
            for member in vars(kind).values()
            if inspect.isfunction(member)
        }
        fields = {field.name for field in dataclasses.fields(TrainingConfig)}
        tuned = {option for settings in methods.GRIDS.get(name, ()) for option, _ in settings}
        for option in tuned & fields & self.variant.complete().keys():
            self.fail(f"its option {option!r} would never reach it: training has a setting of this name. Rename it.")
        self.idle: list[str] = []

    def fail(self, what: str) -> None:
        raise WrongMethod(f"{self.name}: {what}")

    @contextmanager
    def asked(self, what: str) -> Iterator[None]:
        """Whatever the method raises, with its own line and the shapes that it was given."""
        try:
            yield
        except WrongMethod:
            raise
        except Exception as error:
            hint = next((f" {hint}" for part, hint in _HINTS.items() if part in str(error)), "")
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            self.fail(f"{what} failed{line_in(error, self.files)}: {reason}.{hint} {self.shapes()}")

    def shapes(self) -> str:
        """What a step is given, and what the network makes of it."""
        with torch.no_grad():
            outputs = self.model().eval()(self.batch.inputs)
        of_inputs = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.batch.inputs.items())
        features = ", ".join(f"{name} {tuple(value.shape)}" for name, value in outputs.features.items())
        logits = tuple(outputs.fused_logits.shape)
        return f"Shapes: batch.inputs {of_inputs}; labels ({_SAMPLES},); features {features}; all logits {logits}."

    def model(self) -> MultimodalClassifier:
        return DEFAULT.build(self.data.input_shapes, len(self.data.class_names), 0)

    def build(self) -> methods.Method:
        with self.asked("building it"):
            method = self.variant.build(self.model(), 0)
        if "_modules" not in vars(method):
            self.fail(f"{_HINTS['Module.__init__() call']} Without it, there is no network to train.")
        if not isinstance(getattr(method, "model", None), MultimodalClassifier):
            self.fail("its `model` is not the network that it was given: leave that to super().__init__(model).")
        return method

    def begin(self, method: methods.Method) -> torch.optim.Optimizer:
        optimiser = optimiser_of(method, TrainingConfig(device="cpu"))
        with self.asked("on_train_start"):
            method.on_train_start(2, 1)
        return optimiser

    def steps(self, count: int) -> list[dict[str, float]]:
        """Its losses in the first `count` epochs of one step each, from the seed on; the method after them is kept."""
        self.method, self.kept = self.build(), None
        self.optimiser = self.begin(self.method)
        found = []
        for epoch in range(1, count + 1):
            if epoch == count:
                self.kept = self.state(self.method, self.optimiser)
            found.append(self.step(self.method, self.optimiser, epoch))
        return found

    def step(self, method: methods.Method, optimiser: torch.optim.Optimizer, epoch: int) -> dict[str, float]:
        with self.asked("on_epoch_start"):
            method.on_epoch_start(epoch, self.data)
        method.train()
        torch.manual_seed(epoch)
        given = Batch(*(dict(part) if isinstance(part, dict) else part.clone() for part in self.batch))
        given.inputs.update({name: value.clone() for name, value in given.inputs.items()})
        with self.asked("step_losses"):
            losses = method.step_losses(given)
        self.check_losses(losses)
        self.check_batch(given)
        optimiser.zero_grad(set_to_none=True)
        with self.asked("backward"):
            method.backward(losses)
        for name, value in method.named_parameters():
            if value.grad is not None and not value.grad.isfinite().all():
                self.fail(f"the gradient of {name} is not finite: the root or norm of 0, or too large a loss?")
        optimiser.step()
        with self.asked("after_step"):
            method.after_step()
        with self.asked("on_epoch_end"):
            heads = {f"validation {name} accuracy": 0.5 for name in self.batch.inputs}
            method.on_epoch_end({"validation accuracy": 0.5, "validation loss": 1.0} | heads)
        return {part: float(loss.detach()) for part, loss in losses.items()}

    def check_losses(self, losses: object) -> None:
        how = 'Return {"fused": loss, …}: a name for each part of the loss.'
        if losses is None:
            self.fail(f"step_losses returns nothing: is there a `return`? {how}")
        if not isinstance(losses, Mapping) or not losses or not all(isinstance(part, str) for part in losses):
            what = "a tensor" if isinstance(losses, Tensor) else f"{losses!r:.60}"
            self.fail(f"step_losses returns {what}, and not a mapping of names to losses. {how}")
        for part, loss in losses.items():
            if not isinstance(loss, Tensor):
                self.fail(
                    f"its loss {part!r} is {loss!r:.60} and no tensor. A number has no gradient: no .item() here."
                )
            if loss.shape != ():
                self.fail(
                    f"its loss {part!r} has the shape {tuple(loss.shape)}: one number is needed. Take the .mean()."
                )
            if not loss.isfinite():
                self.fail(
                    f"its loss {part!r} is {float(loss.detach())} at the start: a logarithm of 0, or a division by 0?"
                )
            if not loss.requires_grad:
                self.fail(
                    f"its loss {part!r} has no gradient: it was detached, or made from labels alone or under no_grad."
                )

    def check_batch(self, given: Batch) -> None:
        what = "Make a new tensor: what a step changes, later steps and other methods would see."
        if given.inputs.keys() != self.batch.inputs.keys():
            self.fail(f"step_losses changes which inputs the batch has. {what}")
        for name, value in (self.batch.inputs | {"labels": self.batch.labels}).items():
            now = given.labels if name == "labels" else given.inputs[name]
            if now.shape != value.shape or not now.equal(value):
                self.fail(f"step_losses changes the batch's {name} in place. {what}")

    def check_gradients(self) -> None:
        own = {id(value) for value in self.method.model.parameters()}
        named = [(name, value) for name, value in self.method.named_parameters() if value.requires_grad]
        self.idle = [name for name, value in named if value.grad is None]
        if all(value.grad is None or not value.grad.any() for _, value in named if id(value) in own):
            self.fail(
                "no parameter of the network gets a gradient, so nothing is learned. Is `self.model` in the losses?"
            )
        if added := [name for name, value in named if value.grad is None and id(value) not in own]:
            warnings.warn(
                f"{self.name}: {', '.join(added)} of the method got no gradient in two steps. Let a loss depend on "
                "them without .detach(), or remove them.",
                stacklevel=3,
            )

    def check_predictor(self) -> None:
        with self.asked("its predictor"), torch.no_grad():
            predictor = self.method.predictor
            outputs = predictor.eval()(self.batch.inputs)
            logits = {"fused": outputs.fused_logits, **outputs.unimodal_logits}
        wanted = (_SAMPLES, len(self.data.class_names))
        for part, values in logits.items():
            if tuple(values.shape) != wanted:
                self.fail(f"its predictor's {part} logits have the shape {tuple(values.shape)}, not {wanted}.")
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (predictor, self.model())]
        if shapes[0] != shapes[1]:
            self.fail(
                "its predictor has other weights than `self.model`: it must be that network, or an average of it."
            )

    def check_repeats(self, first: list[dict[str, float]]) -> None:
        if self.steps(2) != first:
            self.fail(
                "two runs of one seed differ: draw with torch alone (not random or NumPy), and keep nothing global."
            )

    def check_resumes(self, first: list[dict[str, float]]) -> None:
        """From what a checkpoint holds after the first step, the second one must be the same."""
        stored, resumed = io.BytesIO(self.kept), self.build()
        optimiser = self.begin(resumed)
        try:
            state = torch.load(stored, weights_only=True)
        except Exception as error:
            counted = ", ".join(self.method.counted)
            raise WrongMethod(
                f"{self.name}: what it counts ({counted}) cannot be kept: numbers, texts and tensors can. {error}"
            ) from error
        with self.asked("resuming it"):
            resumed.load_state_dict(state["method"])
            resumed.load_counters(state["counters"])
        optimiser.load_state_dict(state["optimiser"])
        if self.step(resumed, optimiser, 2) != first[-1]:
            changed = ", ".join(self.changing()) or "something outside of the object"
            self.fail(
                f"resumed after a step, it goes on differently. {changed} changes during training and is not kept: "
                f'name it in the class, counted = ("…",), or register tensors as buffers.'
            )

    def changing(self) -> list[str]:
        """Attributes that steps have changed and no checkpoint keeps."""
        fresh, now = vars(self.build()), vars(self.method)
        own = [name for name in now if not name.startswith("_") and name not in ("training", "watched")]
        own = [name for name in own if name not in self.method.counted and not isinstance(now[name], nn.Module)]
        return [name for name in own if repr(fresh.get(name)) != repr(now[name])]

    def state(self, method: methods.Method, optimiser: torch.optim.Optimizer) -> bytes:
        """A checkpoint."""
        with self.asked("counters"):
            parts: dict[str, Any] = {"counters": copy.deepcopy(method.counters()), "method": method.state_dict()}
        written = io.BytesIO()
        torch.save(parts | {"optimiser": optimiser.state_dict()}, written)
        return written.getvalue()
