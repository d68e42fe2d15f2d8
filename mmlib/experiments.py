"""Protocols over seeds, and honest statistics: intervals and paired differences, with "not distinguishable" among
the verdicts."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import joblib
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from mmlib import methods
from mmlib.data.dataset import Splits
from mmlib.models.classifier import MultimodalClassifier, build_classifier
from mmlib.seeding import torch_generator
from mmlib.training import History, TrainingConfig, evaluate, fit, resolve_device


@dataclass(frozen=True)
class Run:
    """One training: which method, seen through which modalities, which domain left out, which seed."""

    method: str
    target: str
    seed: int
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the selected predictor, and how it went.

    `scores` holds the predictor's accuracies on the source domains' test part ("source accuracy", "source <modality>
    accuracy") and on the unseen domain ("target …"). A modality's own accuracy is its head's: near
    chance where the method does not train the uni-modal heads.
    """

    run: Run
    predictor: MultimodalClassifier
    history: History
    scores: dict[str, float]


def train_run(run: Run, splits: Splits, config: TrainingConfig, *, encoder: str = "small") -> Trained:
    """Train one run on prepared splits (`Splits.prepared`). Each epoch is also evaluated on samples as the network saw
    them ("seen", up to 500 training samples without augmentation) and on the unseen domain ("target")."""
    protocol = splits.leave_out(run.target)
    train, validation, source_test, target = (part.select_modalities(*run.modalities) for part in protocol)
    model = build_classifier(train.input_shapes, len(train.class_names), run.seed, encoder)
    method = methods.build(run.method, model)
    some = torch.randperm(len(train), generator=torch_generator("seen samples"))[:500]
    history = fit(
        method,
        train,
        validation,
        replace(config, seed=run.seed),
        monitors={"seen": train.subset(some), "target": target},
        augmentations=splits.augmentations,
        progress=False,
    )
    scores = evaluate(method.predictor, source_test, "source ") | evaluate(method.predictor, target, "target ")
    return Trained(run, method.predictor.cpu(), history, scores)


def train_runs(
    runs: Sequence[Run],
    splits: Splits,
    config: TrainingConfig,
    *,
    encoder: str = "small",
    jobs: int | None = None,
) -> list[Trained]:
    """Train many runs; on a CPU in `jobs` processes (default: one per core), on a GPU one after the other.

    Each CPU run uses one thread: the processes together are faster than the threads, and no result depends on how
    many cores there are.
    """
    on_cpu = resolve_device(config.device).type == "cpu"
    jobs = min(len(runs), jobs or (os.cpu_count() or 1)) if on_cpu else 1

    def train(run: Run) -> Trained:
        threads = torch.get_num_threads()
        if on_cpu:
            torch.set_num_threads(1)
        try:
            return train_run(run, splits, config, encoder=encoder)
        finally:
            torch.set_num_threads(threads)

    results = joblib.Parallel(jobs, return_as="generator")(joblib.delayed(train)(run) for run in runs)
    return list(tqdm(results, total=len(runs), desc="training runs"))


def score_table(trained: Sequence[Trained]) -> pd.DataFrame:
    """One tidy row per run: method, modalities, target, seed, selected epoch, all scores."""
    return pd.DataFrame(
        {
            "method": result.run.method,
            "modalities": "+".join(result.run.modalities),
            "target": result.run.target,
            "seed": result.run.seed,
            "selected epoch": result.history.selected_epoch,
            **result.scores,
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


@dataclass(frozen=True)
class Estimate:
    """A mean over independent runs with the half-width of its 95 % interval (Student's t, n − 1)."""

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def above_zero(self) -> bool | None:
        """True or False where the interval excludes zero; None: not distinguishable."""
        if math.isnan(self.half_width) or self.low <= 0 <= self.high:
            return None
        return self.low > 0

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.mean:{spec}} ± {self.half_width:{spec.replace('+', '')}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval. One value has no interval: its half-width is NaN."""
    series = pd.Series(list(values), dtype=float)
    if series.empty or series.isna().any():
        raise ValueError(f"An estimate needs at least one value and no NaN, not {list(values)}.")
    count = len(series)
    if count == 1:
        return Estimate(float(series.iloc[0]), math.nan, 1)
    half_width = stats.t.ppf(0.975, count - 1) * series.std(ddof=1) / math.sqrt(count)
    return Estimate(float(series.mean()), float(half_width), count)


def paired_difference(first: pd.Series, second: pd.Series) -> Estimate:
    """Mean of first − second over runs paired by their index (seed, or target and seed), with its interval."""
    if not first.index.sort_values().equals(second.index.sort_values()):
        raise ValueError("Paired values must have the same index (the same seeds and targets).")
    if first.index.has_duplicates:
        raise ValueError("Paired values must have a unique index.")
    return estimate(first - second.reindex(first.index))


def over_targets(table: pd.DataFrame, score: str) -> pd.Series:
    """Mean of a score over targets, per seed: seeds are the independent repetitions, targets are not."""
    return table.groupby("seed")[score].mean()
