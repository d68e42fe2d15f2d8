"""A network on a whole data set: accuracies and losses, and each sample's score of its class."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlib.data.dataset import MultimodalDataset
from mmlib.equations.losses import true_class_scores


@torch.no_grad()
def evaluate(
    network: nn.Module, dataset: MultimodalDataset, prefix: str = "", batch_size: int | None = None
) -> dict[str, float]:
    """Mean loss and accuracy (0 … 1) of the fused head, and accuracy of each uni-modal head, in eval mode.

    Keys: "loss", "accuracy", and "<modality> accuracy", each after `prefix`. The network's mode is restored.
    """
    was_training = network.training
    network.eval()
    sums: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    for batch in dataset.batches(batch_size or dataset.evaluation_batch, device=device):
        outputs = network(batch.inputs)
        parts = {"loss": functional.cross_entropy(outputs.fused_logits, batch.labels, reduction="sum")}
        for name, logits in {"": outputs.fused_logits, **outputs.unimodal_logits}.items():
            key = f"{name} accuracy".strip()
            parts[key] = (logits.argmax(1) == batch.labels).sum()
        for key, value in parts.items():
            sums[key] = sums.get(key, 0) + value
    network.train(was_training)
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    return {f"{prefix}{key}": value / len(dataset) for key, value in zip(sums, values, strict=True)}


@torch.no_grad()
def sample_scores(network: nn.Module, dataset: MultimodalDataset, batch_size: int | None = None) -> Tensor:
    """p_k,i of every sample, (M, N), on the network's device: one pass in eval mode; the mode is restored."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    batches = dataset.batches(batch_size or dataset.evaluation_batch, device=device)
    scores = [true_class_scores(network(batch.inputs).unimodal_logits, batch.labels) for batch in batches]
    network.train(was_training)
    return torch.cat(scores, 1)
