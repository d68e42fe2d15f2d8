"""The two stages of GMM-adaptive, each of its four properties by itself, and purification with its controls."""

from dataclasses import replace

import pytest
import torch
from conftest import toy_dataset
from torch.nn import functional

from mmlib.data.digits.degradation import degrade, degraded_samples
from mmlib.equations.losses import gap_penalty, modality_gap, shift_penalty, true_class_scores
from mmlib.exercises import adaptive as exercises
from mmlib.instruments import separation_scores
from mmlib.methods import EMA, SWA, SWAD, build
from mmlib.models import build_classifier
from mmlib.models.evaluate import sample_scores
from mmlib.training import TrainingConfig, fit
from mmlib.training.checkpoint import Checkpoint

SHAPES = {"left": (1, 8, 8), "right": (1, 8, 8)}
OFF = {"fusion": 0.0, "gap": 0.0, "alignment": 0.0, "shift": 0.0, "release": 0.0, "trust": 0.0}


def made(name, seed=0, **options):
    return build(name, build_classifier(SHAPES, 3, seed), seed, **options)


def mismatched(count=600, share=0.2):
    generator = torch.Generator().manual_seed(5)
    data = toy_dataset(count, seed=4)
    for name in SHAPES:
        data = degrade(data, name, "mismatch", share, generator)
    return data


def train(method, data, epochs, **options):
    config = TrainingConfig(epochs=epochs, batch_size=32, learning_rate=3e-3, device="cpu")
    return fit(method, data, toy_dataset(120, seed=6), config, progress=False, **options)


def stage_two(data, **options):
    """A method after three epochs of warm-up, its posterior fitted, in eval mode so that two passes agree."""
    method = made("gmm-adaptive", warm_up=3, smoothing=0.0, **options)
    train(method, data, 3)
    method.on_epoch_start(4, data)
    return method.eval()


def seeded_losses(method, batch):
    torch.manual_seed(0)
    return {name: loss.item() for name, loss in method.step_losses(batch).items()}


def test_the_exercises_ask_for_what_the_method_does():
    data = mismatched(200)
    method = stage_two(data, **OFF | {"gap": 0.5, "alignment": 2.0, "release": 0.7, "trust": 1.5})
    batch = data.whole()
    found, logits = seeded_losses(method, batch), method.model(batch.inputs).unimodal_logits
    weights = exercises.head_weights.kit(method.scores, method.imbalance, 0.7, 1.5)
    assert weights.std() > 0.1
    for (name, of_head), weight in zip(logits.items(), weights, strict=True):
        expected = (weight * functional.cross_entropy(of_head, batch.labels, reduction="none")).mean()
        assert found[name] == pytest.approx(expected.item(), rel=1e-5)
    penalty = exercises.alignment_penalty.kit(true_class_scores(logits, batch.labels), method.imbalance, 2.0)
    assert found["gap"] == pytest.approx(0.5 * penalty.mean().item(), rel=1e-5)


