"""Batched transforms: the same code on CPU and GPU, every draw from a generator that is passed in.

Front ends turn raw signals into network inputs; augmentations change a batch in training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from mmlib.data.dataset import Batch, as_float

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class LogMel(nn.Module):
    """Waveform (batch, time) → log-mel spectrogram (batch, 1, mels, frames), zero mean and unit variance per clip.

    Sound is int16, or floating point in −1 … 1. Frames are not padded: `frames = (time − window) // hop + 1`.
    """

    def __init__(self, sample_rate: int = 8000, window: int = 256, hop: int = 128, mels: int = 40) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate, n_fft=window, hop_length=hop, n_mels=mels, center=False
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, time) → (batch, 1, mels, frames)."""
        return _standardise((self.mel.to(waveform.device)(as_waveform(waveform)) + 1e-6).log()).unsqueeze(1)


class ScaleImages:
    """uint8 or float images (batch, channels, height, width) in [0, 255] or [0, 1] → float in [−1, 1]."""

    def __call__(self, images: Tensor) -> Tensor:
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return images.float() * (2.0 / scale) - 1.0


def random_shift(images: Tensor, generator: torch.Generator, most: int = 3) -> Tensor:
    """Move each (channels, height, width) by up to `most` pixels in both directions; edges are repeated.

    A crop of the padded image at a random place, for the whole batch at once.
    """
    _, _, height, width = images.shape
    down, right = torch.randint(0, 2 * most + 1, (2, len(images)), generator=generator, device=generator.device).to(
        images.device
    )
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # all of them, as views: (batch, channels, down, right, …)
    return crops[torch.arange(len(images), device=images.device), :, down, right]


def mask_band(images: Tensor, generator: torch.Generator, axis: int, most: int) -> Tensor:
    """SpecAugment: per sample, a band of 0 … `most` rows (axis 2) or columns (axis 3) becomes the sample's mean."""
    size = images.shape[axis]
    draws = torch.rand(2, len(images), generator=generator, device=generator.device).to(images.device)
    widths = (draws[0] * (most + 1)).floor()
    starts = (draws[1] * (size - widths + 1)).floor()
    positions = torch.arange(size, device=images.device)
    masked = (positions >= starts[:, None]) & (positions < (starts + widths)[:, None])
    masked = masked.reshape(len(images), 1, *((size, 1) if axis == 2 else (1, size)))
    return torch.where(masked, images.mean((1, 2, 3), keepdim=True), images)


def spec_augment(spectrograms: Tensor, generator: torch.Generator) -> Tensor:
    """Light SpecAugment for 40 mel bands: one frequency and one time mask of at most 6."""
    return mask_band(mask_band(spectrograms, generator, 2, 6), generator, 3, 6)


def shift_and_spec_augment(spectrograms: Tensor, generator: torch.Generator) -> Tensor:
    """A random shift in time and frequency, then light SpecAugment."""
    return spec_augment(random_shift(spectrograms, generator), generator)


