"""Runs that differ in their averages only are trained together, and end as if each had been trained alone."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from conftest import stopped_while_saving

from mmlib import methods
from mmlib.models import evaluate
from mmlib.training import Run, TrainingConfig, train_runs
from mmlib.training.run import train_together

CONFIG = TrainingConfig(epochs=4, learning_rate=0.01, device="cpu")
BOTH = ("left", "right")
AVERAGES = {
    "erm": ({}, {"learning_rate": 0.02}),
    "ema": ({}, {"half_life": 0.3}, {"decay": 0.9}),
    "swa": ({},),
    "swad": ({"tolerance": 0.01}, {"tolerance": 0.5}),
    "multi-loss": ({},),
    "ema + multi-loss": ({},),
    "mbcd: EMA": ({},),
    "mbcd: none": ({},),
}
RUNS = [
    Run(method, "there", 3, BOTH, settings=tuple(options.items()))
    for method, of_method in AVERAGES.items()
    for options in of_method
]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Of kept runs."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    return tmp_path / "runs"


@pytest.fixture
def trainings(monkeypatch):
    """The runs of every training in this process, as a list that grows."""
    seen = []

    def watched(runs, *arguments, **options):
        seen.append([run.method for run in runs])
        return train_together(runs, *arguments, **options)

    monkeypatch.setattr("mmlib.training.runs.train_together", watched)
    return seen


def assert_same(one, two):
    """Scores, both networks, history and weights by epoch."""
    assert one.run == two.run and one.scores == two.scores
    assert one.history.selected_epoch == two.history.selected_epoch
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in of.history.rows] for of in (one, two)]
    assert rows[0] == rows[1]
    for part in ("predictor", "network"):
        first, second = (getattr(of, part).state_dict() for of in (one, two))
        assert all(torch.equal(value, second[name]) for name, value in first.items()), f"{one.run.method}: {part}"
        modes = [
            [(p.requires_grad, of.training) for p in of.parameters()] for of in (getattr(one, part), getattr(two, part))
        ]
        assert modes[0] == modes[1]
    (first,), (second,) = (of.history.tensors.values() for of in (one, two))
    assert all(map(torch.equal, first, second))


def test_each_ends_as_alone_and_a_network_is_trained_once(toy_splits, trainings):
    together = train_runs(RUNS, toy_splits, CONFIG, jobs=1, cached=False, by_epoch=True)
    first = ["erm", "ema", "ema", "ema", "swa", "swad", "swad"]
    assert trainings == [first, ["erm"], ["multi-loss", "ema + multi-loss"], ["mbcd: EMA"], ["mbcd: none"]]
    for run, result in zip(RUNS, together, strict=True):
        assert_same(result, *train_together([run], toy_splits, CONFIG, by_epoch=True))
    assert len({tuple(result.scores.values()) for result in together}) > len(RUNS) / 2, "not all alike"


def test_late_accuracy_is_of_the_last_epochs_or_of_the_network_that_no_epoch_had(toy_splits):
    runs = [replace(run, seed=seed) for run in (RUNS[0], RUNS[2], RUNS[5], RUNS[6]) for seed in range(3)]
    slow, unseen, told_apart = replace(CONFIG, learning_rate=5e-4), toy_splits.leave_out("there").target, 0
    for result in (train_together([run], toy_splits, slow)[0] for run in runs):
        at_end = evaluate(result.predictor, unseen, "target ")
        assert {name: result.scores[name] for name in at_end} == pytest.approx(at_end)
        of_epochs = sum(row["target accuracy"] for row in result.history.rows[-3:]) / 3
        one = result.run.method in ("swa", "swad")
        assert result.scores["late target accuracy"] == pytest.approx(at_end["target accuracy"] if one else of_epochs)
        told_apart += one and of_epochs != at_end["target accuracy"]
    assert told_apart


def test_other_seeds_data_and_modalities_are_other_trainings(toy_splits, trainings):
    others = [Run("ema", "here", 3, BOTH), Run("ema", "there", 4, BOTH), Run("ema", "there", 3, ("left",))]
    others += [Run("ema", "there", 3, BOTH, "here"), Run("ema", "there", 3, BOTH)]
    train_runs(others, toy_splits, replace(CONFIG, epochs=1), jobs=1, cached=False)
    assert trainings == 5 * [["ema"]]


def test_what_an_average_is_made_of_does_nothing_besides_its_steps():
    """Otherwise it could not be trained together with what averages it."""
    hooks = ("on_train_start", "on_epoch_start", "after_step", "on_epoch_end", "on_train_end", "counters", "predictor")
    inners = {variant.inner for variant in methods.METHODS.values()} - {None}
    assert inners == {methods.ERM, methods.MultiLoss}
    for kind in inners:
        assert all(getattr(kind, hook) is getattr(methods.Method, hook) for hook in hooks) and not kind.counted
        inspected = inspect.signature(kind).parameters
        assert list(inspected) == ["model"], "no options, in which two runs could differ"


class Shrinking(methods.ERM):
    """Does something to its network between steps: among others, it would do that several times."""

    def after_step(self):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(0.95)


class Listening(methods.EMA):
    """Is an average, and its steps look at it."""

    def step_losses(self, batch):
        losses = super().step_losses(batch)
        with torch.no_grad():
            return losses | {"apart": (self.predictor(batch.inputs).fused_logits.square().mean() + 1) * losses["fused"]}


def test_what_does_more_than_steps_and_averages_trains_alone(toy_splits, folder, monkeypatch, trainings):
    monkeypatch.setitem(methods.METHODS, "mine", methods.Variant(Shrinking))
    monkeypatch.setitem(methods.METHODS, "averaged", methods.Variant(methods.EMA, Shrinking))
    monkeypatch.setitem(methods.METHODS, "listening", methods.Variant(Listening, methods.ERM))
    runs = [Run(name, "there", 3, BOTH) for name in ("mine", "averaged", "erm", "listening")]
    runs.append(replace(runs[0], settings=(("weight_decay", 0),)))  # the same training under another identity
    together = train_runs(runs, toy_splits, CONFIG, jobs=1, by_epoch=True)
    assert [len(group) for group in trainings] == 5 * [1]
    for run, result in zip(runs, together, strict=True):
        assert_same(result, *train_together([run], toy_splits, CONFIG, by_epoch=True))


def test_a_list_of_epochs_will_do(toy_splits):
    lists, tuples = (replace(CONFIG, decay_epochs=kind([1])) for kind in (list, tuple))
    assert lists == tuples and train_runs(RUNS[:1], toy_splits, lists, jobs=1, cached=False)[0].scores


def test_they_resume_together(toy_splits, folder, monkeypatch):
    runs = RUNS[:7]
    expected = train_runs(runs, toy_splits, CONFIG, jobs=1, cached=False, by_epoch=True)
    with monkeypatch.context() as patched:
        stopped_while_saving(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            train_runs(runs, toy_splits, CONFIG, jobs=1, by_epoch=True)
    names = list(folder.iterdir())
    assert [path.name.split(".", 1)[1] for path in names] == 6 * ["checkpoint-by-epoch.pt"], "another rate is apart"
    assert len({path.stat().st_ino for path in names}) == 1, "one file under the names of all"
    steps = []
    monkeypatch.setattr(methods.ERM, "step_losses", counted(methods.ERM.step_losses, steps))
    for one, two in zip(expected, train_runs(runs, toy_splits, CONFIG, jobs=1, by_epoch=True), strict=True):
        assert_same(one, two)
    per_epoch = math.ceil(len(runs[0].protocol(toy_splits).train) / CONFIG.batch_size)
    assert len(steps) == per_epoch * (2 + CONFIG.epochs)
    assert [path.suffixes for path in folder.iterdir()] == 7 * [[".pt"]]


def counted(function, calls):
    """The function, which adds to `calls`."""

    def watched(*arguments):
        calls.append(None)
        return function(*arguments)

    return watched


def no_links(path, new):
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("interrupted", "resumed", "steps"),
    [
        ("01", "10", 2),  # in another order
        ("23", "32", 2),
        ("014", "1", 2),  # fewer
        ("01", "015", 2 + 4),  # one more, which starts from the beginning
    ],
)
def test_each_resumes_whichever_others_it_is_asked_for_with(
    toy_splits, folder, monkeypatch, links, interrupted, resumed, steps
):
    if not links:
        monkeypatch.setattr("os.link", no_links)  # as on some memory sticks
    runs = [*RUNS[:1], *(replace(RUNS[2], settings=(("half_life", share),)) for share in (0.3, 0.05, 0.9)), *RUNS[5:7]]
    first, then = ([runs[int(number)] for number in numbers] for numbers in (interrupted, resumed))
    expected = train_runs(then, toy_splits, CONFIG, jobs=1, cached=False, by_epoch=True)
    with monkeypatch.context() as patched:
        stopped_while_saving(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            train_runs(first, toy_splits, CONFIG, jobs=1, by_epoch=True)
    calls = []
    monkeypatch.setattr(methods.ERM, "step_losses", counted(methods.ERM.step_losses, calls))
    for one, two in zip(expected, train_runs(then, toy_splits, CONFIG, jobs=1, by_epoch=True), strict=True):
        assert_same(one, two)
    if links:  # copies resume one by one
        assert len(calls) == steps * math.ceil(len(runs[0].protocol(toy_splits).train) / CONFIG.batch_size)
    left = list(folder.glob("*checkpoint*"))
    assert len(left) == len(set(interrupted) - set(resumed)), "of those not asked for again"


def test_who_was_not_saved_yet_only_loads_what_is_trained(toy_splits, folder, monkeypatch):
    runs = RUNS[:1] + RUNS[2:3]
    expected = train_runs(runs, toy_splits, CONFIG, jobs=1, cached=False, by_epoch=True)
    with monkeypatch.context() as patched:
        stopped_while_saving(patched, CONFIG.epochs + 2)  # after the first result, while the second is written
        with pytest.raises(KeyboardInterrupt):
            train_runs(runs, toy_splits, CONFIG, jobs=1, by_epoch=True)
    monkeypatch.setattr(methods.ERM, "step_losses", None)
    for one, two in zip(expected, train_runs(runs, toy_splits, CONFIG, jobs=1, by_epoch=True), strict=True):
        assert_same(one, two)
    assert [path.suffixes for path in folder.iterdir()] == 2 * [[".pt"]]


def test_one_that_was_interrupted_by_itself_resumes_by_itself(toy_splits, folder, monkeypatch, trainings):
    runs = [Run(method, "there", 0, BOTH) for method in ("erm", "ema", "swa")]
    with monkeypatch.context() as patched:
        stopped_while_saving(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            train_runs(runs[1:2], toy_splits, CONFIG, jobs=1)
    del trainings[:]
    train_runs(runs, toy_splits, CONFIG, jobs=1)
    assert trainings == [["erm", "swa"], ["ema"]]
    del trainings[:]
    train_runs([*runs, Run("swad", "there", 0, BOTH)], toy_splits, CONFIG, jobs=1)
    assert trainings == [["swad"]], "those that are kept are not trained again"


def test_an_average_that_diverges_takes_no_other_with_it(toy_splits, folder, monkeypatch, capsys):
    runs = [Run(method, "there", 0, BOTH) for method in ("erm", "swad", "ema")]
    expected = train_runs(runs, toy_splits, CONFIG, jobs=1, cached=False)

    def spoilt(self, train, batch_size):
        self.predictor.fused_head.weight.fill_(math.nan)

    monkeypatch.setattr(methods.SWAD, "on_train_end", spoilt)
    found = train_runs(runs, toy_splits, CONFIG, jobs=1)
    assert [bool(one.diverged) for one in found] == [False, True, False]
    assert found[1].diverged.startswith("SWAD diverged at the end")
    assert [one.scores for one in found[::2]] == [one.scores for one in expected[::2]]
    assert "No result of swad, seed 0" in capsys.readouterr().out and not list(folder.glob("*checkpoint*"))


def test_where_the_network_diverges_all_do(toy_splits, folder):
    loud = TrainingConfig(epochs=2, optimiser="sgd", learning_rate=1e30, device="cpu")
    found = train_runs([Run(method, "there", 0, BOTH) for method in ("erm", "ema")], toy_splits, loud, jobs=1)
    assert [one.diverged.split()[0] for one in found] == ["ERM", "EMA"]


def test_networks_of_one_training_are_apart(toy_splits):
    """What happens to one run's network afterwards changes no other's."""
    erm, ema, swa = train_runs([Run(name, "there", 0, BOTH) for name in ("erm", "ema", "swa")], toy_splits, CONFIG)
    before = [evaluate(of, toy_splits.test) for of in (ema.network, swa.network, swa.predictor)]
    with torch.no_grad():
        for of in (erm.network, ema.predictor):
            of.fused_head.weight.zero_()
    assert before == [evaluate(of, toy_splits.test) for of in (ema.network, swa.network, swa.predictor)]
