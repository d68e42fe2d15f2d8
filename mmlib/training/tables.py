"""Tidy tables of runs' scores by seed, domain and epoch, and tuning by them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from mmlib import methods
from mmlib.checks import check
from mmlib.data.splits import Splits
from mmlib.models.architecture import Architecture
from mmlib.models.classifier import MultimodalClassifier
from mmlib.training.loop import Diverged, TrainingConfig
from mmlib.training.run import DEFAULT, Options, Run, Trained
from mmlib.training.runs import train_runs


def tune(
    method: str,
    grid: Sequence[Options],
    splits: Splits,
    config: TrainingConfig,
    targets: Sequence[str],
    seeds: Sequence[int],
    modalities: tuple[str, ...],
    *,
    architecture: Architecture = DEFAULT,
) -> dict[str, Options]:
    """For each target, the settings with the best mean validation accuracy on its source domains; the validation loss
    breaks ties. The target is not used for the choice. Settings with which a run diverged are left out; raises Diverged
    where no others are left."""
    runs = [
        Run(method, target, seed, modalities, settings=settings)
        for settings in grid
        for target in targets
        for seed in seeds
    ]
    table = score_table(train_runs(runs, splits, config, architecture=architecture))
    table["settings"] = [run.settings for run in runs]
    for target, tried in table.groupby("target", sort=False):
        if tried.groupby("settings")["diverged"].any().all():
            raise Diverged(
                f"{method} diverged with every setting for {target!r}. {next(filter(None, tried['diverged']))}"
            )
    broken = table.groupby(["target", "settings"])["diverged"].transform("any")
    groups = table[~broken].groupby(["target", "settings"], sort=False)
    means = groups[["validation accuracy", "validation loss"]].mean()
    best = means.sort_values(["validation accuracy", "validation loss"], ascending=[False, True])
    return {target: next(settings for name, settings in best.index if name == target) for target in targets}


TUNING = ("none", "grid", "mmdg-bench")


def settings_by(
    method: str,
    tuning: str,
    splits: Splits,
    config: TrainingConfig,
    targets: Sequence[str],
    numbers: Sequence[int],
    modalities: tuple[str, ...],
    *,
    fixed: Options = (),
    architecture: Architecture = DEFAULT,
) -> dict[str, Options]:
    """For each target, the method's settings by one of three protocols: "none": those `fixed`; "grid": the best of
    `methods.GRIDS`, by a seed that no result uses [kit]; "mmdg-bench": the best of `methods.bench_configurations`, by
    the first of the seeds `numbers` that results use, as in MMDG-Bench, which reports the mean of three. What is tried
    replaces what is fixed, but for an average's half-life where its decay is. Raises a ValueError for another
    protocol, and for a method without such settings."""
    check({"tuning": tuning}, {"tuning": TUNING})
    if tuning == "none":
        return dict.fromkeys(targets, fixed)
    off = {"half_life"} if "decay" in dict(fixed) else set()
    tried = [
        tuple((dict(fixed) | {name: value for name, value in options if name not in off}).items())
        for options in (methods.grid(method) if tuning == "grid" else methods.bench_configurations(method))
    ]
    seed = _SEED_OF_GRID if tuning == "grid" else numbers[0]
    return tune(method, tried, splits, config, targets, [seed], modalities, architecture=architecture)


_SEED_OF_GRID = 1000


def score_table(trained: Iterable[Trained]) -> pd.DataFrame:
    """One tidy row per run: method, modalities, source, target, seed, settings, selected epoch, all scores, whether it
    was loaded, and why it diverged. The scores of a run that did are NaN, which estimates leave out, and say so."""
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
            "diverged": result.diverged,
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
    """A measurement of each run, by seed: ready for `estimate` and `paired_difference`. NaN where the run diverged;
    raises Diverged where all of them did."""
    _require_one(trained)
    measured = {result.run.seed: math.nan if result.diverged else measure(result) for result in trained}
    return pd.Series(measured).rename_axis("seed")


def histories(trained: Sequence[Trained], column: str) -> pd.DataFrame:
    """A column of the runs' histories: epochs as rows, seeds as columns, ready for `plots.curves`. NaN where the run
    diverged; raises Diverged where all of them did."""
    _require_one(trained)
    finished = {r.run.seed: r.history.frame()[column] for r in trained if not r.diverged}
    return pd.DataFrame(finished).reindex(columns=[result.run.seed for result in trained])


def by_epoch(trained: Sequence[Trained], measure: Callable[[MultimodalClassifier], Any]) -> pd.DataFrame:
    """A measurement of each run's network after each epoch: epochs as rows, seeds as columns, like `histories`. Raises
    like `Trained.networks`, and Diverged where all of them did."""
    _require_one(trained)
    measured = {r.run.seed: math.nan if r.diverged else [measure(one) for one in r.networks()] for r in trained}
    epochs = max(len(result.history.rows) for result in trained)
    return pd.DataFrame(measured, index=pd.RangeIndex(1, epochs + 1, name="epoch"))


def over_epochs(scores: Mapping[int, Tensor], measure: Callable[[Tensor], float]) -> pd.DataFrame:
    """A measurement of all samples' scores, (M, N), after each epoch, from scores (epochs, M, N) by seed (as in
    `Trained.sample_scores`): epochs as rows, seeds as columns, like `histories`."""
    measured = {seed: [float(measure(of_epoch)) for of_epoch in of_run] for seed, of_run in scores.items()}
    return pd.DataFrame(measured, index=pd.RangeIndex(1, max(map(len, scores.values())) + 1, name="epoch"))


def _require_one(trained: Sequence[Trained]) -> None:
    if trained and all(result.diverged for result in trained):
        raise Diverged(f"None of {len(trained)} runs has a result. {trained[0].diverged}")
