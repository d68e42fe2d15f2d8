"""The distinctive term of each rival."""

import pytest
import torch
from torch.nn import functional

from mmlib import methods
from mmlib.equations.losses import entropy, norm_imbalance
from mmlib.methods import build
from mmlib.models import build_classifier

SHAPES = {"left": (1, 8, 8), "right": (1, 8, 8)}
RIVALS = ("rna-net", "sim-mmdg", "moosa", "cmrf")


def made(name, shapes=SHAPES, **options):
    return build(name, build_classifier(shapes, 3, 0), **options)


@pytest.mark.parametrize("name", RIVALS)
def test_any_number_of_modalities_and_what_is_added_depends_on_the_seed_alone(name, toy):
    shapes = {**SHAPES, "third": (1, 8, 8)}
    batch = toy.whole()
    batch.inputs["third"] = batch.inputs["left"].flip(2)
    first, second = made(name, shapes), made(name, shapes)
    for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert all(torch.isfinite(value) for value in first.step_losses(batch).values())


def test_rna_net_aligns_the_norms_before_the_layer_norm(toy):
    method, batch = made("rna-net", weight=2.0), toy.whole()
    with torch.no_grad():
        method.model.encoders["left"].head[1].weight.mul_(3)
    loss = method.step_losses(batch)["norms"]
    embeddings = [method.model.encoders[name](batch.inputs[name]) for name in method.model.modalities]
    assert loss.item() == pytest.approx(2 * norm_imbalance(embeddings).item(), rel=1e-4) and loss > 0.1
    for value in method.model.encoders.parameters():
        value.grad = None
    loss.backward()
    assert method.model.encoders["left"].head[1].weight.grad.abs().sum() > 0


def test_rna_net_without_its_term_is_erm(toy):
    torch.manual_seed(0)
    plain, without = made("erm").step_losses(toy.whole()), made("rna-net", weight=0.0).step_losses(toy.whole())
    assert torch.equal(plain["fused"], without["fused"]) and without["norms"] == 0


def test_sim_mmdg_shares_one_half_and_drives_the_other_away(toy):
    method, batch = made("sim-mmdg"), toy.whole()
    features = method.model(batch.inputs).features
    terms = method.feature_losses(features, features, batch.labels)
    halves = [functional.mse_loss(feature[:, :32], feature[:, 32:]) for feature in features.values()]
    assert terms["distance"].item() == pytest.approx(-0.7 * sum(halves).item() / 2, rel=1e-5)
    assert set(method.translators) == {"left to right", "right to left"}
    changed = {name: torch.cat([value[:, :32], value[:, 32:].roll(1, 0)], 1) for name, value in features.items()}
    again = method.feature_losses(changed, changed, batch.labels)
    assert again["contrast"].item() == pytest.approx(terms["contrast"].item()), "contrast reads the shared half only"
    assert again["translation"].item() != pytest.approx(terms["translation"].item())


def test_moosa_trusts_the_certain_head(toy):
    method = made("moosa")
    certain, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    labels = torch.tensor([0])
    heads = torch.stack([certain, unsure])
    weights = torch.softmax(-entropy(heads), 0)
    expected = sum(w * functional.cross_entropy(z, labels) for w, z in zip(weights, heads, strict=True))
    assert method.weighted_cross_entropy(heads, labels).item() == pytest.approx(expected.item())
    assert weights[0] > weights[1]


def test_moosas_puzzle_shuffles_parts_of_all_modalities():
    method = made("moosa", splits=2, puzzles=5)
    features = torch.arange(8.0).repeat_interleave(16).reshape(1, 2, 64)  # eight numbered stretches of 16
    seen = []
    method.solver = torch.nn.Identity()
    method.solver.forward = lambda parts: seen.append(parts) or torch.zeros(1, 5)
    torch.manual_seed(0)
    assert method.puzzle_loss(features).item() == pytest.approx(torch.tensor(5.0).log().item())
    torch.manual_seed(0)
    order = method.permutations[torch.randint(5, (1,))][0]
    assert seen[0][0, ::16].tolist() == [2 * int(part) + offset for part in order for offset in (0, 1)]


def test_moosa_refuses_a_cut_that_does_not_fit():
    with pytest.raises(ValueError, match="splits=3 divides"):
        made("moosa", splits=3)


def test_cmrfs_teacher_is_the_equal_average_after_its_start():
    method = made("cmrf", start=0.5)
    method.on_train_start(4, 2)
    weight = method.model.fused_head.weight
    seen = []
    for _ in range(4):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        seen.append(weight.detach().clone())
        method.after_step()
        expected = seen[-1] if len(seen) < 2 else torch.stack(seen[1:]).mean(0)
        assert torch.allclose(method.predictor.fused_head.weight, expected, atol=1e-6)


def test_cmrf_distils_from_a_mix_nearer_to_the_own_modality(toy):
    method = made("cmrf", mixing=5.0)
    own, other = torch.tensor([[1.0, 0.0]]).repeat(500, 1), torch.tensor([[0.0, 1.0]]).repeat(500, 1)
    near = method.flattening({"left": own, "right": other}, {"left": own, "right": other})
    far = method.flattening({"left": other, "right": own}, {"left": own, "right": other})
    assert near < far and near > 0
    alike = method.flattening({"left": own, "right": own}, {"left": own, "right": own})
    assert alike.item() == pytest.approx(0, abs=1e-6)
    method.on_train_start(100, 10)
    assert "distillation" not in method.step_losses(toy.whole()), "not before its start"
    method.step = 50
    assert "distillation" in method.step_losses(toy.whole())


def test_the_benchmarks_configurations_are_its_defaults_and_ten_draws_that_can_be_built():
    for name in ("erm", "ema", "mbcd", *RIVALS):
        first, *drawn = methods.bench_configurations(name)
        assert len(drawn) == (0 if name == "erm" else 10) and methods.bench_configurations(name)[1:] == drawn
        for options in (first, *drawn):
            made(name, **dict(options))
    first, *drawn = (dict(options) for options in methods.bench_configurations("mbcd"))
    assert first == {"decay": 0.999, "weight": 1.0, "unimodal_weight": 1.0, "base": 0.0, "look_ahead": 1e-4}
    assert all(0.9 <= options["decay"] < 1 and 0 <= options["weight"] <= 2 for options in drawn)
    assert {options["look_ahead"] for options in drawn} == {1e-4} and len({options["base"] for options in drawn}) == 10
    with pytest.raises(ValueError, match="MMDG-Bench has no space for 'ogm-ge', only for erm"):
        methods.bench_configurations("ogm-ge")


def test_every_grid_is_equally_large_and_can_be_built():
    sizes = {len(grid) for grid in methods.GRIDS.values()}
    assert sizes == {4}
    for name, grid in methods.GRIDS.items():
        for settings in grid:
            options = {key: value for key, value in settings if key not in ("learning_rate", "weight_decay")}
            made(name, **options)
