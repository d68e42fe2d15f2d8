"""Many runs in parallel, each trained once and then cached."""

import contextlib
import copy
import functools
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from mmlib.data.cache import cache_directory, kept_at, set_aside, used
from mmlib.data.splits import Splits
from mmlib.methods import variant
from mmlib.models.architecture import Architecture, trained_state
from mmlib.seeding import one_thread
from mmlib.training.checkpoint import Checkpoint, remove, save
from mmlib.training.identity import identities, trajectory
from mmlib.training.loop import Diverged, History, TrainingConfig
from mmlib.training.run import DEFAULT, WEIGHTS, Run, Trained, may_be_kept, train_together


def train_runs(
    runs: Sequence[Run],
    splits: Splits,
    config: TrainingConfig,
    *,
    architecture: Architecture = DEFAULT,
    jobs: int | None = None,
    cached: bool = True,
    by_epoch: bool = False,
) -> list[Trained]:
    """Train many runs in `jobs` processes; default: on a CPU one per core, on a GPU one after the other. Of `jobs`
    processes, as many share a GPU as its free memory should hold (`most_at_a_time`).

    Runs that train the same network and differ in what is averaged of it (ERM, EMA with any half-life, SWA, SWAD) are
    trained together: steps are taken once, evaluations are each run's own, and so is its result, the same as alone.

    Each CPU run uses one thread: parallel processes are faster than parallel threads, and no result depends on the
    number of cores. A run of the same identity (`training.identity`) that was trained before is loaded from
    `$MMLIB_CACHE/runs` (or a shared cache: `data.cache.kept_at`) unless `cached` is False; one that was interrupted
    resumes from its checkpoint there. One that another process trains at this moment is left to it, and loaded when it
    is done. A line says how many were trained here. A damaged file is set aside, with a line that says so, and its run
    is trained again; where results cannot be kept, on a full or read-only disk, a line says that, and they are returned
    all the same. A run that diverges does not stop the others: it is returned without a result (`Trained.diverged`),
    kept as such, and a line says why. `by_epoch`: keep what `Trained.networks` needs; a result that was kept without is
    trained again.
    Raises a ValueError for a method, option, domain or modality that does not exist.
    """
    on_cpu = config.torch_device.type == "cpu"
    names = identities(runs, splits, config, architecture)
    found = (
        {run: _loaded(run, kept_at(f"runs/{name}.pt"), splits, architecture, by_epoch) for run, name in names.items()}
        if cached
        else {}
    )
    missing = [run for run in names if found.get(run) is None]
    variants = {run.method: variant(run.method) for run in missing}
    kind = "checkpoint-by-epoch." if by_epoch else "checkpoint."  # one holds what the other lacks

    def grouped(left: Sequence[Run]) -> list[list[Run]]:
        """Those that train the same network, together; of those that were interrupted, the ones with one checkpoint."""
        groups: dict[Hashable, list[Run]] = {}
        for run in left:
            interrupted = cached and _file(_path(names[run], kind))
            groups.setdefault((trajectory(run, config, variants[run.method]), interrupted), []).append(run)
        return list(groups.values())

    def train(group: Sequence[Run], splits: Splits) -> list[tuple[Trained, str]]:
        """Each result, and why it could not be kept; "" where it was, or was not to be."""
        (first, path), *others = ((names[run], _path(names[run], kind)) for run in group)
        checkpoint = Checkpoint(path, first, beside=dict(others)) if cached else None
        with one_thread() if on_cpu else contextlib.nullcontext():
            try:
                results = train_together(
                    group,
                    splits,
                    config,
                    architecture=architecture,
                    checkpoint=checkpoint,
                    variants=variants,  # a worker may know others by these names
                    by_epoch=by_epoch,
                )
            except Diverged as error:
                results = [Trained.without_result(run, str(error)) for run in group]
        if len(group) > 1 and results[0].diverged:  # perhaps an average only: each by itself
            return [one for run in group for one in train([run], splits)]
        kept = []
        for result in results:
            problem = _keep(result, _path(names[result.run])) if cached else ""
            if cached and not problem:
                remove(_path(names[result.run], kind))
            kept.append((result, problem))
        return kept

    def train_once(group: Sequence[Run], data: Callable[[], Splits], wait: bool) -> list[tuple[Trained, str]]:
        """Without those that another process trains, where this one is not to `wait` for that."""
        if not cached:
            return train(group, data())
        with contextlib.ExitStack() as stack:
            ours = [run for run in group if stack.enter_context(_reserved(_path(names[run]), wait))]
            loaded = [_loaded(run, kept_at(f"runs/{names[run]}.pt"), data(), architecture, by_epoch) for run in ours]
            left = [run for run, result in zip(ours, loaded, strict=True) if result is None]
            return [(result, "") for result in loaded if result] + (train(left, data()) if left else [])

    problems = []
    with tqdm(total=len(missing), desc="training runs", disable=not missing) as bar:
        for wait in (False, True):  # first all that nobody else trains, so that no process waits while it has work
            left = [run for run in missing if found.get(run) is None]
            if wait and left:
                bar.set_postfix_str(f"waiting for {len(left)} that another process trains")
            groups = [[run] for run in left] if wait else grouped(left)  # who waits for one reserves no other
            together = max(map(len, groups), default=1)
            at_a_time = most_at_a_time(jobs, splits, config.torch_device, architecture, together)
            workers = max(1, min(len(groups), at_a_time))
            with _handed_over(splits, workers) as data:
                for results in joblib.Parallel(workers, return_as="generator")(
                    joblib.delayed(train_once)(group, data, wait) for group in groups
                ):
                    found |= {result.run: result for result, _ in results}
                    bar.update(len(results))
                    problems += [problem for _, problem in results if problem]
    trained = sum(not found[run].loaded for run in names)
    print(f"{trained} runs trained, {len(names) - trained} loaded from the cache")
    if problems:
        print(f"{len(problems)} of them could not be kept in {cache_directory() / 'runs'}: {problems[0]}")
    for run in names:
        if found[run].diverged:
            print(f"No result of {run.method}, seed {run.seed}, target {run.target!r}: {found[run].diverged}")
    return [found[run] for run in runs]


