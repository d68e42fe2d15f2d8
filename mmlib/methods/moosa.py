"""MOOSA (Dong et al. 2024) on a closed set of classes: two self-supervised puzzles and entropy weighting."""

import torch
from torch import Tensor
from torch.nn import functional

from mmlib.data.dataset import Batch
from mmlib.equations.losses import entropy
from mmlib.methods.sim_mmdg import SimMMDG, perceptron
from mmlib.models import MultimodalClassifier
from mmlib.seeding import torch_generator


class MOOSA(SimMMDG):
    """SimMMDG's feature terms with masked translation, a jigsaw of all modalities, and entropy-weighted losses.

    * Entropy weighting: every head's cross-entropy, the fused one's included, weighted per sample by
      softmax(−H/T) over the heads, H the head's entropy; plus `sharpen` · mean H.
    * Masked translation: the translators read features with a share `masked` of their entries set to zero.
    * Jigsaw: all features are cut into `splits` parts each, shuffled by one of `puzzles` fixed permutations, and a
      perceptron says which. [port] shows every sample all permutations in every step; [kit] shows one drawn
      at random, which has the same expectation at 1/128 of the cost.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        jigsaw: float = 1.0,
        masked: float = 0.3,
        temperature: float = 1.0,
        sharpen: float = 1e-3,
        splits: int = 4,
        puzzles: int = 128,
        **feature_weights: float,
    ) -> None:
        super().__init__(model, **feature_weights)
        self.jigsaw, self.masked, self.temperature, self.sharpen = jigsaw, masked, temperature, sharpen
        self.splits = splits
        sizes = [model.encoders[name].features for name in model.modalities]
        if len(set(sizes)) > 1 or sizes[0] % splits:
            raise ValueError(f"MOOSA's jigsaw needs features of one length that splits={splits} divides, not {sizes}.")
        parts = splits * len(sizes)
        generator = torch_generator("jigsaw permutations", parts)
        drawn = torch.stack([torch.randperm(parts, generator=generator) for _ in range(puzzles)])
        self.register_buffer("permutations", drawn, persistent=False)
        self.solver = perceptron(sum(sizes), 512, puzzles)

    def step_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Entropy-weighted cross-entropies, mean entropy, jigsaw, and SimMMDG's feature terms."""
        outputs = self.model(batch.inputs)
        heads = torch.stack([*outputs.unimodal_logits.values(), outputs.fused_logits])
        masked = {
            name: feature * (torch.rand_like(feature) >= self.masked) for name, feature in outputs.features.items()
        }
        return {
            "classes": self.weighted_cross_entropy(heads, batch.labels),
            "entropy": self.sharpen * entropy(heads).mean(),
            "jigsaw": self.jigsaw * self.puzzle_loss(torch.stack(list(outputs.features.values()), 1)),
            **self.feature_losses(outputs.features, masked, batch.labels),
        }

    def weighted_cross_entropy(self, heads: Tensor, labels: Tensor) -> Tensor:
        """Logits (heads, B, C), labels (B,): the more certain a head is about a sample, the more it counts."""
        losses = torch.stack([functional.cross_entropy(logits, labels, reduction="none") for logits in heads])
        return (torch.softmax(-entropy(heads) / self.temperature, 0) * losses).sum(0).mean()

    def puzzle_loss(self, features: Tensor) -> Tensor:
        """Cross-entropy of guessing which permutation the parts of features (B, M, d) were shuffled by."""
        parts = features.unflatten(2, (self.splits, -1)).flatten(1, 2)
        which = torch.randint(len(self.permutations), (len(parts),), device=parts.device)
        order = self.permutations[which].unsqueeze(-1).expand_as(parts)
        return functional.cross_entropy(self.solver(parts.gather(1, order).flatten(1)), which)
