"""Protocols over seeds and domains: runs, kept once trained, tuning, and tidy tables of what they scored."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmlib import methods
from mmlib.data.cache import atomic_path, cache_directory, code_version, spelled
from mmlib.data.dataset import move
from mmlib.data.splits import DomainProtocol, Splits
from mmlib.instruments.diagnosis import gradient_cosines
from mmlib.methods import Method
from mmlib.models import Architecture, MultimodalClassifier
from mmlib.models.architecture import kept_state
from mmlib.models.evaluate import evaluate, sample_scores
from mmlib.seeding import torch_generator
from mmlib.training.loop import History, TrainingConfig, description, fit, resolve_device

DEFAULT = Architecture()
Settings = tuple[tuple[str, Any], ...]  # (name, value) pairs, sorted or not, e.g. (("learning_rate", 3e-3),)


@dataclass(frozen=True)
class Run:
    """One training: which method, seen through which modalities, from which domains to which, which seed.

    `source` "": all domains but the target (leave one domain out). A name: that domain alone (single source); the
    target itself, for training and testing within one domain. `target` "": no domain is left out, and the test part of
    all domains stands for the target. `settings` are fields of `TrainingConfig` and options of
    the method that differ from the defaults.
    """

    method: str
    target: str
    seed: int
    modalities: tuple[str, ...]
    source: str = ""
    settings: Settings = ()

    def protocol(self, splits: Splits) -> DomainProtocol:
        """The data of this run, with its modalities only."""
        if not self.target:
            protocol = splits.pooled()
        elif self.source:
            protocol = splits.single_source(self.source, self.target)
        else:
            protocol = splits.leave_out(self.target)
        return DomainProtocol(*(part.select_modalities(*self.modalities) for part in protocol))


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the selected predictor, the trained network as the last step left it (where weights are
    averaged, that is the student and the predictor its average), and how it went.

    `scores` holds the predictor's accuracies on the source domains' test part ("source accuracy", "source <modality>
    accuracy") and on the unseen domain ("target …"), and validation accuracy and loss of the selected epoch. A
    modality's own accuracy is its head's: near chance where the method does not train the uni-modal heads.
    `loaded`: whether it came from the cache. `sample_scores`, where they were asked for: after each epoch, each
    modality's score of the correct class for every training sample as it is, (epochs, M, N) float16.
    """

    run: Run
    predictor: MultimodalClassifier
    network: MultimodalClassifier
    history: History
    scores: dict[str, float]
    loaded: bool = False
    sample_scores: Tensor | None = None


def train_run(
    run: Run,
    splits: Splits,
    config: TrainingConfig,
    *,
    architecture: Architecture = DEFAULT,
    keep_scores: bool = False,
    keep_cosines: bool = False,
    keep_seen: bool = False,
) -> Trained:
    """Train one run on prepared splits (`Splits.prepared`). Each epoch is also evaluated on the unseen domain
    ("target"), and with `keep_seen` on samples as the network saw them ("seen", up to 500 training samples without
    augmentation). `keep_scores` keeps every training sample's scores by epoch; `keep_cosines` the cosines of each
    encoder's uni-modal and fused gradients on up to 256 seen samples ("<modality> gradient cosine"; see
    `diagnosis.gradient_cosines`)."""
    train, validation, source_test, target = run.protocol(splits)
    method, config = _set_up(run, splits, config, architecture)
    some = torch.randperm(len(train), generator=torch_generator("seen samples"))[:500]
    batch = train.subset(some[: min(256, train.evaluation_batch)]).whole()

    kept: list[Tensor] = []

    def measure(method: Method) -> dict[str, float]:
        if keep_scores:
            kept.append(sample_scores(method.model, train).half().cpu())
        if not keep_cosines:
            return {}
        found = gradient_cosines(method.model, move(batch, next(method.parameters()).device))
        return {f"{name} gradient cosine": value for name, value in found.items()}

    history = fit(
        method,
        train,
        validation,
        config,
        monitors={"target": target} | ({"seen": train.subset(some)} if keep_seen else {}),
        measure=measure,
        augmentations=splits.augmentations,
        progress=False,
    )
    scores = evaluate(method.predictor, source_test, "source ") | evaluate(method.predictor, target, "target ")
    selected = history.rows[history.selected_epoch - 1]
    scores |= {name: selected[name] for name in ("validation accuracy", "validation loss")}
    predictor, network = method.predictor.cpu(), method.model.cpu()
    for part in (predictor, network):  # an averaged network asks for no gradients; what is frozen never does
        for (_, own), (_, trained) in zip(part.named_parameters(), network.named_parameters(), strict=True):
            own.requires_grad_(trained.requires_grad)
    return Trained(run, predictor, network, history, scores, sample_scores=torch.stack(kept) if keep_scores else None)


