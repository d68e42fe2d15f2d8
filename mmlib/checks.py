"""What a value may be: one notation, and one message, for settings, options, dials and notebooks' parameters.

What is allowed is a `Number`; a `Text`; a type; or a tuple of alternatives, each of them a value or again one of these.
"""

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Number:
    """Numbers from `low` to `high`, both included unless `above` or `below`; `whole`: integers only. Never NaN."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # `low` itself excluded
    below: bool = False  # `high` itself excluded
    whole: bool = False

    def admits(self, value: object) -> bool:
        """Whether this is such a number."""
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        what = "an integer" if self.whole else "a number"
        if math.isinf(self.low) and math.isinf(self.high):
            return what
        if math.isinf(self.high):
            return f"{what} {'above' if self.above else 'of at least'} {self.low}"
        if self.above or self.below:
            return f"{what} in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}"
        return f"{what} in {self.low} … {self.high}"


@dataclass(frozen=True)
class Text:
    """Texts that this regular expression matches as a whole; `meaning`: what these are, in words."""

    pattern: str
    meaning: str

    def admits(self, value: object) -> bool:
        """Whether this is such a text."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.meaning


Whole = partial(Number, whole=True)
SHARE = Number(0, 1)
_NAMES = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


def check(
    values: Mapping[str, object], allowed: Mapping[str, Any], owner: str = "", error: type[ValueError] = ValueError
) -> None:
    """Raises "<owner>: <name> must be <what is allowed>, not <value>." for the first value that is not allowed."""
    for name, what in allowed.items():
        if not _admits(what, values[name]):
            where = f"{owner}: " if owner else ""
            raise error(f"{where}{name} must be {in_words(what)}, not {values[name]!r}.")


def _admits(allowed: Any, value: object) -> bool:
    if isinstance(allowed, Number | Text):
        return allowed.admits(value)
    if isinstance(allowed, type):
        return type(value) is allowed
    return any(_admits(one, value) if isinstance(one, Number | Text | type) else one == value for one in allowed)


def in_words(allowed: Any) -> str:
    """What is allowed, to be read after "must be"."""
    if isinstance(allowed, Number | Text):
        return str(allowed)
    if isinstance(allowed, type):
        return _NAMES.get(allowed, f"a {allowed.__name__}")
    if any(isinstance(one, Number | Text | type) for one in allowed):
        return " or ".join(in_words(one) if isinstance(one, Number | Text | type) else repr(one) for one in allowed)
    return "one of " + ", ".join(map(str, allowed))
