"""A hash of code that changes when something that runs changes, and only then.

It is taken over the syntax trees, without docstrings and comments, of modules and of all that they import within the
package, and over the tables that they read. These are found by reading and never by importing: a hash does not depend
on what a process happens to have imported.
"""

import ast
import contextlib
import hashlib
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def code_hash(modules: Iterable[str], without: Iterable[str] = ()) -> str:
    """Equal where these modules, and all that they import of the package, directly or not, do the same. Imports of
    modules in `without` are not followed."""
    found = closure(modules, without)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]


def closure(modules: Iterable[str], without: Iterable[str] = ()) -> dict[str, str]:
    """Module → its code, for these modules and all that they import. A name that a package's `__init__` merely
    re-exports leads to the module it comes from. Raises a ValueError for a module that the package does not have."""
    found: dict[str, str] = {}
    waiting, passed_over = list(modules), set(without)
    while waiting:
        module = waiting.pop()
        if module in found or module in passed_over:
            continue
        path = _file_of(module)
        if path is None:
            raise ValueError(f"There is no module {module!r} in {PACKAGE}.")
        code, origins, files = _read(path, path.stat().st_mtime_ns)
        found[module] = code + "".join(hashlib.sha256(path.with_name(file).read_bytes()).hexdigest() for file in files)
        waiting += [_module_of(origin, name) for origin, name in origins]
    return found


def imported_by(source: str) -> set[str]:
    """The package's modules that this source code imports, directly. Code that is not Python imports nothing."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return {_module_of(origin, name) for origin, name in _origins(tree)}


def identity_of(value: object, around: tuple[object, ...] = ()) -> str:
    """Equal for plain values that are equal and for functions and classes that do the same: the code, the arguments of
    a partial, the fields of the data class that an instance or a bound method belongs to, and, outside the package,
    the globals and closure variables that a function uses. Libraries are identified by name. Anything else is equal to
    nothing.

    `around`: what is already being described; code that refers back to it only names it.
    """
    inside = (*around, value)
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        return repr([identity_of(one, inside) for one in value])
    if isinstance(value, partial):
        return repr([identity_of(part, inside) for part in (value.func, value.args, sorted(value.keywords.items()))])
    if inspect.ismodule(value):
        return value.__name__
    if inspect.ismethod(value):
        return repr((identity_of(value.__self__, inside), value.__name__))
    if is_dataclass(value) and not isinstance(value, type):
        content = [getattr(value, field.name) for field in fields(value)]
        return repr((identity_of(type(value), inside), [identity_of(one, inside) for one in content]))
    if not (inspect.isfunction(value) or isinstance(value, type)):
        return f"{value!r} {os.getpid()} {id(value)}"
    root = value.__module__.split(".")[0]
    if root == PACKAGE.name:
        return f"{value.__module__}.{value.__qualname__} {code_hash((value.__module__,))}"
    if _is_library(root) or any(value is one for one in around):
        return f"{value.__module__}.{value.__qualname__}"
    return _of_class(value, inside) if isinstance(value, type) else _of_function(value, inside)


def _of_function(function: Callable, around: tuple[object, ...]) -> str:
    """Its source, and the globals and closure variables that it uses."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"{function!r} {os.getpid()} {id(function)}"
    with contextlib.suppress(SyntaxError):  # a lambda in the middle of an expression stays as it is
        source = _without_docstrings(ast.parse(source))
    used = inspect.getclosurevars(function)
    names = sorted((used.globals | used.nonlocals).items())
    return repr((source, [(name, identity_of(value, around)) for name, value in names]))


def _of_class(kind: type, around: tuple[object, ...]) -> str:
    """Its bases and members; their source is available where the class's own is not, as in a notebook."""
    members = []
    for name, written in sorted(vars(kind).items()):
        member = getattr(written, "__func__", getattr(written, "fget", written))  # of a class method, of a property
        if inspect.isfunction(member) or not name.startswith("__"):
            members.append((name, identity_of(member, around)))
    return repr((kind.__qualname__, [identity_of(base, around) for base in kind.__bases__], members))


def _is_library(root: str) -> bool:
    path = getattr(sys.modules.get(root), "__file__", None) or ""
    return root in sys.stdlib_module_names - {"__main__"} or "-packages" in path  # site-packages, dist-packages


def _file_of(module: str) -> Path | None:
    place = PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def _read(path: Path, changed: int) -> tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A module's code, what it imports, and the data files beside it that it names; `changed` is the time of its last
    change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    files = (text for text in sorted(texts) if text.endswith(".csv") and path.with_name(text).is_file())
    return _without_docstrings(tree), _origins(tree), tuple(files)


def _origins(tree: ast.Module) -> tuple[tuple[str, str], ...]:
    """(module, name) of each import from the package; the name is empty for a module as a whole."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == PACKAGE.name]
    return tuple(found)


def _module_of(origin: str, name: str) -> str:
    """The module in which `from origin import name` finds what it imports."""
    if not name:
        return origin
    if _file_of(f"{origin}.{name}"):
        return f"{origin}.{name}"
    path = _file_of(origin)
    if path is not None and path.name == "__init__.py":
        for further, exported in _read(path, path.stat().st_mtime_ns)[1]:
            if exported == name:
                return _module_of(further, name)
    return origin


def _without_docstrings(tree: ast.Module) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree)
