"""One run: a method on some data with a seed, its training, and its results."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from mmlib import methods
from mmlib.data.dataset import MultimodalDataset
from mmlib.data.splits import DomainProtocol, Splits
from mmlib.models.architecture import Architecture, trained_state
from mmlib.models.classifier import MultimodalClassifier
from mmlib.models.evaluate import evaluate, sample_scores
from mmlib.training.checkpoint import Checkpoint
from mmlib.training.loop import Diverged, History, TrainingConfig, fit_together

WEIGHTS = "weights"  # the name of these tensors in a history
WEIGHTS_KEPT = 2**26  # bytes of them per run at most
DEFAULT = Architecture()
Options = tuple[tuple[str, Any], ...]  # (name, value) pairs, sorted or not, e.g. (("learning_rate", 3e-3),)


@dataclass(frozen=True)
class Run:
    """One training run: which method on which modalities, from which domains to which, with which seed.

    `source` "": all domains but the target (leave one domain out). A name: only that domain (single source); the
    target itself for training and testing within one domain. `target` "": no domain is left out, and the test part of
    all domains is the target. `settings` are fields of `TrainingConfig` and options of the method that differ from the
    defaults.
    """

    method: str
    target: str
    seed: int
    modalities: tuple[str, ...]
    source: str = ""
    settings: Options = ()

    def configured(self, config: TrainingConfig) -> tuple[TrainingConfig, dict[str, Any]]:
        """The configuration with this run's seed and settings, and the settings that are options of the method."""
        fields = {field.name for field in dataclasses.fields(TrainingConfig)}
        of_training = {name: value for name, value in self.settings if name in fields}
        options = {name: value for name, value in self.settings if name not in fields}
        if "seed" in of_training:
            raise ValueError("A run's seed is its field `seed`; it cannot be among the settings.")
        return replace(config, seed=self.seed, **of_training), options

    def protocol(self, splits: Splits) -> DomainProtocol:
        """The data of this run, with its modalities only. Raises a ValueError for an unknown domain or modality."""
        if not self.target:
            protocol = splits.pooled()
        elif self.source:
            protocol = splits.single_source(self.source, self.target)
        else:
            protocol = splits.leave_out(self.target)
        return DomainProtocol(*(part.select_modalities(*self.modalities) for part in protocol))


@dataclass(frozen=True)
class Trained:
    """The results of a run: the selected predictor, the trained network after the last step (where weights are
    averaged, this is the student and the predictor its average), and the history.

    `scores` holds the predictor's accuracies on the source domains' test part ("source accuracy", "source <modality>
    accuracy") and on the unseen domain ("target …"), and validation accuracy and loss of the selected epoch. A
    modality's own accuracy is its head's: near chance where the method does not train the uni-modal heads. "late target
    accuracy" is the mean of the last three epochs, without selection; of the one network where a method ends with one.
    `loaded`: whether it came from the cache. `diverged`: "", or why this run has no result; then all scores are NaN,
    and its networks raise Diverged whatever is asked of them.
    """

    run: Run
    predictor: MultimodalClassifier
    network: MultimodalClassifier
    history: History
    scores: dict[str, float]
    loaded: bool = False
    diverged: str = ""

    @classmethod
    def without_result(cls, run: Run, why: str, loaded: bool = False) -> "Trained":
        """What stands for a run that diverged."""
        own = ("loss", "accuracy", *(f"{name} accuracy" for name in run.modalities))
        names = [f"{part} {what}" for part in ("source", "target") for what in own]
        names += ["validation accuracy", "validation loss", "late target accuracy"]
        nothing = _NoNetwork(why)
        return cls(run, nothing, nothing, History(), dict.fromkeys(names, math.nan), loaded, why)

    def networks(self) -> Iterator[MultimodalClassifier]:
        """The trained network as it was after each epoch, in order: one object, in eval mode, whose weights change.

        Weights are kept with half precision, where the training was asked to (`by_epoch`), for networks that need at
        most 64 MiB for all epochs; raises a ValueError for others, which keep the last only.
        """
        if self.diverged:
            raise Diverged(self.diverged)
        if WEIGHTS not in self.history.tensors:
            epochs = len(self.history.rows)
            why = "ask for them with `by_epoch=True`"
            if not may_be_kept(self.network, epochs):
                why = f"those of {epochs} epochs take more than {WEIGHTS_KEPT >> 20} MiB"
            raise ValueError(f"{self.run.method} kept no weights by epoch: {why}. `network` holds the last epoch's.")
        network = copy.deepcopy(self.network).eval()
        values = _floats(network)
        for weights in self.history.tensors[WEIGHTS]:
            for value, kept in zip(values, weights.split([value.numel() for value in values]), strict=True):
                value.copy_(kept.reshape(value.shape))
            yield network

    def sample_scores(self, data: MultimodalDataset) -> Tensor:
        """After each epoch, each modality's score of the correct class for every sample, (epochs, M, N). Raises like
        `networks`."""
        return torch.stack([sample_scores(network, data) for network in self.networks()])


