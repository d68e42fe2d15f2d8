"""Exercises of `02_weight_averaging_and_flatness`."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mmlib.equations import averaging
from mmlib.exercises.checking import close, exercise
from mmlib.instruments.hessian import HessianProduct, quadratic_forms
from mmlib.seeding import torch_generator


@exercise(averaging.decay_for_half_life)
def decay(answer: Callable) -> Iterator[tuple]:
    """β, of which half is left after a half-life's steps [kit]."""
    found = float(answer(0.1, 200))
    yield (
        0 < found < 1,
        f"β is an old point's share: it lies between zero and one, not at {found:.3f}.",
        "a root of 1/2.",
    )
    yield (
        found != float(answer(0.1, 400)),
        "β is the same however many steps training has.",
        "a half-life is a share of training: how many steps are that?",
    )
    yield (
        not close(found**20, 1 / math.e, 1e-3),
        "After a half-life, a share of 1/e of the weight is left instead of a half.",
        "e^(−1/n) leaves 1/e after n steps; solve β^n = 1/2 instead.",
    )
    yield (
        not close(found, 1 - 1 / 20) and not close(found, 1 - 0.5 / 20),
        f"Each step takes the same amount away, but of what is left: {found**20:.3f} remain after a half-life, not a "
        "half.",
        "n steps multiply to β^n.",
    )
    other = float(answer(0.35, 90))
    yield (
        not close(found**20, 0.5, 1e-3) or close(other**31.5, 0.5, 1e-3),
        f"For a half-life of 0.35 of 90 steps, β to the power 31.5 must be 1/2, not {other**31.5:.3f}.",
        "both numbers count, and a half-life need not be a whole number of steps.",
    )
    yield (
        close(found**20, 0.5, 1e-3),
        f"After 20 of 200 steps, a half-life of 0.1, β^20 must be 1/2, not {found**20:.3f}.",
        "take the n-th root of 1/2, where n is the number of steps in a half-life.",
    )


def mean_network(networks: Iterable[nn.Module]) -> nn.Module:
    """The kit's running mean of networks."""
    average = None
    for count, network in enumerate(networks):
        average = average or averaging.AveragedNetwork(network)
        average.lerp_towards(network, 1 / (count + 1))
    return average.module


class _Path:
    """One network whose weights are these in turn, as in `Trained.networks`, and whether it was disturbed."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.network, self.weights, self.disturbed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), weights, False

    def __iter__(self) -> Iterator[nn.Module]:
        for weight in self.weights:
            with torch.no_grad():
                for value in self.network.parameters():
                    value.fill_(weight)
                self.network[1].num_batches_tracked.fill_(int(10 * weight))
            yield self.network
            self.disturbed |= any((value != weight).any() for value in self.network.parameters())


@exercise(mean_network)
def average_of(answer: Callable) -> Iterator[tuple]:
    """Θ̄ ← Θ̄ + (Θ − Θ̄)/(n + 1), from the first network of a path on."""
    path = _Path([1.0, 3.0, 8.0])
    found = answer(iter(path))
    yield isinstance(found, nn.Module), "It must return a network.", "begin with a copy of the first one."
    yield (
        found is not path.network,
        "It returns the path's own network, which the next epoch will change.",
        "`copy.deepcopy` the first one before you change anything.",
    )
    yield (
        not path.disturbed,
        "It changes the weights of the network that is being trained: an average only watches.",
        "change the parameters of the copy, in place, and only those.",
    )
    means = torch.cat([value.detach().flatten() for value in found.parameters()])
    mean = float(means[0])
    seen = "For weights of 1, 3 and 8 one after another,"
    yield (
        mean <= 8,
        f"{seen} it says {mean:.2f}: a sum, and no mean.",
        "the old average has to make room for the new point: it moves by a share of the distance between them.",
    )
    yield (
        mean >= 1,
        f"{seen} the average lies at {mean:.2f}, below all of them: it moves away from each new point.",
        "the step goes from the average to the new point: which of the two is subtracted?",
    )
    yield (
        not close(mean, 8.0),
        f"{seen} it is 8: only the last network counts. A path is one object, whose weights change.",
        "look at each network while it is there; a list of them holds the same one several times.",
    )
    yield (
        not close(mean, 5.5),
        f"{seen} it is 5.5: with n networks in the average, the next one gets a weight of 1/n, and the second replaces "
        "the first.",
        "with the newcomer, how many networks are in the mean?",
    )
    yield (
        close(mean, 4.0),
        f"{seen} it is {mean:.2f} instead of 4: the points do not weigh the same.",
        "the weight of a newcomer falls from step to step: 1, 1/2, 1/3.",
    )
    yield (
        close(means, torch.full_like(means, 4.0)),
        "Some parameters are averaged, others not.",
        "`parameters()` has all of them, biases and those of batch norm included.",
    )
    counters = [value for name, value in found.named_buffers() if name.endswith("num_batches_tracked")]
    yield (
        all(int(value) in (10, 30, 80) and not value.is_floating_point() for value in counters),
        "Batch norm's counter of batches has been averaged; no network has seen that many.",
        "average `parameters()`, not `state_dict()`. Batch norm's statistics are measured anew afterwards.",
    )


def hutchinson(times: HessianProduct, size: int, vectors: int, generator: torch.Generator) -> float:
    """The kit's estimate of a trace by random signs."""
    return float(quadratic_forms(times, size, generator, vectors, torch.empty(())).mean())


