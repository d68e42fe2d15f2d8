"""A hash of code that changes when something that runs changes, and only then.

It is taken over the syntax trees, without docstrings and comments, of modules and of all that they import within the
package, found by reading and never by importing: a hash does not depend on what a process happens to have imported.
"""

import ast
import contextlib
import hashlib
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def code_hash(modules: Iterable[str], without: Iterable[str] = (), package: Path = PACKAGE) -> str:
    """Equal where these modules, and all that they import of the package, directly or not, do the same. Imports of
    modules in `without` are not followed."""
    found = closure(modules, without, package)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]


def closure(modules: Iterable[str], without: Iterable[str] = (), package: Path = PACKAGE) -> dict[str, str]:
    """Module → its code, for these modules and all that they import. A name that a package's `__init__` merely
    re-exports leads to the module it comes from. Raises a ValueError for a module that the package does not have."""
    found: dict[str, str] = {}
    waiting, passed_over = list(modules), set(without)
    while waiting:
        module = waiting.pop()
        if module in found or module in passed_over:
            continue
        path = _file_of(module, package)
        if path is None:
            raise ValueError(f"There is no module {module!r} in {package}.")
        code, origins = _read(path, path.stat().st_mtime_ns, package.name)
        found[module] = code
        waiting += [_module_of(origin, name, package) for origin, name in origins]
    return found


def imported_by(source: str, package: Path = PACKAGE) -> set[str]:
    """The package's modules that this source code imports, directly. Code that is not Python imports nothing."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return {_module_of(origin, name, package) for origin, name in _origins(tree, package.name)}


def identity_of(value: object) -> str:
    """Equal for plain values that are equal and for functions that do the same: the code, the arguments of a partial,
    the fields of the data class that an instance or a bound method belongs to, and, for a function outside the package,
    the globals and closure variables that it uses. For anything else, a text unique to this process."""
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        return repr([identity_of(one) for one in value])
    if isinstance(value, partial):
        return repr([identity_of(part) for part in (value.func, value.args, sorted(value.keywords.items()))])
    if inspect.ismodule(value):
        return value.__name__
    if inspect.ismethod(value):
        return repr((identity_of(value.__self__), value.__name__))
    if is_dataclass(value) and not isinstance(value, type):
        return repr((_code_of(type(value)), [identity_of(getattr(value, field.name)) for field in fields(value)]))
    if inspect.isfunction(value) or isinstance(value, type):
        return _code_of(value)
    return f"{value!r} {os.getpid()}"


def _code_of(thing: Callable | type) -> str:
    """For a function or class of the package: its module and what that imports. For others: the source, and the globals
    and closure variables that a function uses."""
    if thing.__module__.split(".")[0] == PACKAGE.name:
        return f"{thing.__module__}.{thing.__qualname__} {code_hash((thing.__module__,))}"
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return f"{thing!r} {os.getpid()}"
    with contextlib.suppress(SyntaxError):  # a lambda in the middle of an expression stays as it is
        source = _without_docstrings(ast.parse(source))
    if isinstance(thing, type):
        return source
    around = inspect.getclosurevars(thing)
    used = {name: value for name, value in (around.globals | around.nonlocals).items() if value is not thing}
    return repr((source, [(name, identity_of(value)) for name, value in sorted(used.items())]))


def _file_of(module: str, package: Path) -> Path | None:
    place = package.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def _read(path: Path, changed: int, package: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A file's code, and what it imports; `changed` is the time of its last change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _without_docstrings(tree), _origins(tree, package)


def _origins(tree: ast.Module, package: str) -> tuple[tuple[str, str], ...]:
    """(module, name) of each import from the package; the name is empty for a module as a whole."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == package]
    return tuple(found)


def _module_of(origin: str, name: str, package: Path) -> str:
    """The module in which `from origin import name` finds what it imports."""
    if not name:
        return origin
    if _file_of(f"{origin}.{name}", package):
        return f"{origin}.{name}"
    path = _file_of(origin, package)
    if path is not None and path.name == "__init__.py":
        for further, exported in _read(path, path.stat().st_mtime_ns, package.name)[1]:
            if exported == name:
                return _module_of(further, name, package)
    return origin


def _without_docstrings(tree: ast.Module) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree)
