"""Modality gap and Gaussian mixture (arXiv 2510.21797): an adaptive loss after a warm-up, and purification."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlib.checks import SHARE, Number, Whole, check
from mmlib.data.dataset import Batch, MultimodalDataset, draw_evenly
from mmlib.data.digits.degradation import degraded_samples
from mmlib.equations.losses import gap_penalty, modality_gap, relative_scores, shift_penalty, true_class_scores
from mmlib.equations.mixture import VARIANCE_FLOOR, Inseparable, Mixture, heads_have_peaked, kept_samples, separate
from mmlib.methods.erm import MultiLoss
from mmlib.models import MultimodalClassifier
from mmlib.models.evaluate import sample_scores
from mmlib.seeding import torch_generator


class GapMixture(MultiLoss):
    """Stage 1 of both methods: multi-loss, with every training sample's scores p_k,i in eval mode before each epoch.

    A sample's scores are averaged over epochs, the past with the weight `smoothing`: one network's scores are noisy,
    and what is memorised late counts less. The gap is that of these scores, as in the paper, or, `relative`, that of
    r_k,i (`losses.relative_scores`), which finds bad samples far better. The cost: samples that every modality
    knows as well as usual pile up at a gap of 0, and BIC nearly always prefers two components. [kit]

    After `warm_up` epochs the mixture is fitted to the gaps; "auto": once the heads' validation accuracy has passed its
    peak (`mixture.heads_have_peaked`).
    """

    counted = ("scores", "accuracies", "warm")
    variance_floor = VARIANCE_FLOOR  # of the mixture's components

    def __init__(self, model: MultimodalClassifier, warm_up: int | str, smoothing: float, relative: bool) -> None:
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError(f"A modality gap needs at least two modalities; this model reads {model.modalities}.")
        self.check(locals(), warm_up=("auto", Whole(1)), smoothing=Number(0, 1, below=True), relative=bool)
        self.warm_up, self.smoothing, self.relative = warm_up, smoothing, relative
        self.scores: Tensor | None = None  # (M, N), averaged over epochs
        self.accuracies: list[float] = []  # mean of the heads on validation data, by epoch
        self.warm = False  # whether the warm-up is over

    @classmethod
    def check(cls, options: Mapping[str, object], **allowed: Any) -> None:
        """Raises a ValueError for an option that is not allowed, with the method's name."""
        check(options, allowed, cls.__name__)

    @property
    def observed(self) -> nn.Module:
        """The network whose scores make the gaps."""
        return self.model

    def observe(self, epoch: int, train: MultimodalDataset) -> None:
        """Before an epoch: update the scores, and see whether the warm-up is over."""
        if epoch == 1:
            return  # the scores of an untrained network mean nothing
        scores = sample_scores(self.observed, train)
        self.scores = scores if self.scores is None else torch.lerp(scores, self.scores.to(scores), self.smoothing)
        self.watched["mean gap"] = self.gaps().mean()
        over = heads_have_peaked(self.accuracies) if self.warm_up == "auto" else epoch > self.warm_up
        self.warm = self.warm or over

    def on_epoch_end(self, validation: Mapping[str, float]) -> None:
        """Record the heads' mean accuracy on validation data, for the rule that ends the warm-up."""
        known = [validation[f"validation {name} accuracy"] for name in self.model.modalities]
        self.accuracies.append(sum(known) / len(known))

    @property
    def usual(self) -> Tensor:
        """What each modality's score is compared with, (M,)."""
        return self.scores.mean(1) if self.relative else torch.ones_like(self.scores[:, 0])

    def gaps(self) -> Tensor:
        """g_i of every training sample, (N,)."""
        return modality_gap(relative_scores(self.scores, self.usual))

    def posterior(self) -> tuple[Tensor, Mixture | None]:
        """q_i = P(imbalanced | g_i), (N,) float32, and the mixture it comes from.

        Where one component is enough, or nothing can be fitted (all gaps equal, a handful of samples), no sample counts
        as imbalanced: zeros and None. Raises a ValueError for scores that are NaN.
        """
        gaps = self.gaps()
        try:
            separation = separate(gaps, self.variance_floor)
        except Inseparable:
            return torch.zeros_like(gaps), None
        self.watched["bic gain"] = separation.bic_gain
        return separation.posterior.float(), separation.mixture if separation.two_components else None


