"""Wrong answers to the exercises of `02_weight_averaging_and_flatness`, and a part of what each must be told."""

import copy
import math
from itertools import count

import torch

OTHER_SEEDS = count()


def averaged(step, of=lambda network: network.parameters(), begin=copy.deepcopy, end=lambda mean, new: None):
    """An answer that replaces the mean by step(mean, new, n), where n networks came before."""

    @torch.no_grad()
    def answer(networks):
        average = None
        for n, network in enumerate(networks):
            average = average or begin(network)
            for mean, new in zip(of(average), of(network), strict=True):
                mean.copy_(step(mean, new, n))
                end(mean, new)
        return average

    return answer


def right(mean, new, n):
    return mean + (new - mean) / (n + 1)


def states(network):
    return network.state_dict().values()


def trace(value=lambda v, product: v @ product, draw=None, share=True):
    """An answer that means value(v, H v) over what `draw` draws from a size and a generator."""
    draw = draw or (lambda size, generator: torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1)

    def answer(times, size, vectors, generator):
        drawn = [draw(size, generator) for _ in range(vectors)]
        return float(sum(value(v, times(v)) for v in drawn) / (vectors if share else 1))

    return answer


def unit(size, generator):
    return torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0)


def with_a_seed_of_its_own(size, _):
    generator = torch.Generator().manual_seed(next(OTHER_SEEDS) % 200)  # the same for every call of the answer
    return torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1


WRONG = {
    "decay": [
        (lambda half_life, steps: 0.5 ** (1 / half_life), "however many steps"),
        (lambda half_life, steps: math.exp(-1 / (half_life * steps)), "1/e of the weight"),
        (lambda half_life, steps: 1 - 1 / (half_life * steps), "of what is left"),
        (lambda half_life, steps: 1 - 0.5 / (half_life * steps), "of what is left"),
        (lambda half_life, steps: 2 ** (1 / (half_life * steps)), "between zero and one"),
        (lambda half_life, steps: 0.5 ** (half_life * steps), "n-th root"),
        (lambda half_life, steps: 0.5 ** (10 / steps), "both numbers count"),
        (lambda half_life, steps: 0.5 ** (1 / int(half_life * steps)), "need not be a whole number"),
    ],
    "average_of": [
        (averaged(lambda mean, new, n: mean + (new - mean) / max(n, 1)), "a weight of 1/n"),
        (averaged(lambda mean, new, n: mean - (new - mean) / (n + 1)), "moves away from each new point"),
        (averaged(lambda mean, new, n: (mean + new) / 2), "do not weigh the same"),
        (averaged(lambda mean, new, n: mean + new * (n > 0)), "a sum, and no mean"),
        (averaged(right, of=lambda network: [network[0].weight]), "Some parameters are averaged"),
        (averaged(right, of=states), "counter of batches"),
        (averaged(right, end=lambda mean, new: new.copy_(mean)), "being trained"),
        (averaged(right, begin=lambda network: network), "the path's own network"),
        (lambda networks: averaged(right)(list(networks)), "only the last network counts"),
        (lambda networks: [network.state_dict() for network in networks], "must return a network"),
    ],
    "trace_estimate": [
        (lambda times, size, vectors, generator: size, "never asks for a product"),
        (trace(draw=unit), "unit length"),
        (trace(share=False), "adds up the estimates"),
        (trace(lambda v, product: (v * product).abs().sum()), "no absolute value"),
        (trace(lambda v, product: (v * product).mean()), "a sum over all coordinates"),
        (trace(lambda v, product: product @ product), "H v with itself"),
        (trace(draw=lambda size, generator: torch.rand(size, generator=generator)), "have a mean of 0.5"),
        (trace(draw=lambda size, generator: torch.ones(size)), "a new vector in every turn"),
        (trace(draw=lambda size, generator: torch.randn(size)), "the same seed it must draw the same"),
        (trace(draw=with_a_seed_of_its_own), "with another seed others"),
        (trace(lambda v, product: v.sum() * product.sum()), "only its diagonal counts"),
    ],
}