def _set_up(
    run: Run, splits: Splits, config: TrainingConfig, architecture: Architecture
) -> tuple[Method, TrainingConfig]:
    """The untrained method and the configuration of a run."""
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    of_training = {name: value for name, value in run.settings if name in fields}
    of_method = {name: value for name, value in run.settings if name not in fields}
    train = splits.train.select_modalities(*run.modalities)
    model = architecture.build(train.input_shapes, len(train.class_names), run.seed)
    method = methods.build(run.method, model, run.seed, **of_method)
    return method, replace(config, seed=run.seed, **of_training)


def train_runs(
    runs: Sequence[Run],
    splits: Splits,
    config: TrainingConfig,
    *,
    architecture: Architecture = DEFAULT,
    jobs: int | None = None,
    cached: bool = True,
    keep_scores: bool = False,
    keep_cosines: bool = False,
    keep_seen: bool = False,
) -> list[Trained]:
    """Train many runs; on a CPU in `jobs` processes (default: one per core), on a GPU one after the other.

    Each CPU run uses one thread: the processes together are faster than the threads, and no result depends on how
    many cores there are. A run that was trained before with the same settings, data and code is loaded from the cache
    (`$MMLIB_CACHE/runs`) unless `cached` is False; a line says how many were.
    """
    on_cpu = resolve_device(config.device).type == "cpu"
    kept = {"keep_scores": keep_scores, "keep_cosines": keep_cosines, "keep_seen": keep_seen}
    paths = _cache_paths(runs, splits, config, architecture, kept)
    found = {run: _load(run, path, splits, architecture) for run, path in paths.items() if cached and path.exists()}
    missing = [run for run in paths if run not in found]

    def train(run: Run) -> Trained:
        threads = torch.get_num_threads()
        if on_cpu:
            torch.set_num_threads(1)
        try:
            trained = train_run(run, splits, config, architecture=architecture, **kept)
        finally:
            torch.set_num_threads(threads)
        if cached:
            _keep(trained, paths[run])
        return trained

    if missing:
        jobs = min(len(missing), jobs or joblib.cpu_count()) if on_cpu else 1
        results = joblib.Parallel(jobs, return_as="generator")(joblib.delayed(train)(run) for run in missing)
        found |= zip(missing, tqdm(results, total=len(missing), desc="training runs"), strict=True)
    print(f"{len(missing)} runs trained, {len(paths) - len(missing)} loaded from the cache")
    return [found[run] for run in runs]


def _cache_paths(
    runs: Sequence[Run], splits: Splits, config: TrainingConfig, architecture: Architecture, kept: dict[str, bool]
) -> dict[Run, Path]:
    """Where each run's result is kept: a name made of everything that decides it."""
    data = [getattr(splits, part).fingerprint() for part in ("train", "validation", "test")]
    augmented = sorted((name, spelled(function)) for name, function in splits.augmentations.items())
    kind = resolve_device(config.device).type
    shared = (data, augmented, splits.target_parts, architecture.identity(), kept, torch.__version__, kind)
    paths = {}
    for run in runs:
        method, own_config = _set_up(run, splits, config, architecture)
        code = code_version(*_code_of(method))
        text = repr((shared, run, replace(own_config, device="auto"), description(method), code))
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        paths[run] = cache_directory() / "runs" / f"{name}.pt"
    return paths


