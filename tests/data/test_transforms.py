import numpy as np
import pytest
import scipy.signal
import torch
import torchaudio
from PIL import Image

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


def test_magnitude_spectrogram_agrees_with_numpy():
    waveform = torch.randint(-20000, 20000, (1, 66150), generator=generator()).short()
    result = transforms.MagnitudeSpectrogram()(waveform)
    padded = np.pad(waveform[0].numpy() / 32768, 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[start : start + 512] * window for start in range(0, len(padded) - 511, 353)], 1)
    expected = np.log(np.abs(np.fft.rfft(frames, axis=0)) + 1e-7)
    assert result.shape == (1, 1, 257, 188)
    assert np.allclose(result[0, 0].exp(), np.exp(expected), atol=2e-4), "compared in linear amplitude"


def test_power_spectrogram_agrees_with_scipy():
    waveform = torch.randint(-20000, 20000, (2, 160000), generator=generator()).short()
    result = transforms.PowerSpectrogram()(waveform)
    _, _, power = scipy.signal.spectrogram(waveform.numpy() / 32768, 16000, nperseg=512, noverlap=353)
    log_power = np.log(power + 1e-7)
    expected = (log_power - log_power.mean((1, 2), keepdims=True)) / log_power.std((1, 2), keepdims=True)
    assert result.shape == (2, 1, 257, 1004)
    assert np.allclose(result[:, 0], expected, atol=1e-3)


def video(count=2, frames=3, height=256, width=340, channels=3):
    """Every pixel says where it is: rows in the first channel, columns in the second."""
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width) * 255 / (height - 1)
    columns = torch.arange(width, dtype=torch.float32)[None].expand(height, width) * 255 / (width - 1)
    picture = torch.stack([rows, columns, torch.zeros(height, width)][:channels], -1).round().byte()
    return picture.expand(count, frames, height, width, channels).contiguous()


PLAIN = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0)}


def test_evaluation_crops_the_middle_or_scales_the_whole_frame():
    crop = transforms.FrameCrop(224, **PLAIN)(video())
    assert crop.shape == (2, 3, 3, 224, 224)
    expected = video()[0, 0, 16:240, 58:282].permute(2, 0, 1).float()
    assert torch.allclose(crop[0, :, 0], expected, atol=1e-2), "224 of 256 pixels need no scaling"
    whole = transforms.FrameCrop(64, **PLAIN, whole=True)(video())
    assert whole[0, 0, 0, 0, 0] < 5 and whole[0, 0, 0, -1, 0] > 250 and whole[0, 1, 0, 0, -1] > 250


