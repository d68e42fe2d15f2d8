"""How long runs took on this machine, remembered for the next dry run. One JSON line per finished run."""

import json
import statistics
from pathlib import Path

from mmlib.batch.execution import Result
from mmlib.batch.suites import Job
from mmlib.data import cache_directory


def _file() -> Path:
    return cache_directory() / "run_times.jsonl"


def remember(result: Result) -> None:
    """Note the run's time. Where it cannot be noted, nothing is lost but an estimate."""
    line = {"notebook": result.notebook, "parameters": result.parameters, "seconds": round(result.seconds, 1)}
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
    except OSError:
        return


def expected(job: Job) -> tuple[float | None, bool]:
    """Seconds that a job may take, and whether runs with just these parameters say so. Without any, those of its
    notebook with other parameters do; None where it has never run here."""
    try:
        lines = [json.loads(line) for line in _file().read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None, False
    of_notebook = [line for line in lines if line["notebook"] == job.notebook.name]
    same = [line["seconds"] for line in of_notebook if line["parameters"] == job.parameters]
    times = same or [line["seconds"] for line in of_notebook]
    return (statistics.median(times[-5:]), bool(same)) if times else (None, False)
