"""Exercises of `03_adaptive_modality_dropout`."""

from collections.abc import Callable, Iterator

import torch

from mmlib.data.dataset import MultimodalDataset
from mmlib.equations import losses
from mmlib.exercises.checking import close, exercise, shaped
from mmlib.instruments import coalition_accuracies
from mmlib.models import MultimodalClassifier, build_classifier
from mmlib.seeding import torch_generator


def chances(confidence: torch.Tensor) -> torch.Tensor:
    """The kit's drop probabilities from confidences, both (M,)."""
    return losses.drop_probabilities(losses.speed_ratios(confidence))


@exercise(chances)
def drop_probability(answer: Callable) -> Iterator[tuple]:
    """r_k, the mean of s_k / s_j over the others, and tanh(max(r_k − 1, 0)) [paper]."""
    found = answer(torch.tensor([3.0, 3.0]))
    yield (
        shaped(found, 2),
        "It must return one probability for each modality, as a tensor (M,).",
        "use `torch.stack`.",
    )
    yield (
        not close(found, torch.full((2,), 1.0).tanh()),
        "Equally confident modalities would be dropped three times out of four.",
        "nobody is ahead where r is one. Is one subtracted before the tanh? Is a modality compared with itself?",
    )
    yield close(found, torch.zeros(2)), "Equally confident modalities must not be dropped.", "r is one for both."
    found = answer(torch.tensor([3.0, 2.0]))
    yield (
        found[0] > 0 or found[1] <= 0,
        "It drops the modality that is behind.",
        "a modality's own confidence stands above the line, the others' below.",
    )
    yield (found >= 0).all(), "A modality that is behind has a negative probability.", "cut r − 1 off at zero."
    yield (
        close(found, torch.tensor([0.5, 0.0]).tanh()),
        f"For confidences of three and two, the first probability must be tanh(1/2), not {float(found[0]):.3f}.",
        "its only ratio is 3/2; the mean runs over the *other* modalities, without itself.",
    )
    yield (
        close(answer(torch.tensor([30.0, 20.0, 10.0])), torch.tensor([1.25, 1 / 3, 0.0]).tanh()),
        "For confidences of thirty, twenty and ten, r must be (9/4, 4/3, 5/12).",
        "average the ratios to each of the others; the ratio to their average is another number.",
    )


def without(network: MultimodalClassifier, dataset: MultimodalDataset, gone: str) -> float:
    """The kit's accuracy of the fused head with the features of one modality set to zero."""
    return coalition_accuracies(network, dataset)[frozenset(network.modalities) - {gone}]


@exercise(without)
def accuracy_without(answer: Callable) -> Iterator[tuple]:
    """As in the method itself: a dropped modality's features are zero where they are fused."""
    generator = torch_generator("exercise", 0)
    inputs = {name: torch.randn(60, 1, 8, 8, generator=generator) for name in ("left", "right")}
    labels = torch.arange(60) % 3
    part = MultimodalDataset.from_arrays(inputs, labels, labels * 0, ["a", "b", "c"], ["here"])
    network = build_classifier(part.input_shapes, 3, 0)
    with torch.no_grad():  # as after some training, where statistics of a batch differ from the running ones
        for norm in (layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
            norm.running_mean.add_(1.0)
            norm.bias.add_(torch.randn(norm.bias.shape, generator=generator))
    expected = {name: without(network, part, name) for name in inputs}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    found = {name: float(answer(network, part, name)) for name in inputs}
    yield (
        all(0 <= value <= 1 for value in found.values()),
        f"An accuracy lies between zero and one, not at {found['left']:.2f}.",
        "compare the largest logit's class with the label, and average.",
    )
    yield (
        close(dict(network.state_dict()), before),
        "It changes the network: its batch norms have updated their running statistics.",
        "call `network.eval()` first.",
    )
    swapped = close(found, {"left": expected["right"], "right": expected["left"]})
    yield not swapped or close(found, expected), "It drops the other one.", "keep is one for all but `gone`."
    gone = max(found, key=lambda name: abs(found[name] - expected[name]))
    yield (
        close(found, expected),
        f"Without {gone}, the accuracy of the network in this check is {expected[gone]:.2f}, not {found[gone]:.2f}.",
        "zero the *features* of the modality that is gone, not its input: an encoder of zeros still says something; "
        "and fuse them, instead of using the other modality's own head.",
    )
