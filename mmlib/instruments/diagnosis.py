"""Who is learning, and who is only carried along: speed, probes, contributions, robustness, gradients."""

import copy
from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.equations.losses import look_ahead
from mmlib.models.classifier import MultimodalClassifier
from mmlib.models.evaluate import evaluate


def learning_speed(accuracies: Sequence[float], chance: float) -> float:
    """How early a training accuracy rises, 0 … 1: the mean over epochs of its share of the way from chance to its
    own best. 1: there after the first epoch; near 0: late. Independent of how high the best is."""
    curve = np.asarray(accuracies, float)
    if curve.ndim != 1 or len(curve) == 0:
        raise ValueError("learning_speed needs one accuracy per epoch.")
    way = curve.max() - chance
    if way <= 0:
        return 0.0
    return float(np.clip((curve - chance) / way, 0, 1).mean())


@torch.no_grad()
def features_of(model: MultimodalClassifier, dataset: MultimodalDataset, modality: str) -> np.ndarray:
    """h_k of every sample, (N, features), in eval mode."""
    model.eval()
    encoder, norm = model.encoders[modality], model.norms[modality]
    batches = (batch.inputs[modality] for batch in dataset.batches(dataset.evaluation_batch))
    return torch.cat([norm(encoder(inputs)) for inputs in batches]).cpu().numpy()


def probe_accuracy(
    model: MultimodalClassifier, modality: str, train: MultimodalDataset, test: MultimodalDataset
) -> float:
    """Post-hoc linear probe: accuracy on `test` of a logistic regression on this encoder's frozen features of `train`.

    What the encoder knows, whatever the joint model's head made of it (MBCD's Fig. 1a)."""
    from sklearn.linear_model import LogisticRegression  # scikit-learn takes seconds to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3, max_iter=300))
    probe.fit(features_of(model, train, modality), train.labels.cpu().numpy())
    return float(probe.score(features_of(model, test, modality), test.labels.cpu().numpy()))


def shapley_values(players: Sequence[str], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """The exact Shapley value of every player: its mean marginal contribution over all orders of joining.

    `value` is called once for each of the 2^M subsets. The values sum to value(all) − value(none).
    """
    worth = {
        frozenset(subset): value(frozenset(subset))
        for size in range(len(players) + 1)
        for subset in combinations(players, size)
    }
    count = len(players)
    result = {}
    for player in players:
        others = [subset for subset in worth if player not in subset]
        result[player] = sum(
            (worth[subset | {player}] - worth[subset]) / (count * comb(count - 1, len(subset))) for subset in others
        )
    return result


@torch.no_grad()
def modality_contributions(model: MultimodalClassifier, dataset: MultimodalDataset) -> dict[str, float]:
    """Each modality's Shapley value for the fused head's accuracy; an absent modality's features are zeros.

    The encoders run once; only the fused head is asked about each of the 2^M subsets.
    """
    model.eval()
    collected: list[dict[str, Tensor]] = [
        model(batch.inputs).features for batch in dataset.batches(dataset.evaluation_batch)
    ]
    features = {name: torch.cat([part[name] for part in collected]) for name in model.modalities}

    def accuracy(present: frozenset[str]) -> float:
        keep = torch.tensor([float(name in present) for name in model.modalities], device=dataset.device)
        return float((model.fuse(features, keep).argmax(1) == dataset.labels).double().mean())

    return shapley_values(model.modalities, accuracy)


def shift_curve(
    model: MultimodalClassifier,
    dataset: MultimodalDataset,
    modality: str,
    strengths: Sequence[float],
    generator: torch.Generator,
) -> pd.Series:
    """Fused accuracy under Gaussian noise on one modality's network input, by strength (MBCD's Fig. 1b).

    A strength is the noise's standard deviation as a multiple of the input's own. The noise is the same draw at every
    strength.
    """
    clean = dataset.select_modalities(*model.modalities)
    signal = clean.inputs[modality]
    noise = torch.randn(signal.shape, generator=generator, device=generator.device).to(signal.device) * signal.std()
    accuracies = {}
    for strength in strengths:
        clean.inputs[modality] = signal + strength * noise
        accuracies[float(strength)] = evaluate(model, clean)["accuracy"]
    return pd.Series(accuracies, name=modality).rename_axis("strength")


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
    keep = torch.tensor([float(name in present) for name in model.modalities], device=batch.labels.device)
    loss = functional.cross_entropy(model(batch.inputs, keep).fused_logits, batch.labels)
    norms = {}
    for name in present:
        parts = torch.autograd.grad(loss, list(model.encoders[name].parameters()), retain_graph=True)
        norms[name] = float(torch.cat([part.flatten() for part in parts]).norm())
    return norms


class LookAhead:
    """MBCD's look-ahead (A2) on one batch, to be taken apart: every encoder steps down its own uni-modal loss.

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


# Against the ground truth of degraded data


def separation_scores(score: Tensor, degraded: Tensor) -> dict[str, float]:
    """How well a score, (N,), ranks degraded samples above the others: "AUC" (area under the ROC curve, 0.5 for chance)
    and "average precision" (the share of degraded samples for chance)."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, degraded = score.double().cpu().numpy(), degraded.cpu().numpy()
    if degraded.all() or not degraded.any():
        raise ValueError("Separation needs both degraded and other samples.")
    return {
        "AUC": float(roc_auc_score(degraded, score)),
        "average precision": float(average_precision_score(degraded, score)),
    }


def calibration(posterior: Tensor, degraded: Tensor, bins: int = 10) -> pd.DataFrame:
    """By bin of the posterior: its mean ("posterior"), the "share degraded" and the "share of samples". Calibrated:
    the first two agree. Empty bins are left out."""
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
    """Expected calibration error: mean distance of posterior and share degraded over the bins, weighted by samples."""
    rows = calibration(posterior, degraded, bins)
    return float(((rows["posterior"] - rows["share degraded"]).abs() * rows["share of samples"]).sum())


@torch.no_grad()
def right_heads(network: MultimodalClassifier, dataset: MultimodalDataset) -> Tensor:
    """(M, N) booleans on the CPU: which modality's head alone gives which sample its label, in eval mode."""
    network.eval()
    device = next(network.parameters()).device
    right = []
    for batch in dataset.batches(dataset.evaluation_batch, device=device):
        logits = network(batch.inputs).unimodal_logits.values()
        right.append(torch.stack([z.argmax(1) == batch.labels for z in logits]))
    return torch.cat(right, 1).cpu()
