"""Training any method on any data: the loop, cached runs, tables of their scores, intervals and paired differences."""

from mmlib.training.estimates import Estimate, estimate, holm, over_targets, paired_difference
from mmlib.training.loop import DEVICE, Diverged, History, TrainingConfig, fit, resolve_device
from mmlib.training.run import Run, Trained, train_run
from mmlib.training.runs import train_arms, train_runs
from mmlib.training.tables import (
    TUNING,
    by_epoch,
    histories,
    over_epochs,
    per_seed,
    score_table,
    settings_by,
    tune,
    where,
)

__all__ = [
    "DEVICE",
    "TUNING",
    "Diverged",
    "Estimate",
    "History",
    "Run",
    "Trained",
    "TrainingConfig",
    "by_epoch",
    "estimate",
    "fit",
    "histories",
    "holm",
    "over_epochs",
    "over_targets",
    "paired_difference",
    "per_seed",
    "resolve_device",
    "score_table",
    "settings_by",
    "train_arms",
    "train_run",
    "train_runs",
    "tune",
    "where",
]
