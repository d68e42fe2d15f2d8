"""What makes two runs the same."""

import dataclasses
import time

import pytest
import torch

from mmlib.data import with_shuffled_labels
from mmlib.models import Architecture
from mmlib.training import Run, TrainingConfig
from mmlib.training.identity import identities

BOTH = ("left", "right")
RUN = Run("ema", "there", 3, BOTH, settings=(("half_life", 0.2), ("learning_rate", 2e-3)))
CONFIG = TrainingConfig(epochs=2, device="cpu")


def identity(splits, run=RUN, config=CONFIG, architecture=None):
    (found,) = identities([run], splits, config, architecture or Architecture()).values()
    return found


@pytest.mark.parametrize(
    "other",
    [
        {"run": dataclasses.replace(RUN, settings=(("half_life", 0.3), ("learning_rate", 2e-3)))},
        {"run": dataclasses.replace(RUN, settings=(("half_life", 0.2), ("learning_rate", 3e-3)))},
        {"run": dataclasses.replace(RUN, method="ema + multi-loss")},
        {"run": dataclasses.replace(RUN, seed=4)},
        {"run": dataclasses.replace(RUN, source="here")},
        {"run": dataclasses.replace(RUN, target="here")},
        {"run": dataclasses.replace(RUN, modalities=("left",))},
        {"config": TrainingConfig(epochs=1, device="cpu")},
        {"architecture": Architecture(fused_head="mlp")},
    ],
    ids=["option", "setting", "method", "seed", "source", "target", "modalities", "epochs", "network"],
)
def test_another_run_has_another_identity(toy_splits, other):
    assert identity(toy_splits) != identity(toy_splits, **other)


def test_the_same_run_may_be_put_in_other_words(toy_splits):
    assert identity(toy_splits) == identity(toy_splits, dataclasses.replace(RUN, settings=RUN.settings[::-1]))
    by_config = dataclasses.replace(RUN, settings=(("half_life", 0.2),))
    assert identity(toy_splits) == identity(toy_splits, by_config, dataclasses.replace(CONFIG, learning_rate=2e-3))
    mbcd = Run("mbcd", "there", 0, BOTH)
    default = dataclasses.replace(mbcd, settings=(("look_ahead", 1e-2),))
    row = dataclasses.replace(mbcd, method="mbcd: AMD+GCC+EMA+DL")
    assert len({identity(toy_splits, run) for run in (mbcd, default, row)}) == 1


def test_data_counts_with_its_truth(toy_splits):
    def with_truth(values):
        return dataclasses.replace(
            toy_splits, train=dataclasses.replace(toy_splits.train, truth={"degraded_left": values})
        )

    count = len(toy_splits.train)
    shuffled = with_shuffled_labels(toy_splits, torch.Generator().manual_seed(0))
    found = [toy_splits, shuffled, with_truth(torch.zeros(count)), with_truth(torch.ones(count))]
    found.append(dataclasses.replace(toy_splits, target_parts=("train", "test")))
    assert len({identity(splits) for splits in found}) == len(found)


def test_what_training_does_to_the_data_counts(toy_splits):
    def louder(images, generator, by=2.0):
        return by * images

    def quieter(images, generator, by=0.5):
        return by * images

    found = {
        identity(dataclasses.replace(toy_splits, augmentations={name: function}))
        for name in BOTH
        for function in (louder, quieter)
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (dataclasses.replace(RUN, method="magic"), "no method 'magic'; choose one of erm"),
        (dataclasses.replace(RUN, settings=(("volume", 11),)), "EMA does not take the options"),
        (dataclasses.replace(RUN, settings=(("epochs", 0),)), "epochs must be an integer of at least 1"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_trained(toy_splits, run, message):
    with pytest.raises(ValueError, match=message):
        identity(toy_splits, run)


@pytest.mark.alone
def test_naming_runs_of_large_networks_builds_none(toy_splits, monkeypatch):
    architecture = Architecture(encoder="slowfast-r101", fused_head="mlp", frozen=True)
    started = time.perf_counter()
    architecture.build({"left": (3, 8, 32, 32)}, 3, 0)
    of_one_network = time.perf_counter() - started
    monkeypatch.setattr(Architecture, "build", None)
    some = ("erm", "mbcd", "cmrf", "moosa", "rna-net")
    runs = [Run(method, "there", seed, BOTH) for method in some for seed in range(50)]
    started = time.perf_counter()
    assert len(set(identities(runs, toy_splits, CONFIG, architecture).values())) == 250
    took = time.perf_counter() - started
    print(f"naming 250 runs takes {took / of_one_network:.2f} of the time of building one network")
    assert took < of_one_network
