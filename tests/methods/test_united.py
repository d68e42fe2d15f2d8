"""The method for both findings: each part by itself, against MBCD where nothing is suspected, and its controls."""

from dataclasses import replace

import pytest
import torch
from conftest import toy_dataset
from sklearn.metrics import roc_auc_score
from test_gmm_adaptive import made, mismatched, train
from torch.nn import functional

from mmlib.training import TrainingConfig, fit


def judged(data, **options):
    """A method after three epochs of warm-up and the verdicts that follow, in eval mode so that two passes agree."""
    method = made("mbcd + gmm", **{"warm_up": 3, "smoothing": 0.0} | options)
    train(method, data, 3)
    method.on_epoch_start(4, data)
    return method.eval()


def bad_signals(data):
    return torch.stack([data.truth[f"degraded_{name}"] > 0 for name in ("left", "right")], 1)


def test_where_nothing_is_suspected_it_is_mbcd_without_look_ahead(toy, toy_splits):
    """The same losses, draws and averages, but for rounding."""
    config = TrainingConfig(epochs=2, batch_size=32, learning_rate=3e-3, device="cpu")
    united = made("mbcd + gmm", warm_up=1, maturity=False)
    united.on_epoch_start = lambda epoch, data: None
    plain = made("mbcd", dropout=0.5, look_ahead=0.0)
    for method in (united, plain):
        fit(method, toy, toy_splits.validation, config, progress=False)
    for one, two in zip(united.predictor.parameters(), plain.predictor.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-5)


def test_the_losses_are_those_of_the_equation():
    """Written anew in double precision, with verdicts between zero and one."""
    data = mismatched(200)
    options = {"dropout": 0.0, "fusion": 0.0, "release": 0.7, "weight": 0.3, "half_life": 0.5}
    method = judged(data, peaks=False, **options).double()
    draws = torch.rand(2, len(data), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    weak = functional.one_hot(torch.arange(len(data)) % 2, 2) * draws[0][:, None]
    method.suspicion, method.weights = weak, 2 * draws[1]
    batch = data.whole()
    batch = batch._replace(inputs={name: values.double() for name, values in batch.inputs.items()})
    losses = {name: loss.item() for name, loss in method.step_losses(batch).items()}
    student, teacher = method.model(batch.inputs), method.predictor(batch.inputs)
    target = teacher.fused_logits.softmax(1)
    mature = 1 - 2 ** (-1 / 0.5)  # after all of training, a half-life of one half
    rows = torch.arange(len(data))
    for place, (name, z) in enumerate({"fused": student.fused_logits, **student.unimodal_logits}.items()):
        p = z.softmax(1)
        spared = 1 - 0.7 * weak[:, place - 1] if place else 1
        own = (method.weights * spared * -p[rows, batch.labels].log()).mean()
        divergence = (target * (target / p).log()).sum(1)
        taught = (0.3 * mature * (1 - draws[0]) * method.weights * divergence).mean()
        assert losses.pop(name) == pytest.approx(own.item(), rel=1e-9)
        assert losses.pop(f"distillation {name}") == pytest.approx(taught.item(), rel=1e-6)
    assert not losses


def test_what_a_suspect_has_left_is_not_taken_from_it(monkeypatch):
    data, masks = mismatched(200), []
    method = judged(data, peaks=False, weight=0.0)
    weak = torch.zeros(len(data), 2)
    weak[:50, 0], weak[50:100, 1] = 1, 1
    method.suspicion, method.weights = weak, torch.ones(len(data))
    fuse = method.model.fuse
    monkeypatch.setattr(method.model, "fuse", lambda features, mask=None: masks.append(mask) or fuse(features, mask))
    method.step_losses(data.whole())
    (mask,) = [mask for mask in masks if mask is not None]
    assert torch.equal(mask[:100], 1 - weak[:100])
    dropped = 1 - mask[100:].mean(0)
    assert (dropped > 0.2).all() and (dropped < 0.6).all(), "half of them, and never all of a sample"


def test_the_mixture_speaks_where_gaps_have_two_peaks():
    clean, spoilt = toy_dataset(600, seed=4), mismatched(600, 0.3)
    assert judged(clean).suspicion is None, "and is silent where all is well"
    assert judged(clean, peaks=False).suspicion.amax() > 0.5, "where BIC would speak"
    found = judged(spoilt).suspicion
    bad = bad_signals(spoilt)
    one = ~bad.all(1)  # of what is bad throughout no modality is the weak one
    assert roc_auc_score(bad[one].flatten(), found[one].flatten()) > 0.9


def test_the_average_is_the_judge_unless_told_otherwise():
    data = mismatched(200)
    calm, excited = judged(data, half_life=1.0), judged(data, half_life=1.0, calm=False)
    assert calm.observed is calm.predictor and excited.observed is excited.model
    assert (calm.scores - excited.scores).abs().mean() > 0.01


def test_controls_deal_verdicts_at_random_or_by_the_truth():
    data = mismatched(600, 0.3)
    own, dealt, true = (judged(data, judge=judge) for judge in ("gap", "random", "truth"))
    assert torch.equal(own.suspicion.flatten().sort().values, dealt.suspicion.flatten().sort().values)
    bad = bad_signals(data)
    assert abs(roc_auc_score(bad.any(1), dealt.suspicion.amax(1)) - 0.5) < 0.1
    assert torch.equal(true.suspicion > 0, bad & ~bad.all(1, keepdim=True))
    assert torch.equal(true.weights == 0, bad.all(1)) and true.weights.mean().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="no ground truth"):
        judged(replace(data, truth={}), judge="truth")


def test_a_young_teacher_teaches_little():
    data = mismatched(200)
    batch = data.whole()
    young, sure = (made("mbcd + gmm", maturity=maturity) for maturity in (True, False))
    assert young.step_losses(batch)["distillation fused"] == 0 < sure.step_losses(batch)["distillation fused"]
    train(young, data, 3)
    assert young.remembered.item() == pytest.approx(2**-10, rel=1e-3), "a half-life of a tenth"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"judge": "all"}, "judge"), ({"dropout": 1.0}, "dropout"), ({"peaks": 1}, "peaks"), ({"trust": -1}, "trust")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"United.*{message}"):
        made("mbcd + gmm", **options)
