"""Run a suite and leave it alone: check everything first, continue past failures, run nothing twice, end with a page.

A folder belongs to one batch at a time. A batch that was killed leaves complete runs or none; the next one takes
the folder over, ends what is left of the first, and runs what is missing.
"""

import contextlib
import json
import shutil
import signal
import statistics
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from mmlib import methods
from mmlib.batch import suites
from mmlib.batch.backend import Backend, Lost
from mmlib.batch.execution import (
    FINISHED,
    OWNER,
    RESULT,
    Limits,
    Result,
    gpus,
    nothing_kept,
    owner_of,
    owns,
    read_result,
    run_one,
)
from mmlib.batch.page import in_words, write_page
from mmlib.batch.processes import kill_marked
from mmlib.batch.runner import kernel_problem
from mmlib.batch.suites import Job, Suite
from mmlib.data.cache import atomic_path, owner_in_words, this_process
from mmlib.models.architecture import published_files
from mmlib.notebook.parameters import BadParameter
from mmlib.training.loop import resolve_device

DONE = "done"


class FolderInUse(RuntimeError):
    """Another batch is writing to this folder."""


def side_by_side(jobs: Sequence[Job]) -> int:
    """How many of these runs go side by side on this machine where nobody says: one per core that this process may
    use, at most four, and where they use GPUs, one per GPU.

    A run is not busy all the time with training, which many cores do faster: its kernel starts, probes and plots on
    one. Two runs with a core each are faster than one after another with both.
    """
    devices = gpus() if any(job.effective.get("device", "cpu") != "cpu" for job in jobs) else []
    return min(4, joblib.cpu_count(), len(devices) or 4)


def check(job: Job) -> tuple[str, str, str]:
    """The job's name, its identity, and what prevents it from running ("" for nothing): its kernel, its device, its
    methods, its weights, its data. To be called where the job will run."""
    identity, problems = "", [problem] if (problem := kernel_problem()) else []
    try:
        resolve_device(job.effective.get("device", "auto"))
    except (ValueError, RuntimeError) as problem:
        problems.append(str(problem))
    try:
        for method in job.methods:
            methods.registered(method)
    except ValueError as problem:
        return job.name, "", " ".join([*problems, str(problem)])
    try:
        if job.effective.get("weights"):
            folder = job.notebook.parent / job.effective["weights"]
            published_files(str(folder), job.effective["modalities"].split("+"))
    except OSError as problem:
        problems.append(str(problem))
    try:
        identity = job.identity()
    except (OSError, ValueError) as problem:
        problems.append(str(problem))
    return job.name, identity, " ".join(problems)


def _checked(parallel: Callable[[Iterable[Any]], Iterable[Any]], jobs: Sequence[Job]) -> list[tuple[str, str, str]]:
    found = parallel(joblib.delayed(check)(job) for job in jobs)
    return [(one.job.name, "", one.why) if isinstance(one, Lost) else one for one in found]


def state(job: Job, identity: str, out: Path) -> str:
    """DONE where a finished run of this identity is there and complete; otherwise why the job has to run."""
    result = read_result(out / job.name)
    if result is None:
        return "damaged" if (out / job.name).exists() else "new"
    if result.status != FINISHED:
        return f"failed before ({result.status})"
    return DONE if result.identity == identity else "changed since"


