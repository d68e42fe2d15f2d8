import numpy as np
import pytest
import torch
from conftest import toy_dataset
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from mmlib import instruments
from mmlib.data import Splits
from mmlib.instruments.balance import logistic_regression
from mmlib.models import build_classifier
from mmlib.models.evaluate import evaluate
from mmlib.training import Run, TrainingConfig, by_epoch, estimate, paired_difference, per_seed, train_runs, where


def test_learning_speed_sees_when_and_not_how_high():
    early, late = [0.1, 0.6, 0.6, 0.6], [0.1, 0.1, 0.1, 0.6]
    assert instruments.learning_speed(early, 0.1) == pytest.approx(0.75)
    assert instruments.learning_speed(late, 0.1) == pytest.approx(0.25)
    assert instruments.learning_speed([0.1, 0.9, 0.9, 0.9], 0.1) == pytest.approx(0.75)
    assert instruments.learning_speed([0.1, 0.1], 0.1) == 0
    with pytest.raises(ValueError, match="one accuracy per epoch"):
        instruments.learning_speed([], 0.1)


def test_shapley_values_of_known_games():
    additive = instruments.shapley_values("abc", lambda s: sum({"a": 1, "b": 2, "c": 5}[p] for p in s))
    assert additive == pytest.approx({"a": 1, "b": 2, "c": 5})
    gloves = instruments.shapley_values("abc", lambda s: float("a" in s and ("b" in s or "c" in s)))
    assert gloves == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})
    calls = []
    instruments.shapley_values("abcd", lambda s: calls.append(s) or 0.0)
    assert len(calls) == len(set(calls)) == 16


def test_contributions_add_up_and_a_destroyed_modality_contributes_nothing(trained, toy_splits):
    model = trained[0].predictor
    data = toy_splits.test
    values = instruments.modality_contributions(model, data)
    zeros = torch.zeros(len(data), 2)
    nothing = float((model(data.inputs, zeros).fused_logits.argmax(1) == data.labels).double().mean())
    assert sum(values.values()) == pytest.approx(evaluate(model, data)["accuracy"] - nothing)
    worth = instruments.coalition_accuracies(model, data)
    assert len(worth) == 4 and worth[frozenset()] == pytest.approx(nothing)
    blind = toy_dataset(240, seed=3)
    blind.inputs["right"] = torch.randn(blind.inputs["right"].shape, generator=torch.Generator().manual_seed(0))
    spoiled = instruments.modality_contributions(model, blind)
    assert abs(spoiled["right"]) < 0.1 < values["right"] and spoiled["left"] > 0.2


def test_a_probe_finds_what_a_random_head_hides(trained, toy_splits):
    """The uni-modal heads of a fresh network know nothing, but its trained encoders do."""
    model = trained[0].predictor
    fresh = build_classifier(toy_splits.train.input_shapes, 3, 5)
    fresh.encoders.load_state_dict(model.encoders.state_dict())
    fresh.norms.load_state_dict(model.norms.state_dict())
    head = evaluate(fresh, toy_splits.test)["left accuracy"]
    probe = instruments.probe_accuracy(fresh, "left", toy_splits.train, toy_splits.test)
    assert probe > 0.8 and probe > head + 0.1


def test_a_probe_is_at_the_optimum_that_scikit_learn_finds():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    features = torch.randn(300, 12, generator=generator, dtype=torch.float64) + 0.7 * functional.one_hot(labels, 12)
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(features.numpy(), labels.numpy())
    weights, bias = logistic_regression(features, labels, 4)
    found = torch.cat([weights, (bias - bias.mean())[None]]).T.numpy()
    assert found == pytest.approx(np.column_stack([reference.coef_, reference.intercept_]), abs=2e-3)


def test_a_probe_cannot_read_labels_that_are_not_there(trained, toy_splits):
    """Negative control: labels shuffled in training and test alike."""
    order = torch.randperm(len(toy_splits.train), generator=torch.Generator().manual_seed(0))
    shuffled = toy_splits.train.subset(range(len(toy_splits.train)))
    shuffled.labels.copy_(shuffled.labels[order].clone())
    assert instruments.probe_accuracy(trained[0].predictor, "left", shuffled, toy_splits.test) < 0.5


def test_shift_curve_starts_at_the_clean_accuracy_and_falls_to_what_the_other_knows(trained, toy_splits):
    model, data = trained[0].predictor, toy_splits.test
    before = data.inputs["left"].clone()
    curve = instruments.shift_curve(model, data, "left", [0, 1, 20], torch.Generator().manual_seed(0))
    assert curve.loc[0] == evaluate(model, data)["accuracy"] and curve.loc[20] < curve.loc[0] - 0.1
    assert torch.equal(data.inputs["left"], before)


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
    trained = train_runs(runs, splits, TrainingConfig(epochs=3, device="cpu"), by_epoch=True)

    def probe(result, name):
        return instruments.probe_accuracy(result.predictor, name, splits.train, splits.test)

    known = splits.train.select_domains("here")
    speed = {
        name: by_epoch(where(trained, "erm", name), lambda network: evaluate(network, known)["accuracy"]).apply(
            instruments.learning_speed, chance=1 / 3
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
    values = {r.run.seed: instruments.modality_contributions(r.predictor, splits.test) for r in trained[-4:]}
    assert estimate([value["one"] - value["two"] for value in values.values()]).above_zero is None
