"""Parameters for notebooks, from the command line and YAML, checked before anything runs."""

import ast
import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from mmlib.batch.runner import as_it_is
from mmlib.notebook.parameters import TYPES, BadParameter, Settings, own_of

_NODES = 10_000  # of a YAML document, aliases written out


def read_yaml(text: str) -> Any:
    """What a YAML document says. Raises a yaml.YAMLError for what is no YAML, nested too deeply, or too large: a few
    lines of aliases to aliases stand for more than any memory holds."""
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # what contains itself
            inside = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                inside = [one for pair in inside for one in pair]
            sizes[id(node)] = 1 + sum(map(size, inside))
        return sizes[id(node)]

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None and size(node) > _NODES:
            raise yaml.YAMLError(f"with its aliases written out, it holds more than {_NODES} values")
        return yaml.safe_load(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # a date that does not exist
        raise yaml.YAMLError(str(error)) from error


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Each `name=value` of the command line; values are read as YAML, but for nothing, which is the empty text. Raises
    BadParameter."""
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name:
            raise BadParameter(f"-p {text!r} is not of the form name=value.")
        if name in values:
            raise BadParameter(f"-p gives {name} twice. For a grid: -p {name}=[FIRST, SECOND]")
        try:
            values[name] = read_yaml(value) if value else ""
        except yaml.YAMLError as error:
            raise BadParameter(f"-p {text!r} cannot be read as YAML: {error}") from error
    return values


def declared_in(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Each parameter of a notebook: its declared type's name and its default. Raises BadParameter."""
    changed = notebook.stat().st_mtime_ns if notebook.exists() else 0
    return _declared_in(notebook, changed)


@cache
def _declared_in(notebook: Path, changed: int) -> dict[str, tuple[str, Any]]:
    try:
        found = papermill.inspect_notebook(as_it_is(notebook))
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
