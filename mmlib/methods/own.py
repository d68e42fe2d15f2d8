"""A method of one's own: what its class must be, and how it is read from a file."""

import inspect
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from mmlib.methods.base import Method

Tune = tuple[str, tuple[Any, Any]]  # an option's name, and the two values that tuning tries
_MODULE = "method_of_ones_own"  # what its classes say they come from: no library, so that their code identifies runs
_KIT = Path(__file__).resolve().parents[1]


class WrongMethod(ValueError):
    """What is wrong with a method, and what to do about it."""


def check_class(name: str, kind: object, tune: Tune | None) -> None:
    """Raises WrongMethod for what is no class of a method, cannot be built as `kind(model, **options)`, or has no such
    option to be tuned by."""
    if not isinstance(kind, type):
        raise WrongMethod(
            f"{name}: register the class itself, not {kind!r}. A run makes its objects, one for each seed."
        )
    if not issubclass(kind, Method):
        raise WrongMethod(f"{name}: {kind.__name__} is no method. Derive it: class {kind.__name__}(methods.Method).")
    if kind.step_losses is Method.step_losses:
        raise WrongMethod(f"{name}: {kind.__name__} has no step_losses(self, batch), which returns its losses by name.")
    _, *given = inspect.signature(kind.__init__).parameters.values()  # the first is the object
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    first = given[0].kind if given else None
    if first not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        raise WrongMethod(f"{name}: {kind.__name__}.__init__ takes no model. Begin with __init__(self, model, …).")
    for option in given[1:]:
        if option.kind not in by_name or option.default is inspect.Parameter.empty:
            raise WrongMethod(
                f"{name}: the option {option} of {kind.__name__}.__init__ needs a name and a default: {option.name} = …"
            )
    if tune is not None:
        _check_tune(name, tune, [option.name for option in given[1:]])


def _check_tune(name: str, tune: object, options: list[str]) -> None:
    how = 'The form is ("weight", (0.1, 0.3)): an option and two values'
    match tune:
        case (str(option), (first, second)) if first != second:
            if option not in options:
                raise WrongMethod(f"{name}: there is no option {option!r} to tune. Its options: {options}. {how}.")
        case _:
            raise WrongMethod(f"{name}: it cannot be tuned by {tune!r}. {how}.")


def read(path: Path) -> tuple[type[Method], Tune | None]:
    """The one class of a method in this file, and what its TUNE says. Raises WrongMethod where there is no such file,
    it cannot be run, or holds another number of methods."""
    path = path.expanduser().resolve()
    name = path.name
    if path.suffix != ".py" or not path.is_file():
        near = ", ".join(sorted(one.name for one in path.parent.glob("*.py"))) or "no file of Python"
        raise WrongMethod(f"There is no file {path}, or it is not named *.py. Its folder holds {near}.")
    if path.is_relative_to(_KIT) or "-packages" in str(path):
        raise WrongMethod(f"{path} is part of an installed package. Give a method of the kit by its name, or copy it.")
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses and others look there while a class is made
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise WrongMethod(f"{name}, line {error.lineno} is not Python: {error.msg}: {line}") from error
    except ImportError as error:
        raise WrongMethod(
            f"{name}{line_in(error, {str(path)})}: {error}. A method's file stands alone: it may import the kit and "
            "what is installed, but no other file."
        ) from error
    except (Exception, SystemExit) as error:
        raise WrongMethod(f"{name}{line_in(error, {str(path)})}: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[_MODULE]  # so that processes which train get the class itself, and look for no module
    made = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == _MODULE]
    found = list(dict.fromkeys(one for one in made if issubclass(one, Method)))
    if not found:
        others = f" The class {made[0].__name__} is not derived from it." if made else ""
        raise WrongMethod(f"{name} has no method: no class that is derived from mmlib.methods.Method.{others}")
    if len(found) > 1:
        names = ", ".join(one.__name__ for one in found)
        raise WrongMethod(f"{name} has {len(found)} methods: {names}. Keep one, and give each of the others a file.")
    return found[0], getattr(module, "TUNE", None)


def line_in(error: BaseException, files: set[str]) -> str:
    """Where in these files an error came from, to be read after a name; "" where it did not."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return f", line {frame.lineno} ({frame.line})"
    return ""
