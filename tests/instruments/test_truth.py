import numpy as np
import pytest
import torch

from mmlib import instruments
from mmlib.models.evaluate import evaluate


class TestAgainstTheTruth:
    degraded = torch.tensor([True, True, False, False, False, False])

    def test_separation_is_the_share_of_pairs_in_the_right_order(self):
        score = torch.tensor([0.9, 0.3, 0.5, 0.1, 0.2, 0.0])
        found = instruments.separation_scores(score, self.degraded)
        assert found["AUC"] == pytest.approx(7 / 8)  # of the 2 × 4 pairs, only (0.3, 0.5) is wrong
        assert found["average precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
        assert instruments.separation_scores(-score, self.degraded)["AUC"] == pytest.approx(1 / 8)
        with pytest.raises(ValueError, match="both degraded and other samples"):
            instruments.separation_scores(score, torch.ones(6, dtype=torch.bool))

    def test_a_calibrated_posterior_has_no_error_and_an_overconfident_one_has(self):
        generator = torch.Generator().manual_seed(0)
        posterior = torch.rand(50_000, generator=generator)
        degraded = torch.rand(50_000, generator=generator) < posterior
        assert instruments.calibration_error(posterior, degraded) < 0.01
        rows = instruments.calibration(posterior, degraded)
        assert len(rows) == 10 and rows["share of samples"].sum() == pytest.approx(1)
        assert rows["posterior"].to_numpy() == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.01)
        assert instruments.calibration_error((posterior > 0.5).float(), degraded) == pytest.approx(0.25, abs=0.01)
        assert instruments.calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0

    def test_heads_are_right_by_themselves(self, trained, toy_splits):
        network, data = trained[0].predictor, toy_splits.test
        right = instruments.right_heads(network, data)
        assert right.shape == (2, len(data))
        scores = evaluate(network, data)
        expected = [scores["left accuracy"], scores["right accuracy"]]
        assert right.double().mean(1).tolist() == pytest.approx(expected)
