"""One watched run of one notebook: its own process, time limits, its own GPU, and results complete or absent.

    <out>/<run>/result.json                        what happened, and the checksums of everything else
    <out>/<run>/notebook.ipynb                     the executed notebook, as far as it got
    <out>/<run>/with_code.html, without_code.html  the same as pages
    <out>/<run>/log.txt                            the other output of the processes

A run continues only while the folder belongs to its batch (`owner.json`). That one rule ends it after Ctrl-C, and when
another batch has taken the folder over after the first was killed, even where the run is on another machine.
"""

import getpass
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import torch
from filelock import FileLock, Timeout

from mmlib.batch.processes import MARK, kill_marked
from mmlib.batch.runner import NOTEBOOK, OUTCOME, REQUEST, WITHOUT_CODE, described, kind_of
from mmlib.batch.suites import Job
from mmlib.data.cache import source_hash
from mmlib.notebook.claims import environment, records_in

OWNER, RESULT, LOG = "owner.json", "result.json", "log.txt"
FINISHED, INTERRUPTED = "finished", "interrupted"
RUNNER = (sys.executable, "-m", "mmlib.batch.runner")  # the command that executes the notebook of a folder
_LOOK = 0.2  # seconds between two checks on a run
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Limits:
    """How long one cell, one whole run and the start of its kernel may take, in seconds, and how many cores it may use
    (0: all): parallel runs that each use all cores are slower than runs one after another."""

    cell: int = 1800
    run: int = 7200
    start: int = 300
    cores: int = 0


@dataclass(frozen=True)
class Result:
    """How a run ended. `status` is "finished" or the kind of failure, `error` says what happened; `cell` is the failing
    cell's code and `stderr` its error output. `identity` is `Job.identity` at the start of the run, `files` holds
    the SHA-256 of every file beside this one."""

    name: str
    notebook: str
    parameters: dict[str, Any]
    identity: str
    status: str
    error: str
    cell: str
    stderr: str
    started: str  # UTC, ISO 8601
    seconds: float
    environment: dict[str, str]
    records: list[dict[str, Any]]
    files: dict[str, str]


def run_one(job: Job, out: Path, token: str, limits: Limits) -> Result:
    """Execute one job for the batch that owns `out` under this token. Whatever goes wrong is reported, never raised."""
    started, clock, identity = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter(), ""

    def ended(status: str, error: str, **found: Any) -> Result:
        found = {"cell": "", "stderr": "", "environment": {}, "records": [], "files": {}} | found
        found |= {"started": started, "seconds": time.perf_counter() - clock}
        return Result(job.name, job.notebook.name, job.parameters, identity, status, error, **found)

    try:
        with _gpu(job, out, token) as gpu, _temporary_folder(out, job.name) as folder:
            clock, identity = time.perf_counter(), job.identity()  # waiting for a GPU does not count as running time
            status, error = _watch(job, folder, out, token, limits, gpu)
            if status == INTERRUPTED:
                return ended(status, error)
            found = _evidence(folder, failed=status != FINISHED)
            for name in (REQUEST, OUTCOME):
                (folder / name).unlink(missing_ok=True)
            found["files"] = {path.name: source_hash(path) for path in sorted(folder.iterdir())}
            result = ended(status, error, **found)
            (folder / RESULT).write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
            if not owns(out, token):
                return ended(INTERRUPTED, "The batch was stopped.")
            _publish(folder, out / job.name)
            return result
    except Exception as failure:
        return ended(kind_of(failure), f"Nothing was kept of this run. {described(failure)}")


