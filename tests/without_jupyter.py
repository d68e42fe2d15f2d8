"""The kit's runner with a make-believe Jupyter, as `python without_jupyter.py FOLDER`: a fifth of the time.

For tests of what a batch does with its runs, whatever a run is. The runner is the real one. What it imports of Jupyter
is replaced: the kernel is a fork of the runner that executes the cells as they are, prints of a cell are its output,
and a dictionary called `record` is the notebook's record; the pages are empty.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class CellTimeoutError(Exception):
    """Never raised: the make-believe kernel takes all the time that it wants."""


class DeadKernelError(Exception):
    """The kernel was killed."""


class PapermillExecutionError(Exception):
    """A cell failed."""

    def __init__(self, exec_count: int, ename: str, evalue: str) -> None:
        self.exec_count, self.ename, self.evalue = exec_count, ename, evalue


def render(_: Path, *pages: Path) -> None:
    """Makes empty pages."""
    for page in pages:
        page.write_text("<html><head></head></html>")


def execute_notebook(
    source: str, target: str, parameters: dict[str, Any], *, execution_timeout: int, cwd: str, **_: Any
) -> None:
    notebook = json.loads(Path(source).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["metadata"]["papermill"] = {"parameters": parameters}
    Path(target).write_text(json.dumps(notebook), encoding="utf-8")
    results, kernel_end = os.pipe()
    kernel = os.fork()
    if not kernel:
        os.chdir(cwd)
        with os.fdopen(kernel_end, "w") as pipe:
            json.dump(_executed(["".join(cell["source"]) for cell in cells], parameters), pipe)
        os._exit(0)
    os.close(kernel_end)
    with os.fdopen(results) as pipe:
        said = pipe.read()
    if os.waitpid(kernel, 0)[1]:
        raise DeadKernelError
    outcome = json.loads(said)
    cells[-1]["outputs"] = outcome["outputs"]
    Path(target).write_text(json.dumps(notebook), encoding="utf-8")
    if outcome["failure"]:
        raise PapermillExecutionError(len(cells), *outcome["failure"])


def _executed(cells: list[str], parameters: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the cells, the first of which declares the parameters, and the name and text of their failure."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, failure, outputs = io.StringIO(), None, []
    try:
        with contextlib.redirect_stdout(printed):
            exec(cells[0], names)
            names |= parameters
            for cell in cells[1:]:
                exec(cell, names)
    except Exception as error:
        failure = [type(error).__name__, str(error)]
        said = {"ename": failure[0], "evalue": failure[1], "traceback": [": ".join(failure)]}
        outputs.append({"output_type": "error"} | said)
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if "record" in names:
        data = {"application/vnd.mmlib.record+json": names["record"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return {"outputs": outputs, "failure": failure}


def _pretend(name: str, **contents: Any) -> None:
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(contents)


if __name__ == "__main__":
    _pretend("mmlib.batch.rendering", render=render)
    _pretend("papermill", execute_notebook=execute_notebook)
    _pretend("papermill.exceptions", PapermillExecutionError=PapermillExecutionError)
    _pretend("nbclient")
    _pretend("nbclient.exceptions", CellTimeoutError=CellTimeoutError, DeadKernelError=DeadKernelError)
    sys.path.insert(0, os.getcwd())  # the runner's own place, as `-m` would have it
    from mmlib.batch import runner

    runner.main(Path(sys.argv[1]))
