"""The embedded default: real handwriting and synthetic speech, three domains, dials and ground truth.

| domain  | images                        | speech                                   | flow (optional)   |
|---------|-------------------------------|------------------------------------------|-------------------|
| ink     | smooth strokes, as scanned    | British speakers, clean                  | translation       |
| chalk   | grainy strokes on a grey board| American speakers, telephone band        | rotation          |
| contour | strong outlines, pale inside  | Scottish and Caribbean speakers, in a room | zoom            |

Handwriting is scikit-learn's digits; a sample is used in one part (train, validation, test) only, in any domain.
Speech is espeak-ng's; voices and accents are listed in `speech.py`, and no speaker is in two parts or domains.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mmlib.checks import SHARE, Number, Whole
from mmlib.data.cache import tensors
from mmlib.data.dataset import MultimodalDataset, draw_evenly
from mmlib.data.digits import degradation, speech
from mmlib.data.digits.handwriting import scikit_digits
from mmlib.data.splits import Splits
from mmlib.data.transforms import LogMel, ScaleImages, random_shift, shift_and_spec_augment
from mmlib.seeding import torch_generator

DOMAINS = ("ink", "chalk", "contour")
SIZE = 32  # pixels
_PART_NAMES = ("train", "validation", "test")
_HANDWRITING_SHARES = (0.6, 0.15, 0.25)  # of each class's handwriting, by part
_PART_SIZES = (1.0, 0.4, 1.2)  # samples, relative to training; a large test makes small differences visible


@dataclass(frozen=True, kw_only=True)
class Dials(degradation.Dials):
    """What can be set, besides the degradation of single samples."""

    samples_per_class: int = 100  # training samples per class and domain; validation 0.4×, test 1.2× as many
    audio_snr_db: float = 0.0  # speech power over noise power, in decibels
    image_contrast: float = 1.0  # amplitude of the strokes, 0 … 1, under sensor noise of fixed strength
    image_occlusion: float = 0.0  # share of each image's area that a block covers, 0 … 1
    domain_shift: float = 1.0  # 0: one rendering, channel and motion for all domains; 1: as in the table above
    flow: bool = False  # with a third modality: optical flow of the digit in motion

    ALLOWED: ClassVar = degradation.Dials.ALLOWED | {
        "samples_per_class": Whole(5),
        "audio_snr_db": Number(-60, 60),
        "image_contrast": SHARE,
        "image_occlusion": SHARE,
        "domain_shift": SHARE,
        "flow": bool,
    }


def load(**dials: object) -> Splits:
    """The data at these dials (fields of `Dials`); raw waveforms (N, 6400) at 8 kHz, images (N, 1, 32, 32) in 0 … 1,
    flow (N, 2, 32, 32) in pixels per frame. `truth` holds `handwriting`, `speaker` and, for degraded modalities,
    the severity. Raises a ValueError that names an unknown dial or a wrong value."""
    chosen = Dials.turned(dials)
    bank = tensors(speech.utterance_bank())
    images, digits = scikit_digits()
    parts = [_make_part(part, chosen, bank, images, digits) for part in range(3)]
    front_end = {"audio": LogMel(speech.SAMPLE_RATE), "image": ScaleImages()}
    augmentations = {"audio": shift_and_spec_augment, "image": random_shift, "flow": random_shift}
    return Splits(
        *parts,
        front_end=front_end,
        augmentations=augmentations,
        sample_rates={"audio": speech.SAMPLE_RATE},
    )


def _make_part(part: int, dials: Dials, bank: dict[str, Tensor], images: Tensor, digits: Tensor) -> MultimodalDataset:
    def generator(purpose: str) -> torch.Generator:
        return torch_generator(f"spoken_digits/{purpose}", dials.seed, _PART_NAMES[part])

    per_class = max(1, round(dials.samples_per_class * _PART_SIZES[part]))
    labels = torch.arange(10).repeat_interleave(per_class).repeat(len(DOMAINS))
    domains = torch.arange(len(DOMAINS)).repeat_interleave(10 * per_class)
    utterance = _draw_utterances(part, labels, domains, bank, generator("utterances"))
    drawing = _draw_handwriting(part, labels, digits, generator("handwriting"))

    strokes = _strokes(images[drawing], generator("pose"))
    inputs = {
        "audio": _sound(bank, utterance, domains, dials, generator("sound")),
        "image": _picture(strokes, domains, dials, generator("picture")),
    }
    if dials.flow:
        inputs["flow"] = _motion(strokes, domains, dials, generator("motion"))
    truth = {"handwriting": drawing, "speaker": bank["speaker"][utterance]}
    dataset = MultimodalDataset.from_arrays(inputs, labels, domains, speech.WORDS, DOMAINS, truth)
    return dials.degraded(dataset, _PART_NAMES[part])


def _draw_utterances(
    part: int, labels: Tensor, domains: Tensor, bank: dict[str, Tensor], generator: torch.Generator
) -> Tensor:
    drawn = torch.empty_like(labels)
    for domain in range(len(DOMAINS)):
        for digit in range(10):
            rows = (labels == digit) & (domains == domain)
            pool = (bank["part"] == part) & (bank["domain"] == domain) & (bank["digit"] == digit)
            drawn[rows] = draw_evenly(pool.nonzero().squeeze(1), int(rows.sum()), generator)
    return drawn


def _draw_handwriting(part: int, labels: Tensor, digits: Tensor, generator: torch.Generator) -> Tensor:
    """Blocks in the original order: neighbours there are often by one writer, and so stay in one part."""
    drawn = torch.empty_like(labels)
    first, last = sum(_HANDWRITING_SHARES[:part]), sum(_HANDWRITING_SHARES[: part + 1])
    for digit in range(10):
        rows = labels == digit
        pool = (digits == digit).nonzero().squeeze(1)
        pool = pool[round(first * len(pool)) : round(last * len(pool))]
        drawn[rows] = draw_evenly(pool, int(rows.sum()), generator)
    return drawn


def _strokes(images: Tensor, generator: torch.Generator) -> Tensor:
    """Handwriting (N, 8, 8) drawn at 32 × 32 in a random pose: coverage of each pixel by ink, 0 … 1."""
    count = len(images)
    angle, shear, scale, right, down = torch.rand(5, count, generator=generator) * 2 - 1
    angle, shear, scale = angle * 0.2, shear * 0.15, 1.2 + 0.1 * scale
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    pose = torch.stack([cosine, sine + shear, 0.15 * right, -sine, cosine, 0.1 * down], 1).reshape(count, 2, 3)
    grid = functional.affine_grid(pose, [count, 1, SIZE, SIZE], align_corners=False)
    enlarged = functional.grid_sample(images.unsqueeze(1), grid, "bicubic", "zeros", align_corners=False)
    return torch.sigmoid(10 * (enlarged - 0.45))


def _picture(strokes: Tensor, domains: Tensor, dials: Dials, generator: torch.Generator) -> Tensor:
    """Strokes (N, 1, 32, 32) in their domain's rendering, through a noisy sensor."""
    grain, noise = torch.randn(2, *strokes.shape, generator=generator)
    own, (chalk, contour) = strokes.clone(), (domains == DOMAINS.index(name) for name in ("chalk", "contour"))
    own[chalk] = 0.2 + 0.8 * strokes[chalk] * (0.6 + 0.5 * grain[chalk]).clamp(0, 1)
    own[contour] = 0.1 + 0.9 * (functional.max_pool2d(strokes[contour], 3, 1, 1) - 0.6 * strokes[contour])
    rendered = torch.lerp(strokes, own, dials.domain_shift)
    seen = 0.5 + dials.image_contrast * (rendered - 0.5) + 0.12 * noise
    if dials.image_occlusion:
        area = torch.full((len(strokes),), dials.image_occlusion)
        seen = torch.where(degradation.random_block(SIZE, SIZE, area, generator).unsqueeze(1), 0.5, seen)
    return seen.clamp(0, 1)


