"""Rivals that balance the modalities' learning: OGM-GE, AGM, MMPareto, PMR, MBSD.

Those without uni-modal losses read each modality's part of the fused logits (`MultimodalClassifier.split_logits`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.equations.losses import fused_cross_entropy, modality_gap, true_class_scores, unimodal_cross_entropies
from mmlib.methods.base import Method
from mmlib.methods.erm import MultiLoss
from mmlib.models import MultimodalClassifier


def ratios_to_others(values: Tensor) -> Tensor:
    """Each modality's value over the mean of the others', (M,). Raises a ValueError for fewer than two modalities."""
    if len(values) < 2:
        raise ValueError("A modality is compared with the others: at least two modalities are needed.")
    return values / ((values.sum() - values) / (len(values) - 1))


class Modulated(Method):
    """The fused loss alone; after the backward pass each encoder's gradient is scaled by its coefficient."""

    def __init__(self, model: MultimodalClassifier, strength: float) -> None:
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two modalities, not {model.modalities}.")
        self.strength = strength
        self._coefficients = torch.ones(len(model.modalities))

    def coefficients(self, scores: Tensor) -> Tensor:
        """(M,) from the scores of the true class p_k,i (M, B)."""
        raise NotImplementedError

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y) alone; the coefficients of this batch are set for `backward`."""
        outputs = self.model(batch.inputs)
        with torch.no_grad():
            scores = true_class_scores(self.model.split_logits(outputs.features), batch.labels)
            self._coefficients = self.coefficients(scores)
        for name, value in zip(self.model.modalities, self._coefficients, strict=True):
            self.watched[f"{name} coefficient"] = value
        return {"fused": fused_cross_entropy(outputs.fused_logits, batch.labels)}

    def backward(self, losses: dict[str, Tensor]) -> None:
        """The plain gradients, then each encoder's scaled by its coefficient."""
        super().backward(losses)
        for name, coefficient in zip(self.model.modalities, self._coefficients, strict=True):
            for parameter in self.model.encoders[name].parameters():
                if parameter.grad is not None:
                    self.modulate(parameter.grad, coefficient)

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> None:
        """Scale one weight's gradient in place."""
        gradient.mul_(coefficient)


class OGMGE(Modulated):
    """On-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022).

    ρ_k = Σ_i p_k,i / mean of the others'; where ρ_k > 1, the gradients of encoder k's convolutions are scaled by
    1 − tanh(α ρ_k); all convolutions' gradients get Gaussian noise of their own standard deviation (GE), unless
    `noise` is False.
    """

    def __init__(self, model: MultimodalClassifier, strength: float = 0.3, noise: bool = True) -> None:
        super().__init__(model, strength)
        self.noise = noise

    def coefficients(self, scores: Tensor) -> Tensor:
        """1 − tanh(α ρ_k) where ρ_k > 1, else 1; (M,)."""
        ratio = ratios_to_others(scores.sum(1))
        return torch.where(ratio > 1, 1 - (self.strength * ratio).tanh(), 1.0)

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> None:
        """Convolutions only: scaled, and with noise of the unscaled gradient's standard deviation."""
        if gradient.ndim < 4:
            return
        noise = gradient.std() * torch.randn_like(gradient) if self.noise else 0.0
        gradient.mul_(coefficient).add_(noise)


