"""The mixture against scikit-learn and an independent EM, its posterior, its verdicts, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.mixture import GaussianMixture

from mmlib.data.digits import load_clear
from mmlib.equations.losses import modality_gap, relative_scores
from mmlib.equations.mixture import (
    Inseparable,
    Mixture,
    averaged_scores,
    excess_mass,
    fit_mixture,
    has_two_peaks,
    heads_have_peaked,
    separate,
)
from mmlib.methods import build
from mmlib.models import build_classifier
from mmlib.models.evaluate import sample_scores
from mmlib.training import Run, TrainingConfig, train_runs


def draw(count, means=(0.1, 0.7), deviations=(0.05, 0.15), share=0.3, seed=0):
    """Values of two Gaussians and which one they are from."""
    generator = torch.Generator().manual_seed(seed)
    second = torch.rand(count, generator=generator) < share
    noise = torch.randn(count, generator=generator)
    low, high = (mean + deviation * noise for mean, deviation in zip(means, deviations, strict=True))
    return torch.where(second, high, low), second


def reference(values, components=2):
    """scikit-learn's fit and its posterior of the component of the highest mean."""
    column = values.double().numpy()[:, None]
    fitted = GaussianMixture(components, tol=1e-10, max_iter=10_000, n_init=3, reg_covar=1e-12, random_state=0)
    fitted.fit(column)
    order = fitted.means_.ravel().argsort()
    parts = (fitted.weights_[order], fitted.means_.ravel()[order], fitted.covariances_.ravel()[order])
    return fitted, parts, fitted.predict_proba(column)[:, order[-1]]


@pytest.mark.parametrize("means, deviations", [((0.1, 0.7), (0.05, 0.15)), ((0.2, 0.5), (0.1, 0.2))])
def test_agrees_with_scikit_learn(means, deviations):
    values, _ = draw(6000, means, deviations)
    ours, (fitted, expected, posterior) = fit_mixture(values), reference(values)
    for mine, theirs in zip((ours.weights, ours.means, ours.variances), expected, strict=True):
        assert mine.numpy() == pytest.approx(theirs, abs=2e-3)
    assert ours.bic.item() == pytest.approx(fitted.bic(values.double().numpy()[:, None]), abs=0.1)
    between = (values >= ours.means[0]) & (values <= ours.means[1])  # outside, ours is made monotone
    assert ours.posterior(values)[between].numpy() == pytest.approx(posterior[between], abs=0.01)


def test_several_starts_find_what_one_may_miss():
    """A narrow peak inside a wide one, and three components: never below scikit-learn's likelihood."""
    three = torch.cat([draw(2000, (0.1, 0.5), (0.03, 0.05), 0.5)[0], 0.9 + 0.03 * draw(700, (0, 0), (1, 1))[0]])
    for values, components in ((draw(6000, (0.2, 0.2), (0.05, 0.3))[0], 2), (three, 3)):
        fitted, _, _ = reference(values, components)
        per_value = fit_mixture(values, components).log_likelihood.item() / len(values)
        assert per_value > fitted.score(values.double().numpy()[:, None]) - 1e-4


def test_components_are_told_by_their_means_whatever_their_weights():
    for share in (0.1, 0.9):
        values, second = draw(4000, share=share)
        mixture = fit_mixture(values)
        assert mixture.means.tolist() == pytest.approx([0.1, 0.7], abs=0.03)
        assert mixture.weights[1].item() == pytest.approx(share, abs=0.03)
        assert ((mixture.posterior(values) > 0.5) == second).float().mean() > 0.97


