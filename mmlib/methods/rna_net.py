"""Relative norm alignment (RNA-Net, Planamente et al. 2022): no modality's features may dominate by their norm."""

from torch import Tensor

from mmlib.data.dataset import Batch
from mmlib.equations.losses import fused_cross_entropy, norm_imbalance
from mmlib.methods.base import Method
from mmlib.models import MultimodalClassifier


class RNANet(Method):
    """L = CE(z_mm, y) + w · mean over pairs (n_a / n_b − 1)², n: mean norm of a modality's embeddings in the batch.

    The norms are those of θ_k(x_k), before LayerNorm, which would make them all equal. The heads here read features
    after LayerNorm, where a norm hardly matters: in this model the term can do little. [kit]
    """

    def __init__(self, model: MultimodalClassifier, weight: float = 1.0) -> None:
        super().__init__(model)
        self.weight = weight

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y), and the weighted imbalance of mean norms."""
        embeddings = {name: self.model.encoders[name](batch.inputs[name]) for name in self.model.modalities}
        fused_logits = self.model.fuse(self.model.normalise(embeddings))
        return {
            "fused": fused_cross_entropy(fused_logits, batch.labels),
            "norms": self.weight * norm_imbalance(list(embeddings.values())),
        }