@exercise(hutchinson)
def trace_estimate(answer: Callable) -> Iterator[tuple]:
    """The mean of vᵀ H v over random v with E[v vᵀ] = 1."""
    size, vectors, used = 20, 200, []

    def of(hessian: Tensor, seed: int = 0) -> float:
        """The answer for a matrix, or the diagonal of one."""
        used.clear()

        def times(vector: Tensor) -> Tensor:
            used.append(vector.detach().clone())
            return hessian @ vector if hessian.ndim == 2 else hessian * vector

        return float(answer(times, size, vectors, torch_generator("exercise", seed)))

    one, mixed = torch.ones(size), torch.cat([torch.ones(size // 2), -torch.ones(size // 2)])
    found = of(one)
    yield bool(used), "It never asks for a product with H.", "`times(v)` is H v."
    drawn = torch.stack(used)
    yield (
        len(used) == vectors and not (drawn == drawn[0]).all(),
        f"Asked for {vectors} random vectors, it multiplies H with {len({tuple(v.tolist()) for v in used})} of them.",
        "draw a new vector in every turn of the loop, and one product for each.",
    )
    yield (
        abs(float(drawn.mean())) < 0.1,
        f"The entries of v have a mean of {float(drawn.mean()):.2f}: then E[v_i v_j] is not zero, and elements off the "
        "diagonal count.",
        "as many minus ones as ones: what do you do with 0 and 1 to get there?",
    )
    yield (
        abs(float(drawn.square().mean()) - 1) < 0.1,
        f"The squares of v's entries have a mean of {float(drawn.square().mean()):.2f}: E[v_i²] must be one. Does v "
        "have unit length?",
        "signs, plus or minus one, need no scaling.",
    )
    yield (
        found < 10 * size,
        "It adds up the estimates of all vectors.",
        "each vᵀ H v is an estimate of the trace; take their mean.",
    )
    yield (
        abs(found - size) < 3,
        f"The trace of the identity in {size} dimensions is {size}, not {found:.1f}.",
        "vᵀ H v is a sum over all coordinates: `v @ times(v)`.",
    )
    yield (
        abs(of(2 * one) - 2 * size) < 6,
        "Twice the Hessian must have twice the trace.",
        "H stands in it once: v with H v, not H v with itself.",
    )
    yield (
        abs(of(mixed)) < 3,
        "Where half of the curvatures are 1 and half are −1 the trace is zero; here they do not cancel.",
        "no absolute value: a direction in which the loss curves downwards counts as negative.",
    )
    of(one)
    same = close(torch.stack(used), drawn)
    of(one, seed=1)
    yield (
        same and not close(torch.stack(used), drawn),
        "With the same seed it must draw the same vectors, and with another seed others.",
        "pass `generator=generator` to what draws them.",
    )
    ones = torch.ones(size, size)
    yield (
        abs(of(ones) - size) < 8,
        f"A Hessian full of ones in {size} dimensions has the trace {size}: only its diagonal counts.",
        "one number for each vector: v times H v, summed over the coordinates.",
    )
