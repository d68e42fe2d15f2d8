"""Degrade some samples of one modality, and record which and how much: the ground truth for every diagnosis."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mmlib.checks import SHARE, check
from mmlib.data.dataset import MultimodalDataset
from mmlib.seeding import torch_generator

KINDS = ("noise", "masking", "mismatch")


@dataclass(frozen=True, kw_only=True)
class Dials:
    """The dials that every data set of digits has. Wrong values raise a ValueError that names the dial."""

    degraded_audio: float = 0.0  # share of samples with degraded sound, 0 … 1
    degraded_image: float = 0.0  # share of samples with a degraded image, 0 … 1
    degradation: str = "noise"  # "noise", "masking" or "mismatch"
    degraded_in: str = "train"  # "train" only, or "everywhere"
    seed: int = 0  # of the samples and everything random about them

    ALLOWED: ClassVar[dict[str, Any]] = {
        "degraded_audio": SHARE,
        "degraded_image": SHARE,
        "degradation": KINDS,
        "degraded_in": ("train", "everywhere"),
        "seed": int,
    }

    def __post_init__(self) -> None:
        check(vars(self), self.ALLOWED)

    @classmethod
    def turned(cls, dials: dict[str, object]) -> Self:
        """These dials set, the others at their defaults. Raises a ValueError for an unknown name, which lists the
        dials."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(dials) - set(known))
        if unknown:
            raise ValueError(f"There is no dial {', '.join(unknown)}; there are {', '.join(known)}.")
        return cls(**dials)

    def degraded(self, dataset: MultimodalDataset, part: str) -> MultimodalDataset:
        """The part ("train", "validation", "test") with the dialled share of its samples degraded."""
        if part == "train" or self.degraded_in == "everywhere":
            for modality, share in (("audio", self.degraded_audio), ("image", self.degraded_image)):
                if share:
                    generator = torch_generator("degrade", self.seed, part, modality)
                    dataset = degrade(dataset, modality, self.degradation, share, generator)
        return dataset

    def tested(self, parts: Iterable[str]) -> tuple[str, ...]:
        """Of these parts of a domain that training does not see, those to test on: where only training samples are
        degraded, its own training part, which nobody trains on, would test something else."""
        degraded = (self.degraded_audio or self.degraded_image) and self.degraded_in == "train"
        return tuple(part for part in parts if not (degraded and part == "train"))


def degraded_samples(dataset: MultimodalDataset) -> Tensor:
    """Which samples were degraded in any modality, (N,) booleans. Raises a ValueError where the data
    has no such ground truth."""
    severities = [values for name, values in dataset.truth.items() if name.startswith("degraded_")]
    if not severities:
        raise ValueError("This data has no ground truth: no field degraded_…. Load it with degraded_audio=0.2, say.")
    return (torch.stack(severities) > 0).any(0)


def degrade(
    dataset: MultimodalDataset, modality: str, kind: str, share: float, generator: torch.Generator
) -> MultimodalDataset:
    """Degrade this share of the samples in one modality (raw signals, before the front end).

    * `noise`: the signal is blended with Gaussian noise of its own mean and power;
    * `masking`: a block of the image, or a band of the sound's spectrum, is lost;
    * `mismatch`: the signal of another sample of the same domain and another class.

    The new truth field `degraded_<modality>` (N,) holds each sample's severity: 0 untouched, up to 1. For noise
    and masking it is drawn from 0.5 … 1 and is the share of noise, or the share of area or bandwidth lost.
    Raises a ValueError for an unknown kind, share or modality.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no degradation {kind!r}; choose one of {', '.join(KINDS)}.")
    check({"share": share}, {"share": SHARE})
    if modality not in dataset.inputs:
        raise ValueError(f"There is no modality {modality!r}; this data has {', '.join(dataset.inputs)}.")
    count = len(dataset)
    chosen = torch.randperm(count, generator=generator)[: round(share * count)].sort().values
    severity = torch.rand(len(chosen), generator=generator) * 0.5 + 0.5
    signal = dataset.inputs[modality]
    if kind == "noise":
        spoiled = _noisy(signal[chosen], severity, generator)
    elif kind == "masking":
        mask = _mask_band_of_sound if signal.ndim == 2 else _mask_block_of_image
        spoiled = mask(signal[chosen], severity, generator)
    else:
        spoiled = signal[_strangers(dataset, chosen, generator)]
        severity = torch.ones(len(chosen))
    truth = torch.zeros(count)
    truth[chosen] = severity
    changed = signal.clone()
    changed[chosen] = spoiled
    return replace(
        dataset,
        inputs={**dataset.inputs, modality: changed},
        truth={**dataset.truth, f"degraded_{modality}": truth},
    )


def _noisy(signal: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    severity = severity.reshape(-1, *[1] * (signal.ndim - 1))
    axes = tuple(range(1, signal.ndim))
    noise = signal.mean(axes, keepdim=True) + signal.std(axes, keepdim=True) * torch.randn(
        signal.shape, generator=generator
    )
    return (1 - severity) * signal + severity * noise


def _mask_band_of_sound(waveform: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    spectrum = torch.fft.rfft(waveform)
    bins = spectrum.shape[1]
    start = torch.rand(len(waveform), generator=generator) * (1 - severity) * bins
    position = torch.arange(bins)
    lost = (position >= start[:, None]) & (position < (start + severity * bins)[:, None])
    return torch.fft.irfft(spectrum.masked_fill(lost, 0), n=waveform.shape[1])


def _mask_block_of_image(images: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    lost = random_block(height, width, severity, generator)
    lost = lost.reshape(len(images), *[1] * (images.ndim - 3), height, width)
    return torch.where(lost, images.mean(tuple(range(1, images.ndim)), keepdim=True), images)


def random_block(height: int, width: int, area: Tensor, generator: torch.Generator) -> Tensor:
    """Per sample, a block at a random place covering `area` of the image: (N, height, width) booleans."""
    side = area.sqrt()[:, None]
    start = torch.rand(2, len(area), 1, generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    top, left = start[0] * (1 - side) * height, start[1] * (1 - side) * width
    in_rows = (rows >= top) & (rows < top + side * height)
    in_columns = (columns >= left) & (columns < left + side * width)
    return in_rows[:, :, None] & in_columns[:, None, :]


def _strangers(dataset: MultimodalDataset, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """For each chosen sample, a random sample of the same domain and another class."""
    partners = torch.empty_like(chosen)
    for domain in dataset.domains[chosen].unique():
        for label in dataset.labels[chosen].unique():
            rows = ((dataset.domains[chosen] == domain) & (dataset.labels[chosen] == label)).nonzero().squeeze(1)
            others = ((dataset.domains == domain) & (dataset.labels != label)).nonzero().squeeze(1)
            if len(rows) and not len(others):
                raise ValueError("mismatch needs at least two classes in every domain.")
            if len(rows):
                partners[rows] = others[torch.randint(len(others), (len(rows),), generator=generator)]
    return partners
