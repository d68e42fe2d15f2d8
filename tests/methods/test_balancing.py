"""The distinctive step of each method that balances by gradients, prototypes or sample weights."""

import math

import pytest
import torch
from torch.nn import functional

from mmlib.equations.losses import gap_penalty, modality_gap, relative_scores, shift_penalty, true_class_scores
from mmlib.methods import build
from mmlib.methods.balancing import fused_share, joined_gradient, ratios_to_others
from mmlib.models import build_classifier

SHAPES = {"left": (1, 8, 8), "right": (1, 8, 8)}
RIVALS = ("ogm-ge", "agm", "mmpareto", "pmr", "mbsd")


def made(name, shapes=SHAPES, **options):
    return build(name, build_classifier(shapes, 3, 0), **options)


def gradients(method, batch):
    """All gradients of a step, by name."""
    method.zero_grad(set_to_none=True)
    method.backward(method.step_losses(batch))
    return {name: value.grad.clone() for name, value in method.model.named_parameters() if value.grad is not None}


def flat(gradients, part):
    return torch.cat([value.flatten() for name, value in gradients.items() if name.startswith(part)])


@pytest.mark.parametrize("name", [*RIVALS, "gmm-adaptive"])
def test_any_number_of_modalities(name, toy):
    toy.inputs["third"] = toy.inputs["left"].flip(2)
    method = made(name, {**SHAPES, "third": (1, 8, 8)})
    for epoch in (1, 2, 6):
        method.on_epoch_start(epoch, toy)
        assert all(torch.isfinite(value).all() for value in gradients(method, toy.whole()).values())


@pytest.mark.parametrize("name", [*RIVALS[:2], "gmm-adaptive", "purified"])
def test_one_modality_is_refused(name):
    with pytest.raises(ValueError, match="at least two modalities"):
        made(name, {"left": (1, 8, 8)})


def test_split_logits_sum_to_the_fused_ones(toy):
    model = build_classifier(SHAPES, 3, 0)
    outputs = model(toy.whole().inputs)
    parts = model.split_logits(outputs.features)
    assert torch.allclose(sum(parts.values()), outputs.fused_logits, atol=1e-5)
    alone = model.fuse(outputs.features, torch.tensor([1.0, 0.0])) - model.fused_head.bias / 2
    assert torch.allclose(parts["left"], alone, atol=1e-5)
    with pytest.raises(ValueError, match="fused_head='linear'"):
        build_classifier(SHAPES, 3, 0, fused_head="mlp").split_logits(outputs.features)


def test_ratios_compare_with_the_mean_of_the_others():
    assert ratios_to_others(torch.tensor([3.0, 2.0, 1.0])).tolist() == pytest.approx([3 / 1.5, 2 / 2, 1 / 2.5])
    with pytest.raises(ValueError, match="at least two modalities"):
        ratios_to_others(torch.ones(1))


def test_ogm_scales_the_convolutions_of_the_modality_ahead(toy):
    batch = toy.whole()
    plain, method = gradients(made("erm"), batch), made("ogm-ge", strength=0.5, noise=False)
    scaled = gradients(method, batch)
    outputs = method.model(batch.inputs)
    scores = true_class_scores(method.model.split_logits(outputs.features), batch.labels).sum(1)
    ahead, behind = ("left", "right") if scores[0] > scores[1] else ("right", "left")
    coefficient = 1 - math.tanh(0.5 * (scores.max() / scores.min()).item())
    for name, value in plain.items():
        in_convolution = value.ndim == 4 and name.startswith(f"encoders.{ahead}")
        factor = coefficient if in_convolution else 1.0
        assert torch.allclose(scaled[name], factor * value, atol=1e-6), name
    assert method.watched[f"{behind} coefficient"] == 1


def test_ge_adds_noise_of_the_gradients_own_spread(toy):
    batch = toy.whole()
    without, noisy = gradients(made("ogm-ge", noise=False), batch), gradients(made("ogm-ge"), batch)
    name = "encoders.left.last_stage.0.weight"
    noise = noisy[name] - without[name]
    plain = gradients(made("erm"), batch)[name]
    assert noise.std().item() == pytest.approx(plain.std().item(), rel=0.05)
    assert torch.equal(noisy["fused_head.weight"], without["fused_head.weight"])


