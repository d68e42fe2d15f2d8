"""The model of both papers: an encoder and a head per modality, and a fused head for all of them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlib.checks import check
from mmlib.models.encoders import Encoder, ResNet18, SmallConvNet
from mmlib.models.video import SlowFast, SlowOnly
from mmlib.seeding import seed_for

ENCODERS: dict[str, type[Encoder]] = {
    "small": SmallConvNet,
    "resnet18": ResNet18,
    "slowfast-r101": SlowFast,
    "slowonly-r50": SlowOnly,
}


class Outputs(NamedTuple):
    """What the classifier returns for a batch, with h_k, z_k and z_mm as the classifier defines them."""

    features: dict[str, Tensor]  # modality → h_k (batch, features), after LayerNorm
    unimodal_logits: dict[str, Tensor]  # modality → z_k (batch, classes)
    fused_logits: Tensor  # z_mm (batch, classes)


class MultimodalClassifier(nn.Module):
    """h_k = LayerNorm(θ_k(x_k)), z_k = φ_k(h_k), z_mm = φ_mm(concat_k h_k), for any number of modalities ≥ 1.

    `fused_head` φ_mm: "linear", or "mlp" (one hidden layer of 512 with dropout 0.5, as in MBCD's port). The encoders'
    attribute `features` is the length of their output. Modalities of a batch without an encoder here are ignored, so a
    uni-modal model reads the same batches. Raises a ValueError without encoders, or for another head.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], classes: int, fused_head: str = "linear") -> None:
        super().__init__()
        sizes = {name: int(encoder.features) for name, encoder in encoders.items()}
        if not sizes:
            raise ValueError("A classifier needs at least one encoder.")
        check({"fused_head": fused_head}, {"fused_head": ("linear", "mlp")})
        self.modalities = tuple(sizes)
        self.encoders = nn.ModuleDict(encoders)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(size) for name, size in sizes.items()})
        self.unimodal_heads = nn.ModuleDict({name: nn.Linear(size, classes) for name, size in sizes.items()})
        joined = sum(sizes.values())
        self.fused_head: nn.Module = nn.Linear(joined, classes)
        if fused_head == "mlp":
            self.fused_head = nn.Sequential(nn.Linear(joined, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, classes))

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | None = None) -> Outputs:
        """`mask` (batch, M) or (M,), in the order of `modalities`: 0 drops a modality for the fused head only (its
        features are zeros after LayerNorm, without rescaling)."""
        features = self.normalise({name: self.encoders[name](inputs[name]) for name in self.modalities})
        return Outputs(features, self.unimodal_logits(features), self.fuse(features, mask))

    def normalise(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """h_k from the encoders' outputs θ_k(x_k)."""
        return {name: self.norms[name](embedding) for name, embedding in embeddings.items()}

    def unimodal_logits(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z_k (batch, classes) from h_k."""
        return {name: self.unimodal_heads[name](feature) for name, feature in features.items()}

    def split_logits(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each modality's part of the fused logits, W_k h_k + b/M (batch, classes); they sum to z_mm.

        Raises a ValueError where the fused head is not linear."""
        if not isinstance(self.fused_head, nn.Linear):
            raise ValueError("The fused logits split by modality only with fused_head='linear'.")
        sizes = [features[name].shape[-1] for name in self.modalities]
        weights = self.fused_head.weight.split(sizes, 1)
        bias = self.fused_head.bias / len(sizes)
        return {name: features[name] @ weight.T + bias for name, weight in zip(self.modalities, weights, strict=True)}

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
        """Fused logits (batch, classes) from features, with dropped modalities as in `forward`."""
        parts = [features[name] for name in self.modalities]
        if mask is not None:
            parts = [part * mask[..., index, None] for index, part in enumerate(parts)]
        return self.fused_head(torch.cat(parts, -1))

    def freeze_trunks(self) -> None:
        """Fix each encoder's trunk, so that only last stages and heads are trained. [kit] Its batch norm is fixed as
        well, so that one forward pass serves student and teacher; MBCD's port leaves it in train mode."""
        for encoder in self.encoders.values():
            encoder.trunk.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultimodalClassifier":
        """Frozen trunks stay in eval mode."""
        super().train(mode)
        for encoder in self.encoders.values():
            if isinstance(encoder, Encoder) and is_frozen(encoder.trunk):
                encoder.trunk.eval()
        return self


def is_frozen(part: nn.Module) -> bool:
    """Whether nothing in this part is trained."""
    return not any(parameter.requires_grad for parameter in part.parameters())


def build_classifier(
    input_shapes: Mapping[str, tuple[int, ...]],
    classes: int,
    seed: int,
    encoder: str | Mapping[str, str] = "small",
    fused_head: str = "linear",
) -> MultimodalClassifier:
    """A classifier for inputs of these shapes (`dataset.input_shapes`), initialised from the seed alone; `encoder` is
    one name for all modalities or a name for each.

    Each encoder's start depends on seed and modality only: joint and uni-modal models of one seed begin with the
    same encoders. Raises a ValueError that lists the encoders for an unknown name.
    """
    names = dict.fromkeys(input_shapes, encoder) if isinstance(encoder, str) else encoder
    for name in names.values():
        if name not in ENCODERS:
            raise ValueError(f"There is no encoder {name!r}; choose one of {', '.join(ENCODERS)}.")
    with torch.random.fork_rng(devices=[]):
        encoders = {}
        for name, shape in input_shapes.items():
            torch.manual_seed(seed_for("initialise encoder", name, seed))
            encoders[name] = ENCODERS[names[name]](shape)
        torch.manual_seed(seed_for("initialise heads", seed))
        return MultimodalClassifier(encoders, classes, fused_head)
