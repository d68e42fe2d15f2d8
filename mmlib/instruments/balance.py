"""Which modality is learned, and which is left behind: speed, probes, contributions, robustness."""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from mmlib import optimisers
from mmlib.data.dataset import MultimodalDataset
from mmlib.models.classifier import MultimodalClassifier
from mmlib.models.evaluate import evaluate


def learning_speed(accuracies: Sequence[float], chance: float) -> float:
    """How early a training accuracy rises, 0 … 1: the mean over epochs of its share of the way from chance to its
    own best. 1: at its best from the first epoch on; near 0: late. Independent of how high the best is. Raises a
    ValueError for anything but one accuracy per epoch."""
    curve = np.asarray(accuracies, float)
    if curve.ndim != 1 or len(curve) == 0:
        raise ValueError("learning_speed needs one accuracy per epoch.")
    way = curve.max() - chance
    if way <= 0:
        return 0.0
    return float(np.clip((curve - chance) / way, 0, 1).mean())


@torch.no_grad()
def features_of(model: MultimodalClassifier, dataset: MultimodalDataset, modality: str) -> Tensor:
    """h_k of every sample, (N, features), in eval mode."""
    model.eval()
    encoder, norm = model.encoders[modality], model.norms[modality]
    batches = (batch.inputs[modality] for batch in dataset.batches(dataset.evaluation_batch))
    return torch.cat([norm(encoder(inputs)) for inputs in batches])


def probe_accuracy(
    model: MultimodalClassifier, modality: str, train: MultimodalDataset, test: MultimodalDataset
) -> float:
    """Post-hoc linear probe: accuracy on `test` of a logistic regression on this encoder's frozen features of `train`.

    What the encoder knows, whatever the joint model's head makes of it (MBCD's Fig. 1a)."""
    known, asked = (features_of(model, data, modality).double() for data in (train, test))
    mean, deviation = known.mean(0), known.std(0, correction=0).clamp(min=1e-12)
    known, asked = ((values - mean) / deviation for values in (known, asked))
    weights, bias = logistic_regression(known, train.labels, len(train.class_names))
    return float(((asked @ weights + bias).argmax(1) == test.labels).double().mean())


def logistic_regression(features: Tensor, labels: Tensor, classes: int, strength: float = 0.1) -> tuple[Tensor, Tensor]:
    """The minimum of strength · Σ_i CE(W x_i + b, y_i) + ‖W‖²/2 by L-BFGS, on the features' device: W (features,
    classes) and b (classes,). `strength` is scikit-learn's C, which takes many times as long for the same minimum."""
    weights, bias = features.new_zeros(features.shape[1], classes), features.new_zeros(classes)
    true = functional.one_hot(labels, classes).to(features.dtype)
    solver = optimisers.LBFGS(
        [weights, bias], max_iter=300, tolerance_grad=1e-2, history_size=50, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        """With its gradient as a formula: recording a graph for autograd takes several times as long."""
        logarithms = torch.addmm(bias, features, weights).log_softmax(1)
        errors = strength * (logarithms.exp() - true)
        weights.grad, bias.grad = torch.addmm(weights, features.T, errors), errors.sum(0)
        return weights.square().sum() / 2 - strength * (logarithms * true).sum()

    solver.step(objective)
    return weights, bias


def shapley_values(players: Sequence[str], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """The exact Shapley value of every player: its mean marginal contribution over all orders of joining.

    `value` is called once for each of the 2^M subsets. The values sum to value(all) − value(none).
    """
    worth = {subset: value(subset) for subset in _subsets(players)}
    count = len(players)
    result = {}
    for player in players:
        others = [subset for subset in worth if player not in subset]
        result[player] = sum(
            (worth[subset | {player}] - worth[subset]) / (count * comb(count - 1, len(subset))) for subset in others
        )
    return result


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(subset) for size in range(len(names) + 1) for subset in combinations(names, size)]


@torch.no_grad()
def coalition_accuracies(model: MultimodalClassifier, dataset: MultimodalDataset) -> dict[frozenset[str], float]:
    """The fused head's accuracy with each of the 2^M subsets of the modalities; an absent modality's features are
    zeros. The encoders run once."""
    model.eval()
    collected: list[dict[str, Tensor]] = [
        model(batch.inputs).features for batch in dataset.batches(dataset.evaluation_batch)
    ]
    features = {name: torch.cat([part[name] for part in collected]) for name in model.modalities}

    def accuracy(present: frozenset[str]) -> float:
        mask = torch.tensor([float(name in present) for name in model.modalities], device=dataset.device)
        return float((model.fuse(features, mask).argmax(1) == dataset.labels).double().mean())

    return {present: accuracy(present) for present in _subsets(model.modalities)}


def modality_contributions(model: MultimodalClassifier, dataset: MultimodalDataset) -> dict[str, float]:
    """Each modality's Shapley value for the fused head's accuracy, see `coalition_accuracies`."""
    return shapley_values(model.modalities, coalition_accuracies(model, dataset).__getitem__)


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
