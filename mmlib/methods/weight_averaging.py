"""Methods that train like another one and predict with averaged weights: EMA, SWA, SWAD."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmlib.checks import Number, check
from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.equations.averaging import AveragedNetwork, ExponentialAverage, refresh_batch_norm
from mmlib.methods.base import Method


class WeightAveraging(Method):
    """Trains like `inner`; a subclass says how the average moves. The trained network itself stays in `model`."""

    def __init__(self, inner: Method, average: AveragedNetwork | None = None) -> None:
        super().__init__(inner.model)
        self.inner, self.watched, self.static = inner, inner.watched, inner.static
        self.average = average or AveragedNetwork(inner.model)

    @property
    def predictor(self) -> nn.Module:
        """The averaged network."""
        return self.average.module

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of `inner`, like all hooks below."""
        return self.inner.step_losses(batch)

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Passed on to `inner`."""
        self.inner.on_train_start(total_steps, steps_per_epoch)

    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> Tensor | None:
        """Passed on to `inner`; returns its rows."""
        return self.inner.on_epoch_start(epoch, train)

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Passed on to `inner`."""
        self.inner.backward(losses)

    def after_step(self) -> None:
        """Passed on to `inner`; a subclass then moves the average."""
        self.inner.after_step()

    def on_epoch_end(self, validation: Mapping[str, float]) -> None:
        """Passed on to `inner`."""
        self.inner.on_epoch_end(validation)

    def counters(self) -> dict[str, Any]:
        """Its own, and those of `inner`."""
        return super().counters() | {"inner": self.inner.counters()}

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Restore them."""
        self.inner.load_counters(counters.pop("inner"))
        super().load_counters(counters)

    def _refresh(self, train: MultimodalDataset, batch_size: int) -> None:
        """Re-estimate the average's batch-norm statistics; frozen trunks keep theirs."""
        device = next(self.predictor.parameters()).device
        batches = (batch.inputs for batch in train.batches(batch_size, device=device))
        refresh_batch_norm(self.predictor, batches, self.model.train())


class EMA(WeightAveraging):
    """Θ_ema ← β Θ_ema + (1 − β) Θ after every step, from the first on; batch-norm statistics likewise.

    β follows from `half_life`, a share of all training steps, or is given as `decay`.
    """

    def __init__(self, inner: Method, half_life: float = 0.1, decay: float | None = None) -> None:
        super().__init__(inner, ExponentialAverage(inner.model, half_life, decay))

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fix β for this many steps."""
        super().on_train_start(total_steps, steps_per_epoch)
        self.average.begin(total_steps)

    def after_step(self) -> None:
        """Θ_ema ← β Θ_ema + (1 − β) Θ."""
        super().after_step()
        self.average.follow(self.model)


class SWA(WeightAveraging):
    """Stochastic weight averaging (Izmailov et al. 2018): equal average of the weights after each late epoch.

    Averaging begins after `start` (share of training). Batch-norm statistics are re-estimated at the end. The learning
    rate is that of `fit`: constant, the simplest of the original's choices. [kit]
    """

    selection = "last"
    counted = ("step", "averaged")

    def __init__(self, inner: Method, start: float = 0.5) -> None:
        super().__init__(inner)
        check({"start": start}, {"start": Number(0, 1, below=True)}, "SWA")
        self.start = start
        self.step, self.averaged, self.first_step, self.steps_per_epoch = 0, 0, 0, 1

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fix the first step to average, and the number of steps per epoch."""
        super().on_train_start(total_steps, steps_per_epoch)
        self.first_step = round(self.start * total_steps)
        self.steps_per_epoch = steps_per_epoch

    def after_step(self) -> None:
        """At the end of each late epoch, Θ̄ ← Θ̄ + (Θ − Θ̄) / (n + 1); before that, the network itself."""
        super().after_step()
        self.step += 1
        if self.step > self.first_step and self.step % self.steps_per_epoch == 0:
            self.average.lerp_towards(self.model, 1 / (self.averaged + 1))
            self.averaged += 1
        elif self.averaged == 0 and self.step % self.steps_per_epoch == 0:
            self.average.lerp_towards(self.model, 1.0)  # before the start, the network itself

    def on_train_end(self, train: MultimodalDataset, batch_size: int) -> None:
        """Re-estimate batch-norm statistics on the training data."""
        self._refresh(train, batch_size)


