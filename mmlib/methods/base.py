"""What a training method is: a model, the named losses of a step, and the network used at test time."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.models.classifier import MultimodalClassifier


class Method(nn.Module):
    """Base of all methods. A subclass says how a batch becomes losses; everything else has a default.

    `state_dict` holds the tensors of fixed shape, `counters` whatever else training needs to resume.
    """

    # "best": the epoch with the best source validation accuracy is kept; "last": the final predictor is.
    selection = "best"
    # Attributes besides the tensors of `state_dict` that training needs to resume: plain values, and tensors whose
    # shape depends on the data.
    counted: tuple[str, ...] = ()
    # Whether all steps of an epoch compute the same from different batches, up to and with `backward`: no number that
    # Python counts, no choice that it draws. Only then can one captured step stand for the others.
    static = True

    def __init__(self, model: MultimodalClassifier) -> None:
        super().__init__()
        self.model = model
        # What a step reports besides its losses, overwritten at each step; histories hold its mean by epoch.
        self.watched: dict[str, Tensor] = {}

    @property
    def predictor(self) -> nn.Module:
        """The network used at test time."""
        return self.model

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named parts of the loss; their sum is minimised."""
        raise NotImplementedError

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Before the first step of a run, and again when one is resumed."""

    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> Tensor | None:
        """Before each epoch, counted from 1, with the training data without augmentation.

        Returns the rows to train on in this epoch, (n,) int64, possibly repeated; None: all of them once.
        """

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Fill the gradients from a step's losses."""
        sum(losses.values()).backward()

    def after_step(self) -> None:
        """After every optimiser step."""

    def on_epoch_end(self, validation: Mapping[str, float]) -> None:
        """After every epoch, with what `evaluate` returns for the predictor on validation data ("validation loss",
        …)."""

    def on_train_end(self, train: MultimodalDataset, batch_size: int) -> None:
        """After the last epoch."""

    def counters(self) -> dict[str, Any]:
        """The attributes that are `counted`, by name."""
        return {name: getattr(self, name) for name in self.counted}

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Restore what `counters` returned."""
        for name, value in counters.items():
            setattr(self, name, value)
