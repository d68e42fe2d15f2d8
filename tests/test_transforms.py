import numpy as np
import pytest
import torch
import torchaudio

from mmlib.data import transforms
from mmlib.data.dataset import Batch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_log_mel_agrees_with_a_plain_rendering_of_its_definition():
    """Hann window, power spectrum, triangular filters, logarithm, standardised: in NumPy, float64."""
    waveform = torch.randn(2, 6400, generator=generator())
    result = transforms.LogMel()(waveform)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    frames = np.stack([waveform.numpy()[:, start : start + 256] for start in range(0, 6400 - 255, 128)], 2)
    power = np.abs(np.fft.rfft(frames * window[None, :, None], axis=1)) ** 2
    filters = torchaudio.functional.melscale_fbanks(129, 0, 4000, 40, 8000).double().numpy()
    log_mel = np.log(np.einsum("bft,fm->bmt", power, filters) + 1e-6)
    expected = log_mel - log_mel.mean((1, 2), keepdims=True)
    expected /= log_mel.std((1, 2), keepdims=True, ddof=1)
    assert result.shape == (2, 1, 40, 49)
    assert np.allclose(result[:, 0], expected, atol=1e-3)


def test_log_spectrogram_agrees_with_numpy():
    waveform = torch.randn(1, 2000, generator=generator())
    result = transforms.LogSpectrogram(512, 353)(waveform)[0, 0].numpy()
    padded = np.pad(waveform[0].numpy(), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[start : start + 512] * window for start in range(0, len(padded) - 511, 353)], 1)
    magnitude = np.log(np.abs(np.fft.rfft(frames, axis=0)) + 1e-7)
    expected = (magnitude - magnitude.mean()) / magnitude.std(ddof=1)
    assert np.allclose(result, expected, atol=1e-3)


def test_random_shift_moves_each_sample_by_its_own_offset():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(20, 1, 1, 1)
    moved = transforms.random_shift(images, generator(), most=2)
    padded = torch.nn.functional.pad(images[:1], (2, 2, 2, 2), "replicate")[0, 0]
    candidates = [padded[top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    found = [next(i for i, candidate in enumerate(candidates) if torch.equal(candidate, one[0])) for one in moved]
    assert len(set(found)) > 5
    assert torch.equal(moved, transforms.random_shift(images, generator(), most=2))


def test_masks_cover_one_band_of_at_most_the_stated_width():
    images = torch.randn(200, 1, 12, 20, generator=generator())
    for axis in (2, 3):
        masked = transforms.mask_band(images, generator(1), axis, 4)
        changed = (masked != images).squeeze(1)
        lines = changed.all(2 if axis == 2 else 1)
        assert torch.equal(
            changed, lines[:, :, None].expand_as(changed) if axis == 2 else lines[:, None].expand_as(changed)
        )
        widths = lines.sum(1)
        assert widths.max() == 4 and widths.min() == 0
        for row in lines:
            positions = row.nonzero().squeeze(1)
            assert len(positions) == 0 or positions[-1] - positions[0] + 1 == len(positions)


def test_random_crop_and_noise():
    signals = torch.arange(100.0).repeat(30, 1)
    crops = transforms.random_crop(signals, generator(), 40)
    assert crops.shape == (30, 40) and (crops.diff(dim=1) == 1).all() and len(crops[:, 0].unique()) > 10
    with pytest.raises(ValueError, match="1 … 100"):
        transforms.random_crop(signals, generator(), 101)
    noisy = transforms.add_noise(torch.zeros(100, 100), generator(), 0.5)
    assert abs(float(noisy.std()) - 0.5) < 0.02


def test_images_are_scaled_alike_from_bytes_and_floats():
    scale = transforms.ScaleImages()
    image = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert scale(image).flatten().tolist() == [-1, 1] == scale(image.float() / 255).flatten().tolist()


def test_augment_touches_only_the_modalities_named():
    batch = Batch({"a": torch.ones(3, 1, 4, 4), "b": torch.ones(3, 2)}, *[torch.arange(3)] * 3)
    result = transforms.augment(batch, {"a": lambda x, g: x + 1}, generator())
    assert result.inputs["a"].unique() == 2 and result.inputs["b"] is batch.inputs["b"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_front_ends_agree_on_the_gpu():
    waveform = torch.randn(4, 6400, generator=generator())
    assert torch.allclose(transforms.LogMel()(waveform.cuda()).cpu(), transforms.LogMel()(waveform), atol=1e-4)
