import copy
import dataclasses
import math
import pickle
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, stopped_while_saving
from scipy import stats

from mmlib import methods
from mmlib.data import with_shuffled_labels
from mmlib.models.architecture import Architecture
from mmlib.models.evaluate import sample_scores
from mmlib.training import (
    Diverged,
    Estimate,
    History,
    Run,
    Trained,
    TrainingConfig,
    by_epoch,
    estimate,
    histories,
    over_epochs,
    over_targets,
    paired_difference,
    per_seed,
    score_table,
    settings_by,
    train_arms,
    train_run,
    train_runs,
    tune,
    where,
)
from mmlib.training.checkpoint import Checkpoint
from mmlib.training.estimates import pooled
from mmlib.training.run import train_together
from mmlib.training.runs import most_at_a_time

CONFIG = TrainingConfig(epochs=2, device="cpu")


def states(trained):
    """What a network consists of after each epoch, counters aside."""
    return [
        {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}
        for network in trained.networks()
    ]


# Trains a run on the toy data, and waits in the middle of it, after the first checkpoint, until it may go on.
ANOTHER_PROCESS = f"""import pathlib, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from functools import partial
from conftest import toy_dataset
from mmlib.data import Splits
from mmlib.training import Run, TrainingConfig, runs
from mmlib.training.checkpoint import Checkpoint

middle, go_on = map(pathlib.Path, sys.argv[1:])

class Watched(Checkpoint):
    def write(self, state):
        super().write(state)
        middle.touch()
        for _ in range(6000):  # not for ever: where the test fails, nobody says to go on
            if go_on.exists():
                return
            time.sleep(0.01)

runs.Checkpoint = partial(Watched, seconds=0)
parts = [toy_dataset(count, seed=seed) for count, seed in ((360, 1), (120, 2), (240, 3))]
splits = Splits(*parts, {{}}, {{}}, {{}})
runs.train_runs([Run("erm", "there", 0, ("left", "right"))], splits, TrainingConfig(epochs=2, device="cpu"), jobs=1)
"""


def test_estimates_agree_with_scipy():
    values = np.random.default_rng(0).normal(3, 2, 7)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ours = estimate(values)
    assert (ours.low, ours.high, ours.count) == (pytest.approx(interval.low), pytest.approx(interval.high), 7)
    assert f"{Estimate(0.25, 0.125, 3):+.2f}" == "+0.25 ± 0.12"
    assert f"{Estimate(-0.0004, 0.125, 3)} {Estimate(-0.0004, 0.125, 3):+.0f}" == "0.000 ± 0.125 +0 ± 0"


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
    with pytest.raises(ValueError, match="at least one value that is not NaN"):
        estimate([math.nan])


def test_what_has_no_result_is_left_out_visibly():
    whole, part = pd.Series({0: 1.0, 1: 2.0, 2: 3.0}), pd.Series({0: 0.0, 1: math.nan, 2: 0.0})
    assert paired_difference(whole, part) == dataclasses.replace(estimate([1.0, 3.0]), left_out=1)
    assert format(estimate(part), ".1f") == "0.0 ± 0.0 (1 left out)" and format(estimate(whole), ".0f") == "2 ± 2"
    assert pooled([estimate(part), estimate(part)]).left_out == 2
    table = pd.DataFrame({"seed": [0, 0, 1, 1], "target accuracy": [1.0, 0.0, 1.0, math.nan]})
    by_seed = over_targets(table, "target accuracy")
    assert by_seed[0] == 0.5 and math.isnan(by_seed[1]), "a mean over fewer targets is another measurement"