class AGM(Modulated):
    """Adaptive gradient modulation (Li et al. 2023): a modality's gradients × exp(α · min(r̂_k − r_k, `cap`)).

    s_k: mean log score of the true class; r_k = exp(s_k − mean of the others'); r̂_k: the same of the running means of
    s_k over all earlier steps, 1 at the first. A modality ahead of its usual lead is slowed down, one behind it is sped
    up. What is scaled is the gradient of the modality's part of the fused logits: the encoder's, and that of its
    columns of the fused head.

    The cap is the authors' for CREMA-D; they use 7 for UR-Funny and none elsewhere. Differs from the authors' code: a
    modality's logits are its part of the linear fused head, not the mean of its marginal contributions, which need a
    pass for every missing modality; and gradients are not clipped.
    """

    counted = ("step",)
    static = False  # the weight of the running means depends on the step

    def __init__(self, model: MultimodalClassifier, strength: float = 1.0, cap: float = 10.0) -> None:
        super().__init__(model, strength)
        self.cap = cap
        self.register_buffer("running", torch.zeros(len(model.modalities)))
        self.step = 0

    def coefficients(self, scores: Tensor) -> Tensor:
        """exp(α · min(r̂_k − r_k, cap)), (M,); the running means are updated with this batch afterwards."""
        score = scores.clamp(min=1e-8).log().mean(1)
        lead, usual = (self._leads(values) for values in (score, self.running))
        self.step += 1
        self.running.lerp_(score, 1 / self.step)
        return (self.strength * (usual - lead).clamp(max=self.cap)).exp()

    @staticmethod
    def _leads(score: Tensor) -> Tensor:
        return (score - (score.sum() - score) / (len(score) - 1)).exp()

    def backward(self, losses: dict[str, Tensor]) -> None:
        """The encoders' gradients scaled, and each modality's part of the fused head's."""
        super().backward(losses)
        head, sizes = self.model.fused_head, [self.model.encoders[name].features for name in self.model.modalities]
        if head.weight.grad is None:  # a head that is not trained
            return
        for columns, coefficient in zip(head.weight.grad.split(sizes, 1), self._coefficients, strict=True):
            self.modulate(columns, coefficient)
        self.modulate(head.bias.grad, self._coefficients.mean())


