"""Run notebooks headlessly: check everything first, go on past failures, run nothing twice, end with a page."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import nbconvert
import nbformat
import papermill
import torch
import yaml
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from mmlib.data.cache import atomic_path
from mmlib.parameters import BadParameter, check_against_notebook
from mmlib.report import write_page
from mmlib.results import records_in

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FAILURES = {
    "AssertionError": "assertion",
    "MissingData": "missing data",
    "FileNotFoundError": "missing data",
    "ModuleNotFoundError": "dependency",
    "ImportError": "dependency",
    "MemoryError": "memory",
    "OutOfMemoryError": "memory",
    "BadParameter": "parameter",
}


@dataclass(frozen=True)
class Job:
    """One notebook with the parameters it is to run with."""

    notebook: Path
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        return self.notebook.stem

    def key(self) -> str:
        """What a finished run must agree with to be kept: notebook, library, parameters, versions."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        digest.update(f"{torch.__version__} {torch.cuda.is_available()}".encode())
        for path in [self.notebook, *sorted((ROOT / "mmlib").rglob("*.py"))]:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Result:
    """How a run ended. `status` is "finished" or the kind of failure; `error` says what happened where."""

    name: str
    key: str
    parameters: dict[str, Any]
    status: str
    error: str
    seconds: float
    records: list[dict[str, Any]]


def plan(suite: str, only: Sequence[str], overrides: dict[str, Any], notebooks: Path = NOTEBOOKS) -> list[Job]:
    """The suite's jobs, every parameter of every one checked against its notebook. Raises BadParameter."""
    path = notebooks / "suites" / f"{suite}.yaml"
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        raise BadParameter(f"There is no suite {suite!r}; there are: {there}.")
    content = yaml.safe_load(path.read_text()) or {}
    unknown = set(content) - {"notebooks", "parameters"}
    if unknown:
        raise BadParameter(f"{path} has unknown entries: {', '.join(sorted(unknown))}.")
    chosen = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if content.get("notebooks", "all") != "all":
        chosen = _select(chosen, content["notebooks"])
    if only:
        chosen = _select(chosen, only)
    parameters = {**content.get("parameters", {}), **overrides}
    return [Job(notebook, check_against_notebook(notebook, parameters)) for notebook in chosen]


def _select(notebooks: list[Path], prefixes: Sequence[Any]) -> list[Path]:
    selected = []
    for prefix in map(str, prefixes):
        matches = [notebook for notebook in notebooks if notebook.name.startswith(prefix.zfill(2))]
        if not matches:
            raise BadParameter(f"No notebook's name starts with {prefix!r}.")
        selected += matches
    return sorted(set(selected))


def run(jobs: Sequence[Job], out: Path, cell_timeout: int = 1800, workers: int = 1) -> tuple[list[Result], Path]:
    """Run all jobs into `out` and write the page of everything there. Finished runs of the same key are kept."""
    out = out.resolve()  # worker processes may have another working directory
    out.mkdir(parents=True, exist_ok=True)
    results = {job.name: result for job in jobs if (result := _finished(job, out)) is not None}
    to_run = [job for job in jobs if job.name not in results]
    if results:
        print(f"{len(results)} of {len(jobs)} notebooks are finished already and are kept.")
    done = joblib.Parallel(workers, return_as="generator")(
        joblib.delayed(run_one)(job, out, cell_timeout) for job in to_run
    )
    for result in tqdm(done, total=len(to_run), desc="notebooks", unit="notebook", disable=not to_run):
        results[result.name] = result
        tqdm.write(f"{result.name}: {result.status} in {result.seconds:.0f} s")
    everything = [result for path in sorted(out.glob("*.json")) if (result := _read(path)) is not None]
    return [results[job.name] for job in jobs], write_page([asdict(result) for result in everything], out)


def run_one(job: Job, out: Path, cell_timeout: int) -> Result:
    """Execute one notebook. The executed notebook and its HTML appear whole, and the result after them."""
    (out / f"{job.name}.json").unlink(missing_ok=True)
    key = job.key()  # of the code the run starts with
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{job.name}.") as folder:
        executed, page = Path(folder) / "executed.ipynb", Path(folder) / "executed.html"
        status, error = _execute(job, executed, cell_timeout)
        if not executed.exists():
            shutil.copyfile(job.notebook, executed)
        notebook = nbformat.read(executed, as_version=4)
        page.write_text(_as_html(notebook), encoding="utf-8")
        os.replace(executed, out / f"{job.name}.ipynb")
        os.replace(page, out / f"{job.name}.html")
    seconds = time.perf_counter() - started
    result = Result(job.name, key, job.parameters, status, error, seconds, records_in(notebook))
    with atomic_path(out / f"{job.name}.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    return result


def _execute(job: Job, executed: Path, cell_timeout: int) -> tuple[str, str]:
    """Status and error of one execution; whatever goes wrong is told, never raised."""
    try:
        papermill.execute_notebook(
            str(job.notebook),
            str(executed),
            job.parameters,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=cell_timeout,
            cwd=str(job.notebook.parent),
        )
    except PapermillExecutionError as failure:
        status = _FAILURES.get(failure.ename, "error")
        return status, f"{failure.ename}: {failure.evalue} (cell {failure.exec_count})"
    except CellTimeoutError as failure:
        return "timeout", f"A cell ran longer than {cell_timeout} s. {failure}"
    except DeadKernelError as failure:
        return "kernel died", str(failure)
    except Exception as failure:
        return "error", f"{type(failure).__name__}: {failure}"
    return "finished", ""


def _finished(job: Job, out: Path) -> Result | None:
    """The result of an earlier run that still stands for this job."""
    result = _read(out / f"{job.name}.json")
    whole = all((out / f"{job.name}.{kind}").exists() for kind in ("ipynb", "html"))
    return result if result and whole and result.status == "finished" and result.key == job.key() else None


def _read(path: Path) -> Result | None:
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _as_html(notebook: nbformat.NotebookNode) -> str:
    """HTML that needs nothing from the network: no MathJax, no require.js, no widgets (a figure stands for each)."""
    exporter = nbconvert.HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    exporter.widget_renderer_url = ""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    page, _ = exporter.from_notebook_node(notebook)
    return page
