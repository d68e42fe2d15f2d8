import copy
import itertools
import random

import pytest
import torch
from conftest import toy_dataset
from torch import nn
from torch.optim import swa_utils

from mmlib import methods
from mmlib.equations import averaging
from mmlib.methods.weight_averaging import SWAD
from mmlib.models import build_classifier
from mmlib.models.evaluate import evaluate
from mmlib.training import TrainingConfig, fit


def wander(network, steps=7):
    """Random weights and buffers, step by step."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for tensor in [*network.parameters(), *network.buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator))
                else:
                    tensor.add_(1)
        yield


def network():
    return build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0)


def assert_same(first, second, atol=1e-6):
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), two.double(), atol=atol), name


def test_exponential_average_agrees_with_torch():
    trained = network()
    ours = averaging.AveragedNetwork(trained)
    theirs = swa_utils.AveragedModel(trained, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(trained)  # torch's first call copies
    for _ in wander(trained):
        ours.lerp_towards(trained, 0.1)
        theirs.update_parameters(trained)
    for (name, one), two in zip(ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True):
        assert not one.is_floating_point() or torch.allclose(one, two, atol=1e-6), name


def test_equal_average_agrees_with_torch():
    trained = network()
    ours = averaging.AveragedNetwork(trained)
    theirs = swa_utils.AveragedModel(trained, use_buffers=True)
    for count, _ in enumerate(wander(trained)):
        ours.lerp_towards(trained, 1 / (count + 1))
        theirs.update_parameters(trained)
    for (name, one), two in zip(ours.module.named_parameters(), theirs.module.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name


def test_batch_norm_statistics_are_averaged_and_the_counter_copied():
    trained = nn.BatchNorm2d(2)
    ours = averaging.AveragedNetwork(trained)
    trained.running_mean.fill_(1.0)
    trained.num_batches_tracked.fill_(5)
    ours.lerp_towards(trained, 0.25)
    assert ours.module.running_mean.tolist() == [0.25, 0.25] and int(ours.module.num_batches_tracked) == 5
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_refreshed_batch_norm_agrees_with_torch_and_restores_everything():
    trained = network()
    for _ in wander(trained, 1):
        pass
    mine, theirs = copy.deepcopy(trained).train(), copy.deepcopy(trained)
    batches = [batch.inputs for batch in toy_dataset().batches(60)]
    averaging.refresh_batch_norm(mine, batches)
    swa_utils.update_bn(batches, theirs)
    assert_same(mine, theirs, atol=1e-5)
    assert all(module.training for module in mine.modules())
    assert all(m.momentum == 0.1 for m in mine.modules() if isinstance(m, nn.BatchNorm2d))


def test_stale_batch_norm_statistics_are_worse_than_refreshed_ones():
    """The mistake that `refresh_batch_norm` is there for, on networks averaged far apart."""
    data = toy_dataset(seed=1)
    averaged = None
    for seed in range(2):
        method = methods.build("erm", build_classifier(data.input_shapes, 3, 0))
        config = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.01, seed=seed, device="cpu")
        fit(method, data, toy_dataset(60, seed=2), config, progress=False)
        averaged = averaged or averaging.AveragedNetwork(method.model)
        averaged.lerp_towards(method.model, 1 / (seed + 1))
    stale = averaged.module
    for layer in stale.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    before = evaluate(stale, data)["loss"]
    averaging.refresh_batch_norm(stale, (batch.inputs for batch in data.batches(60)))
    assert evaluate(stale, data)["loss"] < before


@pytest.mark.parametrize("converted", ["before", "after"])
def test_the_average_of_a_coarse_network_moves_by_small_steps(converted):
    """0.01 away and β = 0.999: in bfloat16 itself, no step would change anything."""
    trained = nn.BatchNorm1d(4)
    if converted == "before":
        trained.bfloat16()
        average = averaging.ExponentialAverage(trained, decay=0.999)
    else:
        average = averaging.ExponentialAverage(trained, decay=0.999)
        nn.ModuleList([trained, average]).bfloat16()
    with torch.no_grad():
        for value in (trained.weight, trained.running_mean):
            value.add_(0.01)
    apart = [float((value - before)[0]) for value, before in ((trained.weight.detach(), 1), (trained.running_mean, 0))]
    for _ in range(200):
        average.follow(trained)
    moved = [average.module.weight - 1, average.module.running_mean]
    for distance, way in zip(apart, moved, strict=True):
        assert way.dtype == torch.float32 and way.tolist() == pytest.approx([distance * (1 - 0.999**200)] * 4, rel=1e-2)
    assert averaging.AveragedNetwork(nn.Linear(1, 1).double()).module.weight.dtype == torch.float64


def test_half_life_is_what_it_says():
    beta = averaging.decay_for_half_life(0.1, 1000)
    assert beta**100 == pytest.approx(0.5) and beta**1000 == pytest.approx(2**-10)
    with pytest.raises(ValueError, match="half_life"):
        averaging.decay_for_half_life(0, 10)


def test_ema_follows_its_recursion_from_the_first_step():
    method = methods.EMA(methods.ERM(network()), half_life=0.2)
    method.on_train_start(50, 10)
    weight = method.model.fused_head.weight
    expected = weight.detach().clone()
    for _ in wander(method.model, 5):
        expected = method.average.decay * expected + (1 - method.average.decay) * weight.detach()
        method.after_step()
    assert method.average.decay == pytest.approx(2 ** (-1 / 10))
    assert torch.allclose(method.predictor.fused_head.weight, expected, atol=1e-6)


def test_swa_averages_the_ends_of_late_epochs():
    method = methods.SWA(methods.ERM(network()), start=0.5)
    method.on_train_start(8, 2)
    seen = []
    for _ in wander(method.model, 8):
        method.after_step()
        seen.append(method.model.fused_head.weight.detach().clone())
    assert torch.allclose(method.predictor.fused_head.weight, (seen[5] + seen[7]) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="start"):
        methods.SWA(methods.ERM(network()), start=1.0)


@pytest.mark.parametrize(
    ("losses", "segments"),
    [
        # start where a loss is the lowest of three, end before three in a row above 1.5 times their mean
        ([5, 4, 1, 2, 2, 1, 9, 9, 9, 1], [2, 3, 4, 5]),
        ([5, 4, 1, 2, 2, 9, 9, 1, 2, 2], range(2, 10)),  # two high ones are not the end
        ([1, 2, 2, 2, 2, 2, 2, 2, 2, 9], range(10)),  # the end may not come
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [7, 8, 9]),  # no start: the last three
    ],
)
def test_swad_averages_every_step_of_the_valley(losses, segments):
    method = SWAD(methods.ERM(network()), patience_start=3, patience_end=3, tolerance=0.5)
    data = toy_dataset(60)
    method.on_train_start(30, 3)
    weights = []
    moves = wander(method.model, 30)
    for loss in losses:
        for _ in itertools.islice(moves, 3):
            method.after_step()
            weights.append(method.model.fused_head.weight.detach().clone())
        method.on_epoch_end({"validation loss": float(loss)})
    method.on_train_end(data, 32)
    expected = torch.stack([weights[3 * segment + step] for segment in segments for step in range(3)]).mean(0)
    assert torch.allclose(method.predictor.fused_head.weight, expected, atol=1e-5)


def published_valley(losses, patience_start, patience_end, tolerance):
    """The segments that the paper's algorithm averages, line by line. Without a start, the kit's choice."""
    start = threshold = None
    for i in range(len(losses)):
        if threshold is None:
            window = losses[max(0, i - patience_start + 1) : i + 1]
            if len(window) == patience_start and window[0] == min(window):
                start, threshold = i - patience_start + 1, (1 + tolerance) * sum(window) / patience_start
        elif i + 1 >= patience_end and min(losses[i - patience_end + 1 : i + 1]) > threshold:
            return range(start, i - patience_end + 1)
    return range(len(losses) - patience_start if start is None else start, len(losses))


class Segments(SWAD):
    """SWAD that only notes which segments it merges."""

    def _merge(self, count):
        self.noted += [number for _, number, _ in self.waiting[:count]]
        del self.waiting[:count]


def test_swad_follows_the_published_algorithm():
    """Random losses, above all such as end the valley in the middle of its first segments."""
    generator = random.Random(0)
    for _ in range(500):
        losses = [generator.choice([1, 1.1, 1.4, 2, 4, 9]) * generator.uniform(0.9, 1.1) for _ in range(12)]
        patience, tolerance = (generator.randint(2, 4), generator.randint(2, 6)), generator.choice([0.1, 0.3])
        method = Segments(methods.ERM(nn.Linear(1, 1)), *patience, tolerance)
        method.noted = []
        for number, loss in enumerate(losses):
            method.steps_in_segment = number
            method.on_epoch_end({"validation loss": loss})
        method._merge(len(method.waiting))
        assert method.noted == list(published_valley(losses, *patience, tolerance)), (losses, patience)


def test_an_average_without_memory_is_the_network_itself():
    """Negative control: what is claimed of an average must vanish here."""
    data = toy_dataset()
    plain = methods.ERM(build_classifier(data.input_shapes, 3, 0))
    same = methods.EMA(methods.ERM(build_classifier(data.input_shapes, 3, 0)))
    same.on_train_start = lambda *_: None  # leaves the decay at zero
    for method in (plain, same):
        fit(method, data, data, TrainingConfig(epochs=2, device="cpu"), progress=False)
    assert_same(plain.predictor, same.predictor, atol=1e-5)
    assert methods.build("swad", network()).selection == "last"
    with pytest.raises(ValueError, match="no method 'sgd'"):
        methods.build("sgd", network())


@pytest.mark.parametrize("averaged", [methods.EMA, methods.SWA, methods.SWAD])
def test_the_inner_method_hears_of_every_epoch(averaged, toy):
    heard = []
    inner = methods.build("erm", build_classifier(toy.input_shapes, 3, 0))
    inner.on_epoch_end = heard.append
    averaged(inner).on_epoch_end({"validation loss": 0.5})
    assert heard == [{"validation loss": 0.5}]