class GMMAdaptive(GapMixture):
    """After the warm-up the mixture is refitted before every epoch, and each sample's loss depends on its posterior
    q_i:

    L_i = w_i [CE(z̃_mm,i) + Σ_k (1 − ρ q_i [k weak]) CE_k,i] + λ_gap (1 + κ q_i) G_i + λ_shift q_i S_i     q_i constant

    The weak modality of a sample is the one with the lowest score of the true class. The paper's four properties, each
    with its own switch (0 turns it off); the forms are this kit's reading of the paper's abstracts.
    [kit]

    * `fusion` η gives balanced samples priority in fusion: in z̃_mm the weak modality is dropped with probability η q_i.
    * `gap` λ_gap minimises the overall gap: G_i = sg(p_dom,i) − p_weak,i. Its gradient vanishes where p_weak,i is near
      0: hopeless samples are left alone.
    * `alignment` κ makes that penalty stronger on imbalanced samples.
    * `shift` λ_shift moves the imbalanced distribution towards the balanced one:
      S_i = ½ ((G_i − μ_bal)_+ / (μ_imb − μ_bal))².

    Two more switches are this kit's own.

    * `release` ρ exempts the weak modality from its own cross-entropy, which would keep pulling at a sample that it
      cannot solve. That pays where the signal is wrong. Where it is merely noisy, and test samples are noisy as well,
      it can leave a slow modality under-trained: choose it by validation accuracy, as `GRIDS` does.
    * `trust` ν weighs each sample's cross-entropies by w_i ∝ (max_k p_k,i)^ν, averaged scores, mean 1 over the training
      set: a small gap is not a good sign where both modalities are wrong. A sample that no modality can explain counts
      less.

    With `relative`, r replaces p in all but this weight: not the default, because it did not improve accuracy.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        warm_up: int | str = 6,
        smoothing: float = 0.7,
        relative: bool = False,
        fusion: float = 1.0,
        gap: float = 0.5,
        alignment: float = 1.0,
        shift: float = 0.1,
        release: float = 1.0,
        trust: float = 1.0,
    ) -> None:
        super().__init__(model, warm_up, smoothing, relative)
        self.check(locals(), fusion=SHARE, release=SHARE)
        self.check(locals(), **dict.fromkeys(("gap", "alignment", "shift", "trust"), Number(0)))
        self.fusion, self.gap, self.alignment, self.shift = fusion, gap, alignment, shift
        self.release, self.trust = release, trust
        self.imbalance: Tensor | None = None  # q, (N,); None during the warm-up
        self.weakest: Tensor | None = None  # which modality, (N,)
        self.weights: Tensor | None = None  # w, (N,)
        self.mixture: Mixture | None = None

    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> None:
        """Observe; after the warm-up, refit the mixture and judge every sample by it."""
        self.observe(epoch, train)
        if self.warm:
            self.judge()

    def judge(self) -> None:
        """From the scores to each sample's posterior, weakest modality and weight."""
        self.imbalance, self.mixture = self.posterior()
        self.weakest = relative_scores(self.scores, self.usual).argmin(0)
        known = self.scores.amax(0) ** self.trust
        self.weights = known / known.mean()
        self.watched["mean posterior"] = self.imbalance.mean()

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """During the warm-up multi-loss; then the terms of L_i as above, each the mean over the batch."""
        if self.imbalance is None:
            return super().step_losses(batch)
        outputs = self.model(batch.inputs)
        imbalance, weights = self.imbalance[batch.indices], self.weights[batch.indices]
        weakest = functional.one_hot(self.weakest[batch.indices], len(self.scores)) * imbalance[:, None]  # (B, M)
        mask = (torch.rand_like(weakest) >= self.fusion * weakest).to(weakest)
        heads = {"fused": (self.model.fuse(outputs.features, mask), weights)}
        for (name, logits), weak in zip(outputs.unimodal_logits.items(), weakest.T, strict=True):
            heads[name] = logits, weights * (1 - self.release * weak)
        losses = {}
        for name, (logits, weight) in heads.items():
            losses[name] = (weight * functional.cross_entropy(logits, batch.labels, reduction="none")).mean()
        penalty = gap_penalty(relative_scores(true_class_scores(outputs.unimodal_logits, batch.labels), self.usual))
        self.watched["gap"] = penalty.detach().mean()
        losses["gap"] = self.gap * ((1 + self.alignment * imbalance) * penalty).mean()
        if self.mixture is not None:
            moved = shift_penalty(penalty, *self.mixture.means.float())
            losses["shift"] = self.shift * (imbalance * moved).mean()
        return losses