def test_agm_slows_a_modality_ahead_of_its_usual_lead():
    method = made("agm", strength=2.0)
    usual = torch.tensor([[0.5, 0.5], [0.25, 0.25]])
    method.coefficients(usual)
    assert method.coefficients(usual).tolist() == pytest.approx([1.0, 1.0]), "as far ahead as usual"
    first, second = method.coefficients(torch.tensor([[0.8, 0.8], [0.2, 0.2]])).tolist()
    assert first == pytest.approx(math.exp(2 * (0.5 / 0.25 - 0.8 / 0.2)), rel=1e-5) and first < 1 < second
    assert method.counters() == {"step": 3}
    # A modality that is hopelessly behind is hastened by exp(cap · α) at the most.
    method.running.copy_(torch.tensor([0.0, -20.0]))
    assert max(method.coefficients(torch.tensor([[0.1], [0.9]])).tolist()) <= math.exp(20) * 1.001


def test_agm_scales_each_modalitys_encoder_and_its_part_of_the_fused_head(toy):
    batch = toy.whole()
    method = made("agm")
    method.coefficients = lambda scores: torch.tensor([0.5, 2.0])
    plain, scaled = gradients(made("erm"), batch), gradients(method, batch)
    factors = {"encoders.left": 0.5, "encoders.right": 2.0, "fused_head.bias": 1.25}
    factors["fused_head.weight"] = torch.tensor([0.5, 2.0]).repeat_interleave(64)
    for name, value in plain.items():
        factor = factors.get(".".join(name.split(".")[:2]), 1.0)
        assert torch.allclose(scaled[name], factor * value, atol=1e-6), name


class TestMMPareto:
    def separate(self, batch):
        """The two gradients of each encoder, each from a model and a backward pass of its own."""
        found = []
        for pick in ("fused", "own"):
            method = made("multi-loss")
            losses = method.step_losses(batch)
            (losses["fused"] if pick == "fused" else losses["left"] + losses["right"]).backward()
            found.append({n: p.grad.clone() for n, p in method.model.named_parameters() if p.grad is not None})
        return found

    def test_the_gradients_of_the_losses_are_really_separate(self, toy):
        batch = toy.whole()
        fused, own = self.separate(batch)
        method = made("mmpareto", scale=1.5)
        joined = gradients(method, batch)
        for name in ("left", "right"):
            one, two = flat(fused, f"encoders.{name}"), flat(own, f"encoders.{name}")
            cosine = functional.cosine_similarity(one, two, dim=0)
            assert abs(cosine) < 0.99, "summed into one tensor, they would be parallel"
            share = fused_share([one], [two])
            assert method.watched[f"{name} fused share"].item() == pytest.approx(share.item(), abs=1e-4)
            for key in joined:
                if key.startswith(f"encoders.{name}"):
                    expected = 1.5 * joined_gradient(fused[key], own[key], share)
                    assert torch.allclose(joined[key], expected, atol=1e-5), key
        for part in ("fused_head", "unimodal_heads", "norms"):
            total = {n: sum(g[n] for g in (fused, own) if n in g) for n in joined if n.startswith(part)}
            assert torch.allclose(flat(joined, part), flat(total, part), atol=1e-5), part

    def test_agreeing_gradients_are_added_and_conflicting_ones_give_the_shortest(self):
        generator = torch.Generator().manual_seed(0)
        one = torch.randn(50, generator=generator, dtype=torch.float64)
        assert fused_share([one], [one + 0.1]).item() == 0.5
        two = -0.3 * one + torch.randn(50, generator=generator, dtype=torch.float64)
        assert one @ two < 0
        share = fused_share([one], [two]).item()
        norms = {w: (w * one + (1 - w) * two).norm().item() for w in torch.linspace(0, 1, 10_001).tolist()}
        assert share == pytest.approx(min(norms, key=norms.get), abs=2e-4) and share != 0.5
        joined = share * one + (1 - share) * two
        assert joined @ one > 0 and joined @ two > 0, "it descends both losses"


