"""Each rival's distinctive part against its authors' code: small inputs, and numbers in double precision that do not
come from this kit. The contrast and MMPareto's weights were computed by the authors' own code; the others by a separate
program that follows it line by line; RNA-Net's and MBSD's from the equation, without code to compare with."""

import math

import pytest
import torch

from mmlib.equations.losses import entropy, norm_imbalance, supervised_contrast
from mmlib.methods import build
from mmlib.methods.balancing import fused_share, joined_gradient
from mmlib.models import build_classifier

LABELS = torch.tensor([0, 1, 0, 2, 1])


def wave(*shape):
    """Reproducible numbers without a pattern: sin 1.7, sin 3.4, …"""
    return torch.arange(1, 1 + math.prod(shape), dtype=torch.float64).reshape(shape).mul(1.7).sin()


def made(name, modalities=("left", "right"), **options):
    return build(name, build_classifier(dict.fromkeys(modalities, (1, 8, 8)), 3, 0), **options).double()


def exactly(value, **tolerance):
    return pytest.approx(value, **{"rel": 1e-7} | tolerance)


def test_the_contrast_of_sim_mmdg_moosa_and_cmrf():
    assert supervised_contrast(wave(5, 2, 3), LABELS).item() == exactly(8.735536440547268)


def test_moosas_entropy_weighting():
    heads = torch.stack([2 * wave(5, 3), 3 * wave(5, 3).flip(0), 1.5 * wave(5, 3).roll(1, 0)])
    assert made("moosa").weighted_cross_entropy(heads, LABELS).item() == exactly(2.2703655180761055)
    # Their logarithm adds 1e-5 to its argument.
    assert entropy(heads).mean().item() == exactly(0.5839909769420357, rel=1e-4)


def test_cmrfs_distances_are_summed_over_all_pairs(monkeypatch):
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.full((5, 1), 0.25).double())
    names = ("video", "audio", "flow")
    student = dict(zip(names, (wave(5, 4), wave(5, 4).flip(0), wave(5, 4).roll(1, 1)), strict=True))
    teacher = dict(zip(names, (wave(5, 4).flip(1), wave(5, 4).roll(2, 0), -wave(5, 4)), strict=True))
    assert made("cmrf", names).flattening(student, teacher).item() == exactly(6.254525274710591)


def test_rna_nets_ratio_of_norms():
    assert norm_imbalance([wave(5, 4), 2.5 * wave(5, 4)]).item() == exactly(0.36)


def test_ogms_coefficients():
    scores = torch.tensor([[0.7, 0.6, 0.2], [0.3, 0.5, 0.4]], dtype=torch.float64)
    assert made("ogm-ge").coefficients(scores).tolist() == exactly([0.6416426016492143, 1.0])


def test_agms_coefficients_step_by_step():
    """On CREMA-D: the running means come from the steps before."""
    method = made("agm")
    steps = (
        ([[0.7, 0.6, 0.2], [0.3, 0.5, 0.4]], (0.888084003363851, 1.1119291334696653)),
        ([[0.8, 0.9, 0.5], [0.2, 0.1, 0.3]], (0.06104288072371775, 1.8935759105587602)),
        ([[0.4, 0.1, 0.2], [0.6, 0.5, 0.9]], (5.949402610936191, 0.0636849300337761)),
    )
    for scores, expected in steps:
        assert method.coefficients(torch.tensor(scores, dtype=torch.float64)).tolist() == exactly(list(expected))


def test_mmparetos_conflicting_gradients():
    """The first weight's joined gradient is longer than the sum, the second one's shorter: it is lifted."""
    fused = [wave(2, 3), wave(4).flip(0)]
    own = [-wave(2, 3) + 0.4 * wave(2, 3).flip(0), 0.5 * wave(4)]
    share = fused_share(fused, own)
    assert share.item() == exactly(0.39131313)
    joined = [1.5 * joined_gradient(one, two, share) for one, two in zip(fused, own, strict=True)]
    first = [-0.28577331, 0.74987813, 0.09253797, 0.40211421, -0.70736382, -0.21983435]
    assert joined[0].flatten().tolist() == exactly(first, abs=1e-7)
    assert joined[1].tolist() == exactly([1.61619679, -1.43633777, -1.24606836, 1.75743587], abs=1e-7)


def test_pmrs_prototypes_and_their_loss(monkeypatch):
    """The slower modality's cross-entropy, weighted as in the paper: the ratio of the scores, minus one."""
    method = made("pmr")
    features = {"left": wave(5, 4), "right": 0.5 * wave(5, 4).flip(0)}
    prototypes = {"left": wave(3, 4).flip(1), "right": wave(3, 4).roll(1, 0)}
    monkeypatch.setattr(method, "_prototypes", prototypes.get)
    losses, slowness = method.prototype_losses(features, LABELS)
    assert [loss.item() for loss in losses.values()] == exactly([1.2095350143747456, 1.0185758818824846])
    assert slowness.tolist() == exactly([1.8445068071937287 / 1.666983443542973 - 1, 0.0], abs=1e-9)


def test_mbsds_alignment():
    """[kit]: there is no code of the authors; this is an independent loop over the samples."""
    logits = {"left": 2 * wave(5, 3), "right": 3 * wave(5, 3).flip(0)}
    assert made("mbsd").alignment(logits, LABELS).item() == exactly(1.3203767394664936)
