"""Exercises of `01_modality_imbalance`."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mmlib.exercises.checking import close, exercise
from mmlib.instruments import balance


@exercise(balance.learning_speed, finite=False)
def learning_speed(answer: Callable) -> Iterator[tuple]:
    """The mean over epochs of the share of the way from chance to the curve's own best [kit]."""
    curve = np.array([0.3, 0.5, 0.7, 0.9])
    found = answer(curve, 0.1)
    yield np.ndim(found) == 0, "It must return one number for the whole curve.", "average over the epochs."
    yield (
        found <= 1,
        f"No curve is faster than one that is at its best at once; this is {found:.2f}.",
        "a mean, no sum.",
    )
    yield (
        not close(found, curve.mean()) and not close(found, (curve / 0.9).mean()),
        "Guessing already earns some accuracy, and here it counts as learned.",
        "the way begins at chance: subtract it from the accuracies, and from their best.",
    )
    half_as_high = 0.1 + (curve - 0.1) / 2
    yield (
        close(answer(half_as_high, 0.1), found),
        "A curve of the same shape that ends half as high is called slower.",
        "divide by the way that *this* curve has come at its best, instead of by the way to one, or by nothing.",
    )
    yield (
        close(answer(np.array([0.1, 0.9, 0.5]), 0.1), 0.5),
        "Where a curve falls again, its way must end at its highest point, not at its last.",
        "`accuracies.max()`.",
    )
    yield (
        close(answer(np.array([0.0, 0.5, 0.9]), 0.1), 0.5),
        "An epoch below chance must count as zero.",
        "cut every epoch's share off below zero, before you average.",
    )
    with np.errstate(all="ignore"):
        flat = answer(np.array([0.1, 0.1]), 0.1)
    yield (
        np.isfinite(flat) and close(flat, 0.0),
        f"A curve that stays at chance must have speed zero, not {float(flat):.3f}.",
        "where the best is no better than chance, there is no way to divide by.",
    )
    below = float(answer(np.array([0.0, 0.05]), 0.1))
    yield (
        np.isfinite(below) and close(below, 0.0),
        f"A curve that stays *below* chance must have speed zero, not {below:.3f}.",
        "there is a way only where the best is better than chance.",
    )
    uneven = float(answer(np.array([0.1, 0.1, 0.3, 0.5]), 0.1))
    yield (
        close(uneven, 3 / 8),
        f"A curve that rises late, by way of 0, 0, 1/2 and 1, must have the speed 3/8, not {uneven:.3f}.",
        "the mean over *all* epochs.",
    )
    yield (
        close(found, 0.625),
        f"For the accuracies 0.3, 0.5, 0.7, 0.9 and chance 0.1 the speed is 0.625, not {float(found):.3f}.",
        "the shares of the way are 1/4, 1/2, 3/4 and 1.",
    )


def shapley_values(modalities: tuple[str, ...], worth: Mapping[frozenset[str], float]) -> dict[str, float]:
    """The kit's Shapley values, of a game that is given as a table."""
    return balance.shapley_values(modalities, worth.__getitem__)


@exercise(shapley_values)
def shapley(answer: Callable) -> Iterator[tuple]:
    """Marginal contributions, averaged over all orders of joining."""

    def game(**worth: float) -> dict[frozenset[str], float]:
        return {frozenset(name.replace("nobody", "")): value for name, value in worth.items()}

    found = answer(("a", "b"), game(nobody=0.1, a=0.5, b=0.7, ab=0.9))
    yield (
        isinstance(found, Mapping) and found.keys() == {"a", "b"},
        "It must return a dictionary with a number for every modality.",
        "start with `dict.fromkeys(modalities, 0.0)`.",
    )
    found = {name: float(value) for name, value in found.items()}
    gets = f"Where nobody is worth 0.1, a alone 0.5, b alone 0.7, and both 0.9, a gets {found['a']:.2f}."
    yield (
        not close(found["a"], 0.5) and not close(found["a"], 0.4),
        f"{gets} That is what it brings alone: only the order in which it comes first.",
        "in the other half of the orders it joins later.",
    )
    yield (
        not close(found["a"], 0.2),
        f"{gets} That is its last marginal contribution: what it adds to all others, and no other order.",
        "in half of the orders it comes first.",
    )
    yield (
        not close(sum(found.values()), 0.9),
        "The values add up to 0.9, and not to 0.8: guessing, the empty coalition, is worth something, and that is "
        "nobody's merit.",
        "who comes first adds to `worth[frozenset()]`, not to nothing.",
    )
    yield (
        not close(sum(found.values()), 1.6),
        "The values add up to twice what there is to share out: summed over the orders, and not averaged.",
        "divide by the number of orders.",
    )
    yield (
        close(found, {"a": 0.3, "b": 0.5}),
        f"{gets} It must be 0.3, and b must get 0.5.",
        "write down both orders, and what each modality adds in each of them.",
    )
    majority = game(nobody=0, a=0, b=0, c=0, ab=1, ac=1, bc=1, abc=1)
    found = answer(("a", "b", "c"), majority)
    yield (
        not close(found, dict.fromkeys("abc", 0.5)),
        "Of three equal modalities, each gets a half: every coalition counts alike, however many orders lead to it.",
        "average over orders, not over coalitions: in two of the six orders a comes first, in one it finds b alone.",
    )
    unequal = game(nobody=0.1, a=0.2, b=0.4, c=0.1, ab=0.8, ac=0.2, bc=0.4, abc=0.8)
    yield (
        close(found, dict.fromkeys("abc", 1 / 3))
        and close(answer(tuple("abc"), unequal), {"a": 0.25, "b": 0.45, "c": 0}),
        "It is right for two modalities, but not for three.",
        "`permutations(modalities)` has all six orders; within each, whoever joins finds those before it present.",
    )
