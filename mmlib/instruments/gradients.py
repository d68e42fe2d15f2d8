"""Which way each encoder is pulled: cosines and norms of its gradients, and MBCD's look-ahead taken apart."""

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from mmlib.data.dataset import Batch
from mmlib.equations.losses import look_ahead
from mmlib.models.classifier import MultimodalClassifier


def gradient_cosines(model: MultimodalClassifier, batch: Batch) -> dict[str, float]:
    """cos(∇_θk CE(z_k), ∇_θk CE(z_mm)) for the trained weights of every modality's encoder, in eval mode on this batch.

    1: what helps the modality alone helps the joint prediction; < 0: they conflict. The uni-modal head must have been
    trained ("multi-loss"), or the first gradient is that of a random head.
    """
    was_training = model.training
    model.eval()
    outputs = model(batch.inputs)
    fused_loss = functional.cross_entropy(outputs.fused_logits, batch.labels)
    cosines = {}
    for name in model.modalities:
        weights = [weight for weight in model.encoders[name].parameters() if weight.requires_grad]
        own_loss = functional.cross_entropy(outputs.unimodal_logits[name], batch.labels)
        own, fused = (
            torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, retain_graph=True)])
            for loss in (own_loss, fused_loss)
        )
        cosines[name] = float(functional.cosine_similarity(own, fused, dim=0))
    model.train(was_training)
    return cosines


def fused_gradient_norms(model: MultimodalClassifier, batch: Batch, present: Sequence[str]) -> dict[str, float]:
    """‖∇_θk CE(z_mm)‖ of every present modality's encoder, in eval mode, where the others' features are zeros."""
    model.eval()
    mask = torch.tensor([float(name in present) for name in model.modalities], device=batch.labels.device)
    loss = functional.cross_entropy(model(batch.inputs, mask).fused_logits, batch.labels)
    norms = {}
    for name in present:
        parts = torch.autograd.grad(loss, list(model.encoders[name].parameters()), retain_graph=True)
        norms[name] = float(torch.cat([part.flatten() for part in parts]).norm())
    return norms


class LookAhead:
    """MBCD's look-ahead on one batch, for analysis: every encoder takes a step down its own uni-modal loss.

    All encoder weights take the step, in eval mode and double precision on a copy of the model.
    """

    def __init__(self, model: MultimodalClassifier, batch: Batch) -> None:
        self._model = copy.deepcopy(model).double().eval()
        self._inputs = {name: tensor.double() for name, tensor in batch.inputs.items()}
        self._labels = batch.labels
        self._weights = dict(self._model.encoders.named_parameters(prefix="encoders"))
        outputs = self._model(self._inputs)
        self._own = sum(functional.cross_entropy(z, self._labels) for z in outputs.unimodal_logits.values())
        self._fused = functional.cross_entropy(outputs.fused_logits, self._labels)

    def changes(self, steps: Sequence[float]) -> pd.DataFrame:
        """By step α: the true "change" CE_mm(θ') − CE_mm(θ) of the fused loss, and its Taylor prediction
        −α Σ_k ⟨∇CE_k, ∇CE_mm⟩ ("predicted")."""
        alignment = self._slope(self._own) @ self._slope(self._fused)
        rows = {
            float(step): {
                "change": (self._fused_after(step, 1) - self._fused).item(),
                "predicted": -step * alignment.item(),
            }
            for step in steps
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")

    def coupling_gradient(self, step: float, order: int) -> Tensor:
        """What the look-ahead adds to the fused loss's gradient: ∇_θ CE_mm(θ'(θ)) − ∇_θ CE_mm(θ), flattened.

        Order 2 is −α (H_mm g_k + H_k g_mm) to first order in α; order 1 keeps only the first term."""
        return self._slope(self._fused_after(step, order)) - self._slope(self._fused)

    def _fused_after(self, step: float, order: int) -> Tensor:
        moved = look_ahead(self._own, self._weights, step, order)
        outputs = torch.func.functional_call(self._model, moved, (self._inputs,))
        return functional.cross_entropy(outputs.fused_logits, self._labels)

    def _slope(self, loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss, list(self._weights.values()), retain_graph=True)
        return torch.cat([part.flatten() for part in parts])