class TestPMR:
    def test_prototypes_are_the_classes_mean_features_in_eval_mode(self, toy):
        method = made("pmr")
        method.on_epoch_start(1, toy)
        features = method.model.eval()(toy.whole().inputs).features
        for name, feature in features.items():
            expected = torch.stack([feature[toy.labels == label].mean(0) for label in range(3)])
            assert torch.allclose(getattr(method, f"prototypes_{name}"), expected, atol=1e-5)

    def test_later_prototypes_keep_a_fifth_of_the_last_ones(self, toy):
        method, other = made("pmr"), made("pmr")
        method.on_epoch_start(1, toy)
        first = method.prototypes_left.clone()
        for one in (method, other):
            with torch.no_grad():
                one.model.norms["left"].bias.add_(1.0)
        method.on_epoch_start(2, toy)
        other.on_epoch_start(1, toy)
        assert torch.allclose(method.prototypes_left, 0.2 * first + 0.8 * other.prototypes_left, atol=1e-5)

    def test_only_the_slower_modality_is_hastened(self, toy):
        method, batch = made("pmr", strength=2.0), toy.whole()
        method.on_epoch_start(1, toy)
        losses = method.train().step_losses(batch)
        features = method.model(batch.inputs).features
        distances = {n: torch.cdist(h, getattr(method, f"prototypes_{n}")) for n, h in features.items()}
        scores = {n: (-d).softmax(1)[torch.arange(len(d)), batch.labels].sum() for n, d in distances.items()}
        slow, fast = sorted(scores, key=scores.get)
        slowness = min(max((scores[fast] / scores[slow]).item() - 1, 0), 1)
        expected = 2 * slowness * functional.cross_entropy(-distances[slow], batch.labels).item()
        assert losses[f"{slow} prototypes"].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert losses[f"{fast} prototypes"] == 0 and expected > 0


def test_mbsd_lets_the_surer_modality_teach_where_one_is_right(toy):
    batch = toy.whole()
    method = made("mbsd", weight=3.0)
    outputs = method.model(batch.inputs)
    logits = {name: z.detach() for name, z in outputs.unimodal_logits.items()}
    total, left_out = 0.0, 0
    for i, label in enumerate(batch.labels):
        rows = [z[i].softmax(0) for z in logits.values()]
        strong, weak = sorted(rows, key=lambda row: row[label].item(), reverse=True)
        if not any(row.argmax() == label for row in rows):
            left_out += 1
            continue
        gap = strong[label] - weak[label]
        total += (gap * (strong * (strong.log() - weak.log())).sum()).item()
    assert left_out > 0
    losses = method.step_losses(batch)
    assert losses["alignment"].item() == pytest.approx(3 * total / len(batch.labels), rel=1e-3)
    losses["alignment"].backward()  # it must teach: a gradient reaches encoders
    assert method.model.encoders["left"].head[1].weight.grad.abs().sum() > 0


class TestGapTerms:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.6, 0.5], [0.3, 0.3, 0.4]], dtype=torch.float64)

    def test_scores_of_the_true_class(self):
        logits = {name: torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
        labels = torch.tensor([0, 3, 1, 1, 2])
        found = true_class_scores(logits, labels)
        for row, z in zip(found, logits.values(), strict=True):
            assert row.tolist() == pytest.approx([z[i].softmax(0)[y].item() for i, y in enumerate(labels)])

    def test_the_gap_is_the_largest_minus_the_smallest(self):
        assert modality_gap(self.scores).tolist() == pytest.approx([0.8, 0.4, 0.1])

    def test_relative_scores_end_where_a_modality_is_as_good_as_usual(self):
        scores = torch.tensor([[0.9, 0.3, 0.0], [0.1, 0.05, 0.15]])  # means 0.4 and 0.1
        expected = torch.tensor([[1.0, 0.75, 0.0], [1.0, 0.5, 1.0]])
        assert torch.allclose(relative_scores(scores), expected)
        assert torch.allclose(relative_scores(torch.stack([scores, 0.1 * scores])), expected.expand(2, 2, 3))
        assert torch.equal(relative_scores(scores, torch.ones(2)), scores)
        assert torch.equal(relative_scores(torch.zeros(2, 3)), torch.zeros(2, 3)), "not NaN"

    def test_the_penalty_pulls_the_weak_modality_up_and_never_the_dominant_down(self):
        scores = self.scores.clone().requires_grad_()
        penalty = gap_penalty(scores)
        assert torch.allclose(penalty, modality_gap(self.scores))
        penalty.sum().backward()
        assert scores.grad.tolist() == [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]

    def test_the_shift_starts_at_the_balanced_mean(self):
        found = shift_penalty(torch.tensor([0.05, 0.1, 0.3, 0.5]), torch.tensor(0.1), torch.tensor(0.5))
        assert found.tolist() == pytest.approx([0, 0, 0.125, 0.5])
