"""Speed as ratios, A and B interleaved in one process, with agreeing results. No absolute times."""

import copy
import time

import torch
from conftest import toy_dataset
from torch.nn import functional

from mmlib import flatness
from mmlib.averaging import AveragedNetwork
from mmlib.models import build_classifier


def ratio(slow, fast, repeats=7):
    """Shortest time of `slow` over shortest time of `fast`."""
    times = {slow: [], fast: []}
    for _ in range(repeats):
        for function in (slow, fast):
            started = time.perf_counter()
            function()
            times[function].append(time.perf_counter() - started)
    return min(times[slow]) / min(times[fast])


def test_foreach_average_beats_a_rebuilt_state_dict():
    model = build_classifier({"a": (1, 64, 64), "b": (3, 64, 64)}, 10, 0, encoder="resnet18")
    average, plain = AveragedNetwork(model), copy.deepcopy(model)

    def rebuilt():
        state = plain.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                state[name] = 0.9 * state[name] + 0.1 * value
        plain.load_state_dict(state)

    gain = ratio(rebuilt, lambda: average.lerp_towards(model, 0.1))
    for one, two in zip(average.module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    print(f"averaging 22 M parameters: foreach is {gain:.1f} times as fast as rebuilding the state dict")
    assert gain > 2


def test_perturbing_in_place_beats_copies_of_the_network():
    data = toy_dataset(60)
    network = build_classifier(data.input_shapes, 3, 0).eval()
    batch = data.whole()
    loss = flatness.cross_entropy_on(batch)
    generator = torch.Generator()

    @torch.no_grad()
    def copies():
        generator.manual_seed(0)
        increases = []
        base = loss(network)
        for _ in range(10):
            direction = flatness.random_direction(flatness.named_parameters(network), generator)
            for radius in (1.0, 2.0, 3.0):
                other = copy.deepcopy(network)
                for parameter, part in zip(other.parameters(), direction, strict=True):
                    parameter.add_(radius * part)
                outputs = other(batch.inputs)
                increases.append(functional.cross_entropy(outputs.fused_logits, batch.labels) - base)
        return torch.stack(increases)

    def in_place():
        generator.manual_seed(0)
        return flatness.loss_increase(network, loss, [1.0, 2.0, 3.0], generator, 10)

    assert torch.allclose(copies().double(), torch.from_numpy(in_place().increases).flatten(), atol=1e-4)
    gain = ratio(copies, in_place)
    print(f"30 perturbed networks: in place is {gain:.1f} times as fast as copies")
    assert gain > 1.2
