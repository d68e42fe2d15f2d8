"""Losses as pure functions, named after the papers' equations.

B: batch, M: modalities, C: classes. Modalities are the mapping's entries, in its order.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def fused_cross_entropy(fused_logits: Tensor, labels: Tensor) -> Tensor:
    """CE(z_mm, y), mean over the batch: logits (batch, classes), labels (batch,)."""
    return functional.cross_entropy(fused_logits, labels)


def unimodal_cross_entropies(unimodal_logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """CE(z_k, y) for every modality k, mean over the batch: logits (batch, classes) each, labels (batch,)."""
    return {name: functional.cross_entropy(logits, labels) for name, logits in unimodal_logits.items()}


# Adaptive modality dropout (MBCD)


def confidences(unimodal_logits: Mapping[str, Tensor]) -> Tensor:
    """s_k = Σ_i max_c σ(z_k,i)_c, (M,): how confident each modality is on this batch, right or wrong. Without
    gradient."""
    logits = torch.stack([logits.detach() for logits in unimodal_logits.values()])
    return logits.softmax(-1).amax(-1).sum(-1)


def speed_ratios(confidence: Tensor) -> Tensor:
    """r_k = 1/(M−1) Σ_{j≠k} s_k / s_j, (M,) → (M,). Raises a ValueError for fewer than two modalities."""
    count = len(confidence)
    if count < 2:
        raise ValueError("A modality's speed is relative to the others': at least two modalities are needed.")
    return (confidence[:, None] / confidence).sum(1).sub(1).div(count - 1)


def drop_probabilities(ratios: Tensor) -> Tensor:
    """p_k = tanh(max(r_k − 1, 0)), (M,) → (M,): only modalities with a ratio above 1 can be dropped."""
    return (ratios - 1).clamp(min=0).tanh()


def draw_mask(drop_probability: Tensor, batch: int) -> Tensor:
    """Which modalities each sample keeps, (batch, M) of 0 and 1, without rescaling.

    Each modality is dropped with its own probability, (M,), or that of each sample, (batch, M). A sample that would
    lose all of them keeps one drawn at random; with adaptive probabilities that never happens, because the least
    confident modality has p = 0. [kit]
    """
    draws = torch.rand(2, batch, drop_probability.shape[-1], device=drop_probability.device)
    kept = draws[0] >= drop_probability
    one = draws[1] == draws[1].amax(1, keepdim=True)
    return torch.where(kept.any(1, keepdim=True), kept, one).float()


# Gradient consistency by look-ahead (MBCD)


def look_ahead(loss: Tensor, parameters: Mapping[str, Tensor], step: float, order: int) -> dict[str, Tensor]:
    """θ' = θ − α ∇_θ loss for these parameters, differentiable with respect to θ.

    `order` 1 takes the gradient as a constant; 2 keeps its dependence on θ, so that minimising a loss at θ' takes
    the curvature of this one into account. The graph of `loss` stays usable. Raises a ValueError for another order.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (the gradient is a constant) or 2 (exact), not {order!r}.")
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=order == 2, retain_graph=True)
    return {name: value - step * part for (name, value), part in zip(parameters.items(), gradients, strict=True)}


# Collaborative distillation (MBCD)


def distillation(teacher_logits: Tensor, student_logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(p_teacher ‖ p_student) at temperature 1, mean over the batch, each sample times its weight, (batch,), if they
    have any: logits (batch, classes). The teacher is a constant."""
    teacher = functional.log_softmax(teacher_logits.detach(), -1)
    student = functional.log_softmax(student_logits, -1)
    if weights is None:
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (weights * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)).mean()


# Modality gap (arXiv 2510.21797)


def true_class_scores(unimodal_logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """p_k,i = σ(z_k,i)_{y_i}, (M, B): each modality's softmax score of the correct class."""
    logits = torch.stack(list(unimodal_logits.values()))
    return logits.softmax(-1).gather(-1, labels.expand(len(logits), -1)[..., None]).squeeze(-1)


def relative_scores(scores: Tensor, usual: Tensor | None = None) -> Tensor:
    """r_k,i = min(1, p_k,i / p̄_k), (…, M, N) → (…, M, N): what a modality knows of a sample by its own standards.

    p̄_k, (…, M), is the modality's usual score, by default its mean over the N samples. A modality that knows a sample
    as well as usual knows it well enough: neither another modality's head start nor an especially easy signal opens a
    gap. With p̄ = 1 these are the plain scores. [kit]
    """
    usual = scores.mean(-1) if usual is None else usual
    return (scores / usual.clamp(min=1e-6)[..., None]).clamp(max=1)


def modality_gap(scores: Tensor) -> Tensor:
    """g_i = max_k p_k,i − min_k p_k,i, (M, B) → (B,); for two modalities |p_a,i − p_b,i|."""
    return scores.amax(0) - scores.amin(0)


def gap_penalty(scores: Tensor) -> Tensor:
    """G_i = sg(max_k p_k,i) − min_k p_k,i ≥ 0, (M, B) → (B,): closes the gap from below; the dominant modality, a
    constant here, is not pulled down."""
    return scores.amax(0).detach() - scores.amin(0)


def shift_penalty(gaps: Tensor, balanced_mean: Tensor, imbalanced_mean: Tensor) -> Tensor:
    """S_i = ½ ((g_i − μ_bal)_+ / (μ_imb − μ_bal))², (B,) → (B,): 0 up to the balanced mean, ½ at the imbalanced one.
    The unit is their distance, not σ_bal, which may be tiny. [kit]"""
    return 0.5 * ((gaps - balanced_mean).clamp(min=0) / (imbalanced_mean - balanced_mean)).square()


# Terms of MBCD's rivals


def norm_imbalance(embeddings: Sequence[Tensor]) -> Tensor:
    """RNA-Net: mean over pairs a, b of (n_a / n_b − 1)², where n is the mean norm of a modality's embeddings (B, d)."""
    norms = torch.stack([embedding.norm(dim=1).mean() for embedding in embeddings])
    first, second = torch.triu_indices(len(norms), len(norms), 1, device=norms.device)
    return (norms[first] / norms[second] - 1).square().mean()


def supervised_contrast(views: Tensor, labels: Tensor, temperature: float = 0.1, base: float = 0.07) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) over all modalities' embeddings at once.

    `views` (B, M, d) are normalised here; all embeddings of one class, whatever the modality, attract each other:
    −τ/τ₀ · mean over anchors a of mean over positives p of log( exp(a·p/τ) / Σ_{n≠a} exp(a·n/τ) ). The base temperature
    τ₀ of 0.07 makes gradients as large as at τ = τ₀ [port: SimMMDG, MOOSA and CMRF all leave it there].
    """
    batch, modalities, _ = views.shape
    points = functional.normalize(views, dim=-1).flatten(0, 1)
    classes = labels.repeat_interleave(modalities)
    itself = torch.eye(batch * modalities, dtype=torch.bool, device=views.device)
    similarity = (points @ points.T / temperature).masked_fill(itself, -torch.inf)
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    positive = (classes[:, None] == classes) & ~itself
    return -temperature / base * (log_share.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)).mean()


def direction_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean Euclidean distance between normalised vectors (B, d): 0 for the same direction, 2 for opposite ones."""
    return (functional.normalize(first, dim=1) - functional.normalize(second, dim=1)).norm(dim=1).mean()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of σ(z) in nats, (…, C) → (…)."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
