"""AV-Digits: human speech and human handwriting in three real domains.

| domain | handwriting                          | speech (Free Spoken Digit Dataset) |
|--------|--------------------------------------|------------------------------------|
| M      | MNIST, the 10,000 test images        | speakers george, jackson           |
| U      | USPS, 9,298 scans of envelopes       | speakers lucas, nicolas            |
| S      | scikit-learn's 1,797 digits, 8 × 8   | speakers theo, yweweler            |

The two halves of a pair share their digit and nothing else. Neither writers nor speakers are shared between
domains. Within a domain, a drawing or recording is in only one part (train, validation, test); both speakers are
in all three. `python -m mmlib data av_digits` prepares the cache that `load` reads.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmlib.checks import Whole
from mmlib.data.cache import MissingData, kept_at, load_arrays, source_hash
from mmlib.data.dataset import MultimodalDataset, concatenate, draw_evenly
from mmlib.data.digits import degradation
from mmlib.data.digits.handwriting import scikit_digits
from mmlib.data.digits.speech import CLIP_SAMPLES, SAMPLE_RATE, WORDS
from mmlib.data.splits import Splits
from mmlib.data.transforms import LogMel, ScaleImages, mask_rows_and_columns, spec_augment
from mmlib.seeding import torch_generator

DOMAINS = ("M", "U", "S")
SPEAKERS = (("george", "jackson"), ("lucas", "nicolas"), ("theo", "yweweler"))
PREPARED = "av_digits.npz"
_SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}

# What a complete, unaltered source parses to: shapes and SHA-256 of the arrays, whatever files they came in.
CONTENT = {
    "mnist_images": ((10000, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
    "mnist_labels": ((10000,), "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"),
    "usps_images": ((9298, 16, 16), "9cf22299793712e1eca4804d130224a06d933663814aa8ad7f29f64a1f310270"),
    "usps_labels": ((9298,), "23d374427c9e1a0074b0b6f6d9ced2b877e9fe72adc27db773fba947c93ea3bd"),
    "fsdd_waveforms": (
        (3000, CLIP_SAMPLES),
        "b730057094d3f09ed436eef68e000db93bd16364f0a78a6d2f459cb35d0b5eaf",
    ),
    "fsdd_digits": ((3000,), "10ec2f774651d4417a800af7cd0c932985a4ba69d04230047d3c28435bf20d18"),
    "fsdd_speakers": ((3000,), "43beab3a6835e832038a07c34351eb8ef3f11192dbd8b3aaf55abce854b5d9b5"),
}


@dataclass(frozen=True, kw_only=True)
class Dials(degradation.Dials):
    """The number of pairs, besides the degradation of single samples."""

    pairs: int = 2000  # per domain, all parts together

    ALLOWED: ClassVar = degradation.Dials.ALLOWED | {"pairs": Whole(200)}


def content_hash(array: np.ndarray) -> str:
    """SHA-256 of an array's values in row order, as little-endian integers of its own width."""
    return hashlib.sha256(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).data).hexdigest()


def check_content(arrays: dict[str, np.ndarray], origin: str | Path) -> None:
    """Raise a ValueError that names the first array that is not what the published files contain."""
    for name, (shape, expected) in CONTENT.items():
        if name not in arrays:
            raise ValueError(f"{origin}: {name} is missing. Prepare it again: python -m mmlib data av_digits")
        if arrays[name].shape != shape:
            raise ValueError(f"{origin}: {name} has shape {arrays[name].shape}; expected {shape} (truncated?).")
        if content_hash(arrays[name]) != expected:
            raise ValueError(f"{origin}: {name} differs from the published data (altered or damaged values).")


def _prepared() -> Path:
    path = kept_at(PREPARED)
    if not path.exists():
        raise MissingData(
            f"AV-Digits is not prepared ({path} does not exist). Run `python -m mmlib data av_digits`; "
            "with files you already have: `python -m mmlib data av_digits --source DIR`."
        )
    return path


def content() -> str:
    """Hash of the prepared file. Raises MissingData as `load` does."""
    return source_hash(_prepared())