def _sound(
    bank: dict[str, Tensor], utterance: Tensor, domains: Tensor, dials: Dials, generator: torch.Generator
) -> Tensor:
    """Utterances (N, 6400) at a random time, through their domain's channel, in noise."""
    length, time = bank["length"][utterance], bank["waveform"].shape[1]
    delay = (torch.rand(len(utterance), generator=generator) * (time - length)).long()
    channels = _channels(time, dials.domain_shift)
    heard = torch.empty(len(utterance), time)
    for rows in torch.arange(len(utterance)).split(64):  # as many at a time as fit a processor's cache
        word = bank["waveform"][utterance[rows]].float() / 32768
        source = torch.arange(time) - delay[rows, None]
        word = torch.where(source >= 0, word.gather(1, source.clamp(min=0)), 0.0)
        word = torch.fft.irfft(torch.fft.rfft(word, n=2 * time) * channels[domains[rows]], n=2 * time)[:, :time]

        pink = torch.fft.rfft(torch.randn(word.shape, generator=generator))
        pink = torch.fft.irfft(pink / torch.arange(1, pink.shape[1] + 1).clamp(min=20).sqrt(), n=time)
        speech_power = word.square().sum(1, keepdim=True) / length[rows, None]
        noise_power = speech_power * 10 ** (-dials.audio_snr_db / 10)
        noisy = word + pink * (noise_power / pink.square().mean(1, keepdim=True)).sqrt()
        heard[rows] = 0.9 * noisy / noisy.abs().amax(1, keepdim=True)
    return heard


def _channels(time: int, shift: float) -> Tensor:
    """Each domain's response by frequency, (3, time + 1): none, a telephone's band, a room's echoes."""
    frequency = torch.fft.rfftfreq(2 * time, 1 / speech.SAMPLE_RATE)
    telephone = ((frequency > 400) & (frequency < 2800)).float()
    decay = torch.exp(-torch.arange(time) / (0.06 * speech.SAMPLE_RATE))
    room = torch.randn(time, generator=torch_generator("spoken_digits/room")) * decay * 0.15
    room[0] = 1.0
    channels = torch.stack([torch.ones_like(frequency), telephone, torch.fft.rfft(room, n=2 * time)])
    return torch.lerp(channels[:1].expand_as(channels), channels, shift)


def _motion(strokes: Tensor, domains: Tensor, dials: Dials, generator: torch.Generator) -> Tensor:
    """Optical flow (N, 2, 32, 32) of the moving digit: a rigid motion where there is ink, and estimation noise."""
    count = len(strokes)
    axis = torch.linspace(-1, 1, SIZE)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # (2, 32, 32): right, down
    turned = torch.stack([-place[1], place[0]])
    direction = torch.rand(count, generator=generator) * 2 * torch.pi
    speed = torch.rand(count, 1, 1, 1, generator=generator) + 0.5  # pixels per frame
    sign = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
    translation = torch.stack([direction.cos(), direction.sin()], 1)[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    motions = [translation, sign * turned, sign * place]
    own = torch.stack([motion.expand(translation.shape) for motion in motions])[domains, torch.arange(count)]
    velocity = speed * torch.lerp(translation, own, dials.domain_shift)
    return strokes * velocity + 0.25 * torch.randn(velocity.shape, generator=generator)
