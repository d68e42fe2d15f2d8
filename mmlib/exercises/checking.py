"""A function that a student writes, checked by its properties, and a prediction, compared with what was measured.

Nothing here stops a notebook: where a function is missing or wrong, the check says so and hands on the kit's own.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmlib.training.estimates import Estimate, paired_difference

STUB = "is not written yet"  # how the error of a function without a body ends


class _Mistake(Exception):
    """What is wrong with an answer whatever it is about, and what helps."""


class Finding(NamedTuple):
    """One property of a right answer: whether it is there and, where it is not, what is wrong and what helps."""

    holds: bool
    wrong: str
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A function to be written: the kit's own, and the properties of a right one, from the simplest on."""

    name: str
    kit: Callable
    properties: Callable[[Callable], Iterator[tuple]]
    finite: bool  # whether what is no finite number is wrong whatever the properties say

    def __call__(self, answer: Callable) -> Callable:
        """Print what the check says of an answer, and return the function to go on with: the answer where it is right,
        otherwise the kit's own."""
        said = self.examine(answer)
        print(said or f"Right: the cells below use your {self.name}.")
        return self.kit if said else answer

    def examine(self, answer: Callable) -> str:
        """What the student should read: nothing where the answer has all properties."""
        until = "Until then, the cells below use the kit's own."
        if answer is self.kit:
            return f"This is the kit's own {self.name}: run the cell above again, with yours."

        def watched(*arguments: Any, **options: Any) -> Any:
            before = copy.deepcopy([one for one in arguments if isinstance(one, Tensor | np.ndarray | Mapping)])
            if (result := answer(*arguments, **options)) is None:
                raise _Mistake("It returns nothing.", "is there a `return`?")
            after = [one for one in arguments if isinstance(one, Tensor | np.ndarray | Mapping)]
            if not all(map(_equal, after, before)):
                raise _Mistake("It changes what it is given.", "work on a copy: the cells below use the same values.")
            if self.finite and not _finite(result):
                raise _Mistake("It is not a finite number.", "where do you divide by zero, or take its logarithm?")
            return result

        try:
            finding = next((found for found in map(Finding._make, self.properties(watched)) if not found.holds), None)
        except _Mistake as mistake:
            finding = Finding(False, *mistake.args)
        except (Exception, SystemExit, GeneratorExit) as error:  # whatever a student's function may raise
            if isinstance(error, NotImplementedError) and str(error).endswith(STUB):  # PyTorch raises them, too
                return f"{error}. {until}"
            said = f"{type(error).__name__}: {error}".rstrip(" .:?")
            finding = Finding(False, f"{said}.", "call it yourself on something small, and look at types and shapes.")
        return "" if finding is None else f"Not right yet. {finding.wrong} Hint: {finding.hint} {until}"


def _equal(first: Any, second: Any) -> bool:
    if isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_equal(first[name], second[name]) for name in second)
    if isinstance(second, Tensor | np.ndarray):
        return first.shape == second.shape and bool((first == second).all())
    return first is second or first == second


def _finite(result: Any) -> bool:
    if isinstance(result, Mapping | tuple | list):
        return all(map(_finite, result.values() if isinstance(result, Mapping) else result))
    if isinstance(result, Tensor):
        return bool(result.isfinite().all())
    return not isinstance(result, float | np.ndarray) or bool(np.isfinite(result).all())


def exercise(kit: Callable, finite: bool = True) -> Callable[[Callable[[Callable], Iterator[tuple]]], Exercise]:
    """Makes an `Exercise` of the generator of its properties, which has its name: tuples as in `Finding`. `kit` is the
    kit's own answer. Without `finite`, the properties themselves say what is wrong with a number that is not."""
    return lambda properties: Exercise(properties.__name__, kit, properties, finite)


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> bool:
    """Whether two results are the same to rounding: numbers, tensors of one shape, or mappings of those."""
    if isinstance(expected, Mapping):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    found, expected = (torch.as_tensor(value).detach().double() for value in (found, expected))
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


def shaped(found: Any, *shape: int) -> bool:
    """Whether this is a tensor of such a shape."""
    return isinstance(found, torch.Tensor) and found.shape == shape


def predicted(
    guess: str | None, measured: Estimate, above: str, below: str, neither: str = "neither", *others: str
) -> None:
    """Print what was measured, by the name that the answer has where it is above zero, below, or not distinguishable
    from it, and beside it the guess, where one was made: it must be one of these names, or of `others`."""
    answer = {True: above, False: below, None: neither}[measured.above_zero]
    undecided = ", not distinguishable from zero" if measured.above_zero is None else ""
    found = f"Measured: {answer}{undecided} ({measured:+.3f})."
    if guess is None:
        print(found)
    elif guess not in (names := (above, below, neither, *others)):
        print(f"Your prediction, {guess!r}, is none of: {', '.join(map(repr, names))}. {found}")
    else:
        print(f"{'As you predicted.' if guess == answer else f'You predicted: {guess}.'} {found}")


def foremost(guess: str | None, values: Mapping[str, pd.Series]) -> None:
    """`predicted`, where the answer is one of several names: the one with the highest mean over runs. Measured is its
    lead over the next one, paired by run."""
    first, second, *others = sorted(values, key=lambda name: -values[name].mean())
    predicted(guess, paired_difference(values[first], values[second]), first, second, "neither", *others)