def nothing_kept(job: Job, status: str, error: str) -> Result:
    """The result of a run of which nothing else is known."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(job.name, job.notebook.name, job.parameters, "", status, error, "", "", now, 0.0, {}, [], {})


def owner_of(out: Path) -> dict[str, Any]:
    """The batch that owns the folder: "token", "process", "host", "since"; empty where none does."""
    try:
        return json.loads((out / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def owns(out: Path, token: str) -> bool:
    """Whether the batch of this token still owns the folder."""
    return owner_of(out).get("token") == token


def read_result(folder: Path) -> Result | None:
    """The result in a run's folder if it is complete (readable, every file beside it as it was written), else None."""
    try:
        result = Result(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
        whole = all(source_hash(folder / name) == digest for name, digest in result.files.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return result if whole else None


def _watch(job: Job, folder: Path, out: Path, token: str, limits: Limits, gpu: str | None) -> tuple[str, str]:
    """Run the job's process to its end or to a limit, and leave no process behind. Status and error."""
    deaths = _out_of_memory_kills()
    late = f"The run took longer than {limits.run} s. Its processes were killed."
    status, error = _process(job, folder, out, token, limits, gpu, execute=True)
    outcome = {"status": status, "error": error or late}
    if not status:
        try:
            outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            outcome = {"status": "process died", "error": f"The process that ran the notebook died ({error})."}
            if "[Errno 28]" in _log(folder):  # its own message did not fit either
                outcome = {"status": "disk full", "error": "No space left on device."}
    if outcome["status"] in ("kernel died", "process died") and _out_of_memory_kills() > deaths:
        outcome = {"status": "memory", "error": f"{outcome['error']} The system had run out of memory."}
    if outcome["status"] not in (FINISHED, INTERRUPTED) and not (folder / WITHOUT_CODE).exists():
        if not _readable(folder / NOTEBOOK):
            shutil.copyfile(job.notebook, folder / NOTEBOOK)
        _process(job, folder, out, token, limits, gpu, execute=False)  # the pages of what it got done
    return outcome["status"], outcome["error"]


def _readable(path: Path) -> bool:
    """Whether it is there and was written completely."""
    try:
        return bool(nbformat.read(path, as_version=4).cells)
    except Exception:
        return False


def _process(
    job: Job, folder: Path, out: Path, token: str, limits: Limits, gpu: str | None, execute: bool
) -> tuple[str, str]:
    """One runner process. Status: "timeout", "interrupted", or empty where it ended by itself, with its exit code."""
    request = {"notebook": str(job.notebook), "parameters": job.parameters, "execute": execute}
    (folder / REQUEST).write_text(
        json.dumps(request | {"cell_timeout": limits.cell, "start_timeout": limits.start}), encoding="utf-8"
    )
    mark = f"{token}/{uuid.uuid4().hex}"
    settings = os.environ | {MARK: mark} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    # Dask sets this to 64 KiB for its workers. Then each step's buffers go back to the system, and most of the
    # training time is spent on allocating them again.
    settings.pop("MALLOC_TRIM_THRESHOLD_", None)
    if limits.cores:
        settings |= dict.fromkeys(("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), str(limits.cores))
    end = time.monotonic() + limits.run
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [*RUNNER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=settings,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,  # Ctrl-C is the batch's to handle
        )
    try:
        while True:
            try:
                code = process.wait(_LOOK)
                return "", f"exit code {code}" if code >= 0 else f"signal {-code}"
            except subprocess.TimeoutExpired:
                if not owns(out, token):
                    return INTERRUPTED, "The batch was stopped."
                if time.monotonic() > end:
                    return "timeout", ""
    finally:
        kill_marked(mark)
        process.stdin.close()
        process.wait()


def _evidence(folder: Path, failed: bool) -> dict[str, Any]:
    """Fields of a Result from what a run left: the failing cell's code, its standard error, the notebook's records,
    and the environment it ran in."""
    notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
    records = records_in(notebook)
    stated = (record["environment"] for record in records if isinstance(record, dict) and "environment" in record)
    made_with = {**next((one for one in stated if isinstance(one, dict)), environment()), "host": platform.node()}
    found = {"records": records, "environment": made_with}
    if not failed:
        return found
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said, at = "", next((cell for cell in cells if _failed(cell)), None)
    if at is None:  # the kernel died: the last cell that was started
        begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
        at = begun[-1] if begun else None
    if at is not None:
        found["cell"] = at.source
        said = "".join(output.text for output in at.outputs if output.get("name") == "stderr")
        said += "".join("\n".join(output.traceback) for output in at.outputs if output.output_type == "error")
    lines = _ANSI.sub("", said or _log(folder)).strip().splitlines()
    return found | {"stderr": "\n".join(lines[-60:])}


def _failed(cell: nbformat.NotebookNode) -> bool:
    state = cell.metadata.get("papermill", {}).get("status")
    return state in ("failed", "running") or any(output.output_type == "error" for output in cell.outputs)


def _log(folder: Path) -> str:
    return (folder / LOG).read_text(encoding="utf-8", errors="replace")


def _publish(folder: Path, place: Path) -> None:
    """Move the folder into place in one step; one that was there is removed, or stays where that fails."""
    old = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.old")
    while folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            os.rename(place, old)
        try:
            os.rename(folder, place)
        except OSError:
            if not place.exists():  # otherwise another worker was faster: a machine believed lost
                if old.exists():
                    os.rename(old, place)
                raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _temporary_folder(out: Path, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=out, prefix=f".{name}.", suffix=".part"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # where it was published, nothing is there any more


def _out_of_memory_kills() -> int:
    """How many processes the kernel has killed for lack of memory since it started; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def gpus() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them: those that it already allows, or all."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name not in ("", "-1")]
    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _gpu(job: Job, out: Path, token: str) -> Iterator[str | None]:
    """The GPU for this run, reserved among all runs of this user; "" where it must see none, None where there is none
    and none is required. Waits until one is free. Raises ValueError where one is required and there is none."""
    device, there = job.effective.get("device", "cpu"), gpus()
    if device == "cpu":
        yield ""
        return
    if not there:
        if device != "auto":
            raise ValueError(f"device {device!r} was requested, but {platform.node()} has no GPU.")
        yield None
        return
    while owns(out, token):
        for name in there:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            lock = FileLock(Path(tempfile.gettempdir()) / f"mmlib-gpu-{getpass.getuser()}-{digest}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield name
            finally:
                lock.release()
            return
        time.sleep(_LOOK)
    raise RuntimeError("The batch was stopped before this run had a GPU.")
