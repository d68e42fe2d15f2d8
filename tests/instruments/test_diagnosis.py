import numpy as np
import pytest
import torch
from conftest import toy_dataset

from mmlib.data import Splits
from mmlib.instruments import diagnosis
from mmlib.models import build_classifier
from mmlib.models.evaluate import evaluate
from mmlib.training import Run, TrainingConfig, estimate, paired_difference, per_seed, train_runs, where


def test_learning_speed_sees_when_and_not_how_high():
    early, late = [0.1, 0.6, 0.6, 0.6], [0.1, 0.1, 0.1, 0.6]
    assert diagnosis.learning_speed(early, 0.1) == pytest.approx(0.75)
    assert diagnosis.learning_speed(late, 0.1) == pytest.approx(0.25)
    assert diagnosis.learning_speed([0.1, 0.9, 0.9, 0.9], 0.1) == pytest.approx(0.75)
    assert diagnosis.learning_speed([0.1, 0.1], 0.1) == 0
    with pytest.raises(ValueError, match="one accuracy per epoch"):
        diagnosis.learning_speed([], 0.1)


def test_shapley_values_of_known_games():
    additive = diagnosis.shapley_values("abc", lambda s: sum({"a": 1, "b": 2, "c": 5}[p] for p in s))
    assert additive == pytest.approx({"a": 1, "b": 2, "c": 5})
    gloves = diagnosis.shapley_values("abc", lambda s: float("a" in s and ("b" in s or "c" in s)))
    assert gloves == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})
    calls = []
    diagnosis.shapley_values("abcd", lambda s: calls.append(s) or 0.0)
    assert len(calls) == len(set(calls)) == 16


@pytest.fixture(scope="module")
def trained(toy_splits):
    runs = [Run("multi-loss", "there", seed, ("left", "right")) for seed in range(4)]
    return train_runs(runs, toy_splits, TrainingConfig(epochs=3, device="cpu"))


def test_contributions_add_up_and_a_destroyed_modality_contributes_nothing(trained, toy_splits):
    model = trained[0].predictor
    data = toy_splits.test
    values = diagnosis.modality_contributions(model, data)
    zeros = torch.zeros(len(data), 2)
    nothing = float((model(data.inputs, zeros).fused_logits.argmax(1) == data.labels).double().mean())
    assert sum(values.values()) == pytest.approx(evaluate(model, data)["accuracy"] - nothing)
    blind = toy_dataset(240, seed=3)
    blind.inputs["right"] = torch.randn(blind.inputs["right"].shape, generator=torch.Generator().manual_seed(0))
    spoiled = diagnosis.modality_contributions(model, blind)
    assert abs(spoiled["right"]) < 0.1 < values["right"] and spoiled["left"] > 0.2


def test_a_probe_finds_what_a_random_head_hides(trained, toy_splits):
    """The uni-modal heads of a fresh network know nothing, but its trained encoders do."""
    model = trained[0].predictor
    fresh = build_classifier(toy_splits.train.input_shapes, 3, 5)
    fresh.encoders.load_state_dict(model.encoders.state_dict())
    fresh.norms.load_state_dict(model.norms.state_dict())
    head = evaluate(fresh, toy_splits.test)["left accuracy"]
    probe = diagnosis.probe_accuracy(fresh, "left", toy_splits.train, toy_splits.test)
    assert probe > 0.8 and probe > head + 0.1


def test_a_probe_cannot_read_labels_that_are_not_there(trained, toy_splits):
    """Negative control: labels shuffled in training and test alike."""
    order = torch.randperm(len(toy_splits.train), generator=torch.Generator().manual_seed(0))
    shuffled = toy_splits.train.subset(range(len(toy_splits.train)))
    shuffled.labels.copy_(shuffled.labels[order].clone())
    assert diagnosis.probe_accuracy(trained[0].predictor, "left", shuffled, toy_splits.test) < 0.5


def test_shift_curve_starts_at_the_clean_accuracy_and_falls_to_what_the_other_knows(trained, toy_splits):
    model, data = trained[0].predictor, toy_splits.test
    before = data.inputs["left"].clone()
    curve = diagnosis.shift_curve(model, data, "left", [0, 1, 20], torch.Generator().manual_seed(0))
    assert curve.loc[0] == evaluate(model, data)["accuracy"] and curve.loc[20] < curve.loc[0] - 0.1
    assert torch.equal(data.inputs["left"], before)


def test_gradient_cosines_agree_with_plain_autograd(trained, toy_splits):
    model, batch = trained[0].predictor, toy_splits.train.whole()
    outputs = model(batch.inputs)
    weights = list(model.encoders["left"].parameters())
    gradients = []
    for logits in (outputs.unimodal_logits["left"], outputs.fused_logits):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.labels).backward(retain_graph=True)
        gradients.append(np.concatenate([weight.grad.flatten().double().numpy() for weight in weights]))
    expected = gradients[0] @ gradients[1] / np.linalg.norm(gradients[0]) / np.linalg.norm(gradients[1])
    assert diagnosis.gradient_cosines(model, batch)["left"] == pytest.approx(expected, abs=1e-4)


def test_the_fused_gradient_without_a_modality():
    model, batch = build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0), toy_dataset(60).whole()
    norms = diagnosis.fused_gradient_norms(model, batch, ["left"])
    assert list(norms) == ["left"]
    with torch.no_grad():
        model.fused_head.weight[:, 64:] = 0  # the right half is never heard
    assert diagnosis.fused_gradient_norms(model, batch, ["left", "right"])["left"] == pytest.approx(
        norms["left"], rel=1e-4
    )
    assert diagnosis.fused_gradient_norms(model, batch, ["left", "right"])["right"] == pytest.approx(0, abs=1e-7)


