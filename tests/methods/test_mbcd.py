import copy

import pytest
import torch
from conftest import toy_dataset
from torch.nn import functional

from mmlib.data import MultimodalDataset
from mmlib.methods import ABLATION, MBCD, build
from mmlib.models import MultimodalClassifier, build_classifier
from mmlib.models.evaluate import evaluate
from mmlib.models.statistics_noise import perturb_statistics
from mmlib.training import TrainingConfig, estimate, fit

CONFIG = TrainingConfig(epochs=2, device="cpu")


def model(modalities=("left", "right"), double=False):
    made = build_classifier({name: (1, 8, 8) for name in modalities}, 3, 0)
    return made.double() if double else made


def three_modalities():
    toy = toy_dataset(120)
    inputs = {**toy.inputs, "third": toy.inputs["left"].flip(3)}
    return MultimodalDataset.from_arrays(inputs, toy.labels, toy.domains)


def whole(toy, double=False):
    batch = toy.whole()
    return batch._replace(inputs={name: x.double() for name, x in batch.inputs.items()}) if double else batch


def gradients(method, batch):
    method.zero_grad()
    sum(method.step_losses(batch).values()).backward()
    return {name: value.grad.clone() for name, value in method.model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("row", "name"), [("none", "erm"), ("EMA", "ema"), ("heads+EMA", "ema + multi-loss")])
