"""Live experiments, on toy data and in an event loop like that of a kernel."""

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmlib.notebook import live
from mmlib.training import Run, TrainingConfig, train_run


@pytest.fixture
def updates(monkeypatch):
    """The alternative texts of the figures that replace the first one."""
    found = []
    handle = SimpleNamespace(update=lambda picture: found.append(picture.alt))
    monkeypatch.setattr(live, "display", lambda *_, display_id=False: handle if display_id else None)
    yield found
    live.Experiment._end()  # what a test that failed has left


def make(splits, epochs=3, measure=live.target_accuracy):
    def setting(half_life):
        return Run("ema", "there", 0, ("left", "right"), settings=(("half_life", half_life),)), splits

    return live.Experiment(setting, measure, TrainingConfig(epochs), "half-life", [0.1, 0.5], 0.5, "accuracy")


async def ended(experiment):
    """Once nothing trains, and the kernel has shown that."""
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while experiment._thread.is_alive() or experiment.train.disabled:
            await asyncio.sleep(0.01)


def test_without_a_browser_it_trains_one_short_setting(toy_splits, updates):
    experiment = make(toy_splits, epochs=9)
    assert list(experiment.curves) == ["rehearsal"] and len(experiment.curves["rehearsal"]) == 4
    assert not updates and not experiment._thread.is_alive()


def test_a_curve_grows_by_epoch_and_earlier_settings_stay(toy_splits, updates):
    async def lesson():
        experiment = make(toy_splits)
        experiment.train.click()
        await ended(experiment)
        experiment.slider.value = 0.1
        for _ in range(2):
            experiment.train.click()
            await ended(experiment)
        return experiment

    experiment = asyncio.run(lesson())
    assert list(experiment.curves) == ["half-life = 0.5", "half-life = 0.1", "half-life = 0.1, seed 1"]
    assert all(len(points) == 3 for points in experiment.curves.values())
    assert len({tuple(points) for points in experiment.curves.values()}) == 3
    assert updates[0].startswith("accuracy by epoch. half-life = 0.5: 0.") and "after epoch 1" in updates[0]
    assert updates[-1].count("after epoch 3") == 3
    assert "half-life = 0.1, seed 1: done" in experiment.status.value and experiment.stop.disabled


def test_what_is_trained_live_is_what_a_notebook_trains(toy_splits, updates):
    """The same seed and setting give the same curve, whatever was drawn before and however many threads there are."""

    def noisy(inputs, generator):
        return inputs + torch.randn(inputs.shape, generator=generator)

    def measure(method, parts):
        assert torch.get_num_threads() == 1 and not method.training
        return live.target_accuracy(method, parts)

    async def lesson():
        experiment = make(splits, measure=measure)
        torch.rand(5)
        experiment.train.click()
        await ended(experiment)
        return experiment.curves["half-life = 0.5"]

    splits = replace(toy_splits, augmentations={"left": noisy})
    run = Run("ema", "there", 0, ("left", "right"), settings=(("half_life", 0.5),))
    trained = train_run(run, splits, TrainingConfig(epochs=3, device="cpu"))
    torch.set_num_threads(2)
    seen = asyncio.run(lesson())
    torch.set_num_threads(1)
    assert [*trained.history.frame()["target accuracy"]] == seen


def test_stops_after_an_epoch_and_refuses_a_second_start(toy_splits, updates):
    goes_on = threading.Event()
    goes_on.set()  # for the rehearsals

    async def lesson():
        experiment = make(toy_splits, epochs=12, measure=lambda *_: float(goes_on.wait(60)))
        other = make(toy_splits)
        goes_on.clear()
        experiment.train.click()
        await asyncio.sleep(0.01)
        assert experiment.train.disabled and not experiment.stop.disabled
        experiment._begin()  # a second click that came before the button was disabled
        other.train.click()
        await asyncio.sleep(0.01)
        assert "already" in other.status.value and list(other.curves) == ["rehearsal"]
        experiment.stop.click()
        goes_on.set()
        await ended(experiment)
        return experiment

    experiment = asyncio.run(lesson())
    assert experiment.curves == {"half-life = 0.5": [1.0]}
    assert "half-life = 0.5: stopped after epoch 1" in experiment.status.value


def test_a_cell_that_is_run_ends_the_training(toy_splits, updates, monkeypatch):
    before_a_cell = []
    events = SimpleNamespace(register=lambda event, function: before_a_cell.append((event, function)))
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(events=events))

    stopping = live.Experiment._stopping
    stopping.set()  # for the rehearsal

    async def lesson():
        experiment = make(toy_splits, epochs=12, measure=lambda *_: float(stopping.wait(60)))
        experiment.train.click()
        await asyncio.sleep(0.01)
        ((event, function),) = before_a_cell
        function(None)
        assert event == "pre_run_cell" and not experiment._thread.is_alive()
        await ended(experiment)
        assert "stopped" in experiment.status.value

    asyncio.run(lesson())


def test_what_goes_wrong_is_shown(toy_splits, updates):
    answers = iter([0.5, 0.5, 0.5, "<a>", 0.5, float("nan")])  # of a rehearsal, a training and another one

    async def lesson():
        experiment = make(toy_splits, measure=lambda method, parts: next(answers))
        for error in (
            "ValueError: could not convert string to float: &#x27;&lt;a&gt;&#x27;",
            "needs a value at every x",
        ):
            experiment.train.click()
            await ended(experiment)
            assert error in experiment.status.value
            assert not experiment.train.disabled, "and the next one may be trained"

    asyncio.run(lesson())
    with pytest.raises(TypeError):
        make(toy_splits, measure=lambda method: 0.5)


def test_a_rehearsal_that_diverges_stops_no_notebook(toy_splits, updates):
    def setting(rate):
        return Run("erm", "there", 0, ("left", "right"), settings=(("learning_rate", rate),)), toy_splits

    options = ("learning rate", [1e-3, 1e30], 1e30, "accuracy")
    experiment = live.Experiment(setting, live.target_accuracy, TrainingConfig(2), *options)
    assert "diverged" in experiment.status.value