def train_arms(
    arms: Mapping[str, Run], seeds: Sequence[int], splits: Splits, config: TrainingConfig, **options: Any
) -> dict[str, list[Trained]]:
    """Train every arm, a run, with each of these seeds in place of its own: arm → its runs. Options and errors as in
    `train_runs`."""
    runs = [replace(run, seed=seed) for run in arms.values() for seed in seeds]
    trained = iter(train_runs(runs, splits, config, **options))
    return {arm: [next(trained) for _ in seeds] for arm in arms}


_OF_A_PROCESS = 2**31  # bytes on a GPU besides data and weights: CUDA's own, and activations of a small network


def most_at_a_time(
    jobs: int | None, splits: Splits, device: torch.device, architecture: Architecture, together: int = 1
) -> int:
    """How many trainings are to run side by side, each for at most so many runs `together`. What one needs of a GPU is
    estimated, not known: its data, where it will be kept there, and 16 times the network: gradients, the optimiser's
    moments, averages and activations; for every further run, 4 times the network: its averages and best weights."""
    if device.type == "cpu":
        return jobs or joblib.cpu_count()
    if jobs is None or jobs == 1:
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    data = sum(part.nbytes for part in (splits.train, splits.validation, splits.test))
    network = architecture.build(splits.train.input_shapes, len(splits.train.class_names), 0)
    weights = sum(value.numel() * value.element_size() for value in network.parameters())
    need = _OF_A_PROCESS + (16 + 4 * (together - 1)) * weights + (data if data <= free / 2 else 0)
    return min(jobs, free // need)


@contextlib.contextmanager
def _handed_over(splits: Splits, workers: int) -> Iterator[Callable[[], Splits]]:
    """A function that returns the splits in any of the workers. To other processes they are handed over once, in a file
    that all of them map into memory, instead of with every run."""
    if workers == 1:
        yield lambda: splits
        return
    with tempfile.TemporaryDirectory(prefix="mmlib-") as folder:
        path = Path(folder) / "splits.pt"
        torch.save(splits, path, pickle_module=cloudpickle)  # front ends and augmentations may be a notebook's own
        yield functools.partial(_received, str(path))


@functools.lru_cache(1)
def _received(path: str) -> Splits:
    return torch.load(path, mmap=True, weights_only=False)


def _path(identity: str, kind: str = "") -> Path:
    return cache_directory() / "runs" / f"{identity}.{kind}pt"


def _file(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _reserved(path: Path, wait: bool) -> Iterator[bool]:
    """Reserves, among all processes, the training of the run that is kept as `path`; whether that succeeded. With
    `wait`, as soon as the process that trains it is done, or dead: the system takes a lock from the dead. A process
    that has reserved one run never waits for another, so no two wait for each other."""
    lock, reserved = FileLock(path.with_name(f".{path.stem}.lock")), True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        reserved = False
    except OSError:  # a full disk, or one that cannot be written: this run cannot be kept for others either
        pass
    try:
        yield reserved
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()  # before the release: afterwards it may be another's
            lock.release()


def _keep(trained: Trained, path: Path) -> str:
    """Keep the result; why that failed, or "": the training is not lost for it."""
    state = {"diverged": trained.diverged}
    if not trained.diverged:
        state |= {
            "predictor": trained_state(trained.predictor),
            "network": trained_state(trained.network),
            "history": asdict(trained.history),
            "scores": trained.scores,
        }
    try:
        save(path, state)
    except OSError as error:
        return str(error)
    return ""


def _loaded(run: Run, path: Path, splits: Splits, architecture: Architecture, by_epoch: bool) -> Trained | None:
    """The cached result of this run; None where there is none, it is damaged, or lacks what is wanted `by_epoch`. Its
    file's time becomes that of its last use."""
    if not path.exists():
        return None
    shapes = splits.train.select_modalities(*run.modalities).input_shapes
    network = architecture.build(shapes, len(splits.train.class_names), run.seed).eval()
    predictor = copy.deepcopy(network)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["diverged"]:
            used(path)
            return Trained.without_result(run, state["diverged"], loaded=True)
        for part, name in ((network, "network"), (predictor, "predictor")):
            part.load_state_dict(part.state_dict() | state[name])
        history = History(**state["history"])
        if by_epoch and WEIGHTS not in history.tensors and may_be_kept(network, len(history.rows)):
            return None
        used(path)
        return Trained(run, predictor, network, history, state["scores"], loaded=True)
    except MemoryError:
        raise
    except Exception as error:
        print(f"{set_aside(path, error)}: the run is trained again.")
        return None
