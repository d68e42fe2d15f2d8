"""Wrong answers to the exercises of `01_modality_imbalance`, and a part of what each must be told."""

from itertools import combinations

import numpy as np


def right(curve, chance, mean=np.mean):
    way = curve.max() - chance
    return mean(((curve - chance) / way).clip(0, 1)) if way else 0.0


def in_place(curve, chance):
    way = curve.max() - chance
    curve -= chance
    return (curve / way).clip(0, 1).mean() if way > 0 else 0.0


def last_as_best(curve, chance):
    return ((curve - chance) / max(curve[-1] - chance, 1e-9)).clip(0, 1).mean()


def unclipped(curve, chance):
    return ((curve - chance) / max(curve.max() - chance, 1e-9)).mean()


def marginal(worth, name, others=()):
    return worth[frozenset({name, *others})] - worth[frozenset(others)]


def two_orders(names, worth):
    return {
        name: sum(marginal(worth, name, [n for n in names if n != name][:size]) for size in (0, 1)) for name in names
    }


def coalitions_alike(names, worth):
    def subsets(name):
        others = [other for other in names if other != name]
        return [chosen for size in range(len(names)) for chosen in combinations(others, size)]

    return {name: np.mean([marginal(worth, name, chosen) for chosen in subsets(name)]) for name in names}


def without_the_empty(names, worth):
    return coalitions_alike(names, worth | {frozenset(): 0.0})


def rotations(names, worth):
    """Only the orders that begin somewhere and go round."""
    values = dict.fromkeys(names, 0.0)
    for start in range(len(names)):
        order = names[start:] + names[:start]
        for place, name in enumerate(order):
            values[name] += marginal(worth, name, order[:place]) / len(names)
    return values


WRONG = {
    "learning_speed": [
        (lambda curve, chance: curve.mean(), "Guessing already earns"),
        (lambda curve, chance: (curve / curve.max()).mean(), "Guessing already earns"),
        (lambda curve, chance: ((curve - chance) / (1 - chance)).mean(), "half as high is called slower"),
        (lambda curve, chance: (curve - chance).mean(), "half as high is called slower"),
        (last_as_best, "not at its last"),
        (unclipped, "below chance must count as zero"),
        (lambda curve, chance: right(curve, chance) * len(curve), "a mean, no sum"),
        (lambda curve, chance: 0.0 if curve.max() == chance else right(curve, chance), "stays *below* chance"),
        (in_place, "It changes what it is given"),
        (
            lambda curve, chance: float(right(curve, chance, np.median)) * (curve.max() > chance),
            "the mean over *all* epochs",
        ),
        (lambda curve, chance: ((curve - chance) / (curve.max() - chance)).clip(0, 1).mean(), "not nan"),
        (
            lambda curve, chance: ((curve - chance) / (curve.max() - chance)).clip(0, 1),
            "one number for the whole curve",
        ),
    ],
    "shapley": [
        (lambda names, worth: {name: worth[frozenset({name})] for name in names}, "what it brings alone"),
        (lambda names, worth: {name: marginal(worth, name) for name in names}, "what it brings alone"),
        (lambda names, worth: {n: marginal(worth, n, set(names) - {n}) for n in names}, "last marginal contribution"),
        (without_the_empty, "nobody's merit"),
        (two_orders, "not averaged"),
        (coalitions_alike, "every coalition counts alike"),
        (rotations, "but not for three"),
        (lambda names, worth: worth.clear() or dict.fromkeys(names, 1.0), "It changes what it is given"),
        (lambda names, worth: [0.25, 0.55], "a dictionary with a number for every modality"),
    ],
}
