"""Shared fixtures: a cache of the tests' own, small data, and the real sources where they are."""

import contextlib
import json
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from started import Started

from mmlib.batch import execution, suites
from mmlib.data import MultimodalDataset, Splits
from mmlib.training import Run, Trained, TrainingConfig, train_runs
from mmlib.training.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parent.parent
multiprocessing.forkserver.ensure_running()  # what `Started` forks gets ready while pytest collects the tests
WITHOUT_JUPYTER = (sys.executable, str(ROOT / "tests" / "without_jupyter.py"))  # in place of `execution.RUNNER`


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """What `parametrize` gives this test."""
    return item.callspec.params if hasattr(item, "callspec") else {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks run beside all other tests (`notebooks`): those that wait for their results come after these, and what
    is timed comes last, alone."""

    def place(item: pytest.Item) -> int:
        waits = "job" in parameters_of(item) or "all_at_defaults" in item.fixturenames
        return 2 if item.get_closest_marker("alone") else int(waits)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def cache(request: pytest.FixtureRequest) -> Path:
    """All tests, and the kernels they start, keep data in pytest's cache folder and not in the user's."""
    folder = request.config.cache.mkdir("mmlib")
    os.environ["MMLIB_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests train toys: threads bring nothing there, and on a busy machine they mostly wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sources() -> Path:
    """The folder of real source files, named by MMLIB_SOURCES."""
    named = os.environ.get("MMLIB_SOURCES")
    if not named or not Path(named).is_dir():
        pytest.skip("MMLIB_SOURCES does not name a folder of real data")
    return Path(named).resolve()


@pytest.fixture(scope="session")
def av_digits_prepared(cache: Path, sources: Path) -> Path:
    """The cache with AV-Digits prepared from the real sources by the real command."""
    from mmlib.__main__ import main

    assert main(["data", "av_digits", "--source", str(sources)]) == 0
    return cache


class Notebooks:
    """Runs of the kit's notebooks as one batch of the real command, side by side, from now on in the background."""

    def __init__(self, jobs: Sequence[suites.Job], folder: Path) -> None:
        self.out = folder / "out"
        (folder / "notebooks" / "suites").mkdir(parents=True)
        for job in jobs:
            if not (here := folder / "notebooks" / job.notebook.name).exists():
                here.symlink_to(job.notebook)
        suite = {"notebooks": [{job.notebook.stem[:2]: job.parameters} for job in jobs]}
        (folder / "notebooks" / "suites" / "tests.yaml").write_text(yaml.safe_dump(suite))
        arguments = ["run", "tests", "--notebooks", str(folder / "notebooks"), "--out", str(self.out)]
        self.process = Started(arguments, execution.RUNNER, folder / "said")

    def result(self, job: suites.Job) -> execution.Result:
        """Of one of the runs, once all of them have ended."""
        said = self.process.communicate()
        result = execution.read_result(self.out / job.name)
        assert result is not None, said
        return result


@contextlib.contextmanager
def before_other_sessions() -> Iterator[None]:
    """The tests, one after another, go before the notebooks, which have sessions of their own: these run two at a time
    and so fill both cores to the end. Where that is not ours to say, all take turns."""
    priority = Path("/proc/self/autogroup")
    try:
        *_, before = priority.read_text().split()
        priority.write_text("-5")
    except (OSError, ValueError):
        yield
        return
    yield
    priority.write_text(before)  # or the shell would keep it


@pytest.fixture(scope="session", autouse=True)
def notebooks(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """All runs that the chosen tests ask for by their parameter `job`. They take longer than all other tests, of which
    most wait or use one core: together they end sooner."""
    chosen = [parameters_of(item) for item in request.session.items]
    jobs = {parameters["job"].name: parameters["job"] for parameters in chosen if "job" in parameters}
    if not jobs:
        yield None
        return
    batch = Notebooks(list(jobs.values()), tmp_path_factory.mktemp("executed"))
    with before_other_sessions():
        yield batch
    batch.process.send_signal(signal.SIGTERM)  # where the tests were stopped before it ended
    batch.process.communicate()


def toy_dataset(count: int = 240, classes: int = 3, seed: int = 0, size: int = 8) -> MultimodalDataset:
    """Two modalities of noisy class templates, two domains: learnable within an epoch or two."""
    generator = torch.Generator().manual_seed(seed)
    templates = torch.randn(2, classes, 1, size, size, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    domains = torch.arange(count) // classes % 2
    noise = torch.randn(2, count, 1, size, size, generator=generator)
    left, right = templates[:, labels] + 1.5 * noise
    return MultimodalDataset.from_arrays(
        {"left": left, "right": right}, labels, domains, [f"class {i}" for i in range(classes)], ["here", "there"]
    )


def write_own_folder(folder: Path, per_class: int = 8) -> None:
    """A user's data: sound and pictures of two classes that both tell apart, and `domains.csv`, "day" and "night"."""
    from mmlib.data.clips.media import picture_bytes, write_sound

    rows = ["stem,domain"]
    for label, name in enumerate(("cat", "dog")):
        for number in range(per_class):
            draw = np.random.default_rng([label, number])
            time = np.arange(4000) / 8000
            tone = 6000 * np.sin(2 * np.pi * (400 + 600 * label) * time) + draw.normal(0, 500, len(time))
            write_sound(folder / name / f"{number:03}.wav", tone.astype(np.int16), 8000)
            picture = draw.integers(0, 60, (20, 30, 3), np.uint8)
            picture[..., 2 * label] += 180  # red or blue
            (folder / name / f"{number:03}.jpg").write_bytes(picture_bytes(picture))
            rows.append(f"{name}/{number:03},{('day', 'night')[number % 2]}")
    (folder / "domains.csv").write_text("\n".join(rows))


def write_notebook(path: Path, parameters: str, code: str) -> Path:
    """A small notebook: a title, a parameters cell, a cell of code."""
    import nbformat  # after mmlib.batch, which spares us a second of its time

    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# t"), first, nbformat.v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


class Kit:
    """A folder of small notebooks and suites, and the run command on it."""

    def __init__(self, folder: Path) -> None:
        self.notebooks, self.out = folder / "notebooks", folder / "out"
        (self.notebooks / "suites").mkdir(parents=True)
        self.suite("quick", "about: all of them\n")

    def suite(self, name: str, content: str) -> None:
        (self.notebooks / "suites" / f"{name}.yaml").write_text(content)

    def notebook(
        self, name: str, code: str, parameters: str = 'name: str = "x"  # a name\nrate: float = 1.0  # a rate'
    ):
        return write_notebook(self.notebooks / f"{name}.ipynb", parameters, code)

    def arguments(self, *arguments: str) -> list[str]:
        return ["run", *arguments, "--notebooks", str(self.notebooks), "--out", str(self.out)]

    def run(self, *arguments: str) -> int:
        from mmlib.__main__ import main

        return main(self.arguments(*arguments))

    def start(self, *arguments: str) -> Started:
        """The command as a process of its own, with the runner that this process would use."""
        return Started(self.arguments(*arguments), execution.RUNNER, self.out.with_name("said"))

    def start_afresh(self, *arguments: str) -> subprocess.Popen:
        """The command as a user starts it."""
        command = [sys.executable, "-m", "mmlib", *self.arguments(*arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def results(self) -> dict[str, dict]:
        """What is on disk, by run."""
        return {path.parent.name: json.loads(path.read_text()) for path in sorted(self.out.glob("*/result.json"))}

    def leftovers(self) -> list[str]:
        """Whatever a run has left beside whole results."""
        return [path.name for path in self.out.glob(".*") if path.name != ".lock"]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def without_jupyter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a batch are executed by the kit's runner, but take no kernel, no papermill and no nbconvert."""
    monkeypatch.setattr(execution, "RUNNER", WITHOUT_JUPYTER)


@pytest.fixture(scope="class")
def cluster() -> Iterator[Any]:
    """A Dask cluster of two worker processes. Dask sets variables for its workers in *this* process, and they would
    slow down every later test that trains."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    before = dict(os.environ)
    try:
        with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def chromium() -> Callable[..., str]:
    """The document that a page has become in a browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium here (Debian's package is called chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

    def dump(path: Path, profile: Path, width: int = 1280, height: int = 900) -> str:
        options = [
            *flags,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "--virtual-time-budget=3000",
        ]
        command = [program, *options, "--dump-dom", path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return dump


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 700 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def stopped_while_saving(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """`torch.save` is interrupted when it has written for the `number`th time, before the file has its name; every
    epoch has a checkpoint."""
    monkeypatch.setattr("mmlib.training.runs.Checkpoint", partial(Checkpoint, seconds=0))
    saved, writes = torch.save, []

    def killed(state: Any, path: Any) -> None:
        saved(state, path)
        writes.append(path)
        if len(writes) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)


@pytest.fixture
def toy() -> MultimodalDataset:
    return toy_dataset()


@pytest.fixture(scope="session")
def trained(toy_splits: Splits) -> list[Trained]:
    """Four seeds of multi-loss on the toy data."""
    runs = [Run("multi-loss", "there", seed, ("left", "right")) for seed in range(4)]
    return train_runs(runs, toy_splits, TrainingConfig(epochs=3, device="cpu"), by_epoch=True)


@pytest.fixture(scope="session")
def toy_splits() -> Splits:
    return Splits(toy_dataset(360, seed=1), toy_dataset(120, seed=2), toy_dataset(240, seed=3), {}, {}, {})
