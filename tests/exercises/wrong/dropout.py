"""Wrong answers to the exercises of `03_adaptive_modality_dropout`, and a part of what each must be told."""

import torch
import torch.nn.functional as F


def ratios(s):
    return torch.stack([torch.stack([s[k] / s[j] for j in range(len(s)) if j != k]).mean() for k in range(len(s))])


def ratios_with_itself(s):
    return torch.stack([(s[k] / s).mean() for k in range(len(s))])


def accuracy(logits, dataset):
    return (logits.argmax(1) == dataset.labels).double().mean().item()


def zeroed_input(network, dataset, gone):
    inputs = {name: values * (name != gone) for name, values in dataset.whole().inputs.items()}
    return accuracy(network.eval()(inputs).fused_logits, dataset)


def own_head_of_the_other(network, dataset, gone):
    (other,) = [name for name in network.modalities if name != gone]
    return accuracy(network.eval()(dataset.whole().inputs).unimodal_logits[other], dataset)


def fused(network, dataset, gone, sign=1.0):
    features = network(dataset.whole().inputs).features
    keep = torch.tensor([float((name != gone) == (sign > 0)) for name in features])
    return accuracy(network.fuse(features, keep), dataset)


def wrong_error(network, dataset, gone):
    network.eval()
    return F.cross_entropy(network(dataset.whole().inputs).fused_logits, dataset.labels).item() + 1


WRONG = {
    "drop_probability": [
        (lambda s: ratios(s).tanh(), "three times out of four"),
        (lambda s: (ratios(s) - 1).tanh(), "cut r − 1 off at zero"),
        (lambda s: (ratios(1 / s) - 1).clamp(min=0).tanh(), "the modality that is behind"),
        (lambda s: (ratios_with_itself(s) - 1).clamp(min=0).tanh(), "without itself"),
        (lambda s: ((len(s) - 1) * s / (s.sum() - s) - 1).clamp(min=0).tanh(), "the ratio to their average"),
        (lambda s: float(s[0]), "one probability for each modality"),
        (lambda s: s.div_(s.sum()), "It changes what it is given"),
        (lambda s: s / 0, "It is not a finite number"),
        (lambda s: exit(3), "SystemExit: 3."),
        (lambda s: None, "is there a `return`?"),
        (lambda s: s.no_such_method(), "AttributeError"),
    ],
    "accuracy_without": [
        (fused, "call `network.eval()` first"),
        (zeroed_input, "zero the *features*"),
        (own_head_of_the_other, "own head"),
        (lambda network, dataset, gone: fused(network.eval(), dataset, gone, -1.0), "It drops the other one"),
        (wrong_error, "An accuracy lies between zero and one"),
    ],
}