_CODE_OF_ALL = (
    "seeding",
    "data.dataset",
    "data.stored",
    "data.splits",
    "data.transforms",
    "models",
    "equations",
    "training",
)


def _code_of(method: Method) -> list[ModuleType]:
    """The modules whose code decides what training this method gives: its own, and those that all methods share."""
    own = {kind.__module__ for part in method.modules() for kind in type(part).__mro__}
    shared = (__name__, "mmlib.instruments.diagnosis", *(f"mmlib.{name}" for name in _CODE_OF_ALL))
    names = {name for name in sys.modules if name.startswith(shared)} | {n for n in own if n.startswith("mmlib.")}
    return [sys.modules[name] for name in sorted(names)]


def _keep(trained: Trained, path: Path) -> None:
    state = {
        "predictor": kept_state(trained.predictor),
        "network": kept_state(trained.network),
        "rows": trained.history.rows,
        "selected epoch": trained.history.selected_epoch,
        "scores": trained.scores,
        "sample scores": trained.sample_scores,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load(run: Run, path: Path, splits: Splits, architecture: Architecture) -> Trained:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = splits.train.select_modalities(*run.modalities).input_shapes
        networks = [architecture.build(shapes, len(splits.train.class_names), run.seed).eval() for _ in range(2)]
        for network, name in zip(networks, ("predictor", "network"), strict=True):
            network.load_state_dict(network.state_dict() | state[name])
        history = History(state["rows"], state["selected epoch"])
        return Trained(run, *networks, history, state["scores"], True, state["sample scores"])
    except Exception as error:
        raise ValueError(f"{path} is damaged. Delete it and run again.") from error


def tune(
    method: str,
    grid: Sequence[Settings],
    splits: Splits,
    config: TrainingConfig,
    targets: Sequence[str],
    seeds: Sequence[int],
    modalities: tuple[str, ...],
    *,
    architecture: Architecture = DEFAULT,
) -> dict[str, Settings]:
    """For each target, the settings with the best mean validation accuracy on its source domains; the validation loss
    breaks ties. The target takes no part in the choice."""
    runs = [
        Run(method, target, seed, modalities, settings=settings)
        for settings in grid
        for target in targets
        for seed in seeds
    ]
    table = score_table(train_runs(runs, splits, config, architecture=architecture))
    table["settings"] = [run.settings for run in runs]
    means = table.groupby(["target", "settings"], sort=False)[["validation accuracy", "validation loss"]].mean()
    best = means.sort_values(["validation accuracy", "validation loss"], ascending=[False, True])
    return {target: next(settings for name, settings in best.index if name == target) for target in targets}


def score_table(trained: Sequence[Trained]) -> pd.DataFrame:
    """One tidy row per run: method, modalities, source, target, seed, settings, selected epoch, all scores, and whether
    it was loaded."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "modalities": "+".join(result.run.modalities),
            "source": result.run.source,
            "target": result.run.target,
            "seed": result.run.seed,
            "settings": ", ".join(f"{name}={value}" for name, value in result.run.settings),
            "selected epoch": result.history.selected_epoch,
            **result.scores,
            "loaded": result.loaded,
        }
        for result in trained
    )


def where(trained: Sequence[Trained], method: str, *modalities: str) -> list[Trained]:
    """The runs of this method on exactly these modalities. Raises a ValueError where there are none."""
    found = [result for result in trained if (result.run.method, result.run.modalities) == (method, modalities)]
    if not found:
        raise ValueError(f"No run of {method!r} on {' + '.join(modalities)}.")
    return found


def per_seed(trained: Sequence[Trained], measure: Callable[[Trained], float]) -> pd.Series:
    """A measurement of each run, by seed: ready for `estimate` and `paired_difference`."""
    return pd.Series({result.run.seed: measure(result) for result in trained}).rename_axis("seed")


def histories(trained: Sequence[Trained], column: str) -> pd.DataFrame:
    """A column of the runs' histories: epochs as rows, seeds as columns, ready for `plots.curves`."""
    return pd.DataFrame({result.run.seed: result.history.frame()[column] for result in trained})
