"""How well gaps find degraded samples, measured against the ground truth."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmlib.data.dataset import MultimodalDataset
from mmlib.models.classifier import MultimodalClassifier


def separation_scores(score: Tensor, degraded: Tensor) -> dict[str, float]:
    """How well a score, (N,), ranks degraded samples above the others: "AUC" (area under the ROC curve, 0.5 for chance)
    and "average precision" (the share of degraded samples for chance). `degraded` are booleans (N,). Raises a
    ValueError where all or none are degraded."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, degraded = score.double().cpu().numpy(), degraded.cpu().numpy()
    if degraded.all() or not degraded.any():
        raise ValueError("Separation needs both degraded and other samples.")
    return {
        "AUC": float(roc_auc_score(degraded, score)),
        "average precision": float(average_precision_score(degraded, score)),
    }


def calibration(posterior: Tensor, degraded: Tensor, bins: int = 10) -> pd.DataFrame:
    """By bin of the posterior: its mean ("posterior"), the "share degraded" and the "share of samples". The first
    two agree if it is calibrated. Empty bins are left out."""
    posterior, degraded = posterior.double().cpu().numpy(), degraded.cpu().numpy()
    place = np.minimum((posterior * bins).astype(int), bins - 1)
    frame = pd.DataFrame({"bin": place, "posterior": posterior, "degraded": degraded})
    rows = frame.groupby("bin").agg(
        **{
            "posterior": ("posterior", "mean"),
            "share degraded": ("degraded", "mean"),
            "share of samples": ("degraded", lambda column: len(column) / len(posterior)),
        }
    )
    return rows.reset_index(drop=True)


def calibration_error(posterior: Tensor, degraded: Tensor, bins: int = 10) -> float:
    """Expected calibration error: mean absolute difference of posterior and share degraded over the bins, weighted by
    their samples."""
    rows = calibration(posterior, degraded, bins)
    return float(((rows["posterior"] - rows["share degraded"]).abs() * rows["share of samples"]).sum())


@torch.no_grad()
def right_heads(network: MultimodalClassifier, dataset: MultimodalDataset) -> Tensor:
    """(M, N) booleans on the CPU: which modality's own head predicts which sample's label, in eval mode."""
    network.eval()
    device = next(network.parameters()).device
    right = []
    for batch in dataset.batches(dataset.evaluation_batch, device=device):
        logits = network(batch.inputs).unimodal_logits.values()
        right.append(torch.stack([z.argmax(1) == batch.labels for z in logits]))
    return torch.cat(right, 1).cpu()
