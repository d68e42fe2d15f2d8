"""Which way each encoder is pulled: cosines and norms of its gradients, and MBCD's look-ahead taken apart."""

import copy
from collections.abc import Mapping, Sequence

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

    def changes(self, steps: Sequence[float]) -> pd.Series:
        """By step α: the true change CE_mm(θ') − CE_mm(θ) of the fused loss."""
        found = {float(step): (self._fused_after(step, 1) - self._fused).item() for step in steps}
        return pd.Series(found).rename_axis("step")

    def gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """∇_θk CE_k and ∇_θk CE_mm, flattened, by modality: what `predicted_change` reads."""
        own, fused = ({name: self._slope(loss, name) for name in self._inputs} for loss in (self._own, self._fused))
        return own, fused

    def coupling_gradient(self, step: float, order: int) -> Tensor:
        """What the look-ahead adds to the fused loss's gradient: ∇_θ CE_mm(θ'(θ)) − ∇_θ CE_mm(θ), flattened.

        Order 2 is −α (H_mm g_k + H_k g_mm) to first order in α; order 1 keeps only the first term."""
        return self._slope(self._fused_after(step, order)) - self._slope(self._fused)

    def _fused_after(self, step: float, order: int) -> Tensor:
        moved = look_ahead(self._own, self._weights, step, order)
        outputs = torch.func.functional_call(self._model, moved, (self._inputs,))
        return functional.cross_entropy(outputs.fused_logits, self._labels)

    def _slope(self, loss: Tensor, modality: str = "") -> Tensor:
        """The gradient in all encoders, or in one modality's."""
        inside = f"encoders.{modality}."
        weights = [value for name, value in self._weights.items() if not modality or name.startswith(inside)]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, retain_graph=True)])


def predicted_change(own: Mapping[str, Tensor], fused: Mapping[str, Tensor], step: float) -> float:
    """−α Σ_k ⟨∇CE_k, ∇CE_mm⟩: the change of the fused loss to first order, after a step of every encoder down its own
    loss. `own` and `fused`: modality → that loss's gradient in its encoder, flat."""
    return -step * sum(float(own[name] @ fused[name]) for name in own)
