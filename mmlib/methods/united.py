"""One method for both findings [kit]: MBCD's average, dropout and teacher, decided sample by sample by a mixture."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlib.checks import SHARE, Number
from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.data.digits.degradation import degraded_samples
from mmlib.equations.averaging import ExponentialAverage
from mmlib.equations.losses import distillation, draw_mask, relative_scores
from mmlib.equations.mixture import Inseparable, has_two_peaks
from mmlib.methods.gmm_adaptive import GapMixture
from mmlib.models import MultimodalClassifier
from mmlib.seeding import torch_generator


class United(GapMixture):
    """L_i = w_i [CE(z̃_mm,i) + Σ_k (1 − ρ q_i [k weak]) CE_k,i]
           + λ m (1 − q_i) w_i [KL(p_ema,i ‖ p̃_mm,i) + Σ_k KL(p_ema,i ‖ p_k,i)]; predicts with the average.

    MBCD treats modalities and knows no samples, the mixture samples and knows no average. Here the average is judge and
    teacher: the scores of the averaged network make the gaps, calmer than those of the student, and their mixture says
    of each sample how likely one of its signals is bad, q_i, and which, the weak one. Each part has its switch.

    * `calm`: scores of the average; otherwise the student's.
    * `peaks`: the mixture speaks only in epochs in which the gaps have two peaks (`mixture.has_two_peaks`). BIC prefers
      two components wherever gaps pile up at 0, hard samples are then taken for bad ones, and accuracy is lost where
      nothing was to be repaired. Without two peaks q_i = 0 and w_i = 1.
    * `fusion` η: in z̃_mm the weak modality is dropped with probability η q_i. `dropout` π: of a sample that is not
      suspected every modality is dropped, with probability π (1 − η q_i): what a suspect has left is not taken from it.
    * `release` ρ exempts the weak modality from its own cross-entropy.
    * `trust` ν: w_i ∝ (max_k p_k,i)^ν, mean 1 over the training set.
    * `weight` λ of the distillation, which passes over suspected samples: there the teacher repeats what it has learned
      by heart. `maturity`: m is the teacher's share of what was learned, 1 − β^steps, for at first it mostly remembers
      random weights; otherwise m = 1.
    * `judge`, for controls: "gap"; "random" deals the same verdicts to samples at random, which must not help; "truth"
      takes them from data with ground truth (fields `degraded_…`).
    """

    JUDGES = ("gap", "random", "truth")

    def __init__(
        self,
        model: MultimodalClassifier,
        warm_up: int | str = 2,
        smoothing: float = 0.7,
        relative: bool = True,
        calm: bool = True,
        peaks: bool = True,
        dropout: float = 0.5,
        fusion: float = 1.0,
        release: float = 1.0,
        trust: float = 1.0,
        weight: float = 1.0,
        maturity: bool = True,
        half_life: float = 0.1,
        judge: str = "gap",
    ) -> None:
        super().__init__(model, warm_up, smoothing, relative)
        self.check(locals(), calm=bool, peaks=bool, maturity=bool, judge=self.JUDGES, dropout=Number(0, 1, below=True))
        self.check(locals(), fusion=SHARE, release=SHARE, trust=Number(0), weight=Number(0))
        self.calm, self.peaks, self.judge = calm, peaks, judge
        self.dropout, self.fusion, self.release, self.trust = dropout, fusion, release, trust
        self.weight, self.maturity = weight, maturity
        self.average = ExponentialAverage(model, half_life)
        self.register_buffer("remembered", torch.ones(()))  # share of the random start in the average, β^steps
        self.suspicion: Tensor | None = None  # q_i [k weak], (N, M); None: nothing is suspected
        self.weights: Tensor | None = None  # w, (N,)
        self.draw = int(torch.randint(2**31, ()))  # `methods.build` seeds it

    @property
    def predictor(self) -> nn.Module:
        """The average."""
        return self.average.module

    @property
    def observed(self) -> nn.Module:
        """The network whose scores make the gaps."""
        return self.average.module if self.calm else self.model

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fix β for this many steps."""
        self.average.begin(total_steps)

    def after_step(self) -> None:
        """Θ_ema ← β Θ_ema + (1 − β) Θ."""
        self.average.follow(self.model)
        self.remembered.mul_(self.average.decay)

    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> None:
        """Observe; after the warm-up, judge every sample anew."""
        self.observe(epoch, train)
        self.suspicion = self.weights = None
        if not self.warm or (self.peaks and self.judge != "truth" and not self._two_peaks()):
            return
        known = self.scores.amax(0) ** self.trust
        if self.judge == "truth":
            fine = torch.zeros(len(degraded_samples(train)))
            severities = [train.truth.get(f"degraded_{name}", fine) for name in self.model.modalities]
            bad = (torch.stack(severities, 1) > 0).to(known)
            known = 1 - bad.amin(1)  # what is bad throughout teaches nothing
            self.suspicion = bad * known[:, None]
        else:
            weakest = relative_scores(self.scores, self.usual).argmin(0)
            self.suspicion = functional.one_hot(weakest, len(self.scores)) * self.posterior()[0][:, None]
        self.weights = known / known.mean()
        if self.judge == "random":
            generator = torch_generator("united at random", self.draw, epoch)
            order = torch.randperm(len(known), generator=generator).to(known.device)
            self.suspicion, self.weights = self.suspicion[order], self.weights[order]
        self.watched["suspected"] = self.suspicion.amax(1).mean()

    def _two_peaks(self) -> bool:
        try:
            return has_two_peaks(self.gaps())
        except Inseparable:
            return False

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of L_i as above, each the mean over the batch."""
        outputs = self.model(batch.inputs)
        weak = outputs.fused_logits.new_zeros(len(batch.labels), len(self.model.modalities))
        weights = weak.new_ones(len(weak))
        if self.suspicion is not None:
            weak, weights = self.suspicion[batch.indices], self.weights[batch.indices]
        suspected = weak.sum(1, keepdim=True)
        mask = draw_mask(self.fusion * weak + self.dropout * (1 - self.fusion * suspected), len(weak))
        students = {"fused": self.model.fuse(outputs.features, mask), **outputs.unimodal_logits}
        own = [weights, *(weights * (1 - self.release * of_head) for of_head in weak.T)]
        losses = {}
        for (name, logits), weight in zip(students.items(), own, strict=True):
            losses[name] = (weight * functional.cross_entropy(logits, batch.labels, reduction="none")).mean()
        if self.weight:
            with torch.no_grad():
                teacher_logits = self.average.module(batch.inputs).fused_logits
            taught = self.weight * weights * (1 - suspected.squeeze(1))
            if self.maturity:
                taught = taught * (1 - self.remembered)
            for name, logits in students.items():
                losses[f"distillation {name}"] = distillation(teacher_logits, logits, taught)
        return losses