def run(suite: Suite, jobs: Sequence[Job], out: Path, limits: Limits, backend: Backend) -> tuple[list[Result], Path]:
    """Run the jobs into `out`, except those that are done. Returns their results, and the path of the page of all that
    the folder holds. Raises BadParameter and FolderInUse before anything has run, KeyboardInterrupt and ClusterLost
    after the page was written."""
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise BadParameter(f"{out} is not a folder; name another one with --out.")
    with backend.parallel() as parallel:
        checked = _checked(parallel, jobs)
        problems: dict[str, list[str]] = {}
        for name, _, problem in checked:
            problems.setdefault(problem, []).append(name)
        if problems.keys() - {""}:
            raise BadParameter(
                "\n".join(f"{', '.join(sorted(where))}: {what}" for what, where in problems.items() if what)
            )
        identities = {name: identity for name, identity, _ in checked}
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadParameter(f"{out} cannot be made ({error.strerror}); name another folder with --out.") from None
        with _owned(out) as token:
            if backend.kind != "local" and not all(parallel(joblib.delayed(owns)(out, token) for _ in range(8))):
                raise BadParameter(f"The cluster's machines do not see {out}: --out must be on a disk they share.")
            to_run = [job for job in jobs if state(job, identities[job.name], out) != DONE]
            if len(to_run) < len(jobs):
                print(f"{len(jobs) - len(to_run)} of {len(jobs)} runs are already finished and are kept.")
            together = min(backend.workers, len(to_run))
            if together > 1:
                limits = replace(limits, cores=max(1, joblib.cpu_count() // together))
            page, returned = _Page(suite, identities, out), {}
            if to_run:
                page.read()
                page.write([job.name for job in to_run])
                print(f"The page, written anew after every run: {page.path}")
            running = parallel(joblib.delayed(run_one)(job, out, token, limits) for job in to_run)
            try:
                for result in tqdm(running, total=len(to_run), desc="runs", unit="run", disable=not to_run):
                    if isinstance(result, Lost):
                        result = nothing_kept(result.job, "worker died", result.why)
                    returned[result.name] = result
                    tqdm.write(f"{result.name}: {result.status} in {result.seconds:.0f} s")
                    page.add(result)
                    if left := [job.name for job in to_run if job.name not in returned]:
                        page.write(left)
            finally:
                page.read()  # and check that all is as it was written
                page.write([])
        return [returned.get(job.name) or read_result(out / job.name) for job in jobs], page.path


def results_in(out: Path) -> list[Result]:
    """The complete results in a batch's folder, by name. A run that is still in progress has none."""
    read = (read_result(path.parent) for path in sorted(out.glob(f"[!.]*/{RESULT}")))
    return [result for result in read if result is not None]


class _Page:
    """The page of all complete results in the folder, of which those in `identities` belong to this batch. Those made
    with other code, data or versions are marked as outdated.

    It is written after every run. What costs time is therefore done once: checking every file of the results that were
    there before, and finding out whether they are outdated.
    """

    def __init__(self, suite: Suite, identities: Mapping[str, str], out: Path) -> None:
        self.path = out / "index.html"
        self._suite, self._identities, self._out = suite, dict(identities), out
        self._results: dict[str, Result] = {}
        self._current, self._read = self._identities, {}

    def read(self) -> None:
        """What the folder holds now."""
        self._results = {result.name: result for result in results_in(self._out)}
        self._current = {
            name: _identity(result, self._suite) for name, result in self._results.items()
        } | self._identities

    def add(self, result: Result) -> None:
        """A run has ended. One of which nothing was kept has no files."""
        if result.files:
            self._results[result.name] = result

    def write(self, to_come: Sequence[str]) -> None:
        """Write it; `to_come` are the runs that this batch is still working on, or will be."""
        results = [result for _, result in sorted(self._results.items())]
        outdated = {result.name for result in results if result.identity != self._current[result.name]}
        missing = sorted(self._identities.keys() - self._results.keys() - set(to_come))
        try:
            write_page(self._suite.name, self._suite.about, results, outdated, missing, self._out, to_come, self._read)
        except OSError as error:  # results are worth more than their page: the next run writes it
            tqdm.write(f"The page was not written: {error}")


def _identity(result: Result, suite: Suite) -> str:
    """The identity that this result's run would have now; "" where it can no longer be run."""
    try:
        return Job(suite.folder / result.notebook, result.parameters).identity()
    except (OSError, ValueError):
        return ""


def forecast(jobs: Sequence[Job], out: Path, backend: Backend) -> str:
    """What would run, with which parameters, what is already done, and how long it may take, as text."""
    lines, total, to_do, unknown, earlier = [], 0.0, 0, 0, results_in(out)
    with backend.parallel() as parallel:
        checked = {name: (identity, problem) for name, identity, problem in _checked(parallel, jobs)}
    for job in jobs:
        identity, problem = checked[job.name]
        what = "cannot run" if problem else state(job, identity, out)
        seconds, exact = expected_seconds(job, earlier)
        duration = ""
        if what not in (DONE, "cannot run"):
            to_do += 1
            unknown += seconds is None
            total += seconds or 0.0
            duration = "  time unknown" if seconds is None else f"  {'' if exact else 'about '}{seconds:.0f} s"
        lines += [
            f"{job.name}  {what}{duration}",
            f"    {in_words(job.parameters)}",
            *([f"    {problem}"] if problem else []),
        ]
    lines.append(f"{to_do} of {len(jobs)} runs to do.")
    if total:
        together = min(backend.workers, to_do)
        lines.append(f"Earlier runs here suggest {total / 60 / together:.0f} min with {together} at a time.")
    if unknown:
        lines.append(f"Without an earlier run to go by: {unknown}.")
    return "\n".join(lines)


def expected_seconds(job: Job, earlier: Sequence[Result]) -> tuple[float | None, bool]:
    """Seconds that a job may take, and whether this very run took them before. Where it has not finished before, the
    median of its notebook's finished runs with other parameters stands in; None where there are none."""
    same_notebook = [result for result in earlier if result.notebook == job.notebook.name and result.status == FINISHED]
    own = next((result.seconds for result in same_notebook if result.name == job.name), None)
    if own is not None:
        return own, True
    return (statistics.median(result.seconds for result in same_notebook) if same_notebook else None), False


def overview(folder: Path) -> str:
    """The available suites, one line each."""
    found = [suites.read(name, folder) for name in suites.names(folder)]
    width = max((len(suite.name) for suite in found), default=0)
    return "\n".join(f"{suite.name:{width}}  {suite.about}" for suite in found)


@contextlib.contextmanager
def _owned(out: Path) -> Iterator[str]:
    """The folder is reserved for this batch until the block ends, Ctrl-C and SIGTERM included; its token. What a killed
    batch left running here is ended, and what it left half done is removed."""
    lock, owner = FileLock(out / ".lock"), out / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUse(
            f"Another batch is writing to {out}: {owner_in_words(owner_of(out))}. Wait for it, stop it, or name "
            "another folder with --out."
        ) from None

    def leave() -> None:
        token = owner_of(out).get("token")
        owner.unlink(missing_ok=True)
        if token:
            kill_marked(token)
        for leftover in (*out.glob(".*.part"), *out.glob(".*.old")):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)  # the thread that watches a run removes its folder, too
            else:
                leftover.unlink(missing_ok=True)

    def stop(*_: object) -> None:
        leave()  # first: the threads that watch runs wait for this
        raise KeyboardInterrupt

    before = {}
    try:
        leave()
        token = uuid.uuid4().hex
        with atomic_path(owner) as temporary:
            temporary.write_text(json.dumps({"token": token} | this_process()))
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        yield token
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        leave()
        lock.release()
