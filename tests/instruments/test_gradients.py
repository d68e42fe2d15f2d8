import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_dataset

from mmlib import instruments
from mmlib.models import build_classifier


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
    assert instruments.gradient_cosines(model, batch)["left"] == pytest.approx(expected, abs=1e-4)


def test_the_fused_gradient_without_a_modality():
    model, batch = build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0), toy_dataset(60).whole()
    norms = instruments.fused_gradient_norms(model, batch, ["left"])
    assert list(norms) == ["left"]
    with torch.no_grad():
        model.fused_head.weight[:, 64:] = 0  # the right half is never heard
    assert instruments.fused_gradient_norms(model, batch, ["left", "right"])["left"] == pytest.approx(
        norms["left"], rel=1e-4
    )
    assert instruments.fused_gradient_norms(model, batch, ["left", "right"])["right"] == pytest.approx(0, abs=1e-7)


class TestLookAhead:
    @pytest.fixture
    def look(self):
        return instruments.LookAhead(
            build_classifier({"left": (1, 8, 8), "right": (1, 8, 8)}, 3, 0), toy_dataset(30).whole()
        )

    def test_the_prediction_is_right_to_first_order(self, look):
        changes, (own, fused) = look.changes([1e-3, 1e-4]), look.gradients()
        predicted = {step: instruments.predicted_change(own, fused, step) for step in changes.index}
        assert predicted[1e-4] == pytest.approx(changes[1e-4], rel=0.02)
        errors = (changes - pd.Series(predicted)).abs()
        assert errors[1e-4] < errors[1e-3] / 50
        assert abs(changes[1e-4]) > abs(changes[1e-3]) / 15, "without the prediction it falls at first order only"

    def test_gradients_are_those_of_each_modalitys_encoder(self, look):
        for found, loss in zip(look.gradients(), (look._own, look._fused), strict=True):
            assert list(found) == ["left", "right"]
            assert torch.equal(torch.cat([*found.values()]), look._slope(loss))

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