def mask_rows_and_columns(images: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment's counterpart for 28 × 28 images: one band of rows and one of columns, of at most 10."""
    return mask_band(mask_band(images, generator, 2, 10), generator, 3, 10)


@dataclass(frozen=True)
class FrameCrop:
    """Stored frames (batch, frames, height, width, channels) uint8 → crops (batch, channels, frames, size, size),
    normalised by channel.

    Called, it returns what evaluation sees: the whole frame scaled to the square (`whole`, as in the imbalance papers,
    whose image library averages over the pixels that fall into one), or the middle square of ⅞ of its shorter side (224
    of 256, as in the MMDG papers, whose library does not). `random` is what training sees; where it makes frames
    smaller, it does not average, and so differs from the imbalance papers' code. With `window`, only that many of the
    stored frames are used: the middle ones, or a random stretch.
    """

    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN  # of pixel values 0 … 255
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    whole: bool = False
    window: int = 0  # 0: all frames
    smallest: float = 0.08  # share of the frame's area that a random crop covers at least

    def __call__(self, frames: Tensor) -> Tensor:
        batch, count, height, width, channels = frames.shape
        length = self._length(count)
        frames = frames[:, (count - length) // 2 :][:, :length]
        if self.whole:
            pixels = self._normalised(frames)
            square = functional.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
            return square.reshape(batch, channels, length, self.size, self.size)
        side = 224 / 256 * min(height, width)
        shares = [frames.new_full((batch,), side / length, dtype=torch.float32) for length in (height, width)]
        extent = torch.stack(shares, 1)
        return self._cropped(frames, torch.zeros_like(extent), extent, torch.ones_like(shares[0]))

    def random(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """A random crop of 8 … 100 % of the area with an aspect ratio of ¾ … 4/3, flipped with probability ½, the same
        for all frames of a clip. A flip negates the horizontal component of optical flow (two
        channels)."""
        batch, count, height, width, _ = frames.shape
        draws = torch.rand(6, batch, generator=generator, device=generator.device).to(frames.device)
        starts = (draws[5] * (count - self._length(count) + 1)).long()
        rows = starts[:, None] + torch.arange(self._length(count), device=frames.device)
        frames = frames[torch.arange(batch, device=frames.device)[:, None], rows]
        area = (self.smallest + draws[0] * (1 - self.smallest)) * height * width
        ratio = torch.exp((2 * draws[1] - 1) * math.log(4 / 3))  # width / height
        extent = torch.stack([(area / ratio).sqrt() / height, (area * ratio).sqrt() / width], 1).clamp(max=1)
        centre = (2 * draws[2:4].T - 1) * (1 - extent)
        return self._cropped(frames, centre, extent, torch.where(draws[4] < 0.5, -1.0, 1.0))

    def _length(self, count: int) -> int:
        return min(self.window or count, count)

    def _normalised(self, frames: Tensor) -> Tensor:
        """(batch, channels · frames, height, width)."""
        channels = zip(frames.unbind(-1), self.mean, self.deviation, strict=True)
        # By plain numbers: to a GPU, a tensor of them would have to be copied.
        return torch.cat([(channel.float() - mean) / deviation for channel, mean, deviation in channels], 1)

    def _cropped(self, frames: Tensor, centre: Tensor, extent: Tensor, flip: Tensor) -> Tensor:
        """Boxes by centre and extent (batch, 2), (vertical, horizontal) in −1 … 1 of the frame, scaled bilinearly."""
        batch, count, _, _, channels = frames.shape
        theta = frames.new_zeros(batch, 2, 3, dtype=torch.float32)
        theta[:, 0, 0], theta[:, 0, 2] = extent[:, 1] * flip, centre[:, 1]
        theta[:, 1, 1], theta[:, 1, 2] = extent[:, 0], centre[:, 0]
        grid = functional.affine_grid(theta, [batch, channels, self.size, self.size], align_corners=False)
        crops = functional.grid_sample(self._normalised(frames), grid, padding_mode="border", align_corners=False)
        crops = crops.reshape(batch, channels, count, self.size, self.size)
        if channels == 2:
            crops[:, 0] *= flip[:, None, None, None]
        return crops


@dataclass(frozen=True)
class PowerSpectrogram:
    """Stored sound (batch, time) int16 → log power (batch, 1, 257, frames), standardised per clip, as in the MMDG
    papers and in PMR: scipy.signal.spectrogram, windows of 512 overlapping by 353 (Tukey ¼, mean removed, density)."""

    sample_rate: int = 16000
    window: int = 512
    hop: int = 159

    def __call__(self, waveform: Tensor) -> Tensor:
        taper = _tukey(self.window, 0.25, waveform.device)
        pieces = as_waveform(waveform).unfold(-1, self.window, self.hop)
        spectrum = torch.fft.rfft((pieces - pieces.mean(-1, keepdim=True)) * taper).abs().square()
        spectrum = spectrum / (self.sample_rate * taper.square().sum())
        spectrum[..., 1 : (self.window + 1) // 2] *= 2  # one-sided: all but the constant and the Nyquist frequency
        return _standardise((spectrum + 1e-7).log().transpose(-1, -2)).unsqueeze(1)


@dataclass(frozen=True)
class MagnitudeSpectrogram:
    """Stored sound (batch, time) int16 → log(|STFT| + 1e-7) (batch, 1, 257, frames), not standardised, as OGM-GE
    computes it on CREMA-D: Hann windows of 512 centred on every 353rd sample, zero-padded at both
    ends."""

    window: int = 512
    hop: int = 353

    def __call__(self, waveform: Tensor) -> Tensor:
        hann = torch.hann_window(self.window, device=waveform.device)
        spectrum = torch.stft(
            as_waveform(waveform), self.window, self.hop, window=hann, pad_mode="constant", return_complex=True
        )
        return (spectrum.abs() + 1e-7).log().unsqueeze(1)


@dataclass(frozen=True)
class Augmented:
    """An augmentation of network inputs, for data that is stored as raw signals."""

    front_end: Callable[[Tensor], Tensor]
    augmentation: Augmentation

    def __call__(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        return self.augmentation(self.front_end(stored), generator)


def as_waveform(stored: Tensor) -> Tensor:
    """int16 samples as floating point in −1 … 1; floating point as it is."""
    return stored if stored.is_floating_point() else stored.float() / 32768


def noise_and_blank_band(
    spectrograms: Tensor, generator: torch.Generator, noise: float = 0.05, band: int = 9
) -> Tensor:
    """What the MMDG papers do to a spectrogram (batch, 1, bins, frames) in training: uniform noise in ± `noise`, and
    `band` frequency bins at a random place set to 0."""
    batch, _, bins, _ = spectrograms.shape
    draws = torch.rand(spectrograms.shape, generator=generator, device=generator.device).to(spectrograms.device)
    starts = torch.randint(0, bins - 1 - band, (batch, 1), generator=generator, device=generator.device)
    positions = torch.arange(bins, device=spectrograms.device) - starts.to(spectrograms.device)
    kept = ((positions < 0) | (positions >= band))[:, None, :, None]
    return (spectrograms + noise * (2 * draws - 1)) * kept


def augment(
    batch: Batch,
    front_end: Mapping[str, Callable[[Tensor], Tensor]],
    augmentations: Mapping[str, Augmentation],
    generator: torch.Generator,
) -> Batch:
    """Each stored modality as training sees it: through its augmentation, else its front end, else its numbers. What
    has no front end is augmented in single precision."""
    inputs = dict(batch.inputs)
    for name, value in batch.inputs.items():
        if name not in front_end:
            value = as_float(value)
        if name in augmentations:
            value = augmentations[name](value, generator)
        elif name in front_end:
            value = front_end[name](value)
        inputs[name] = as_float(value)
    return batch._replace(inputs=inputs)


def _tukey(length: int, share: float, device: torch.device) -> Tensor:
    """scipy's periodic Tukey window: cosine slopes over this share of its length, flat between them."""
    place = torch.arange(length, dtype=torch.float64, device=device) / length * 2 / share
    slope = torch.minimum(place, 2 / share - place).clamp(max=1)
    return (0.5 * (1 - torch.cos(math.pi * slope))).float()


def _standardise(spectrogram: Tensor) -> Tensor:
    mean = spectrogram.mean((-2, -1), keepdim=True)
    return (spectrogram - mean) / (spectrogram.std((-2, -1), keepdim=True) + 1e-5)
