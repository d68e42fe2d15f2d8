"""One run: a method on some data with a seed, its training, and its results."""

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmlib import methods
from mmlib.data.dataset import move
from mmlib.data.splits import DomainProtocol, Splits
from mmlib.instruments.gradients import gradient_cosines
from mmlib.methods.base import Method
from mmlib.models.architecture import Architecture
from mmlib.models.classifier import MultimodalClassifier
from mmlib.models.evaluate import evaluate, sample_scores
from mmlib.seeding import torch_generator
from mmlib.training.checkpoint import Checkpoint
from mmlib.training.loop import History, TrainingConfig, fit

SCORES = "sample scores"  # the name of these tensors in a history
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
    modality's own accuracy is its head's: near chance where the method does not train the uni-modal heads.
    `loaded`: whether it came from the cache. `sample_scores`, where they were requested: after each epoch, each
    modality's score of the correct class for every training sample without augmentation, (epochs, M, N) float16.
    """

    run: Run
    predictor: MultimodalClassifier
    network: MultimodalClassifier
    history: History
    scores: dict[str, float]
    loaded: bool = False

    @property
    def sample_scores(self) -> Tensor | None:
        """(epochs, M, N) float16, or None where they were not requested."""
        by_epoch = self.history.tensors.get(SCORES)
        return None if by_epoch is None else torch.stack(by_epoch)


def train_run(
    run: Run,
    splits: Splits,
    config: TrainingConfig,
    *,
    architecture: Architecture = DEFAULT,
    keep_scores: bool = False,
    keep_cosines: bool = False,
    keep_seen: bool = False,
    checkpoint: Checkpoint | None = None,
    variant: methods.Variant | None = None,
) -> Trained:
    """Train one run on splits that are preprocessed (`Splits.preprocessed`) or read from disk.

    Each epoch is also evaluated on the unseen domain ("target"), and with `keep_seen` on up to 500 training samples
    without augmentation ("seen"). `keep_scores` keeps every training sample's scores by epoch; `keep_cosines` the
    cosines of each encoder's uni-modal and fused gradients on up to 256 training samples ("<modality> gradient cosine";
    see `instruments.gradient_cosines`). A training that finds its `checkpoint` resumes from it; see `fit`.
    `variant` stands for the run's method, by default what has its name here and now.
    """
    train, validation, source_test, target = run.protocol(splits)
    config, options = run.configured(config)
    model = architecture.build(train.input_shapes, len(train.class_names), run.seed)
    method = (variant or methods.variant(run.method)).build(model, run.seed, **options)
    some = torch.randperm(len(train), generator=torch_generator("seen samples"))[:500]
    batch = train.subset(some[: min(256, train.evaluation_batch)]).whole() if keep_cosines else None

    def measure(method: Method) -> dict[str, float | Tensor]:
        found: dict[str, float | Tensor] = {}
        if keep_scores:
            found[SCORES] = sample_scores(method.model, train).half()
        if keep_cosines:
            cosines = gradient_cosines(method.model, move(batch, next(method.parameters()).device))
            found |= {f"{name} gradient cosine": value for name, value in cosines.items()}
        return found

    history = fit(
        method,
        train,
        validation,
        config,
        monitors={"target": target} | ({"seen": train.subset(some)} if keep_seen else {}),
        measure=measure,
        augmentations=splits.augmentations,
        checkpoint=checkpoint,
        progress=False,
    )
    scores = evaluate(method.predictor, source_test, "source ") | evaluate(method.predictor, target, "target ")
    selected = history.rows[history.selected_epoch - 1]
    scores |= {name: selected[name] for name in ("validation accuracy", "validation loss")}
    predictor, network = method.predictor.cpu(), method.model.cpu()
    for part in (predictor, network):  # an averaged network requires no gradients; frozen parts never do
        for (_, own), (_, trained) in zip(part.named_parameters(), network.named_parameters(), strict=True):
            own.requires_grad_(trained.requires_grad)
    return Trained(run, predictor, network, history, scores)
