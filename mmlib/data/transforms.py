"""Batched transforms: the same code on CPU and GPU, every draw from a generator that is handed in.

Front ends turn raw signals into network inputs; augmentations change a batch in training.
"""

from collections.abc import Callable, Mapping

import torch
import torchaudio
from torch import Tensor, nn

from mmlib.data.dataset import Batch

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


class LogMel(nn.Module):
    """Waveform (batch, time) → log-mel spectrogram (batch, 1, mels, frames), zero mean and unit variance per clip.

    Frames are not padded: `frames = (time − window) // hop + 1`.
    """

    def __init__(self, sample_rate: int = 8000, window: int = 256, hop: int = 128, mels: int = 40) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate, n_fft=window, hop_length=hop, n_mels=mels, center=False
        )

    def forward(self, waveform: Tensor) -> Tensor:
        return _standardise((self.mel.to(waveform.device)(waveform) + 1e-6).log()).unsqueeze(1)


class LogSpectrogram(nn.Module):
    """Waveform (batch, time) → log-magnitude STFT (batch, 1, window/2 + 1, frames), standardised per clip."""

    def __init__(self, window: int = 512, hop: int = 353) -> None:
        super().__init__()
        self.stft = torchaudio.transforms.Spectrogram(window, hop_length=hop, power=1.0, pad_mode="constant")

    def forward(self, waveform: Tensor) -> Tensor:
        return _standardise((self.stft.to(waveform.device)(waveform) + 1e-7).log()).unsqueeze(1)


class ScaleImages:
    """uint8 or float images (batch, channels, height, width) in [0, 255] or [0, 1] → float in [−1, 1]."""

    def __call__(self, images: Tensor) -> Tensor:
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return images.float() * (2.0 / scale) - 1.0


def random_shift(images: Tensor, generator: torch.Generator, most: int = 3) -> Tensor:
    """Move each (channels, height, width) by up to `most` pixels in both directions; edges are repeated.

    A crop of the padded image at a random place, gathered for the whole batch at once.
    """
    batch, channels, height, width = images.shape
    offsets = torch.randint(0, 2 * most + 1, (2, batch, 1), generator=generator, device=generator.device)
    offsets = offsets.to(images.device)
    rows = (offsets[0] + torch.arange(height, device=images.device) - most).clamp(0, height - 1)
    columns = (offsets[1] + torch.arange(width, device=images.device) - most).clamp(0, width - 1)
    rows = rows[:, None, :, None].expand(-1, channels, -1, width)
    columns = columns[:, None, None, :].expand(-1, channels, height, -1)
    return images.gather(2, rows).gather(3, columns)


def random_crop(signals: Tensor, generator: torch.Generator, length: int) -> Tensor:
    """A random stretch of `length` samples of each waveform (batch, time)."""
    batch, time = signals.shape
    if not 0 < length <= time:
        raise ValueError(f"length must lie in 1 … {time} (the signal's length), not {length}.")
    starts = torch.randint(0, time - length + 1, (batch, 1), generator=generator, device=generator.device)
    return signals.gather(1, starts.to(signals.device) + torch.arange(length, device=signals.device))


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


def add_noise(signals: Tensor, generator: torch.Generator, standard_deviation: float) -> Tensor:
    """Add Gaussian noise of this standard deviation."""
    noise = torch.randn(signals.shape, generator=generator, device=generator.device, dtype=signals.dtype)
    return signals + standard_deviation * noise.to(signals.device)


def spec_augment(spectrograms: Tensor, generator: torch.Generator) -> Tensor:
    """Light SpecAugment for 40 mel bands: one frequency and one time mask of at most 6."""
    return mask_band(mask_band(spectrograms, generator, 2, 6), generator, 3, 6)


def shift_and_spec_augment(spectrograms: Tensor, generator: torch.Generator) -> Tensor:
    """A random shift in time and frequency, then light SpecAugment."""
    return spec_augment(random_shift(spectrograms, generator), generator)


def mask_rows_and_columns(images: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment's counterpart for 28 × 28 images: one band of rows and one of columns, of at most 10."""
    return mask_band(mask_band(images, generator, 2, 10), generator, 3, 10)


def augment(batch: Batch, augmentations: Mapping[str, Augmentation], generator: torch.Generator) -> Batch:
    """Apply each modality's augmentation; modalities without one stay as they are."""
    inputs = {
        name: augmentations[name](tensor, generator) if name in augmentations else tensor
        for name, tensor in batch.inputs.items()
    }
    return batch._replace(inputs=inputs)


def _standardise(spectrogram: Tensor) -> Tensor:
    mean = spectrogram.mean((-2, -1), keepdim=True)
    return (spectrogram - mean) / (spectrogram.std((-2, -1), keepdim=True) + 1e-5)