class TestStages:
    def test_the_warm_up_is_multi_loss_to_the_last_bit(self):
        data = mismatched(200)
        adaptive, plain = made("gmm-adaptive", warm_up=2), made("multi-loss")
        first, second = train(adaptive, data, 3), train(plain, data, 3)
        assert [row["validation loss"] for row in first.rows[:2]] == [row["validation loss"] for row in second.rows[:2]]
        assert first.rows[2]["validation loss"] != second.rows[2]["validation loss"]
        assert "train gap loss" not in first.rows[1] and "train gap loss" in first.rows[2]

    def test_with_everything_switched_off_the_second_stage_is_multi_loss_too(self):
        data = mismatched(200)
        adaptive, plain = made("gmm-adaptive", warm_up=1, **OFF), made("multi-loss")
        train(adaptive, data, 3)
        train(plain, data, 3)
        for one, two in zip(adaptive.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.allclose(one, two, atol=1e-5)

    def test_the_posterior_finds_mismatched_samples_without_seeing_the_truth(self):
        data = mismatched()
        method = stage_two(data)
        found = separation_scores(method.imbalance, degraded_samples(data))
        assert found["AUC"] > 0.8 and found["average precision"] > 0.6
        shuffled = degraded_samples(data)[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]
        assert separation_scores(method.imbalance, shuffled)["AUC"] < 0.6

    def test_a_modality_is_measured_by_its_own_standards(self):
        """A beginner beside an expert: by plain scores he is weak on every sample, by relative ones on the wrong."""
        beginner, expert = torch.full((200,), 0.3), torch.full((200,), 0.9)
        beginner[:40], expert[40:60] = 0.01, 0.01
        wrong = torch.arange(200) < 60
        for relative in (True, False):
            method = made("gmm-adaptive", relative=relative)
            method.scores = torch.stack([beginner, expert]) + 0.01 * torch.rand(
                2, 200, generator=torch.Generator().manual_seed(0)
            )
            method.judge()
            assert torch.equal(method.imbalance > 0.5, wrong) == relative
            assert (method.weakest[:40] == 0).all() and (method.weakest[40:60] == 1).all()

    def test_scores_are_averaged_over_epochs_and_the_untrained_network_has_no_say(self):
        data = mismatched(200)
        method = made("gmm-adaptive", smoothing=0.6)
        seen = []
        for epoch in (1, 2, 3):
            method.on_epoch_start(epoch, data)
            seen.append(sample_scores(method.model, data))
            with torch.no_grad():
                for head in method.model.unimodal_heads.values():
                    head.weight.mul_(3)
        assert torch.allclose(method.scores, 0.6 * seen[1] + 0.4 * seen[2], atol=1e-6)

    def test_auto_warm_up_ends_after_the_peak_of_the_heads(self):
        """Their mean counts: one head's rise makes up for the other's fall."""
        data = mismatched(200)
        method = made("gmm-adaptive", warm_up="auto")
        warm = []
        for epoch, (left, right) in enumerate([(0.5, 0.5), (0.9, 0.7), *[(0.6, 0.9)] * 4, *[(1.0, 1.0)] * 2], 1):
            method.on_epoch_start(epoch, data)
            warm.append(method.warm)
            method.on_epoch_end({"validation left accuracy": left, "validation right accuracy": right})
        assert warm == [False] * 8, "0.5, 0.65, 0.7 … 0.74: still rising"
        for epoch in range(9, 16):
            method.on_epoch_start(epoch, data)
            warm.append(method.warm)
            accuracy = 0.2 if epoch < 13 else 1.0
            method.on_epoch_end({"validation left accuracy": accuracy, "validation right accuracy": accuracy})
        assert warm[8:] == [False] * 4 + [True] * 3, "four epochs past the peak; and it stays over"

    def test_nothing_to_separate_makes_no_sample_imbalanced(self):
        method = made("gmm-adaptive", warm_up=1)
        one_peak = (0.5 + 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        for first in (torch.full((200,), 0.3), one_peak):
            method.scores = torch.stack([first, torch.zeros(200)])
            imbalance, mixture = method.posterior()
            assert mixture is None and not imbalance.any()
        method.scores = torch.full((2, 200), float("nan"))
        with pytest.raises(ValueError, match="NaN"):
            method.posterior()


class _Interrupt(Exception):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: made("gmm-adaptive", warm_up=2),
        lambda: made("gmm-adaptive", warm_up="auto"),
        lambda: made("mbcd + gmm", warm_up=2, peaks=False, judge="random"),
        lambda: made("purified", warm_up=2),
        lambda: made("purified", warm_up=2, keep="random"),
        lambda: SWA(made("gmm-adaptive", warm_up=2)),
        lambda: SWAD(made("purified", warm_up=2)),
    ],
)
def test_a_run_interrupted_in_its_second_stage_resumes_to_the_identical_result(make, tmp_path):
    data = mismatched(200)
    straight, interrupted, resumed = make(), make(), make()
    expected = train(straight, data, 7)
    ended = interrupted.on_epoch_end

    def on_epoch_end(validation):
        ended(validation)
        if len(list(tmp_path.iterdir())) and next(epochs) == 4:
            raise _Interrupt

    epochs = iter(range(10))
    interrupted.on_epoch_end = on_epoch_end
    with pytest.raises(_Interrupt):
        train(interrupted, data, 7, checkpoint=Checkpoint(tmp_path / "run.pt", "this run", 0))
    history = train(resumed, data, 7, checkpoint=Checkpoint(tmp_path / "run.pt", "this run", 0))
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in of.rows] for of in (history, expected)]
    assert without_time[0] == without_time[1], "and what is watched is still seen"
    for one, two in zip(straight.predictor.parameters(), resumed.predictor.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["gmm-adaptive", "mmpareto", "pmr", "purified"])