def test_with_components_off_it_is_the_simpler_method(row, name, toy, toy_splits):
    weights = []
    for chosen in (f"mbcd: {row}", name):
        method = build(chosen, model())
        fit(method, toy, toy_splits.validation, CONFIG, progress=False)
        weights.append(method.predictor.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


PARTS_OF_ROWS = {
    "none": {"fused"},
    "EMA": {"fused"},
    "AMD+EMA": {"fused", "left", "right"},
    "fixed+EMA": {"fused"},
    "GCC+EMA": {"fused", "left", "right"},
    "EMA+DL": {"fused", "distillation fused", "distillation left", "distillation right"},
}


@pytest.mark.parametrize("row", ABLATION)
def test_every_row_of_the_ablation_has_its_losses(row, toy):
    method = build(f"mbcd: {row}", model())
    everything = {"fused", "left", "right", "distillation fused", "distillation left", "distillation right"}
    expected = PARTS_OF_ROWS.get(row, {"fused", "left", "right"} if row == "heads+EMA" else everything)
    parts = method.step_losses(toy.whole())
    assert set(parts) == expected and all(torch.isfinite(value) for value in parts.values())


@pytest.mark.parametrize("adapt_from", ["trunk", "last_stage", "head"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_look_ahead_gradient_equals_an_independent_rendering(order, adapt_from, toy):
    """The whole objective again, by `torch.func` on a flat dictionary of parameters, in float64."""
    batch, step = whole(toy.subset(torch.arange(12)), double=True), 0.3
    method = MBCD(model(double=True), 0.0, True, step, order, adapt_from, weight=0.0)
    ours = gradients(method, batch)

    network = model(double=True)
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())
    parts = ("trunk", "last_stage", "head")
    adapted = [f".{part}." for part in parts[parts.index(adapt_from) :]]

    def outputs(parameters):
        copies = {name: value.clone() for name, value in buffers.items()}
        return torch.func.functional_call(network, {**parameters, **copies}, (batch.inputs,))

    def own(parameters):
        logits = outputs(parameters).unimodal_logits
        return sum(functional.cross_entropy(value, batch.labels) for value in logits.values())

    def objective(parameters):
        slope = torch.func.grad(own)(parameters)
        shifted = {
            name: value - step * (slope[name] if order == 2 else slope[name].detach())
            if name.startswith("encoders.") and any(part in name for part in adapted)
            else value
            for name, value in parameters.items()
        }
        return own(parameters) + functional.cross_entropy(outputs(shifted).fused_logits, batch.labels)

    for name, expected in torch.func.grad(objective)(values).items():
        assert torch.allclose(ours[name], expected, atol=1e-9), name


def test_first_and_second_order_differ(toy):
    batch = whole(toy.subset(torch.arange(12)), double=True)
    first, second = (gradients(MBCD(model(double=True), 0.0, True, 0.3, order, weight=0.0), batch) for order in (1, 2))
    name = "encoders.left.head.1.weight"
    assert not torch.allclose(first[name], second[name], atol=1e-4)


@pytest.mark.parametrize("adapt_from", ["trunk", "last_stage"])
def test_batch_norm_sees_each_step_once(adapt_from, toy):
    batch = toy.whole()
    method, plain = MBCD(model(), adapt_from=adapt_from), model()
    plain.train()(batch.inputs)
    method.train()
    method.step_losses(batch)
    for (name, one), two in zip(method.model.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(one, two), name
        if name.endswith("num_batches_tracked"):
            assert int(one) == 1


def test_dropout_touches_the_students_fused_branch_and_nothing_else(toy):
    batch = toy.whole()
    torch.manual_seed(0)
    method = build("mbcd", model(), dropout=0.9)
    teacher = method.average.module
    with_dropout, without = method.step_losses(batch), build("mbcd", model(), dropout=0.0).step_losses(batch)
    for name in with_dropout:
        same = torch.allclose(with_dropout[name], without[name], atol=1e-6)
        assert same == ("fused" not in name), name
    assert not teacher.training and not any(value.requires_grad for value in teacher.parameters())
    assert evaluate(method.predictor, toy) == evaluate(method.predictor, toy) and method.predictor is teacher


def test_the_heads_may_have_a_weight_of_their_own_in_the_distillation(toy):
    """MMDG-Bench's two weights; no other part of the loss may change with them."""
    batch, found = toy.whole(), {}
    for options in ({}, {"unimodal_weight": 3.0}, {"weight": 0.0, "unimodal_weight": 3.0}):
        found[len(options)] = build("mbcd", model(), dropout=0.0, **options).step_losses(batch)
    for name, value in found[0].items():
        heads = name in ("distillation left", "distillation right")
        assert found[1][name].item() == pytest.approx((3 if heads else 1) * value.item(), rel=1e-5), name
    assert "distillation fused" not in found[2] and found[2]["distillation left"] == found[1]["distillation left"]


def test_a_base_raises_the_probability_of_the_modality_ahead_alone(toy):
    """b + (1 − b)·p of the one with p > 0 [MMDG-Bench]; the slowest is still never dropped."""
    plain, raised = build("mbcd", model()), build("mbcd", model(), base=0.4)
    for method in (plain, raised):
        method.step_losses(toy.whole())
    before, after = ([m.watched[f"{name} drop probability"] for name in ("left", "right")] for m in (plain, raised))
    assert sorted(before)[0] == sorted(after)[0] == 0 and max(before) > 0
    assert max(after).item() == pytest.approx(0.4 + 0.6 * max(before).item(), rel=1e-5)


def test_a_method_in_train_mode_keeps_its_teacher_in_eval_mode():
    method = build("mbcd", model()).train()
    assert method.model.training and not any(part.training for part in method.average.module.modules())


def test_heads_that_only_measure_confidence_do_not_move_the_encoders(toy):
    method = build("mbcd: AMD+EMA", model())
    losses = method.step_losses(toy.whole())
    (losses["left"] + losses["right"]).backward()
    assert all(value.grad is None for value in method.model.encoders.parameters())
    assert all(value.grad is not None for value in method.model.unimodal_heads.parameters())


def test_the_faster_modality_is_dropped_and_the_history_shows_it(toy, toy_splits):
    """Left is clean, right is noise: left becomes confident, and only left is dropped."""
    noise = torch.randn(toy.inputs["right"].shape, generator=torch.Generator().manual_seed(5))
    skewed = MultimodalDataset.from_arrays({"left": toy.inputs["left"], "right": noise}, toy.labels, toy.domains)
    method = build("mbcd", model())
    config = TrainingConfig(epochs=4, device="cpu")
    frame = fit(method, skewed, toy_splits.validation, config, progress=False).frame()
    last = frame.iloc[-1]
    assert last["left drop probability"] > 0.1 and last["left confidence"] > last["right confidence"] + 0.1
    assert last["right drop probability"] < 0.02


def test_beta_comes_from_the_half_life_or_as_it_is():
    method = build("mbcd", model(), half_life=0.1)
    method.on_train_start(1000, 100)
    assert method.average.decay == pytest.approx(0.5 ** (1 / 100))
    given = build("mbcd", model(), decay=0.999)
    given.on_train_start(1000, 100)
    assert given.average.decay == 0.999


def test_a_student_that_is_its_own_teacher(toy):
    """Negative control: β = 0 leaves nothing to be learned from averaging; the teacher has the student's weights."""
    method = build("mbcd: teacher=student", model())
    method.on_train_start(10, 10)
    with torch.no_grad():
        for value in method.model.parameters():
            value.add_(0.1)
    method.after_step()
    for one, two in zip(method.average.module.parameters(), method.model.parameters(), strict=True):
        assert torch.equal(one, two), "so the teacher can know nothing that the student does not"


def test_twins_are_dropped_alike():
    """Negative control of notebook 03: one and the same signal under two names is never far ahead of itself."""
    toy = toy_dataset(240)
    inputs = {"one": toy.inputs["left"], "two": toy.inputs["left"]}
    twins = MultimodalDataset.from_arrays(inputs, toy.labels, toy.domains)
    differences = []
    for seed in range(4):
        method = build("mbcd", build_classifier(twins.input_shapes, 3, seed))
        row = fit(method, twins, twins, TrainingConfig(epochs=4, device="cpu", seed=seed), progress=False).rows[-1]
        assert max(row["one drop probability"], row["two drop probability"]) < 0.1
        differences.append(row["one drop probability"] - row["two drop probability"])
    assert estimate(differences).above_zero is None


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_frozen_trunk_runs_once_for_student_and_teacher(toy):
    batch = toy.whole()
    method = build("mbcd", model())
    trunks = {
        name: [count_calls(owner.encoders["left"].trunk) for owner in (method.model, method.average.module)]
        for name in ("free", "frozen")
    }
    method.step_losses(batch)
    assert [len(calls) for calls in trunks["free"]] == [1, 1]
    method.model.freeze_trunks()
    method.train()
    for _ in range(3):  # the student moves on; below its last stage it stays where the teacher is
        sum(method.step_losses(batch).values()).backward()
        with torch.no_grad():
            for value in method.model.parameters():
                value -= 0.1 * value.grad if value.grad is not None else 0
        method.after_step()
    assert [len(calls) for calls in trunks["frozen"]] == [4, 1]
    below = method._below(method.model, batch.inputs)
    assert torch.equal(method._teacher_logits(batch.inputs, below), method.average.module(batch.inputs).fused_logits)


def test_three_modalities_and_statistics_noise_train(toy_splits):
    data = three_modalities()
    method = build("mbcd", model(data.modalities), dsu=0.5)
    history = fit(method, data, data, CONFIG, progress=False)
    assert {"third drop probability", "train distillation third loss"} <= set(history.rows[-1])


def test_statistics_noise_moves_statistics_and_nothing_else():
    torch.manual_seed(0)
    maps = torch.randn(64, 5, 6, 6) * 2 + 3
    assert torch.equal(perturb_statistics(maps, 0.0), maps)
    moved = perturb_statistics(maps, 1.0)

    def standardised(values):
        centred = values - values.mean((2, 3), keepdim=True)
        return centred / centred.std((2, 3), keepdim=True)

    assert torch.allclose(standardised(moved), standardised(maps), atol=1e-3), "the pattern stays"
    before, after = (values.mean((2, 3)).std(0).mean() for values in (maps, moved))
    assert after / before == pytest.approx(2**0.5, rel=0.15), "noise as large as the statistic's own spread"
    alone = perturb_statistics(maps[:1], 1.0)
    assert torch.allclose(alone, maps[:1], atol=0.02), "one sample has no spread over the batch"
    few = maps[:3]
    torch.manual_seed(1)
    found = perturb_statistics(few, 1.0)
    torch.manual_seed(1)
    torch.rand(())
    mean, deviation = (statistic.mean(-1) for statistic in (few.flatten(2), few.flatten(2).std(-1, keepdim=True)))
    moved = [statistic + torch.randn(3, 5, 1, 1).squeeze() * statistic.std(0) for statistic in (mean, deviation)]
    expected = (few - mean[..., None, None]) / deviation[..., None, None] * moved[1][..., None, None]
    assert torch.allclose(found, expected + moved[0][..., None, None], atol=1e-4), "variances are those of samples"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": "sometimes"}, "dropout must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"look_ahead": -1.0}, "look_ahead must be"),
        ({"order": 3}, "order must be one of 1, 2"),
        ({"adapt_from": "layer4"}, "adapt_from must be one of trunk, last_stage, head"),
        ({"weight": -1.0}, "weight must be"),
        ({"decay": 1.0}, "own weight β: decay must be"),
        ({"half_life": 0.0}, "half_life must be"),
        ({"dsu": 0.5, "adapt_from": "head"}, "it must be 0"),
        ({"unimodal": False}, "needs unimodal=True"),
        ({"base": 1.5}, "base must be"),
        ({"unimodal_weight": -1.0}, "unimodal_weight must be"),
        ({"speed": 3}, "does not take the options"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("mbcd", model(), **options)


def test_one_modality_and_foreign_encoders_are_refused():
    with pytest.raises(ValueError, match=r"at least two; this model reads .*left"):
        build("mbcd", model(("left",)))
    foreign = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    foreign.features = 4
    with pytest.raises(ValueError, match=r"'a' must be a models\.Encoder"):
        build("mbcd", MultimodalClassifier({"a": foreign, "b": copy.deepcopy(foreign)}, 3))