def test_as_many_runs_as_would_decide():
    """Some runs' spread tells how many runs of it exclude zero; one fewer does not."""
    for few in (estimate([0.3, -0.2, 0.4, 0.1]), estimate([-3.0, 1.0, -2.0]), estimate([0.02, -0.01, 0.01, 0.0, 0.03])):
        deviation = few.half_width * math.sqrt(few.count) / stats.t.ppf(0.975, few.count - 1)
        half = {n: stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) for n in range(2, 1001)}
        assert half[few.runs_to_decide] < abs(few.mean) <= half[few.runs_to_decide - 1]
    assert estimate([1.0, -1.0, 1e-3]).runs_to_decide is None and estimate([1.0]).runs_to_decide is None


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
    assert list(histories(where(alone, "erm", "left", "right"), "target accuracy").columns) == [0, 1]
    arms = train_arms({"averaged": runs[2], "plain": runs[1]}, range(2), toy_splits, CONFIG)  # all of them are kept
    assert [r.run for r in arms["averaged"] + arms["plain"]] == runs[2:] + runs[:2] and arms["plain"][0].loaded
    with pytest.raises(ValueError, match="No run of 'erm' on left"):
        where(alone, "erm", "left")


def test_runs_share_a_gpu_where_their_data_and_networks_fit(toy_splits, monkeypatch):
    """How many; without a GPU that is all there is to see."""

    def side_by_side(gibibytes, jobs, encoder="small", splits=toy_splits):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gibibytes * 2**30), 0))
        return most_at_a_time(jobs, splits, torch.device("cuda"), Architecture(encoder))

    assert [side_by_side(80, jobs) for jobs in (None, 1, 4)] == [1, 1, 4]
    assert side_by_side(7, 4) == 3 and side_by_side(1, 4) == 0, "then one is tried"
    assert side_by_side(7, 4, "resnet18") == 2, "22 million weights"
    train = toy_splits.train
    long = dataclasses.replace(train, inputs={"left": train.inputs["left"][:1].expand(2**24, 1, 8, 8)})  # 4 GiB
    assert side_by_side(19, 4, splits=dataclasses.replace(toy_splits, train=long)) == 3
    assert side_by_side(7, 4, splits=dataclasses.replace(toy_splits, train=long)) == 3, "the data stays where it is"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_runs_that_share_a_gpu_end_as_alone(toy_splits):
    runs, config = [Run("mbcd", "there", seed, ("left", "right")) for seed in range(4)], TrainingConfig(epochs=2)
    alone, shared = (train_runs(runs, toy_splits, config, jobs=jobs, cached=False) for jobs in (1, 4))
    for one, two in zip(alone, shared, strict=True):
        assert one.scores == pytest.approx(two.scores, abs=0.02)


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


def test_nothing_to_learn_leaves_no_method_ahead(toy_splits):
    """Negative control of notebook 06: with shuffled labels MBCD beats nobody. Each seed has a shuffle of its own: what
    one shuffle happens to teach all of its runs have in common."""
    scores = {}
    for seed in range(8):
        shuffled = with_shuffled_labels(toy_splits, torch.Generator().manual_seed(seed))
        runs = [Run(name, "there", seed, ("left", "right")) for name in ("erm", "ema", "mbcd")]
        for result in train_runs(runs, shuffled, CONFIG, jobs=1):
            scores.setdefault(result.run.method, {})[seed] = result.scores["target accuracy"]
    of = pd.DataFrame(scores)
    assert paired_difference(of["mbcd"], of["erm"]).above_zero is None
    assert paired_difference(of["mbcd"], of["ema"]).above_zero is None


BLOWS_UP = (("optimiser", "sgd"), ("learning_rate", 1e3), ("batch_size", 16))


