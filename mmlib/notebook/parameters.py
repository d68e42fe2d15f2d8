"""The check of a notebook's parameters in its set-up cell. Imported by every notebook: it imports nothing heavy."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


class BadParameter(ValueError):
    """A parameter that does not exist or has a wrong value; the message names it and what is allowed."""


@dataclass(frozen=True)
class Interval:
    """Numbers between `low` and `high`, both included."""

    low: float
    high: float = math.inf


def validate(**checked: tuple[Any, Any]) -> SimpleNamespace:
    """The set-up cell's check: each keyword is `name=(value, allowed)`; returns the values as attributes.

    `allowed` is a range (for integers), an `Interval` (numbers), a tuple of choices, or a type.
    """
    for name, (value, allowed) in checked.items():
        if isinstance(allowed, range):
            right = type(value) is int and value in allowed
            expected = f"an integer in {allowed.start} … {allowed.stop - 1}"
        elif isinstance(allowed, Interval):
            right = type(value) in (int, float) and allowed.low <= value <= allowed.high
            expected = f"a number in {allowed.low} … {allowed.high}"
        elif isinstance(allowed, tuple):
            right = value in allowed
            expected = "one of " + ", ".join(map(str, allowed))
        else:
            right = type(value) is allowed
            expected = f"a {allowed.__name__}"
        if not right:
            raise BadParameter(f"{name} must be {expected}, not {value!r}.")
    return SimpleNamespace(**{name: value for name, (value, _) in checked.items()})