@pytest.mark.parametrize("deviations", [(0.05, 0.3), (0.3, 0.05), (0.1, 0.1)])
def test_the_posterior_never_falls(deviations):
    """By Bayes' rule alone the wider component would win both tails."""
    mixture = Mixture(
        *(torch.tensor(row, dtype=torch.float64) for row in ([0.6, 0.4], [0.2, 0.6])),
        torch.tensor(deviations, dtype=torch.float64).square(),
        torch.tensor(0.0),
        100,
    )
    grid = torch.linspace(-1, 2, 2001, dtype=torch.float64)
    posterior = mixture.posterior(grid)
    assert (posterior.diff() >= -1e-12).all() and posterior.isfinite().all()
    densities = mixture.densities(grid)
    bayes = densities[1] / densities.sum(0)
    inside = (grid >= 0.2) & (grid <= 0.6)
    assert torch.allclose(posterior[inside], bayes[inside])
    if deviations != (0.1, 0.1):
        assert (bayes.diff() < -1e-6).any(), "there is something to mend"


def test_three_components_have_no_posterior_of_two():
    with pytest.raises(ValueError, match="two components, not of 3"):
        fit_mixture(draw(500)[0], 3).posterior(torch.zeros(1))


def test_variances_keep_their_floor():
    """Half of the gaps are exactly 0: without a floor the likelihood is unbounded."""
    values = torch.cat([torch.zeros(500), draw(500, share=1.0)[0]])
    mixture = fit_mixture(values, variance_floor=1e-3)
    assert mixture.variances.min().item() == pytest.approx(1e-3)
    assert all(part.isfinite().all() for part in (mixture.weights, mixture.means, mixture.variances))


def test_shuffled_values_and_a_million_of_them_give_the_same_fit():
    values, _ = draw(1_000_000)
    mixture = fit_mixture(values)
    again = fit_mixture(values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))])
    assert torch.allclose(mixture.means, again.means, atol=1e-9)
    assert mixture.means.tolist() == pytest.approx([0.1, 0.7], abs=2e-3)
    assert mixture.variances.sqrt().tolist() == pytest.approx([0.05, 0.15], abs=2e-3)


class TestVerdict:
    def test_one_gaussian_needs_no_second(self):
        found = separate(draw(3000, share=0.0)[0])
        assert found.verdict == "one component is enough" and not found.two_components
        assert not found.posterior.any(), "then nothing counts as imbalanced"

    def test_a_skewed_distribution_has_two_components_but_one_peak(self):
        found = separate(torch.randn(3000, generator=torch.Generator().manual_seed(0)).exp())
        assert found.verdict == "two components, one peak"
        values, _ = draw(3000, (0.2, 0.3), (0.05, 0.2))
        assert separate(values).verdict == "two components, one peak"

    def test_two_peaks(self):
        values, _ = draw(3000)
        found = separate(values)
        assert found.verdict == "two peaks"
        assert torch.equal(found.posterior, found.mixture.posterior(values))

    @pytest.mark.parametrize("count", [200, 2000])
    @pytest.mark.parametrize("shape", ["exponential", "beta(1, 5)", "uniform", "one population's gaps"])
    def test_two_peaks_are_found_in_at_most_one_in_twenty_distributions_with_one(self, shape, count):
        generator = np.random.default_rng(0)
        drawn = {
            "exponential": lambda: generator.exponential(size=count),
            "beta(1, 5)": lambda: generator.beta(1, 5, count),
            "uniform": lambda: generator.random(count),
            "one population's gaps": lambda: np.abs(np.diff(expit(generator.normal([2, 3], [1, 2], (count, 2)))))[:, 0],
        }[shape]
        found = [has_two_peaks(torch.from_numpy(drawn())) for _ in range(40)]
        assert sum(found) <= 2

    def test_swapped_signals_make_two_peaks_where_nothing_is_memorised(self):
        """Relative gaps, after training with augmentation; in at least four of five subsets of 500 samples."""
        splits = load_clear("spoken_digits", 900, True, degradation="mismatch", degraded_audio=0.3, degraded_image=0.3)
        splits, runs = splits.preprocessed(), [Run("multi-loss", "", 0, ("audio", "image"))]
        config = TrainingConfig(epochs=12, learning_rate=0.003, device="cpu")
        (trained,) = train_runs(runs, splits, config, by_epoch=True)
        gaps = modality_gap(relative_scores(averaged_scores(trained.sample_scores(splits.train))[-1]))
        generator = torch.Generator().manual_seed(0)
        some = [gaps[torch.randperm(len(gaps), generator=generator)[:500]] for _ in range(40)]
        assert sum(map(has_two_peaks, some)) >= 32


