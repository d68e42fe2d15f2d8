"""Executes one notebook in a process of its own: `python -m mmlib.batch.runner FOLDER`, as `execution` starts it.

Its standard input is its lifeline: the process that started it holds the other end, and when that process is gone, for
whatever reason, the runner ends and kills the kernel. It imports nothing heavy: every run pays for its start.
"""

import json
import os
import re
import shutil
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from mmlib.batch.processes import MARK, kill_marked

REQUEST, OUTCOME = "request.json", "outcome.json"
NOTEBOOK, WITH_CODE, WITHOUT_CODE, SLIDES = "notebook.ipynb", "with_code.html", "without_code.html", "slides.html"
KERNEL = "python3"
_KINDS = {
    "AssertionError": "assertion",
    "MissingData": "missing data",
    "FileNotFoundError": "missing data",
    "ModuleNotFoundError": "dependency",
    "ImportError": "dependency",
    "MemoryError": "memory",
    "OutOfMemoryError": "memory",
    "BadParameter": "parameter",
    "Diverged": "diverged",
}


def main(folder: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    outcome = _execute(request, folder) if request["execute"] else {}
    try:
        from mmlib.batch.rendering import render  # takes a moment, and whoever starts this process needs only names

        render(*(folder / name for name in (NOTEBOOK, WITH_CODE, WITHOUT_CODE, SLIDES)))
    except Exception as failure:
        if outcome.get("status") == "finished":
            outcome = {"status": kind_of(failure), "error": f"The pages were not made. {described(failure)}"}
    temporary = folder / f"{OUTCOME}.part"
    temporary.write_text(json.dumps(outcome), encoding="utf-8")
    temporary.replace(folder / OUTCOME)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed
    kill_marked(os.environ[MARK], spare=os.getpid())
    os._exit(1)


def _execute(request: dict[str, Any], folder: Path, again: bool = True) -> dict[str, str]:
    """Status and error of the execution; whatever goes wrong is reported, never raised. A kernel that dies at its start
    gets one more chance: of two that start at once, both may have chosen the same port."""
    try:
        papermill.execute_notebook(
            as_it_is(request["notebook"]),
            as_it_is(folder / NOTEBOOK),
            request["parameters"],
            kernel_name=KERNEL,
            progress_bar=False,
            start_timeout=request["start_timeout"],
            execution_timeout=request["cell_timeout"],
            cwd=str(Path(request["notebook"]).parent),
        )
    except PapermillExecutionError as failure:
        text = f"{failure.ename}: {failure.evalue} (cell {failure.exec_count})"
        full = "[Errno 28]" in str(failure.evalue)
        return {"status": "disk full" if full else _KINDS.get(failure.ename, "error"), "error": text}
    except CellTimeoutError:
        return {"status": "timeout", "error": f"A cell ran for longer than {request['cell_timeout']} s."}
    except DeadKernelError:
        return {"status": "kernel died", "error": "The kernel died."}
    except Exception as failure:
        not_ready = type(failure) is RuntimeError and str(failure).startswith("Kernel d")  # it died, or didn't respond
        if again and not_ready and str(failure).startswith("Kernel died"):
            return _execute(request, folder, again=False)
        return {"status": "kernel not started" if not_ready else kind_of(failure), "error": described(failure)}
    return {"status": "finished", "error": ""}


def as_it_is(path: Path) -> str:
    """The path as papermill has to be given it, which would take a name in braces for a parameter's."""
    return str(path).replace("{", "{{").replace("}", "}}")


@cache
def kernel_problem() -> str:
    """Why Jupyter's kernel cannot run notebooks with this interpreter, its packages and versions; "" where it can."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # only whoever asks needs it

    try:
        found = KernelSpecManager().get_kernel_spec(KERNEL)
    except NoSuchKernel:
        return f"Jupyter has no kernel {KERNEL!r}: pip install ipykernel."
    program = found.argv[0]
    if re.fullmatch(
        rf"python({sys.version_info[0]}(\.{sys.version_info[1]})?)?", program
    ):  # as Jupyter itself reads it
        return ""
    program = shutil.which(program) or program
    one, other = ((Path(path).parent.resolve(), Path(path).resolve()) for path in (program, sys.executable))
    if one == other:
        return ""
    return (
        f"Jupyter's kernel {KERNEL!r} starts {program} and not {sys.executable}, which runs this command. Delete "
        f"{found.resource_dir}: without it, Jupyter starts the interpreter that it runs with."
    )


def kind_of(failure: Exception) -> str:
    """The kind of a failure that is not a notebook's own."""
    return "disk full" if isinstance(failure, OSError) and failure.errno == 28 else "error"


def described(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
