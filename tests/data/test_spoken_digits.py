import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from mmlib.data import load
from mmlib.data.digits import speech
from mmlib.data.digits.degradation import degrade

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def small():
    return load("spoken_digits", samples_per_class=10, flow=True)


@pytest.fixture(scope="module")
def default():
    return load("spoken_digits")


def test_the_data_does_not_depend_on_the_number_of_threads(small):
    """Or a run would be another one on another machine: its data are part of its identity."""
    torch.set_num_threads(2)  # the tests' own number is one
    try:
        again = load("spoken_digits", samples_per_class=10, flow=True)
        assert torch.get_num_threads() == 2
        assert again.train.fingerprint() == small.train.fingerprint()
        assert again.preprocessed().train.fingerprint() == small.preprocessed().train.fingerprint()
    finally:
        torch.set_num_threads(1)


def test_shapes_ranges_and_balance(small):
    shapes = {"audio": (6400,), "image": (1, 32, 32), "flow": (2, 32, 32)}
    assert small.train.input_shapes == shapes and len(small.train) == 300
    assert torch.bincount(small.train.domains * 10 + small.train.labels).unique().tolist() == [10]
    assert small.train.inputs["image"].min() >= 0 and small.train.inputs["image"].max() <= 1
    assert small.train.inputs["audio"].abs().max() <= 0.91
    assert small.preprocessed().train.input_shapes == {**shapes, "audio": (1, 40, 49)}


def test_no_handwriting_and_no_voice_is_in_two_parts(default):
    parts = [getattr(default, part) for part in PARTS]
    for name in ("handwriting", "speaker"):
        values = [set(part.truth[name].tolist()) for part in parts]
        assert not (values[0] & values[1] or values[0] & values[2] or values[1] & values[2])
    for part in parts:
        speakers = [set(part.truth["speaker"][part.domains == domain].tolist()) for domain in range(3)]
        assert not (speakers[0] & speakers[1] or speakers[0] & speakers[2] or speakers[1] & speakers[2])


def test_the_voices_are_the_same_in_every_process():
    first, second = speech.utterance_bank(), speech._bank_from_own_process()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_voices_are_read_from_however_deep_a_folder(tmp_path, monkeypatch):
    """espeak-ng itself refuses a path of 160 bytes: an environment in a course's folder on a network drive."""
    monkeypatch.chdir(tmp_path)  # and back at the end: the voices' folder is entered
    deep = tmp_path / ("x" * 150) / "espeak-ng-data"
    deep.parent.mkdir()
    deep.symlink_to(speech.espeakng_loader.get_data_path())
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(deep))
    assert len(speech._EspeakNG()("one", "gmw/en+m1", 170, 35)) > 5000


def test_the_same_dials_give_the_same_data_and_another_seed_gives_other_data(small):
    def digest(splits):
        return hashlib.sha256(b"".join(x.numpy().tobytes() for x in splits.test.inputs.values())).hexdigest()

    again = load("spoken_digits", samples_per_class=10, flow=True)
    other = load("spoken_digits", samples_per_class=10, flow=True, seed=1)
    assert digest(again) == digest(small) != digest(other)


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"audio_snr_db": 99}, "audio_snr_db must be a number in -60 … 60, not 99"),
        ({"image_contrast": 1.5}, "image_contrast must be a number in 0 … 1"),
        ({"degradation": "gremlins"}, "degradation must be one of noise, masking, mismatch"),
        ({"degraded_in": "test"}, "degraded_in must be"),
        ({"samples_per_class": 2.5}, "samples_per_class must be an integer"),
        ({"volume": 11}, "no dial volume; there are .*audio_snr_db"),
    ],
)
def test_wrong_dials_are_refused_by_name(dials, message):
    with pytest.raises(ValueError, match=message):
        load("spoken_digits", **dials)


def test_the_signal_to_noise_dial_is_in_decibels():
    """A louder-noise copy minus a quieter one differs by the noise alone; its power must follow the dial."""
    clean, mild, strong = (
        load("spoken_digits", samples_per_class=10, audio_snr_db=snr).test.inputs["audio"] for snr in (60, 10, 0)
    )

    def noise_share(noisy):
        signal = clean * (clean * noisy).sum(1, keepdim=True) / clean.square().sum(1, keepdim=True)
        return ((noisy - signal).square().sum(1) / signal.square().sum(1)).log10().mul(10)

    difference = (noise_share(strong) - noise_share(mild)).median()
    assert abs(float(difference) - 10) < 1


def test_without_domain_shift_the_renderings_agree():
    def spread(shift):
        images = load("spoken_digits", samples_per_class=40, domain_shift=shift, image_occlusion=0.0).train
        means = torch.stack([images.inputs["image"][images.domains == domain].mean() for domain in range(3)])
        return float(means.max() - means.min())

    assert spread(0.0) < 0.01 < 0.03 < spread(1.0)


def test_truth_says_which_samples_were_degraded_and_only_those_changed():
    clean = load("spoken_digits", samples_per_class=10)
    for kind in ("noise", "masking", "mismatch"):
        spoiled = load("spoken_digits", samples_per_class=10, degraded_audio=0.2, degraded_image=0.3, degradation=kind)
        for modality, share in (("audio", 0.2), ("image", 0.3)):
            severity = spoiled.train.truth[f"degraded_{modality}"]
            assert int((severity > 0).sum()) == round(share * 300)
            assert severity[severity > 0].min() >= 0.5 and severity.max() <= 1
            changed = (spoiled.train.inputs[modality] != clean.train.inputs[modality]).flatten(1).any(1)
            assert torch.equal(changed, severity > 0)
        assert torch.equal(spoiled.test.inputs["audio"], clean.test.inputs["audio"])
    everywhere = load("spoken_digits", samples_per_class=10, degraded_audio=0.5, degraded_in="everywhere")
    assert int((everywhere.test.truth["degraded_audio"] > 0).sum()) == len(everywhere.test) // 2


def test_mismatch_takes_another_class_of_the_same_domain(small):
    data = small.train
    spoiled = degrade(data, "image", "mismatch", 0.4, torch.Generator().manual_seed(0))
    flat = data.inputs["image"].flatten(1)
    for row in (spoiled.truth["degraded_image"] > 0).nonzero().squeeze(1).tolist():
        source = int((flat == spoiled.inputs["image"][row].flatten()).all(1).nonzero()[0])
        assert data.labels[source] != data.labels[row] and data.domains[source] == data.domains[row]


def test_masking_loses_the_stated_share(small):
    bland = dataclasses.replace(
        small.train, inputs={"image": torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0))}
    )
    spoiled = degrade(bland, "image", "masking", 1.0, torch.Generator().manual_seed(0))
    lost = (spoiled.inputs["image"] != bland.inputs["image"]).float().mean((1, 2, 3))
    assert (lost - spoiled.truth["degraded_image"]).abs().max() < 2 / 32  # whole rows and columns
    with pytest.raises(ValueError, match="no modality 'smell'"):
        degrade(bland, "smell", "noise", 0.1, torch.Generator())
