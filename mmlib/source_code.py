"""A hash of code that changes when something that runs changes, and only then.

It is taken over the syntax trees, without docstrings and comments, of modules and of all that they import within the
package, and over the tables that they read. These are found by reading and never by importing: a hash does not depend
on what a process happens to have imported.
"""

import ast
import contextlib
import hashlib
import inspect
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

PACKAGE = _HOME = Path(__file__).resolve().parent
_AT_IMPORT = {path: path.read_bytes() for path in PACKAGE.rglob("*.py")}


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


def parsed(source: str) -> ast.Module:
    """The syntax tree of a notebook's cell, without the lines that are for IPython; empty for what is no Python."""
    lines = ("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return ast.Module([], [])


def changed_since_import(modules: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """Those of these modules and of all that they import whose code on disk is no longer what this process runs."""
    changed = []
    for module in closure(modules, without):
        path = _file_of(module)
        before, now = _AT_IMPORT.get(path), path.read_bytes()
        if before not in (None, now) and _without_docstrings(ast.parse(before)) != _without_docstrings(ast.parse(now)):
            changed.append(module)
    return changed


def imported_by(source: str) -> set[str]:
    """The package's modules that this cell or file imports, directly. Code that is no Python imports nothing."""
    tree = parsed(source)
    return {_module_of(origin, name) for origin, name in _origins(tree)}


def identity_of(value: Any, around: tuple[Any, ...] = ()) -> str:
    """Equal for values that are equal and for functions and classes that do the same: those of the package by their
    module and what that imports, those of libraries by name, others by their code and what it uses from around it. What
    cannot be described is equal to nothing, not even to itself.

    `around`: what is being described already; what comes back to it names it.
    """
    if any(value is one for one in around):
        return f"{type(value).__name__} again"
    inside = (*around, value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(numbers).hexdigest()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, torch.dtype | torch.device | np.dtype):
        return repr(value)
    if isinstance(value, Mapping):
        return repr([(identity_of(key, inside), identity_of(one, inside)) for key, one in value.items()])
    if isinstance(value, tuple | list | set | frozenset):
        parts = [identity_of(one, inside) for one in value]
        return repr(sorted(parts) if isinstance(value, set | frozenset) else parts)
    if inspect.ismodule(value):
        return _of_module(value)
    if inspect.ismethod(value):
        return repr((identity_of(value.__self__, inside), value.__name__))
    if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
        return f"{value.__module__ if inspect.isbuiltin(value) else value.__objclass__}.{value.__qualname__}"
    if inspect.isfunction(value):
        return _of_function(value, inside)
    if isinstance(value, type):
        return _of_class(value, inside)
    if isinstance(value, partial):
        return repr([identity_of(part, inside) for part in (value.func, value.args, sorted(value.keywords.items()))])
    if hasattr(value, "__dict__"):
        return repr((identity_of(type(value), inside), identity_of(dict(sorted(vars(value).items())), inside)))
    return f"{type(value).__name__} {uuid.uuid4().hex}"


def _of_module(module: ModuleType) -> str:
    root, path = module.__name__.split(".")[0], getattr(module, "__file__", None)
    if root == PACKAGE.name:
        return f"{module.__name__} {code_hash((module.__name__,))}"
    return module.__name__ if _is_library(root) or path is None else f"{module.__name__} {Path(path).read_text()}"


def _of_function(function: FunctionType, around: tuple[Any, ...]) -> str:
    """Its code with defaults, and what it uses from around it: variables of an enclosing function, globals."""
    code, name = function.__code__, f"{function.__module__}.{function.__qualname__}"
    if code.co_filename.startswith(str(_HOME)) and not code.co_freevars:
        return f"{name} {code_hash((function.__module__,))}"
    if "-packages" in code.co_filename or code.co_filename.startswith(sysconfig.get_path("stdlib")):
        return f"{name} {identity_of(function.__closure__ and _cells(function), around)}"
    names, codes = set(), [code]
    while codes:
        one = codes.pop()
        names |= set(one.co_names)
        codes += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    uses = (function.__defaults__, function.__kwdefaults__, _cells(function), used)
    return repr((_of_code(code, function.__doc__), identity_of(uses, around)))


def _cells(function: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not set yet
            found[name] = cell.cell_contents
    return found


def _of_code(code: CodeType, docstring: str | None = None) -> tuple[Any, ...]:
    constants = [
        _of_code(one) if isinstance(one, CodeType) else repr(one) if one is ... else identity_of(one)
        for one in code.co_consts
    ]
    if docstring is not None and code.co_consts[:1] == (docstring,):
        constants[0] = identity_of(None)
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_varnames, code.co_names)
    return code.co_code, constants, shape


def _of_class(kind: type, around: tuple[Any, ...]) -> str:
    root = (getattr(kind, "__module__", "") or "").split(".")[0]
    if root == PACKAGE.name:
        return f"{kind.__module__}.{kind.__qualname__} {code_hash((kind.__module__,))}"
    if _is_library(root):
        return f"{kind.__module__}.{kind.__qualname__}"
    members = []
    for name, written in sorted(vars(kind).items()):
        member = getattr(written, "__func__", getattr(written, "fget", written))  # of a class method, of a property
        if inspect.isfunction(member) or not name.startswith(("__", "_abc_")):
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