class TestDiverged:
    RUNS = tuple(
        Run("erm", "there", seed, ("left", "right"), settings=BLOWS_UP if seed == 1 else ()) for seed in range(3)
    )

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
        return tmp_path / "runs"

    def test_a_run_that_diverges_stops_no_other_and_is_left_out_visibly(self, toy_splits, folder, capsys):
        first, second = (train_runs(self.RUNS, toy_splits, CONFIG, jobs=1, by_epoch=True) for _ in range(2))
        said = capsys.readouterr().out.splitlines()
        why = first[1].diverged
        assert why.startswith("ERM diverged in epoch 1, step ") and [r.loaded for r in second] == [True] * 3
        assert said[1] == said[3] == f"No result of erm, seed 1, target 'there': {why}"
        assert sorted(path.suffixes for path in folder.iterdir()) == [[".pt"]] * 3, "no checkpoint is left"
        for trained in (first, second):
            table = score_table(trained)
            assert table["diverged"].tolist() == ["", why, ""]
            assert table["target accuracy"].isna().tolist() == [False, True, False]
            assert str(estimate(table["target accuracy"])).endswith("(1 left out)")
            for reading in (
                per_seed(trained, lambda run: float(next(run.predictor.parameters()).detach().mean())),
                histories(trained, "target accuracy").iloc[-1],
                by_epoch(trained, lambda network: 1.0).iloc[-1],
            ):
                assert reading.isna().tolist() == [False, True, False]

    def test_all_its_scores_are_there_and_nan_and_its_networks_say_why(self, toy_splits):
        fine, broken, _ = train_runs(self.RUNS, toy_splits, CONFIG, jobs=1, by_epoch=True)
        broken = pickle.loads(pickle.dumps(broken))  # as another process returns it
        assert broken.scores.keys() == fine.scores.keys() and all(map(math.isnan, broken.scores.values()))
        for use in (
            lambda: broken.predictor(toy_splits.test.inputs),
            lambda: broken.network.eval(),
            lambda: sample_scores(copy.deepcopy(broken.predictor), toy_splits.test),
            lambda: broken.sample_scores(toy_splits.test),
        ):
            with pytest.raises(Diverged, match="ERM diverged in epoch 1"):
                use()

    def test_where_all_diverged_nothing_is_measured(self, toy_splits):
        _, broken, _ = train_runs(self.RUNS, toy_splits, CONFIG, jobs=1)
        for read in (lambda: histories([broken], "train loss"), lambda: per_seed([broken], lambda run: 1.0)):
            with pytest.raises(Diverged, match=r"None of 1 runs has a result\. ERM diverged in epoch 1"):
                read()

    def test_settings_with_which_a_run_diverges_are_not_chosen(self, toy_splits, monkeypatch):
        both, fine = ("left", "right"), (("learning_rate", 1e-5),)
        with monkeypatch.context() as patched:
            patched.setattr("mmlib.training.tables.train_runs", self.one_in_two_diverges)
            assert tune("erm", [BLOWS_UP, fine], toy_splits, CONFIG, ["there"], [0, 1], both) == {"there": fine}
        with pytest.raises(Diverged, match=r"erm diverged with every setting for 'there'\. ERM diverged in epoch 1"):
            tune("erm", [BLOWS_UP], toy_splits, CONFIG, ["there"], [0], both)

    @staticmethod
    def one_in_two_diverges(runs, *_, **options):
        """With settings that are better wherever they do not diverge."""
        scores = {BLOWS_UP: 0.9, (("learning_rate", 1e-5),): 0.5}
        return [
            Trained.without_result(run, "why")
            if run.settings == BLOWS_UP and run.seed == 1
            else Trained(
                run, None, None, History(), {"validation accuracy": scores[run.settings], "validation loss": 1}
            )
            for run in runs
        ]