class MMPareto(MultiLoss):
    """MMPareto (Wei and Hu 2024): multi-loss, but each encoder's fused and uni-modal gradients are combined by
    direction.

    Where they agree (cosine > 0) they are added; where they conflict, they get the weights of the shortest convex
    combination (times two, so that equal weights yield the sum), and each weight's joined gradient is lifted back to
    the norm of the sum where it is shorter. The result is scaled by `scale`.
    """

    def __init__(self, model: MultimodalClassifier, scale: float = 1.5) -> None:
        super().__init__(model)
        self.scale = scale

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Two gradients for every weight, kept apart: accumulated in one tensor, their cosine would always be 1. The
        sum of the uni-modal losses gives each encoder the gradient of its own loss."""
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        own_loss = sum(losses[name] for name in self.model.modalities)
        fused, own = (
            dict(zip(weights, torch.autograd.grad(loss, weights, retain_graph=keep, allow_unused=True), strict=True))
            for loss, keep in ((losses["fused"], True), (own_loss, False))
        )
        for weight in weights:
            parts = [gradient[weight] for gradient in (fused, own) if gradient[weight] is not None]
            weight.grad = sum(parts)
        for name in self.model.modalities:
            encoder = [weight for weight in self.model.encoders[name].parameters() if weight.requires_grad]
            if not encoder:
                continue
            pairs = [(fused[weight], own[weight]) for weight in encoder]
            share = fused_share(*zip(*pairs, strict=True))
            self.watched[f"{name} fused share"] = share
            for weight, (one, two) in zip(encoder, pairs, strict=True):
                weight.grad = self.scale * joined_gradient(one, two, share)


def joined_gradient(fused: Tensor, own: Tensor, share: Tensor) -> Tensor:
    """2 [w·g_mm + (1 − w)·g_k] of one weight, lifted to the norm of g_mm + g_k where it is shorter."""
    joined = 2 * (share * fused + (1 - share) * own)
    return (((fused + own).norm() / joined.norm().clamp(min=1e-30)).clamp(min=1)) * joined


def fused_share(fused: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """The fused gradient's weight w in w·g_mm + (1 − w)·g_k: one half where cos(g_mm, g_k) > 0; else that of the point
    of least norm, (g_k − g_mm)·g_k / ‖g_mm − g_k‖², which lies in (0, 1)."""
    one, two = (torch.cat([part.flatten() for part in parts]) for parts in (fused, own))
    product = one @ two
    least = (two @ two - product) / (one - two).square().sum().clamp(min=1e-30)
    return torch.where(product > 0, 0.5, least.clamp(0, 1))


class PMR(Method):
    """Prototypical modality rebalance (Fan et al. 2023): L = CE(z_mm, y) + α Σ_k β_k · PCE_k.

    PCE_k is the cross-entropy of −‖h_k − c_k,j‖ over the classes' prototypes c_k,j: the mean features of the training
    set before the first epoch, in eval mode; later, m times the last prototypes plus 1 − m times the new means, m =
    `momentum`. β_k = min(max(ρ_k − 1, 0), 1) with ρ_k the others' mean prototype score of the true class over its own:
    only slower modalities are sped up. Differs from the authors' code: prototypes come from all training samples and
    not from a tenth of the batches, β_k is the paper's and not 0 or 1, and the paper's entropy term for the faster
    modality in the first epochs is left out, as there.
    """

    counted = ("begun",)

    def __init__(self, model: MultimodalClassifier, strength: float = 1.0, momentum: float = 0.2) -> None:
        super().__init__(model)
        self.strength, self.momentum, self.begun = strength, momentum, False
        classes = model.unimodal_heads[model.modalities[0]].out_features
        for name in model.modalities:
            self.register_buffer(f"prototypes_{name}", torch.zeros(classes, model.encoders[name].features))

    @torch.no_grad()
    def on_epoch_start(self, epoch: int, train: MultimodalDataset) -> None:
        """Move the classes' prototypes to the mean features of the training set, in eval mode."""
        self.model.eval()
        device = next(self.model.parameters()).device
        sums = {name: torch.zeros_like(self._prototypes(name)) for name in self.model.modalities}
        for batch in train.batches(train.evaluation_batch, device=device):
            for name, feature in self.model(batch.inputs).features.items():
                sums[name].index_add_(0, batch.labels, feature)
        classes = len(next(iter(sums.values())))
        counts = torch.bincount(train.labels, minlength=classes).clamp(min=1).to(device)
        for name, total in sums.items():
            self._prototypes(name).lerp_(total / counts[:, None], 1 - self.momentum if self.begun else 1.0)
        self.begun = True

    def _prototypes(self, name: str) -> Tensor:
        return getattr(self, f"prototypes_{name}")

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y), and each modality's cross-entropy against its prototypes, weighted."""
        outputs = self.model(batch.inputs)
        losses = {"fused": fused_cross_entropy(outputs.fused_logits, batch.labels)}
        own, slowness = self.prototype_losses(outputs.features, batch.labels)
        for (name, loss), weight in zip(own.items(), slowness, strict=True):
            losses[f"{name} prototypes"] = self.strength * weight * loss
            self.watched[f"{name} slowness"] = weight
        return losses

    def prototype_losses(self, features: dict[str, Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """PCE_k by modality, from h_k (B, features), and β_k, (M,)."""
        logits = {name: -torch.cdist(feature, self._prototypes(name)) for name, feature in features.items()}
        scores = true_class_scores(logits, labels).sum(1).detach()
        return unimodal_cross_entropies(logits, labels), (1 / ratios_to_others(scores) - 1).clamp(0, 1)


class MBSD(MultiLoss):
    """Balanced self-distillation: multi-loss + λ mean_i [1(any right) · g_i · KL(σ(z_dom,i) ‖ σ(z_weak,i))].

    For each sample, the modality with the highest score of the true class teaches the one with the lowest, the more
    the further apart they are (g_i, the gap), and only where at least one modality is right. [kit] Differs from the
    port (BalanceBenchmark): that takes a divergence between the two scores of the true class instead of between the
    distributions, with scores where logarithms belong, so that both modalities are moved; and it also pulls both
    modalities' logits together, by their mean squared difference, with the same weights.
    """

    def __init__(self, model: MultimodalClassifier, weight: float = 1.0) -> None:
        super().__init__(model)
        self.weight = weight

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Multi-loss, and the weak modality's divergence from the dominant one."""
        outputs = self.model(batch.inputs)
        return {
            "fused": fused_cross_entropy(outputs.fused_logits, batch.labels),
            **unimodal_cross_entropies(outputs.unimodal_logits, batch.labels),
            "alignment": self.weight * self.alignment(outputs.unimodal_logits, batch.labels),
        }

    @staticmethod
    def alignment(unimodal_logits: dict[str, Tensor], labels: Tensor) -> Tensor:
        """mean_i [1(any right) · g_i · KL(σ(z_dom,i) ‖ σ(z_weak,i))], (), from z_k (B, C); the dominant one is a
        constant."""
        logits = torch.stack(list(unimodal_logits.values())).log_softmax(-1)  # (M, B, C)
        with torch.no_grad():
            scores = true_class_scores(unimodal_logits, labels)
            known = (logits.argmax(-1) == labels).any(0)
            rows = torch.arange(len(labels), device=labels.device)
            teacher = logits[scores.argmax(0), rows]
            weights = modality_gap(scores) * known
        student = logits[scores.argmin(0), rows]
        divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return (weights * divergence).mean()