class SWAD(WeightAveraging):
    """Stochastic weight averaging, densely (Cha et al. 2021): every step inside the valley of the validation loss.

    Each epoch closes a segment: the average of its steps, with its validation loss l. The valley starts at the first
    segment whose loss is the lowest of `patience_start` in a row. Let l̄ be the mean of these losses; it ends before
    `patience_end` segments in a row have l > (1 + tolerance)·l̄. Batch-norm statistics are re-estimated at the end.

    This is the published algorithm. Differs from the authors' code, which gave the published numbers: that starts one
    or two segments earlier, counts the first ones twice and drops segments above the threshold at the end of training,
    which the paper does not state. If no start is found, the last `patience_start` segments are averaged. [kit; the
    paper: all of them; the code: the last one]
    """

    selection = "last"
    counted = ("steps_in_segment", "ended", "threshold", "merged_steps", "waiting")

    def __init__(self, inner: Method, patience_start: int = 3, patience_end: int = 6, tolerance: float = 0.3) -> None:
        super().__init__(inner)
        self.patience_start, self.patience_end, self.tolerance = patience_start, patience_end, tolerance
        self.steps_in_segment = 0
        self.ended = False
        self.threshold: float | None = None  # once the valley has started
        self.merged_steps = 0
        self.waiting: list[tuple[float, int, dict[str, Tensor]]] = []  # (loss, steps, weights) not yet merged
        self.merged = AveragedNetwork(inner.model)

    def after_step(self) -> None:
        """Add the step to the average of its segment."""
        super().after_step()
        self.average.lerp_towards(self.model, 1 / (self.steps_in_segment + 1))
        self.steps_in_segment += 1

    def on_epoch_end(self, validation: Mapping[str, float]) -> None:
        """Close the segment, and see whether the valley starts or ends with it."""
        super().on_epoch_end(validation)
        if not self.ended:
            weights = copy.deepcopy(self.average.module.state_dict())
            self.waiting.append((validation["validation loss"], self.steps_in_segment, weights))
            if self.threshold is None:
                self._look_for_start()
            else:
                self._look_for_end()
        self.steps_in_segment = 0

    def _look_for_start(self) -> None:
        self.waiting = self.waiting[-self.patience_start :]
        losses = [loss for loss, _, _ in self.waiting]
        if len(losses) == self.patience_start and losses[0] == min(losses):
            self.threshold = (1 + self.tolerance) * sum(losses) / len(losses)
            self._merge_valley()

    def _look_for_end(self) -> None:
        self._merge_valley()
        if len(self.waiting) >= self.patience_end:
            self._merge(len(self.waiting) - self.patience_end)
            self.waiting.clear()
            self.ended = True

    def _merge_valley(self) -> None:
        """All up to the last segment below the threshold; those after it wait until the next one, or the end."""
        inside = [place for place, (loss, _, _) in enumerate(self.waiting) if loss <= self.threshold]
        self._merge(inside[-1] + 1 if inside else 0)

    def _merge(self, count: int) -> None:
        if not count:
            return
        network = copy.deepcopy(self.average.module)
        for _, steps, weights in self.waiting[:count]:
            network.load_state_dict(weights)
            self.merged_steps += steps
            self.merged.lerp_towards(network, steps / self.merged_steps)
        del self.waiting[:count]

    def on_train_end(self, train: MultimodalDataset, batch_size: int) -> None:
        """Predict with the segments inside the valley; re-estimate batch-norm statistics."""
        self._merge(len(self.waiting))
        self.average.lerp_towards(self.merged.module, 1.0)
        self._refresh(train, batch_size)
