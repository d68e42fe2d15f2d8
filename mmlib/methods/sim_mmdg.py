"""SimMMDG (Dong et al. 2023): half of each feature is shared by the modalities, the other half is specific."""

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlib.data.dataset import Batch
from mmlib.equations.losses import direction_distance, fused_cross_entropy, supervised_contrast
from mmlib.methods.base import Method
from mmlib.models import MultimodalClassifier


class SimMMDG(Method):
    """L = CE(z_mm, y) + 3.0 · contrast(shared halves) + 0.1 · translation − 0.7 · MSE(shared, specific).

    * contrast: supervised, over the projected shared halves of all modalities, τ 0.1 [paper]; the projection is
      Linear–ReLU–Linear [kit; port: three layers with batch norm];
    * translation: an MLP of two hidden layers with dropout [port] for each ordered pair predicts one modality's
      features from the other's; mean distance of the normalised vectors;
    * the last term drives the two halves of a feature apart.
    """

    def __init__(
        self, model: MultimodalClassifier, contrast: float = 3.0, translation: float = 0.1, distance: float = 0.7
    ) -> None:
        super().__init__(model)
        self.contrast, self.translation, self.distance = contrast, translation, distance
        sizes = {name: model.encoders[name].features for name in model.modalities}
        self.projections = nn.ModuleDict({name: perceptron(size // 2, size, 128) for name, size in sizes.items()})
        self.translators = translators(sizes)

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """CE(z_mm, y), and the three feature terms."""
        outputs = self.model(batch.inputs)
        return {
            "fused": fused_cross_entropy(outputs.fused_logits, batch.labels),
            **self.feature_losses(outputs.features, outputs.features, batch.labels),
        }

    def feature_losses(
        self, features: dict[str, Tensor], sources: dict[str, Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        """The three terms; `sources` is what the translators read (MOOSA masks it)."""
        shared, specific = {}, {}
        for name, feature in features.items():
            shared[name], specific[name] = feature.chunk(2, dim=1)
        views = torch.stack([self.projections[name](half) for name, half in shared.items()], 1)
        translated = [
            direction_distance(self.translators[f"{source} to {target}"](sources[source]), features[target])
            for source, target in permutations(features, 2)
        ]
        apart = torch.stack([functional.mse_loss(shared[name], specific[name]) for name in features]).mean()
        return {
            "contrast": self.contrast * supervised_contrast(views, labels),
            "translation": self.translation * torch.stack(translated).mean(),
            "distance": -self.distance * apart,
        }


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """An MLP with one hidden layer: (B, inputs) → (B, outputs)."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def translators(sizes: Mapping[str, int]) -> nn.ModuleDict:
    """An MLP for each ordered pair of modalities: two hidden layers, as wide as the port's where features are as long
    as there."""
    made = {}
    for source, target in permutations(sizes, 2):
        width = min(4 * sizes[source], 2048)
        hidden = [nn.Linear(sizes[source], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5)]
        made[f"{source} to {target}"] = nn.Sequential(*hidden, nn.Linear(width, sizes[target]))
    return nn.ModuleDict(made)