def load(**dials: object) -> Splits:
    """The data at these dials (fields of `Dials`): waveforms (N, 6400) at 8 kHz, images (N, 1, 28, 28) in 0 … 1.

    An unseen domain is tested on all its parts, for no writer or speaker of it occurs in the other domains; without its
    training part where only training samples are degraded.
    Raises MissingData, which says how to get it, where the data was not prepared.
    """
    chosen = Dials.turned(dials)
    path = _prepared()
    arrays = load_arrays(path)
    check_content(arrays, path)
    drawings = _drawings(arrays)
    by_domain = [_pairs(domain, drawings[domain], arrays, chosen) for domain in range(len(DOMAINS))]
    parts = {
        name: chosen.degraded(concatenate([domain[part] for domain in by_domain]), name)
        for part, name in enumerate(_SHARES)
    }
    return Splits(
        **parts,
        front_end={"audio": LogMel(SAMPLE_RATE), "image": ScaleImages()},
        # Masks, but no shifts of the image: those imitate the very difference between the domains' scanners. [kit]
        augmentations={"audio": spec_augment, "image": mask_rows_and_columns},
        sample_rates={"audio": SAMPLE_RATE},
        target_parts=chosen.tested(_SHARES),
    )


def _drawings(arrays: dict[str, np.ndarray]) -> list[tuple[Tensor, Tensor]]:
    """Per domain, images (N, 28, 28) in 0 … 1 with the digit in the middle 20 × 20 (as in MNIST), and labels."""
    scikit, scikit_labels = scikit_digits()
    usps = torch.from_numpy(arrays["usps_images"]).float() / 2000 + 0.5
    mnist = torch.from_numpy(arrays["mnist_images"]).float() / 255
    labels = [*(torch.from_numpy(arrays[f"{name}_labels"]).long() for name in ("mnist", "usps")), scikit_labels]
    images = [mnist, _framed(usps), _framed(scikit)]
    return list(zip(images, labels, strict=True))


def _framed(images: Tensor) -> Tensor:
    enlarged = functional.interpolate(images.unsqueeze(1), size=(20, 20), mode="bilinear", antialias=True)
    return functional.pad(enlarged, (4, 4, 4, 4)).squeeze(1)


def _pairs(
    domain: int, drawings: tuple[Tensor, Tensor], arrays: dict[str, np.ndarray], dials: Dials
) -> list[MultimodalDataset]:
    """The domain's pairs by part: a drawing and a recording of the same digit, drawn evenly from the part's own."""
    images, image_labels = drawings
    recording_digits = torch.from_numpy(arrays["fsdd_digits"])
    speakers = torch.from_numpy(arrays["fsdd_speakers"])
    generator = torch_generator("av_digits/pairs", dials.seed, DOMAINS[domain])
    rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in _SHARES]
    for digit in range(10):
        own_images = (image_labels == digit).nonzero().squeeze(1)
        own_speakers = torch.isin(speakers, torch.tensor([2 * domain, 2 * domain + 1]))
        own_recordings = (own_speakers & (recording_digits == digit)).nonzero().squeeze(1)
        image_parts = _partition(own_images, generator)
        recording_parts = _partition(own_recordings, generator)
        for part, share in enumerate(_SHARES.values()):
            count = round(dials.pairs * share / 10)
            drawn = [draw_evenly(pool[part], count, generator) for pool in (image_parts, recording_parts)]
            rows[part].append((drawn[0], drawn[1]))
    parts = []
    for part in rows:
        image_rows, recording_rows = (torch.cat(column) for column in zip(*part, strict=True))
        labels = image_labels[image_rows]
        waveforms = torch.from_numpy(arrays["fsdd_waveforms"])[recording_rows]
        parts.append(
            MultimodalDataset.from_arrays(
                {"audio": waveforms.float() / 32768, "image": images[image_rows].unsqueeze(1)},
                labels,
                torch.full_like(labels, domain),
                WORDS,
                DOMAINS,
                {"handwriting": image_rows, "recording": recording_rows, "speaker": speakers[recording_rows]},
            )
        )
    return parts


def _partition(members: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The members in random order, cut by `_SHARES`."""
    shuffled = members[torch.randperm(len(members), generator=generator)]
    edges = (torch.tensor([0.0, *_SHARES.values()]).cumsum(0) * len(members)).round().long()
    return [shuffled[start:stop] for start, stop in pairwise(edges)]
