"""Empirical risk minimisation: the fused loss alone, or with the uni-modal losses that most papers omit."""

from torch import Tensor

from mmlib.data.dataset import Batch
from mmlib.equations.losses import fused_cross_entropy, unimodal_cross_entropies
from mmlib.methods.base import Method


class ERM(Method):
    """L = CE(z_mm, y): joint training by concatenation. With one modality, the uni-modal model."""

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y)."""
        return {"fused": fused_cross_entropy(self.model(batch.inputs).fused_logits, batch.labels)}


class MultiLoss(Method):
    """L = CE(z_mm, y) + Σ_k CE(z_k, y): ERM with uni-modal heads ("multi-loss")."""

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y), and CE(z_k, y) of every modality k."""
        outputs = self.model(batch.inputs)
        return {
            "fused": fused_cross_entropy(outputs.fused_logits, batch.labels),
            **unimodal_cross_entropies(outputs.unimodal_logits, batch.labels),
        }