def test_the_whole_frame_is_made_smaller_as_the_imbalance_papers_image_library_does():
    """Which averages over all pixels that fall into one; without that, fine patterns become others."""
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    (found,) = transforms.FrameCrop(32, **PLAIN, whole=True)(torch.from_numpy(frame)[None, None])
    difference = np.abs(found[:, 0].permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1.01, "up to its rounding to whole numbers, twice"


def test_normalisation_is_by_channel():
    white = torch.full((1, 1, 32, 32, 3), 255, dtype=torch.uint8)
    values = transforms.FrameCrop(8)(white)[0, :, 0, 0, 0]
    assert torch.allclose(
        values, (255 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    )


def test_random_crops_are_boxes_of_the_right_size_the_same_for_all_frames():
    crops = transforms.FrameCrop(16, **PLAIN).random(video(400, height=128, width=170), generator())
    assert torch.allclose(crops[:, :, 0], crops[:, :, 2])
    height = (crops[:, 0, 0, -1, 0] - crops[:, 0, 0, 0, 0]) / 255 * 16 / 15  # shares of the frame
    width = (crops[:, 1, 0, 0, -1] - crops[:, 1, 0, 0, 0]) / 255 * 16 / 15
    flipped = width < 0
    assert 0.4 < flipped.float().mean() < 0.6
    area, ratio = height * width.abs(), width.abs() * 340 / (height * 256)
    assert area.min() > 0.06 and area.max() <= 1.1 and 0.4 < area.mean() < 0.6
    assert ((ratio > 0.7) & (ratio < 1.42)).float().mean() > 0.95, "clipped where the box would leave the frame"
    assert not torch.equal(crops[0], crops[1])


def test_nothing_of_a_crop_goes_by_way_of_the_cpu(monkeypatch):
    """Where a GPU crops, each such way is a wait for all that it still has to do."""
    crop, frames = transforms.FrameCrop(16), video()
    expected = crop.random(frames, generator()), crop(frames)
    monkeypatch.setattr(torch, "tensor", lambda *values, **options: pytest.fail("sent from the CPU again"))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("copied to the CPU"))
    assert torch.equal(crop.random(frames, generator()), expected[0]) and torch.equal(crop(frames), expected[1])


def test_a_window_of_frames_is_the_middle_or_a_random_stretch():
    frames = torch.arange(12, dtype=torch.uint8).reshape(1, 12, 1, 1, 1).expand(64, 12, 8, 8, 3)
    crop = transforms.FrameCrop(4, **PLAIN, window=8)
    assert crop(frames)[0, 0, :, 0, 0].tolist() == list(range(2, 10))
    starts = crop.random(frames, generator())[:, 0, :, 0, 0]
    assert (
        set(starts[:, 0].round().int().tolist()) == set(range(5))
        and ((starts[:, 1:] - starts[:, :-1]).round() == 1).all()
    )


def test_a_flip_turns_flow_round():
    flow = torch.full((200, 1, 16, 16, 2), 192, dtype=torch.uint8)
    crops = transforms.FrameCrop(4, (128.0, 128.0), (128.0, 128.0)).random(flow, generator())
    assert set(crops[:, 0].flatten().mul(2).round().tolist()) == {1.0, -1.0}
    assert torch.allclose(crops.abs(), torch.tensor(0.5)) and (crops[:, 1] > 0).all()


def test_spectrograms_get_noise_and_a_blank_band():
    result = transforms.noise_and_blank_band(torch.ones(300, 1, 257, 5), generator())
    blank = (result == 0).all((1, 3))
    assert (blank.sum(1) == 9).all()
    first = blank.float().argmax(1)
    assert first.min() < 10 and 230 < first.max() <= 247
    kept = result[~blank[:, None, :, None].expand_as(result)]
    assert (kept - 1).abs().max() <= 0.05 + 1e-6 and (kept - 1).std() > 0.025


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


def test_images_are_scaled_alike_from_bytes_and_floats():
    scale = transforms.ScaleImages()
    image = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert scale(image).flatten().tolist() == [-1, 1] == scale(image.float() / 255).flatten().tolist()


def test_augment_touches_only_the_modalities_named():
    batch = Batch({"a": torch.ones(3, 1, 4, 4), "b": torch.ones(3, 2)}, *[torch.arange(3)] * 3)
    result = transforms.augment(batch, {}, {"a": lambda x, g: x + 1}, generator())
    assert result.inputs["a"].unique() == 2 and result.inputs["b"] is batch.inputs["b"]
    doubled = {"a": lambda x: 2 * x, "b": lambda x: 2 * x}
    result = transforms.augment(batch, doubled, {"a": lambda x, g: x + 1}, generator())
    assert result.inputs["a"].unique() == 2, "an augmentation stands in for the front end"
    assert result.inputs["b"].unique() == 2
    small = Batch({"a": torch.ones(3, 1, 4, 4).byte(), "b": torch.ones(3, 2).half()}, *[torch.arange(3)] * 3)
    result = transforms.augment(small, {}, {"a": transforms.spec_augment}, generator())
    assert all(value.dtype == torch.float32 for value in result.inputs.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_front_ends_agree_on_the_gpu():
    waveform = torch.randn(4, 6400, generator=generator())
    for front_end in (transforms.LogMel(), transforms.PowerSpectrogram(), transforms.MagnitudeSpectrogram()):
        assert torch.allclose(front_end(waveform.cuda()).cpu(), front_end(waveform), atol=1e-3)
    crop, frames = transforms.FrameCrop(32), video(2)
    assert torch.allclose(crop(frames.cuda()).cpu(), crop(frames), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_crops_do_not_wait_for_the_gpu():
    crop, frames = transforms.FrameCrop(32, window=2), video(2).cuda()
    there = torch.Generator("cuda").manual_seed(0)
    crop.random(frames, there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        crop.random(frames, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