class _NoNetwork:
    """In place of a diverged run's networks."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copies and pickles look for such
            raise AttributeError(name)
        raise Diverged(self.why)

    def __call__(self, *_: object) -> NoReturn:
        raise Diverged(self.why)


def train_run(run: Run, splits: Splits, config: TrainingConfig, **options: Any) -> Trained:
    """Train one run on splits that are preprocessed (`Splits.preprocessed`) or read from disk. Options and errors:
    `train_together`."""
    (trained,) = train_together([run], splits, config, **options)
    return trained


def train_together(
    runs: Sequence[Run],
    splits: Splits,
    config: TrainingConfig,
    *,
    architecture: Architecture = DEFAULT,
    checkpoint: Checkpoint | None = None,
    variants: Mapping[str, methods.Variant] | None = None,
    by_epoch: bool = False,
) -> list[Trained]:
    """Train the one network of runs with the same `identity.trajectory`, each with the result that it would have alone.

    Each epoch is also evaluated on the unseen domain ("target"); with `by_epoch`, its weights are kept, where they are
    small enough (`Trained.networks`).
    A training that finds its `checkpoint` resumes from it; see `fit_together`. `variants` says what the runs' methods
    stand for, by default what has their name here and now. Raises like `fit_together`, and a ValueError for splits that
    are neither preprocessed nor read from disk.
    """
    if splits.front_end:
        raise ValueError("These splits hold raw signals: train on `splits.preprocessed()`.")
    train, validation, source_test, target = runs[0].protocol(splits)
    configured, _ = runs[0].configured(config)
    model = architecture.build(train.input_shapes, len(train.class_names), configured.seed)
    variants = variants or {run.method: methods.variant(run.method) for run in runs}
    built = [variants[run.method].build(model, run.seed, **run.configured(config)[1]) for run in runs]
    keep = by_epoch and may_be_kept(model, configured.epochs)

    fitted = fit_together(
        built,
        train,
        validation,
        configured,
        monitors={"target": target},
        measure=(lambda method: {WEIGHTS: _weights(method.model)}) if keep else None,
        augmentations=splits.augmentations,
        checkpoint=checkpoint,
        progress=False,
    )
    return [_result(*one, source_test, target) for one in zip(runs, built, fitted, strict=True)]


def _result(
    run: Run, method: methods.Method, history: History, source_test: MultimodalDataset, target: MultimodalDataset
) -> Trained:
    selected = history.rows[history.selected_epoch - 1]
    if method.selection == "last":  # a network of its own, which no epoch had
        unseen = evaluate(method.predictor, target, "target ")
        late = unseen["target accuracy"]
    else:
        unseen = {name: value for name, value in selected.items() if name.startswith("target ")}
        late = sum(row["target accuracy"] for row in history.rows[-3:]) / len(history.rows[-3:])
    validated = {name: selected[name] for name in ("validation accuracy", "validation loss")}
    scores = evaluate(method.predictor, source_test, "source ") | unseen | validated | {"late target accuracy": late}
    predictor, network = method.predictor.cpu(), method.model.cpu()
    for part in (predictor, network):  # an averaged network requires no gradients; frozen parts never do
        for (_, own), (_, trained) in zip(part.named_parameters(), network.named_parameters(), strict=True):
            own.requires_grad_(trained.requires_grad)
    return Trained(run, predictor, network, history, scores)


def _floats(network: MultimodalClassifier) -> list[Tensor]:
    """All that training changes, statistics of batch norm included and counters aside."""
    return [value for value in trained_state(network).values() if value.is_floating_point()]


def may_be_kept(network: MultimodalClassifier, epochs: int) -> bool:
    """Whether its weights after every epoch are few enough to be kept."""
    return 2 * sum(value.numel() for value in _floats(network)) * epochs <= WEIGHTS_KEPT


def _weights(network: MultimodalClassifier) -> Tensor:
    """These as one vector: with half precision where it fits their range."""
    weights = torch.cat([value.flatten() for value in _floats(network)]).detach()
    return weights.half() if weights.abs().amax() < torch.finfo(torch.half).max else weights
