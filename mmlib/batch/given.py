"""Parameters for notebooks, from the command line and YAML, checked before anything runs."""

import ast
import contextlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from mmlib.notebook.parameters import TYPES, BadParameter, Settings, own_of


def parse_assignment(text: str) -> tuple[str, Any]:
    """`name=value` from the command line; the value is read as YAML."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise BadParameter(f"-p {text!r} is not of the form name=value.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadParameter(f"-p {text!r} cannot be read as YAML: {error}") from error


def declared_in(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Each parameter of a notebook: its declared type's name and its default. Raises BadParameter."""
    changed = notebook.stat().st_mtime_ns if notebook.exists() else 0
    return _declared_in(notebook, changed)


@cache
def _declared_in(notebook: Path, changed: int) -> dict[str, tuple[str, Any]]:
    try:
        found = papermill.inspect_notebook(str(notebook))
        return {name: (fact["inferred_type_name"], ast.literal_eval(fact["default"])) for name, fact in found.items()}
    except Exception as error:
        raise BadParameter(f"{notebook} cannot be read as a notebook: {error}") from error


def check_against_notebook(notebook: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the types that the notebook's parameters cell declares. Raises BadParameter where one does not
    fit, or where the notebook's own set-up would refuse them.

    Papermill itself only warns of unknown names and passes whatever type YAML made of a value.
    """
    declared = declared_in(notebook)
    for name in values:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise BadParameter(f"{notebook.name} has no parameter {name!r}; it has: {known}.")
    typed = {name: _typed(notebook, name, value, declared[name][0]) for name, value in values.items()}
    try:
        _ask_set_up(notebook, {name: default for name, (_, default) in declared.items()} | typed)
    except BadParameter as error:
        raise BadParameter(f"{notebook.name}: {error}") from error
    return typed


def _ask_set_up(notebook: Path, values: dict[str, Any]) -> None:
    """Check these parameters as the notebook's own set-up will; nothing is executed."""
    cells = nbformat.read(notebook, as_version=4).cells
    own = own_of(cell.source for cell in cells if cell.cell_type == "code")
    if own is not None:
        Settings(values, **own)


def _typed(notebook: Path, name: str, value: Any, type_name: str) -> Any:
    wanted = TYPES.get(type_name)
    if wanted is None:
        raise BadParameter(f"{notebook.name}: parameter {name!r} has no type among {', '.join(TYPES)}.")
    if wanted is float and type(value) in (int, str):  # YAML reads 1 as an integer and 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not wanted:
        raise BadParameter(f"{notebook.name}: {name} must be of type {type_name}, not {value!r}.")
    return value
