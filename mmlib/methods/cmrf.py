"""Cross-modal representation flattening (CMRF, Fan et al. 2024): learn from a flat path between modalities."""

from itertools import permutations

import torch
from torch import Tensor, nn

from mmlib.data.dataset import Batch
from mmlib.equations.averaging import AveragedNetwork
from mmlib.equations.losses import (
    direction_distance,
    fused_cross_entropy,
    supervised_contrast,
    unimodal_cross_entropies,
)
from mmlib.methods.base import Method
from mmlib.methods.sim_mmdg import perceptron
from mmlib.models import MultimodalClassifier


class CMRF(Method):
    """L = CE(z_mm, y) + 2.0 · Σ_k CE(z_k, y) + 3.0 · contrast + 3.0 · Σ_{j≠k} distance(f_k, mix of teacher's f_k, f_j).

    f_k are projected features. The mix is δ f_k + (1 − δ) f_j with δ ~ Beta(0.1, 0.1) beyond one half, from a teacher
    that averages the network and its projections with equal weights from `start` (share of training) on; until then
    there is no distillation. Predicts with the teacher. Differs from the authors' code: all modalities have the same
    weight (there sound has half); projections have one hidden layer and no batch norm.
    """

    counted = ("step",)
    static = False  # distillation begins with a step of its own

    def __init__(
        self,
        model: MultimodalClassifier,
        distilled: float = 3.0,
        unimodal: float = 2.0,
        contrast: float = 3.0,
        mixing: float = 0.1,
        start: float = 0.1,
    ) -> None:
        super().__init__(model)
        self.distilled, self.unimodal, self.contrast, self.mixing = distilled, unimodal, contrast, mixing
        self.projections = nn.ModuleDict()
        for name in model.modalities:
            size = model.encoders[name].features
            self.projections[name] = perceptron(size, size, 128)
        self.average = AveragedNetwork(nn.ModuleList([model, self.projections]))
        self.start, self.first_step, self.step = start, 0, 0

    @property
    def predictor(self) -> nn.Module:
        """The teacher."""
        return self.average.module[0]

    def on_train_start(self, total_steps: int, steps_per_epoch: int) -> None:
        """Fix the step with which averaging begins; distillation does with the next one."""
        self.first_step = max(1, round(self.start * total_steps))

    def after_step(self) -> None:
        """The equal average of all steps from the start on; before that, the network itself."""
        self.step += 1
        averaged = max(1, self.step - self.first_step + 1)
        self.average.lerp_towards(nn.ModuleList([self.model, self.projections]), 1 / averaged)

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The four terms; the last one once the teacher has begun to average."""
        outputs = self.model(batch.inputs)
        projected = {name: self.projections[name](feature) for name, feature in outputs.features.items()}
        unimodal = unimodal_cross_entropies(outputs.unimodal_logits, batch.labels)
        losses = {
            "fused": fused_cross_entropy(outputs.fused_logits, batch.labels),
            **{name: self.unimodal * loss for name, loss in unimodal.items()},
            "contrast": self.contrast * supervised_contrast(torch.stack(list(projected.values()), 1), batch.labels),
        }
        if self.step >= self.first_step:
            losses["distillation"] = self.distilled * self.flattening(projected, self._teacher(batch.inputs))
        return losses

    @torch.no_grad()
    def _teacher(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        model, projections = self.average.module
        return {name: projections[name](feature) for name, feature in model(inputs).features.items()}

    def flattening(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """The distance to the teacher's mix with another modality, summed over all ordered pairs."""
        first = next(iter(student.values()))
        total = first.new_zeros(())
        mixing = torch.full((len(first), 1), self.mixing, device=first.device)
        for own, other in permutations(student, 2):
            share = torch.distributions.Beta(mixing, mixing, validate_args=False).sample()
            share = torch.maximum(share, 1 - share)  # Beta(a, a) is symmetric: this is its draw beyond one half
            mixed = share * teacher[own] + (1 - share) * teacher[other]
            total = total + direction_distance(student[own], mixed)
        return total
