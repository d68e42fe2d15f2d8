import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from mmlib.data import with_shuffled_labels
from mmlib.experiments import (
    Estimate,
    Run,
    estimate,
    histories,
    over_targets,
    paired_difference,
    per_seed,
    score_table,
    train_runs,
    where,
)
from mmlib.training import TrainingConfig

CONFIG = TrainingConfig(epochs=2, device="cpu")


def test_estimates_agree_with_scipy():
    values = np.random.default_rng(0).normal(3, 2, 7)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ours = estimate(values)
    assert (ours.low, ours.high, ours.count) == (pytest.approx(interval.low), pytest.approx(interval.high), 7)
    assert f"{Estimate(0.25, 0.125, 3):+.2f}" == "+0.25 ± 0.12"


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = [abs(estimate(row).mean) <= estimate(row).half_width for row in random.normal(size=(2000, 4))]
    assert 0.935 < np.mean(covered) < 0.965


def test_verdicts():
    assert estimate([1.0, 1.1, 0.9]).above_zero is True
    assert estimate([-1.0, -1.1, -0.9]).above_zero is False
    assert estimate([1.0, -1.1, 0.9]).above_zero is None
    assert math.isnan(estimate([1.0]).half_width) and estimate([1.0]).above_zero is None, "one run proves nothing"
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_differences_are_paired_by_index():
    first, second = pd.Series({0: 5.0, 1: 6.0, 2: 7.0}), pd.Series({2: 6.9, 0: 4.9, 1: 5.9})
    result = paired_difference(first, second)
    assert result.mean == pytest.approx(0.1) and result.half_width < 1e-6
    with pytest.raises(ValueError, match="same index"):
        paired_difference(first, second.drop(2))
    with pytest.raises(ValueError, match="unique"):
        paired_difference(pd.concat([first, first]), pd.concat([second, second]))


def test_runs_do_not_depend_on_how_many_processes_there_are(toy_splits):
    runs = [Run(method, "there", seed, ("left", "right")) for method in ("erm", "swad") for seed in range(2)]
    alone = train_runs(runs, toy_splits, CONFIG, jobs=1)
    together = train_runs(runs, toy_splits, CONFIG, jobs=2)
    for one, two in zip(alone, together, strict=True):
        assert one.run == two.run and one.scores == two.scores
        for name, value in one.predictor.state_dict().items():
            assert torch.equal(value, two.predictor.state_dict()[name])
    table = score_table(alone)
    assert list(table["method"]) == ["erm", "erm", "swad", "swad"] and table["target accuracy"].between(0, 1).all()
    assert len(over_targets(table[table.method == "erm"], "target accuracy")) == 2
    assert list(histories(where(alone, "erm", "left", "right"), "seen accuracy").columns) == [0, 1]
    with pytest.raises(ValueError, match="No run of 'erm' on left"):
        where(alone, "erm", "left")


def test_between_domains_that_are_alike_no_cost_is_claimed(toy_splits):
    """Negative control of notebook 00: here both domains come from one distribution."""
    trained = train_runs([Run("erm", "there", seed, ("left", "right")) for seed in range(5)], toy_splits, CONFIG)
    place = {
        name: per_seed(trained, lambda r, name=name: r.scores[f"{name} accuracy"]) for name in ("source", "target")
    }
    assert paired_difference(place["source"], place["target"]).above_zero is not True


def test_without_a_relation_between_input_and_label_nothing_is_claimed(toy_splits):
    """Negative control of notebook 00: on shuffled labels two modalities do not beat one."""
    shuffled = with_shuffled_labels(toy_splits, torch.Generator().manual_seed(0))
    runs = [Run("erm", "there", seed, names) for names in (("left",), ("left", "right")) for seed in range(5)]
    trained = train_runs(runs, shuffled, CONFIG)
    accuracy = [
        per_seed(where(trained, "erm", *names), lambda result: result.scores["source accuracy"])
        for names in (("left",), ("left", "right"))
    ]
    assert paired_difference(accuracy[1], accuracy[0]).above_zero is not True
    assert estimate(accuracy[1] - 1 / 3).above_zero is not True