def test_what_is_averaged_trains_like_the_method_itself(name):
    data, options = mismatched(200), {} if name in ("mmpareto", "pmr") else {"warm_up": 1}
    plain, averaged = made(name, **options), EMA(made(name, **options))
    first, second = train(plain, data, 3), train(averaged, data, 3)
    columns = [column for column in first.rows[-1] if column not in second.rows[-1]]
    assert not columns, "what the method watches is seen"
    assert [row["train fused loss"] for row in first.rows] == [row["train fused loss"] for row in second.rows]


class TestTheFourProperties:
    @pytest.fixture
    def data(self):
        return mismatched(300)

    def test_each_has_its_own_switch(self, data):
        """The fused loss depends on `fusion`, the uni-modal ones on `release`, and so on."""
        everything = stage_two(data)
        reference = seeded_losses(everything, data.whole())
        depends = {
            "fusion": {"fused"},
            "gap": {"gap"},
            "alignment": {"gap"},
            "shift": {"shift"},
            "release": {"left", "right"},
            "trust": {"fused", "left", "right"},
        }
        for switch, parts in depends.items():
            value = getattr(everything, switch)
            setattr(everything, switch, 0.0)
            everything.on_epoch_start(4, data)
            losses = seeded_losses(everything, data.whole())
            setattr(everything, switch, value)
            assert {name for name in reference if losses[name] != reference[name]} == parts, switch

    @pytest.mark.parametrize("relative", [True, False])
    def test_the_terms_are_their_equations(self, data, relative):
        options = {"release": 0.8, "gap": 0.7, "alignment": 2.0, "shift": 0.3, "trust": 2.0}
        method, batch = stage_two(data, relative=relative, **options), data.whole()
        losses = seeded_losses(method, batch)
        outputs = method.model(batch.inputs)
        scores = true_class_scores(outputs.unimodal_logits, batch.labels)
        usual = method.scores.mean(1) if relative else torch.ones(2)
        q, weak = method.imbalance, (method.scores / usual[:, None]).clamp(max=1).argmin(0)
        assert 0.1 < q.mean() < 0.9
        trust = method.scores.max(0).values.square()
        trust = trust / trust.mean()
        for index, (name, logits) in enumerate(outputs.unimodal_logits.items()):
            own = functional.cross_entropy(logits, batch.labels, reduction="none")
            weights = torch.where(weak == index, 1 - 0.8 * q, 1.0)
            assert losses[name] == pytest.approx((trust * weights * own).mean().item(), rel=1e-4)
        penalty = gap_penalty((scores / usual[:, None]).clamp(max=1))
        assert losses["gap"] == pytest.approx((0.7 * (1 + 2 * q) * penalty).mean().item(), rel=1e-4)
        moved = shift_penalty(penalty, *method.mixture.means.float())
        assert losses["shift"] == pytest.approx((0.3 * q * moved).mean().item(), rel=1e-4)

    def test_the_weak_modality_of_imbalanced_samples_sits_out(self, data):
        method = stage_two(data, **OFF | {"fusion": 1.0})
        seen = []
        fuse = method.model.fuse
        method.model.fuse = lambda features, mask=None: seen.append(mask) or fuse(features, mask)
        torch.manual_seed(0)
        for _ in range(200):
            method.step_losses(data.whole())
        out = 1 - torch.stack([keep for keep in seen if keep is not None]).mean(0)  # (N, M)
        weak = method.scores.argmin(0)
        assert torch.allclose(out.gather(1, weak[:, None]).squeeze(1), method.imbalance, atol=0.15)
        assert not out.gather(1, 1 - weak[:, None]).any(), "the dominant one never does"

    def test_the_posterior_and_the_dominant_modality_get_no_gradient(self, data):
        method, batch = stage_two(data), data.whole()
        losses = method.step_losses(batch)
        assert not method.imbalance.requires_grad
        logits = method.model(batch.inputs).unimodal_logits
        scores = true_class_scores(logits, batch.labels)
        assert (modality_gap(scores) > 0).all()
        (gradient,) = torch.autograd.grad(gap_penalty(scores).sum(), scores)
        assert set(gradient.unique().tolist()) == {-1.0, 0.0} and losses["gap"] > 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"fusion": 1.5},
            {"release": -0.1},
            {"gap": -1.0},
            {"warm_up": 0},
            {"warm_up": "soon"},
            {"smoothing": 1.0},
            {"relative": 1},
        ],
    )
    def test_wrong_values_are_named(self, wrong):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"GMMAdaptive: {name} must be"):
            made("gmm-adaptive", **wrong)


