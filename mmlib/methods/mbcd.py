"""Modality-balanced collaborative distillation (MBCD, AAAI-26), equation by equation."""

import torch
from torch import Tensor, nn

from mmlib.checks import SHARE, Number, check
from mmlib.data.dataset import Batch
from mmlib.equations.averaging import ExponentialAverage
from mmlib.equations.losses import (
    confidences,
    distillation,
    draw_mask,
    drop_probabilities,
    fused_cross_entropy,
    look_ahead,
    speed_ratios,
    unimodal_cross_entropies,
)
from mmlib.methods.base import Method
from mmlib.models import Encoder, MultimodalClassifier, is_frozen
from mmlib.models.statistics_noise import perturb_statistics

PARTS = ("trunk", "last_stage", "head")


class MBCD(Method):
    """L = CE(θ', φ_mm) + Σ_k CE(θ_k, φ_k) + λ [KL(p_ema ‖ p_mm) + Σ_k KL(p_ema ‖ p_k)]; predicts with the average.

    Every component has its switch; `ABLATION` in `mmlib.methods` names the paper's rows and the matched baselines.

    * `dropout`: "adaptive" (AMD), or a fixed probability for every modality; 0 drops nothing. `base` b raises the
      adaptive probabilities that are above zero to b + (1 − b)·p_k [MMDG-Bench].
    * `unimodal`: the losses Σ_k CE(θ_k, φ_k). Without them, AMD reads its confidences from heads that learn on
      detached features, so that they send no gradient to the encoders. [kit]
    * `look_ahead`: the step α of θ'_k = θ_k − α ∇ CE(θ_k, φ_k); 0 takes θ' = θ. `order` 1 [port] or 2 (exact). Each
      encoder is adapted from the part `adapt_from` on ("trunk", "last_stage", "head"); what lies below is computed
      once. Heads are not moved. Batch-norm statistics are updated once per step.
    * `weight`: λ of the distillation from the weight-averaged teacher; 0 leaves it out. `unimodal_weight`: that of the
      uni-modal heads, where it is another one [MMDG-Bench]. The teacher is in eval mode and sees the same augmented
      inputs with all modalities.
    * `half_life` (share of training), or `decay` itself: β of the teacher. decay=0: the teacher is the student.
    * `dsu`: probability of noise on the feature statistics before and after the last stage in the first pass [port].

    Raises a ValueError for fewer than two modalities, or options that are out of range or do not fit together.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        dropout: str | float = "adaptive",
        unimodal: bool = True,
        look_ahead: float = 1e-2,
        order: int = 1,
        adapt_from: str = "last_stage",
        weight: float = 1.0,
        half_life: float = 0.1,
        decay: float | None = None,
        dsu: float = 0.0,
        base: float = 0.0,
        unimodal_weight: float | None = None,
    ) -> None:
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError(f"MBCD balances modalities and needs at least two; this model reads {model.modalities}.")
        allowed = {
            "dropout": ("adaptive", Number(0, 1, below=True)),
            "unimodal": bool,
            "look_ahead": Number(0),
            "order": (1, 2),
            "adapt_from": PARTS,
            "weight": Number(0),
            "dsu": SHARE,
            "base": SHARE,
            "unimodal_weight": (None, Number(0)),
        }
        check(locals(), allowed, "MBCD")
        if dsu and adapt_from == "head":
            raise ValueError('MBCD: dsu acts around the last stage; with adapt_from="head" it must be 0.')
        if look_ahead and not unimodal:
            raise ValueError("MBCD: the look-ahead follows the uni-modal losses; it needs unimodal=True.")
        for name, encoder in model.encoders.items():
            if not isinstance(encoder, Encoder):
                raise ValueError(f"MBCD adapts parts of encoders: the one of {name!r} must be a models.Encoder.")
        self.dropout, self.unimodal = dropout, unimodal
        self.look_ahead, self.order, self.adapt_from = look_ahead, order, adapt_from
        self.weight, self.dsu, self.base = weight, dsu, base
        self.unimodal_weight = weight if unimodal_weight is None else unimodal_weight
        self.average = ExponentialAverage(model, half_life, decay)
        self.static = dsu == 0  # whether statistics are perturbed is drawn for each batch

    @property
    def predictor(self) -> nn.Module:
        """The teacher: the averaged network."""
        return self.average.module

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fix β for this many steps."""
        self.average.begin(total_steps)

    def after_step(self) -> None:
        """Θ_ema ← β Θ_ema + (1 − β) Θ."""
        self.average.follow(self.model)

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of L above, by name; parts that are switched off are left out."""
        below = self._below(self.model, batch.inputs)
        features = self.model.normalise({name: self._first_pass(name, below[name]) for name in below})
        logits = self.model.unimodal_logits(features)
        losses = unimodal_cross_entropies(logits, batch.labels) if self.unimodal else {}
        mask = self._mask(logits)
        if self.look_ahead:
            features = self.model.normalise(self._second_pass(below, losses))
        fused_logits = self.model.fuse(features, mask)
        losses["fused"] = fused_cross_entropy(fused_logits, batch.labels)
        weights = {"fused": self.weight, **dict.fromkeys(logits, self.unimodal_weight)}
        if any(weights.values()):
            teacher_logits = self._teacher_logits(batch.inputs, below)
            for name, student_logits in {"fused": fused_logits, **logits}.items():
                if weights[name]:
                    losses[f"distillation {name}"] = weights[name] * distillation(teacher_logits, student_logits)
        if self.dropout == "adaptive" and not self.unimodal and not self.unimodal_weight:
            apart = self.model.unimodal_logits({name: value.detach() for name, value in features.items()})
            losses |= unimodal_cross_entropies(apart, batch.labels)
        return losses

    def _mask(self, unimodal_logits: dict[str, Tensor]) -> Tensor | None:
        """Adaptive modality dropout: s_k → r_k → p_k → a mask for the fused head."""
        if self.dropout == 0:
            return None
        confidence = confidences(unimodal_logits)
        if self.dropout == "adaptive":
            probability = drop_probabilities(speed_ratios(confidence))
            probability = torch.where(probability > 0, self.base + (1 - self.base) * probability, probability)
        else:
            probability = torch.full_like(confidence, self.dropout)
        batch = len(next(iter(unimodal_logits.values())))
        for name, share, drop in zip(unimodal_logits, confidence / batch, probability, strict=True):
            self.watched[f"{name} confidence"], self.watched[f"{name} drop probability"] = share, drop
        return draw_mask(probability, batch)

    def _below(self, model: MultimodalClassifier, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the adapted part of each encoder reads."""
        below = {}
        for name in model.modalities:
            below[name] = inputs[name]
            for part in PARTS[: PARTS.index(self.adapt_from)]:
                below[name] = getattr(model.encoders[name], part)(below[name])
        return below

    def _adapted(self, model: MultimodalClassifier, name: str) -> nn.Sequential:
        encoder = model.encoders[name]
        return nn.Sequential(*(getattr(encoder, part) for part in PARTS[PARTS.index(self.adapt_from) :]))

    def _first_pass(self, name: str, below: Tensor) -> Tensor:
        """θ_k from the adapted part on; with noise on the statistics around the last stage where `dsu` is set."""
        encoder = self.model.encoders[name]
        for part in PARTS[PARTS.index(self.adapt_from) :]:
            around_last_stage = part in ("last_stage", "head") and below.ndim > 2
            if self.dsu and around_last_stage:
                below = perturb_statistics(below, self.dsu)
            below = getattr(encoder, part)(below)
        return below

    def _second_pass(self, below: dict[str, Tensor], losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings at θ'_k = θ_k − α ∇_θk CE_k. The copies of the batch-norm statistics are discarded."""
        parts = {name: self._adapted(self.model, name) for name in below}
        parameters = {
            (name, key): value
            for name, part in parts.items()
            for key, value in part.named_parameters()
            if value.requires_grad
        }
        # CE_k depends on θ_k alone: one backward pass through the sum gives every modality's own gradient.
        shifted = look_ahead(sum(losses.values()), parameters, self.look_ahead, self.order)
        embeddings = {}
        for name, part in parts.items():
            replaced = {key: value for (owner, key), value in shifted.items() if owner == name}
            replaced |= {key: value.clone() for key, value in part.named_buffers()}
            embeddings[name] = torch.func.functional_call(part, replaced, (below[name],))
        return embeddings

    @torch.no_grad()
    def _teacher_logits(self, inputs: dict[str, Tensor], below: dict[str, Tensor]) -> Tensor:
        """The teacher's fused prediction. With frozen trunks, its activations there equal the student's, which are
        reused."""
        teacher = self.average.module
        frozen = all(is_frozen(self.model.encoders[name].trunk) for name in below)
        if not (frozen and self.adapt_from == "last_stage"):
            return teacher(inputs).fused_logits
        embeddings = {name: self._adapted(teacher, name)(value) for name, value in below.items()}
        return teacher.fuse(teacher.normalise(embeddings))
