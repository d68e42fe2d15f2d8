"""What things cost on this machine: steps, evaluations, instruments, data, and notebooks by part, as tables to paste.

`python -m mmlib bench` measures a network at a time, all functions of a table in turn, so that a busy machine affects
all alike: read the ratios. `--notebooks` runs the suite `quick` as well, with a cache of its own that starts empty. On
a GPU, the tables of `bench_gpu` come first.
"""

import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from mmlib import methods
from mmlib.batch import bench_gpu, run, suites
from mmlib.batch.backend import Backend
from mmlib.batch.execution import FINISHED, Limits, Result
from mmlib.batch.runner import NOTEBOOK
from mmlib.data import load
from mmlib.data.cache import atomic_path
from mmlib.data.dataset import Batch, MultimodalDataset
from mmlib.instruments import flatness, gradient_cosines, hessian, modality_contributions, probe_accuracy
from mmlib.models import build_classifier, evaluate, sample_scores
from mmlib.training import TrainingConfig
from mmlib.training.timing import shortest_seconds, training_step


def report(device: str, notebooks: bool, out: Path | None = None) -> Iterator[str]:
    """Every table as Markdown, as soon as it is measured; all so far as JSON in `out`, title → row → column → value."""
    where = TrainingConfig(device=device).torch_device
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    machine = f"{platform.platform()}, torch {torch.__version__}, on {name}"
    yield machine
    found: dict[str, object] = {"machine": machine}
    for title, frame in tables(where, notebooks):
        if out is not None:
            found[title] = json.loads(frame.to_json(orient="index"))
            with atomic_path(out) as temporary:
                temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        yield _markdown(title, frame)


def tables(where: torch.device, notebooks: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables."""
    started = time.perf_counter()
    splits = load("spoken_digits")
    loaded = time.perf_counter()
    splits = splits.preprocessed()
    read = {"load spoken_digits": loaded - started, "its network inputs": time.perf_counter() - loaded}
    train = splits.leave_out("contour").train
    if where.type == "cuda":
        yield from bench_gpu.tables(splits, where)
    yield "data", _table(read, 1, "s")
    batch = next(train.batches(64))
    steps = {name: _step(name, train, batch, where) for name in bench_gpu.METHODS}
    yield "a step at batch 64", _table(shortest_seconds(steps), 1000, "ms", "erm")
    used = _instruments(train.to(where), splits.test.to(where))
    yield "one network", _table(shortest_seconds(used, repeats=3), 1000, "ms", "evaluate 1000 samples")
    if notebooks:
        yield "seconds", _of_notebooks()


def _step(name: str, train: MultimodalDataset, batch: Batch, where: torch.device) -> Callable[[], object]:
    model = build_classifier(train.input_shapes, len(train.class_names), 0)
    return training_step(methods.build(name, model), batch, TrainingConfig(device=str(where)))


def _instruments(train: MultimodalDataset, test: MultimodalDataset) -> dict[str, Callable[[], object]]:
    model = build_classifier(train.input_shapes, len(train.class_names), 0).to(train.device).eval()
    some, few = train.thinned(1000), train.thinned(200).whole()
    first, loss = train.modalities[0], flatness.cross_entropy_on(few)
    draw = torch.Generator().manual_seed
    return {
        "evaluate 1000 samples": lambda: evaluate(model, some),
        "scores of 1000 samples": lambda: sample_scores(model, some),
        "Shapley values on 1000 samples": lambda: modality_contributions(model, some),
        "a probe, 1000 samples to learn from": lambda: probe_accuracy(model, first, some, test),
        "gradient cosines on 200 samples": lambda: gradient_cosines(model, few),
        "6 directions, 4 radii, 200 samples": lambda: flatness.loss_increase(model, loss, [1, 2, 3, 4], draw(0), 6),
        "Hessian trace, 6 vectors, 200 samples": lambda: hessian.trace(model, loss, draw(0), 6),
    }


def _table(seconds: dict[str, float], scale: float, unit: str, floor: str = "") -> pd.DataFrame:
    frame = pd.DataFrame({unit: {name: scale * value for name, value in seconds.items()}})
    if floor:
        frame[f"÷ {floor}"] = frame[unit] / frame.loc[floor, unit]
    return frame.round(2)


def _markdown(title: str, frame: pd.DataFrame) -> str:
    frame = frame.astype(object).where(frame.notna(), "")
    rows = [[title, *frame.columns], ["---"] + ["---:"] * frame.shape[1], *frame.reset_index().to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _of_notebooks() -> pd.DataFrame:
    """Seconds of every notebook by part, and of the whole suite. Raises a RuntimeError where one did not finish."""
    suite = suites.read("quick")
    jobs = suite.jobs([], {})
    backend = Backend(workers=run.side_by_side(jobs))
    with _empty_cache(), tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        results, _ = run.run(suite, jobs, Path(out), Limits(), backend)
        whole = time.perf_counter() - started
        if failed := [result.name for result in results if result.status != FINISHED]:
            raise RuntimeError(f"{', '.join(failed)} did not finish: see `python -m mmlib run`.")
        parts = pd.DataFrame({result.name: parts_of(result, Path(out)) for result in results}).T
    parts.loc["all, one after another"] = parts.sum()
    parts.loc[f"all, {backend.workers} at a time", "together"] = whole
    return parts.round(1)


def parts_of(result: Result, out: Path) -> dict[str, float]:
    """Seconds of a finished run: of its set-up, of cells that train, of all others, and around the cells (processes
    that start, pages that are written)."""
    cells = json.loads((out / result.name / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    parts = {"set-up": 0.0, "training": 0.0, "instruments and figures": 0.0}
    for number, cell in enumerate(code):
        source = "".join(cell["source"])
        trains = re.search(r"(?<!def )\b(train|train_runs|train_arms|tune)\(", source)
        part = "training" if trains else "set-up" if number < 3 else "instruments and figures"
        parts[part] += cell["metadata"]["papermill"]["duration"] or 0.0
    return parts | {"around": result.seconds - sum(parts.values()), "together": result.seconds}


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get("MMLIB_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMLIB_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("MMLIB_CACHE")
            if before is not None:
                os.environ["MMLIB_CACHE"] = before
