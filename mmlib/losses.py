"""Losses as pure functions, named after their equations in methods.md."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional


def fused_cross_entropy(fused_logits: Tensor, labels: Tensor) -> Tensor:
    """CE(z_mm, y), mean over the batch: logits (batch, classes), labels (batch,)."""
    return functional.cross_entropy(fused_logits, labels)


def unimodal_cross_entropies(unimodal_logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """CE(z_k, y) for every modality k."""
    return {name: functional.cross_entropy(logits, labels) for name, logits in unimodal_logits.items()}
