"""A suite within a budget of minutes: this machine is calibrated, and seeds and epochs are chosen for it.

budget:
  minutes: 20
  unit: {alone: 0.5, together: 0.3}     what `calibrate` returned where the costs below were measured
  costs: {"00": [12, 1.1]}              seconds there: a fixed part, and a part per seed and epoch
"""

import contextlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import joblib
import torch

from mmlib.batch.given import declared_in
from mmlib.batch.suites import Job, make_job
from mmlib.data import Splits, cache_directory, load
from mmlib.data.cache import atomic_path
from mmlib.notebook.parameters import BadParameter
from mmlib.seeding import one_thread
from mmlib.training import Run, TrainingConfig, train_run

# From the least to the most that is worthwhile: seeds, and the share of a notebook's own epochs. Half the epochs with
# two seeds shows how things work; only full training with several seeds shows what they are worth.
PLANS = [(2, 0.5), (3, 0.5), (3, 0.75), *((seeds, 1.0) for seeds in range(3, 11))]
_RESERVE = 0.9  # the share of the budget that is planned for


@dataclass(frozen=True)
class Speed:
    """Seconds for one small training run: `alone` on one core, and per run while all cores train `together`."""

    alone: float
    together: float


def calibrate() -> Speed:
    """This machine's speed: measured in some twenty seconds, and kept with its trained runs."""
    path = cache_directory() / f"speed-{platform.node()}-{joblib.cpu_count()}-{torch.__version__}.json"
    try:
        return Speed(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        speed = _measure()
        with contextlib.suppress(OSError), atomic_path(path) as temporary:  # else the next time measures again
            temporary.write_text(json.dumps(asdict(speed)), encoding="utf-8")
        return speed


def _measure() -> Speed:
    splits = load("spoken_digits")
    parts = {name: getattr(splits, name).thinned(400) for name in ("train", "validation", "test")}
    splits = replace(splits, **parts).preprocessed()
    alone = min(_train(splits) for _ in range(3))
    workers = joblib.cpu_count()
    with joblib.Parallel(workers) as parallel:
        for _ in range(2):  # the first time starts the workers
            times = parallel(joblib.delayed(_train)(splits) for _ in range(3 * workers))
    return Speed(alone, sum(times) / len(times) / workers)


def _train(splits: Splits) -> float:
    """Seconds of two epochs with one thread."""
    with one_thread():
        started = time.perf_counter()
        train_run(Run("multi-loss", "", 0, splits.train.modalities), splits, TrainingConfig(2, device="cpu"))
        return time.perf_counter() - started


def within(jobs: Sequence[Job], budget: Mapping[str, Any], speed: Speed, minutes: float) -> tuple[list[Job], str]:
    """The same runs with as many seeds and epochs as fit into the minutes, and a sentence that says which. Parameters
    that a job has already stay as they are. Raises BadParameter where not even the least fits, and how long that takes.
    """
    fixed_scale = speed.alone / budget["unit"]["alone"]
    scale = speed.together / budget["unit"]["together"]
    fitting = least = None
    for seeds, share in PLANS:
        planned = [_scaled(job, seeds, share) for job in jobs]
        seconds = 0.0
        for job in planned:
            fixed, each = _cost(job, budget)
            seconds += fixed * fixed_scale + each * scale * job.effective["seeds"] * job.effective["epochs"]
        least = seconds if least is None else least
        if seconds <= 60 * minutes * _RESERVE:
            fitting = (
                planned,
                f"{seeds} seeds, {share:.0%} of the epochs: some {seconds / 60:.0f} of {minutes:g} minutes.",
            )
    if fitting is None:
        needed = math.ceil(least / 60 / _RESERVE)
        raise BadParameter(
            f"In {minutes:g} minutes this machine does not get through: the least takes {needed}. Give it --minutes "
            f"{needed}, or choose fewer notebooks with --only."
        )
    return fitting


def _cost(job: Job, budget: Mapping[str, Any]) -> tuple[float, float]:
    try:
        fixed, each = budget["costs"][job.notebook.name[:2]]
    except KeyError as error:
        raise BadParameter(f"The suite's budget has no costs for {job.notebook.name}.") from error
    return fixed, each


def _scaled(job: Job, seeds: int, share: float) -> Job:
    """The job with this many seeds and this share of its notebook's own epochs, warm-up included."""
    defaults = {name: default for name, (_, default) in declared_in(job.notebook).items()}
    chosen = {"seeds": seeds, "epochs": max(min(4, defaults["epochs"]), round(share * defaults["epochs"]))}
    if "warm_up" in defaults:
        chosen["warm_up"] = max(1, round(share * defaults["warm_up"]))
    return make_job(job.notebook, chosen | job.parameters)