class TestExcessMass:
    def test_closed_form(self):
        """Half of the values in each of two intervals of a tenth: E_2 = 1 − λ/5 and E_1 = max(½ − λ/10, 1 − λ), which
        differ most at λ = 5/9."""
        part = torch.linspace(0, 0.1, 5001)
        assert excess_mass(torch.cat([part, part + 0.9])).item() == pytest.approx(4 / 9, abs=2e-3)

    def test_evenly_spaced_values_have_none(self):
        assert excess_mass(torch.linspace(0, 1, 4096)).item() < 1e-3

    def test_it_is_twice_the_dip(self):
        """Hartigan's dip of these values, by an independent implementation."""
        generator = np.random.default_rng(0)
        for values, dip in (
            (generator.normal(size=500), 0.01001),
            (np.concatenate([generator.normal(0, 1, 300), generator.normal(3, 1, 200)]), 0.02326),
            (generator.exponential(size=1000), 0.00720),
        ):
            assert excess_mass(torch.from_numpy(values)).item() == pytest.approx(2 * dip, rel=0.1)

    def test_units_do_not_matter(self):
        values = draw(2000)[0]
        assert excess_mass(1000 * values - 7).item() == pytest.approx(excess_mass(values).item(), rel=1e-2)


@pytest.mark.parametrize(
    "values, error, message",
    [
        (torch.full((100,), 0.3), Inseparable, r"All 100 values are \(nearly\) equal, 0.3"),
        (torch.rand(15), Inseparable, "2 components need at least 20 values, not 15"),
        (torch.tensor([0.1, float("nan")] * 50), ValueError, "50 of 100 values are NaN or infinite"),
        (torch.tensor([0.1, float("inf")] * 50), ValueError, "50 of 100 values are NaN or infinite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(values, error, message):
    for function in (fit_mixture, separate):
        with pytest.raises(error, match=message) as raised:
            function(values)
        assert isinstance(raised.value, Inseparable) == (error is Inseparable)


def test_the_warm_up_ends_four_epochs_past_the_peak_of_the_heads_accuracy():
    rising = [0.1, 0.2, 0.3, 0.4]
    assert not heads_have_peaked([]) and not heads_have_peaked(rising)
    falling = [*rising, 0.3, 0.2, 0.2, 0.2]  # averaged: 0.1 0.15 0.225 0.3125 0.306 0.253 0.227 0.213
    assert not heads_have_peaked(falling[:-1]) and heads_have_peaked(falling)
    assert not heads_have_peaked([*falling[:-1], 0.5]), "a new maximum"
    lucky = [0.5, 0.3, 0.55]  # averaged: 0.5 0.48 0.487
    assert heads_have_peaked(lucky, 2, smoothing=0.9) and not heads_have_peaked(lucky, 2, smoothing=0.0)


def test_scores_are_those_of_eval_mode_and_the_mode_is_restored(toy):
    model = build_classifier(toy.input_shapes, 3, 0)
    build("erm", model).train()
    scores = sample_scores(model, toy, batch_size=50)
    assert model.training
    outputs = model.eval()(toy.whole().inputs)
    for row, logits in zip(scores, outputs.unimodal_logits.values(), strict=True):
        expected = np.array([z.softmax(0)[y].item() for z, y in zip(logits, toy.labels, strict=True)])
        assert row.numpy() == pytest.approx(expected, abs=1e-5)
    assert not scores.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_million_gaps_are_fitted_on_the_gpu():
    values, _ = draw(1_000_000)
    here, there = fit_mixture(values), fit_mixture(values.cuda())
    assert there.means.is_cuda and torch.allclose(here.means, there.means.cpu(), atol=1e-6)
    assert there.posterior(values.cuda()).is_cuda