class Purified(GapMixture):
    """Data purification: after the warm-up, plain multi-loss on some of the samples only: those with q_i ≤ `threshold`
    that some modality knows, max_k r_k,i ≥ `known`.

    The second condition is this kit's [kit]: where all signals are wrong, no modality is ahead, and the gap is as small
    as that of a good sample. With it, the balanced component may be wider (`variance_floor`), and keeps more of the
    good ones; without it, that lets in those that are wrong throughout. With plain scores r_k,i is p_k,i.

    The mixture is fitted once, at the end of the warm-up. Every later epoch has as many steps as before: the kept
    samples are drawn evenly, none again before all were drawn. `keep` says which they are; controls of one seed share
    the same warm-up, bit for bit, as does multi-loss, the control that keeps everything:

    * "balanced": those as above;
    * "random": equally many at random;
    * "clean": those that were not degraded, for data with ground truth (fields `degraded_…`): a perfect filter.
    """

    counted = (*GapMixture.counted, "kept")
    KEEP = ("balanced", "random", "clean")

    def __init__(
        self,
        model: MultimodalClassifier,
        warm_up: int | str = 6,
        smoothing: float = 0.7,
        relative: bool = True,
        threshold: float = 0.5,
        known: float = 0.5,
        variance_floor: float = 0.01,
        keep: str = "balanced",
    ) -> None:
        super().__init__(model, warm_up, smoothing, relative)
        self.check(locals(), threshold=Number(0, 1, above=True), known=SHARE, keep=self.KEEP)
        self.check(locals(), variance_floor=Number(0, above=True))
        self.threshold, self.known, self.variance_floor, self.keep = threshold, known, variance_floor, keep
        self.draw = int(torch.randint(2**31, ()))  # `methods.build` seeds it
        self.kept: Tensor | None = None

    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> Tensor | None:
        """The rows of this epoch: all during the warm-up; then as many draws from those that were chosen at its end."""
        if self.kept is None:
            self.observe(epoch, train)
            if not self.warm:
                return None
            self.kept = self._chosen(train)
        self.watched["kept share"] = torch.tensor(len(self.kept) / len(train))
        return draw_evenly(self.kept, len(train), torch_generator("purified", self.draw, epoch))

    def _chosen(self, train: MultimodalDataset) -> Tensor:
        """Rows of the training set, on the CPU."""
        if self.keep == "clean":
            rows = (~degraded_samples(train)).nonzero().squeeze(1).cpu()
        else:
            scores = relative_scores(self.scores, self.usual)
            kept = kept_samples(self.posterior()[0], scores, self.threshold, self.known)
            rows = kept.nonzero().squeeze(1).cpu()
        if len(rows) == 0:
            raise ValueError(
                f"No sample is kept: none that a modality knows (known={self.known}) has a posterior up to threshold "
                f"{self.threshold}. Change either, or use a longer warm-up."
            )
        if self.keep == "random":
            generator = torch_generator("purified at random", self.draw)
            rows = torch.randperm(len(train), generator=generator)[: len(rows)].sort().values
        return rows