class TestCache:
    RUN = Run("ema", "there", 3, ("left", "right"), settings=(("half_life", 0.2), ("learning_rate", 2e-3)))

    @pytest.fixture(autouse=True)
    def empty(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
        self.folder = tmp_path / "runs"

    def train(self, splits, run=RUN, config=CONFIG, **options):
        (trained,) = train_runs([run], splits, config, jobs=1, **options)
        return trained

    def test_a_shared_cache_is_read_and_stays_as_it_is(self, toy_splits, tmp_path, monkeypatch, capsys):
        first, shared, own = self.train(toy_splits), tmp_path / "runs", tmp_path / "own" / "runs"
        monkeypatch.setenv("MMLIB_SHARED_CACHE", str(shared.parent))
        monkeypatch.setenv("MMLIB_CACHE", str(own.parent))
        again, other = self.train(toy_splits), self.train(toy_splits, dataclasses.replace(self.RUN, seed=4))
        assert again.loaded and again.scores == first.scores and not other.loaded
        (path,), (kept,) = shared.iterdir(), own.glob("*.pt")
        assert path.name != kept.name, "what was loaded is not copied"
        path.write_bytes(damaged := path.read_bytes()[:999])
        assert not self.train(toy_splits).loaded and self.train(toy_splits).loaded
        assert f"{path} is damaged" in capsys.readouterr().out
        assert [one.read_bytes() for one in shared.iterdir()] == [damaged]

    def test_a_run_is_trained_once_and_then_loaded(self, toy_splits, capsys):
        first, second = self.train(toy_splits), self.train(toy_splits)
        assert (first.loaded, second.loaded) == (False, True)
        assert capsys.readouterr().out.splitlines() == [
            "1 runs trained, 0 loaded from the cache",
            "0 runs trained, 1 loaded from the cache",
        ]
        assert first.scores == second.scores and first.history.rows == second.history.rows
        tables = [score_table([result]).drop(columns="loaded") for result in (first, second)]
        pd.testing.assert_frame_equal(*tables)
        states = [result.predictor.state_dict() for result in (first, second)]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        modes = [
            (parameter.requires_grad, result.predictor.training)
            for result in (first, second)
            for parameter in result.predictor.parameters()
        ]
        assert set(modes) == {(True, False)}, "both are ready for evaluation and for flatness"

    def test_another_truth_is_another_result(self, toy_splits):
        """Training on the truly clean samples depends on the truth: equal inputs do not make it the same run."""
        run = Run("purified", "there", 0, ("left", "right"), settings=(("keep", "clean"), ("warm_up", 1)))

        def degraded(first, last):
            truth = torch.zeros(len(toy_splits.train))
            truth[first:last] = 1.0
            train = dataclasses.replace(toy_splits.train, truth={"degraded_left": truth})
            return dataclasses.replace(toy_splits, train=train)

        first, second = (self.train(degraded(*rows), run) for rows in ((0, 100), (100, 300)))
        assert not second.loaded and first.scores != second.scores

    def test_the_network_is_kept_as_it_was_after_every_epoch(self, toy_splits):
        without = self.train(toy_splits)
        with pytest.raises(ValueError, match="ema kept no weights by epoch: ask for them with `by_epoch=True`"):
            without.sample_scores(toy_splits.train)
        trained, again = (self.train(toy_splits, by_epoch=True) for _ in range(2))
        assert not trained.loaded, "trained again where they were not kept"
        assert trained.scores == without.scores and self.train(toy_splits).loaded, "and good for all"
        shorter = self.train(toy_splits, config=dataclasses.replace(CONFIG, epochs=1))
        first, last = (copy.deepcopy(network.state_dict()) for network in trained.networks())
        for kept, whole in ((first, shorter.network), (last, trained.network)):
            for name, value in whole.state_dict().items():
                if value.is_floating_point():
                    assert torch.allclose(kept[name], value, rtol=1e-3, atol=1e-6), "kept with half precision"
        assert again.loaded and all(torch.equal(value, last[name]) for name, value in states(again)[-1].items())
        data = self.RUN.protocol(toy_splits).train
        scores = trained.sample_scores(data)
        assert scores.shape == (CONFIG.epochs, 2, len(data))
        assert torch.allclose(scores[-1], sample_scores(trained.network, data), atol=1e-3)
        frame = over_epochs({5: scores, 7: scores}, lambda at: at[0].mean())
        assert list(frame.index) == list(range(1, len(scores) + 1)) and list(frame.columns) == [5, 7]
        assert frame[7].iloc[-1] == pytest.approx(float(scores[-1, 0].mean()))

    def test_weights_beyond_half_precision_are_kept_whole(self, toy_splits):
        loud = dataclasses.replace(toy_splits.train, inputs={k: 1e4 * v for k, v in toy_splits.train.inputs.items()})
        trained = self.train(dataclasses.replace(toy_splits, train=loud), by_epoch=True)
        *_, last = states(trained)
        assert max(float(value.abs().max()) for value in last.values()) > 1e6
        assert all(
            torch.equal(value, last[name]) for name, value in trained.network.state_dict().items() if name in last
        )

    def test_a_large_network_keeps_no_weights_by_epoch(self, toy_splits, monkeypatch):
        monkeypatch.setattr("mmlib.training.run.WEIGHTS_KEPT", 1000)
        self.train(toy_splits, by_epoch=True)
        again = self.train(toy_splits, by_epoch=True)
        assert again.loaded
        with pytest.raises(ValueError, match="ema kept no weights by epoch: those of 2 epochs take more than"):
            again.sample_scores(toy_splits.train)

    def test_without_the_cache_nothing_is_read_or_written(self, toy_splits):
        assert not self.train(toy_splits, cached=False).loaded and not self.folder.exists()

    @pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
    def test_a_run_that_another_process_trains_is_left_to_it(self, toy_splits, tmp_path, monkeypatch, capsys, killed):
        """Until it is done, or dead: then its training is resumed here. Meanwhile other runs are trained."""
        shared, own = (Run(method, "there", 0, ("left", "right")) for method in ("erm", "ema"))  # of one network
        expected = train_runs([shared, own], toy_splits, CONFIG, jobs=1, cached=False)
        middle, go_on = tmp_path / "middle", tmp_path / "go_on"
        other = subprocess.Popen([sys.executable, "-c", ANOTHER_PROCESS, str(middle), str(go_on)])
        trained = []

        def watched(runs, *arguments, **options):
            trained.extend(runs)
            result = train_together(runs, *arguments, **options)
            if runs == [own]:
                assert other.poll() is None, "it was not waited for"
                if killed:
                    other.kill()
                else:
                    go_on.touch()
            return result

        monkeypatch.setattr("mmlib.training.runs.train_together", watched)
        try:
            while not middle.exists():
                assert other.poll() is None
                time.sleep(0.01)
            capsys.readouterr()
            found = train_runs([shared, own], toy_splits, CONFIG, jobs=1)
        finally:
            other.kill()
            other.wait()
        assert trained == ([own, shared] if killed else [own])
        assert [result.loaded for result in found] == [not killed, False]
        assert f"{len(trained)} runs trained, {2 - len(trained)} loaded from the cache" in capsys.readouterr().out
        assert [result.scores for result in found] == [result.scores for result in expected]
        assert [path.suffix for path in self.folder.iterdir()] == [".pt", ".pt"], "no lock is left"

    def test_without_the_cache_no_run_waits_for_another(self, toy_splits, monkeypatch):
        monkeypatch.setattr("mmlib.training.runs._reserved", None)
        assert self.train(toy_splits, cached=False).scores

    def test_a_cache_in_which_nothing_can_be_locked_is_none_and_training_goes_on(self, toy_splits, tmp_path, capsys):
        (tmp_path / "runs").write_text("not a folder")
        assert self.train(toy_splits).scores
        assert f"1 of them could not be kept in {self.folder}: " in capsys.readouterr().out

    def test_a_damaged_result_is_set_aside_and_trained_again(self, toy_splits, capsys):
        first = self.train(toy_splits)
        (path,) = self.folder.iterdir()
        path.write_bytes(b"nonsense")
        again = self.train(toy_splits)
        assert not again.loaded and again.scores == first.scores and self.train(toy_splits).loaded
        assert f"and was renamed to {path.name}.damaged: the run is trained again." in capsys.readouterr().out
        assert {one.name for one in self.folder.iterdir()} == {path.name, f"{path.name}.damaged"}

    def test_a_result_that_cannot_be_kept_is_not_lost(self, toy_splits, monkeypatch, capsys):
        def full(state, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        monkeypatch.setattr("mmlib.training.runs.Checkpoint", partial(Checkpoint, seconds=0))
        runs = [dataclasses.replace(self.RUN, seed=seed) for seed in range(2)]
        assert all(result.scores for result in train_runs(runs, toy_splits, CONFIG, jobs=1))
        said = capsys.readouterr().out
        assert said.count("the training continues without") == 2, "once a run"
        assert "2 of them could not be kept in" in said and said.count("No space left on device") == 3

    def test_a_full_and_a_read_only_disk_cost_no_result(self, toy_splits, small_disk, monkeypatch, capsys):
        monkeypatch.setenv("MMLIB_CACHE", str(small_disk))
        (small_disk / "full").write_bytes(bytes(600_000))
        assert self.train(toy_splits).scores
        assert "1 of them could not be kept in" in (said := capsys.readouterr().out) and "No space left" in said
        assert not list((small_disk / "runs").iterdir())
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        assert self.train(toy_splits).scores
        assert "Read-only file system" in capsys.readouterr().out

    def test_a_file_that_cannot_be_read_just_now_stays_as_it_is(self, toy_splits, monkeypatch, capsys):
        self.train(toy_splits)
        (path,) = self.folder.iterdir()

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(torch, "load", denied)
        assert not self.train(toy_splits).loaded and list(self.folder.iterdir()) == [path]
        assert (
            f"{path} cannot be read ([Errno 13] Permission denied): the run is trained again."
            in capsys.readouterr().out
        )

    def test_a_method_of_ones_own_is_trained_in_every_process(self, toy_splits, monkeypatch):
        """Other processes import the kit afresh and may know another method, or none, by the name."""

        class Backwards(methods.ERM):
            def step_losses(self, batch):
                return {name: -loss for name, loss in super().step_losses(batch).items()}

        monkeypatch.setitem(methods.METHODS, "erm", methods.Variant(Backwards))
        runs = [Run("erm", "there", seed, ("left", "right")) for seed in range(2)]
        alone, together = (train_runs(runs, toy_splits, CONFIG, jobs=jobs, cached=False) for jobs in (1, 2))
        assert [one.scores for one in alone] == [one.scores for one in together]
        plain = {"erm": methods.Variant(methods.ERM)}
        assert train_run(runs[0], toy_splits, CONFIG, variants=plain).scores != alone[0].scores

    @pytest.mark.parametrize("name", methods.METHODS)
    def test_a_killed_training_resumes_to_the_identical_result(self, name, toy_splits, monkeypatch):
        """Weights, history and what is kept by epoch; the second process has only what is on the disk."""
        train = dataclasses.replace(toy_splits.train, truth={"degraded_left": (torch.arange(360) % 5 == 0).float()})
        splits = dataclasses.replace(toy_splits, train=train)
        options = (("warm_up", 1),) if "warm_up" in methods.METHODS[name].complete() else ()
        run = Run(name, "there", 1, ("left", "right"), settings=options)
        config = TrainingConfig(epochs=3, device="cpu")
        (expected,) = train_runs([run], splits, config, jobs=1, cached=False, by_epoch=True)
        with monkeypatch.context() as patched:
            stopped_while_saving(patched, 3)  # while the third epoch's state is being written
            with pytest.raises(KeyboardInterrupt):
                train_runs([run], splits, config, jobs=1, by_epoch=True)
        assert [path.name.split(".", 1)[1] for path in self.folder.iterdir()] == ["checkpoint-by-epoch.pt"]
        (resumed,) = train_runs([run], splits, config, jobs=1, by_epoch=True)
        assert not resumed.loaded and resumed.scores == expected.scores
        for one, two in zip(states(resumed), states(expected), strict=True):
            assert all(torch.equal(value, two[name]) for name, value in one.items())
        for part in ("predictor", "network"):
            state = getattr(resumed, part).state_dict()
            assert all(torch.equal(value, state[key]) for key, value in getattr(expected, part).state_dict().items())
        rows, expected_rows = ([row | {"seconds": 0} for row in one.history.rows] for one in (resumed, expected))
        assert rows == expected_rows
        assert [path.name.count(".") for path in self.folder.iterdir()] == [1], "the result has replaced the checkpoint"


def test_tuning_looks_at_the_sources_only(toy_splits):
    grid = [(("learning_rate", rate),) for rate in (1e-5, 3e-3)]

    def chosen(splits):
        return tune("erm", grid, splits, CONFIG, ["here", "there"], [0], ("left", "right"))

    assert chosen(toy_splits) == {"here": grid[1], "there": grid[1]}, "the step that learns nothing loses"
    test = toy_splits.test
    useless = dataclasses.replace(test, labels=(test.labels + 1) % 3)
    assert chosen(dataclasses.replace(toy_splits, test=useless)) == chosen(toy_splits)


def test_settings_by_each_protocol(toy_splits):
    def chosen(tuning, method="rna-net"):
        return settings_by(method, tuning, toy_splits, CONFIG, ["there"], [3], ("left", "right"))["there"]

    assert chosen("none") == () and chosen("mmdg-bench", "erm") == ()
    assert chosen("grid") in methods.GRIDS["rna-net"]
    assert chosen("mmdg-bench") in methods.bench_configurations("rna-net")
    with pytest.raises(ValueError, match="tuning must be one of none, grid, mmdg-bench"):
        chosen("guesses")
    given = {"fixed": (("decay", 0.9),)}
    of_ema = settings_by("ema", "grid", toy_splits, CONFIG, ["there"], [3], ("left", "right"), **given)["there"]
    assert dict(of_ema)["decay"] == 0.9 and dict(of_ema).keys() == {"decay", "learning_rate"}


def test_protocols(toy_splits):
    both = ("left", "right")
    names = toy_splits.train.domain_names

    def domains(part):
        return {names[index] for index in part.domains.tolist()}

    for source, target, trained_on in (("", "there", "here"), ("there", "here", "there"), ("here", "here", "here")):
        protocol = Run("erm", target, 0, both, source).protocol(toy_splits)
        assert domains(protocol.train) == domains(protocol.validation) == domains(protocol.source_test) == {trained_on}
        assert domains(protocol.target) == {target}
    pooled = Run("erm", "", 0, both).protocol(toy_splits)
    assert len(pooled.train) == len(toy_splits.train) and domains(pooled.train) == {"here", "there"}
    assert pooled.validation.fingerprint() == toy_splits.validation.fingerprint()
    assert pooled.target.fingerprint() == toy_splits.test.fingerprint()
    assert Run("erm", "there", 0, ("left",)).protocol(toy_splits).train.modalities == ("left",)
    lonely = dataclasses.replace(toy_splits, validation=toy_splits.validation.select_domains("here"))
    with pytest.raises(ValueError, match="The validation part is empty with there as sources and here unseen"):
        lonely.leave_out("here")


def test_a_measurement_by_epoch(trained):
    frame = by_epoch(trained, lambda network: float(next(network.parameters()).detach().abs().mean()))
    assert frame.shape == (3, 4) and list(frame.index) == [1, 2, 3] and list(frame) == [0, 1, 2, 3]
    last = [float(next(result.network.parameters()).detach().abs().mean()) for result in trained]
    assert frame.loc[3].tolist() == pytest.approx(last, rel=1e-3)