class TestPurified:
    def rows(self, data, keep, epochs=(4, 5), **options):
        method = made("purified", warm_up=3, keep=keep, **options)
        train(method, data, 3)
        return method, [method.on_epoch_start(epoch, data) for epoch in epochs]

    def test_controls_share_the_warm_up_and_the_number_of_steps(self):
        data = mismatched(300)
        histories, kept = {}, {}
        for keep in ("balanced", "random", "clean"):
            method = made("purified", warm_up=3, keep=keep)
            histories[keep] = train(method, data, 4).rows
            kept[keep] = method.kept
            for row, first in zip(histories[keep][:3], histories["balanced"][:3], strict=True):
                assert row["validation loss"] == first["validation loss"]
            assert len(method.on_epoch_start(5, data)) == len(data)
        histories["all"] = train(made("multi-loss"), data, 4).rows
        assert histories["all"][2]["validation loss"] == histories["balanced"][2]["validation loss"]
        assert len({rows[3]["validation loss"] for rows in histories.values()}) == 4
        assert len(kept["balanced"]) == len(kept["random"]) < len(data)
        assert not torch.equal(kept["balanced"], kept["random"])
        assert not degraded_samples(data)[kept["clean"]].any()
        share = {keep: degraded_samples(data)[rows].double().mean().item() for keep, rows in kept.items()}
        assert share["balanced"] < 0.7 * share["random"], "the filter throws away what is bad"

    def test_kept_samples_are_those_below_the_threshold_and_drawn_evenly(self):
        data = mismatched(300)
        method, (first, second) = self.rows(data, "balanced", threshold=0.3, known=0.0)
        below = (method.posterior()[0] <= 0.3).nonzero().squeeze(1)
        assert torch.equal(method.kept, below)
        assert set(first.tolist()) == set(below.tolist()) and not torch.equal(first, second)
        counts = torch.bincount(first, minlength=len(data))[below]
        assert counts.max() - counts.min() <= 1

    def test_a_stricter_threshold_keeps_less(self):
        data = mismatched(300)
        sizes = [len(self.rows(data, "balanced", threshold=threshold)[0].kept) for threshold in (0.1, 0.5, 0.9)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]

    def test_what_no_modality_knows_is_left_out_although_its_gap_is_small(self):
        """A third each: known to both modalities, to one of them, to none."""
        score = 0.02 * torch.rand(2, 300, generator=torch.Generator().manual_seed(0))
        score[:, :100] += 0.9
        score[1, 100:200] += 0.9
        third = torch.arange(300) // 100
        for relative in (True, False):
            kept = {}
            for known in (0.5, 0.0):
                method = made("purified", known=known, relative=relative)
                method.scores = score
                kept[known] = third[method._chosen(mismatched(300))].bincount(minlength=3).tolist()
            assert kept == {0.5: [100, 0, 0], 0.0: [100, 0, 100]}

    def test_a_wider_balanced_component_keeps_more(self):
        """Where most gaps are exactly zero, the narrowest component leaves out what is nearly so."""
        nearly = torch.cat([torch.zeros(150), torch.linspace(0, 0.2, 50), torch.linspace(0.3, 1, 100)])
        kept = {}
        for floor in (1e-4, 0.01):
            method = made("purified", relative=False, variance_floor=floor)
            method.scores = torch.stack([torch.ones(300), 1 - nearly])
            kept[floor] = int((method._chosen(mismatched(300)) < 200).sum())
        assert kept[1e-4] < 170 and kept[0.01] == 200, kept

    def test_everything_random_depends_on_the_seed(self):
        data = mismatched(300)
        draws = []
        for seed in (0, 1):
            method = made("purified", seed, warm_up=1, keep="random")
            method.scores = torch.rand(2, len(data), generator=torch.Generator().manual_seed(0)).square()
            method.imbalance = None
            draws.append(method._chosen(data))
        assert not torch.equal(*draws)

    def test_an_empty_filter_and_missing_truth_are_refused(self):
        data = mismatched(300)
        method = made("purified", keep="balanced", threshold=0.5)
        method.scores, method.posterior = torch.ones(2, len(data)), lambda: (torch.ones(len(data)), None)
        with pytest.raises(
            ValueError, match=r"none that a modality knows \(known=0\.5\) has a posterior up to threshold 0\.5"
        ):
            method._chosen(data)
        with pytest.raises(ValueError, match="no ground truth"):
            made("purified", keep="clean")._chosen(replace(data, truth={}))
        with pytest.raises(ValueError, match="Purified: keep must be one of balanced, random"):
            made("purified", keep="best")