class TestLookAhead:
    @pytest.fixture
    def look(self):
        return diagnosis.LookAhead(
            build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0), toy_dataset(30).whole()
        )

    def test_the_prediction_is_right_to_first_order(self, look):
        frame = look.changes([1e-3, 1e-4])
        assert frame.loc[1e-4, "predicted"] == pytest.approx(frame.loc[1e-4, "change"], rel=0.02)
        errors = (frame["change"] - frame["predicted"]).abs()
        assert errors.loc[1e-4] < errors.loc[1e-3] / 50
        without = frame["change"].abs()
        assert without.loc[1e-4] > without.loc[1e-3] / 15, "without the prediction it falls at first order only"

    def test_the_coupling_gradients_are_hessian_products(self, look):
        """−α (H_mm g + H g_mm) for the exact step, −α H_mm g for the first-order one."""
        weights = list(look._weights.values())

        def slope(loss):
            parts = torch.autograd.grad(loss, weights, create_graph=True, retain_graph=True)
            return torch.cat([part.flatten() for part in parts])

        def product(gradient, vector):
            parts = torch.autograd.grad(gradient @ vector.detach(), weights, retain_graph=True)
            return torch.cat([part.flatten() for part in parts])

        own, fused = slope(look._own), slope(look._fused)
        expected = {1: product(fused, own), 2: product(fused, own) + product(own, fused)}
        for order, direction in expected.items():
            found = look.coupling_gradient(1e-5, order) / -1e-5
            assert torch.allclose(found, direction, atol=2e-3 * direction.abs().max().item()), order


def test_between_twins_no_imbalance_is_claimed(toy_splits):
    """Negative control of notebook 01: two modalities that are alike in everything but the draw of their noise."""

    def twins(data, seed):
        generator = torch.Generator().manual_seed(seed)
        image = data.inputs["left"]
        copies = {name: image + 0.3 * torch.randn(image.shape, generator=generator) for name in ("one", "two")}
        return type(data)(copies, data.labels, data.domains, data.class_names, data.domain_names)

    parts = [twins(part, seed) for seed, part in enumerate((toy_splits.train, toy_splits.validation, toy_splits.test))]
    splits = Splits(*parts, {}, {}, {})
    runs = [Run("erm", "there", seed, names) for names in (("one",), ("two",), ("one", "two")) for seed in range(4)]
    trained = train_runs(runs, splits, TrainingConfig(epochs=3, device="cpu"), keep_seen=True)

    def probe(result, name):
        return diagnosis.probe_accuracy(result.predictor, name, splits.train, splits.test)

    speed = {
        name: per_seed(
            where(trained, "erm", name),
            lambda r: diagnosis.learning_speed(r.history.frame()["seen accuracy"], 1 / 3),
        )
        for name in ("one", "two")
    }
    assert paired_difference(speed["one"], speed["two"]).above_zero is None
    lost = {
        name: per_seed(where(trained, "erm", name), lambda r, name=name: probe(r, name))
        - per_seed(where(trained, "erm", "one", "two"), lambda r, name=name: probe(r, name))
        for name in ("one", "two")
    }
    assert paired_difference(lost["one"], lost["two"]).above_zero is None
    values = {r.run.seed: diagnosis.modality_contributions(r.predictor, splits.test) for r in trained[-4:]}
    assert estimate([value["one"] - value["two"] for value in values.values()]).above_zero is None


class TestAgainstTheTruth:
    degraded = torch.tensor([True, True, False, False, False, False])

    def test_separation_is_the_share_of_pairs_in_the_right_order(self):
        score = torch.tensor([0.9, 0.3, 0.5, 0.1, 0.2, 0.0])
        found = diagnosis.separation_scores(score, self.degraded)
        assert found["AUC"] == pytest.approx(7 / 8)  # of the 2 × 4 pairs, only (0.3, 0.5) is wrong
        assert found["average precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
        assert diagnosis.separation_scores(-score, self.degraded)["AUC"] == pytest.approx(1 / 8)
        with pytest.raises(ValueError, match="both degraded and other samples"):
            diagnosis.separation_scores(score, torch.ones(6, dtype=torch.bool))

    def test_a_calibrated_posterior_has_no_error_and_an_overconfident_one_has(self):
        generator = torch.Generator().manual_seed(0)
        posterior = torch.rand(50_000, generator=generator)
        degraded = torch.rand(50_000, generator=generator) < posterior
        assert diagnosis.calibration_error(posterior, degraded) < 0.01
        rows = diagnosis.calibration(posterior, degraded)
        assert len(rows) == 10 and rows["share of samples"].sum() == pytest.approx(1)
        assert rows["posterior"].to_numpy() == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.01)
        assert diagnosis.calibration_error((posterior > 0.5).float(), degraded) == pytest.approx(0.25, abs=0.01)
        assert diagnosis.calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0

    def test_heads_are_right_by_themselves(self, trained, toy_splits):
        network, data = trained[0].predictor, toy_splits.test
        right = diagnosis.right_heads(network, data)
        assert right.shape == (2, len(data))
        scores = evaluate(network, data)
        expected = [scores["left accuracy"], scores["right accuracy"]]
        assert right.double().mean(1).tolist() == pytest.approx(expected)
