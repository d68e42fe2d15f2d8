"""Parameters of notebooks: checked before anything runs, from Python, the command line and YAML alike."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import papermill
import yaml

_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


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


def parse_assignment(text: str) -> tuple[str, Any]:
    """`name=value` from the command line; the value is read as YAML."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise BadParameter(f"-p {text!r} is not of the form name=value.")
    return name.strip(), yaml.safe_load(value)


def check_against_notebook(notebook: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values with the types that the notebook's parameters cell declares; BadParameter where one does not fit.

    Papermill itself only warns of unknown names and passes whatever type YAML made of a value.
    """
    try:
        declared = papermill.inspect_notebook(str(notebook))
    except Exception as error:
        raise BadParameter(f"{notebook} cannot be read as a notebook: {error}") from error
    for name in values:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise BadParameter(f"{notebook.name} has no parameter {name!r}; it has: {known}.")
    return {name: _typed(notebook, name, value, declared[name]["inferred_type_name"]) for name, value in values.items()}


def _typed(notebook: Path, name: str, value: Any, type_name: str) -> Any:
    wanted = _TYPES.get(type_name)
    if wanted is None:
        raise BadParameter(f"{notebook.name}: parameter {name!r} has no type among {', '.join(_TYPES)}.")
    if wanted is float and type(value) in (int, str):  # YAML reads 1 as an integer and 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not wanted:
        raise BadParameter(f"{notebook.name}: {name} must be of type {type_name}, not {value!r}.")
    return value
