"""What the readers of the papers' data sets share: finding published files, and parts of a prepared cache as data."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.dataset import MultimodalDataset
from mmlib.data.splits import Splits
from mmlib.data.stored import Prepared
from mmlib.seeding import torch_generator

STAND_IN = "STAND-IN.txt"  # lies in a folder of synthetic clips that only have a data set's layout
SOUND_RATE = 16000  # Hz, of all but CREMA-D


@dataclass(frozen=True)
class Stored:
    """How clips are stored: height and width of frames (a shorter side of 256, which the papers crop from), seconds of
    sound, and whether they are a stand-in: synthetic, small, and no result."""

    size: tuple[int, int] = (256, 340)
    seconds: int = 10
    stand_in: bool = False

    @classmethod
    def of(cls, source: Path, seconds: int = 10) -> "Stored":
        stand_in = (source / STAND_IN).exists()
        return cls((32, 42), 1, True) if stand_in else cls(seconds=seconds)

    def parameters(self, sample_rate: int, **frames: str) -> dict[str, object]:
        """For the manifest."""
        return (
            {"sample_rate": sample_rate, "frame_size": list(self.size), "seconds": self.seconds}
            | frames
            | {"stand_in": self.stand_in}
        )


def sound_and_frames(
    name: str, clips: Sequence[Clip], decode: Callable, stored: Stored, sample_rate: int, count: int, **parameters: str
) -> Recipe:
    """The recipe of clips kept as sound and `count` frames; `decode(clip, stored=…)` gives both."""
    return Recipe(
        name,
        clips,
        {"audio": ((stored.seconds * sample_rate,), "int16"), "image": ((count, *stored.size, 3), "uint8")},
        partial(decode, stored=stored),
        stored.parameters(sample_rate, **parameters),
    )


def find(source: Path, name: str, where: str) -> Path:
    """The file of this name below `source`. Raises FileNotFoundError, which says where it is published."""
    found = sorted(path for path in source.rglob(name) if path.is_file())
    if not found:
        raise FileNotFoundError(f"{name} is missing below {source}. It is published at {where}")
    return found[0]


def lines_of(path: Path) -> list[str]:
    """The non-empty lines of a published list, whatever its line ends, byte order mark or encoding slips."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def refuse_unknown(path: Path, labels: Iterable[str], known: Sequence[str]) -> None:
    """A ValueError that names the first label of a published list that is none of the known classes."""
    for label in labels:
        if label not in known:
            raise ValueError(f"{path}: {label!r} is no class; there are {', '.join(known)}.")


def repeated(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in order of first occurrence."""
    return [value for value, count in Counter(values).items() if count > 1]


def as_dataset(
    prepared: Prepared,
    class_names: Sequence[str],
    front_end: dict[str, Callable[[Tensor], Tensor]],
    domain_names: Sequence[str] = ("all",),
) -> MultimodalDataset:
    """All prepared clips, read from disk batch by batch. Modalities are those of `front_end`."""
    for name in front_end:
        if name not in prepared.arrays:
            raise ValueError(f"There is no modality {name!r}; {prepared.folder} has {', '.join(prepared.arrays)}.")
    manifest = prepared.manifest
    domains = manifest["domain"] if "domain" in manifest else [domain_names[0]] * len(manifest)
    return MultimodalDataset(
        {name: prepared.arrays[name] for name in front_end},
        torch.tensor([class_names.index(label) for label in manifest["label"]]),
        torch.tensor([domain_names.index(domain) for domain in domains]),
        tuple(class_names),
        tuple(domain_names),
        front_end=front_end,
    )


def parts_of(prepared: Prepared, data: MultimodalDataset, names: Iterable[str]) -> list[MultimodalDataset]:
    """The clips of each of these official parts; `data` is `as_dataset(prepared, …)`."""
    return [data.subset(torch.tensor((prepared.manifest["split"] == name).to_numpy())) for name in names]


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """A ValueError that names a dial of `load` and what it may be."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}.")


def held_out(train: MultimodalDataset, name: str, seed: int, share: float = 0.1) -> list[MultimodalDataset]:
    """The training part without a stratified share of it, and that share, for selection. At least one sample of every
    class is held out where it has two."""
    generator = torch_generator(f"{name}/held out", seed)
    strata = train.domains * len(train.class_names) + train.labels
    chosen = []
    for stratum in strata.unique():
        members = (strata == stratum).nonzero().squeeze(1)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    mask = torch.zeros(len(train), dtype=torch.bool)
    mask[torch.cat(chosen)] = True
    return [train.subset(~mask), train.subset(mask)]


def splits_of(
    prepared: Prepared,
    title: str,
    protocol: str,
    parts: Sequence[MultimodalDataset],
    augmentations: dict[str, Callable[[Tensor, torch.Generator], Tensor]],
    sample_rate: int,
    target_parts: tuple[str, ...] = ("test",),
) -> Splits:
    """Training, validation and test part of a prepared data set; `about` says what every table has to say. Raises a
    ValueError where a part is empty."""
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not len(part):
            raise ValueError(
                f"{title}, protocol {protocol}: the {name} part is empty; {prepared.missing} clips missing."
            )
    about = f"{title}, protocol {protocol}, {prepared.missing} of {prepared.expected} clips missing"
    if prepared.parameters["stand_in"]:
        about = f"STAND-IN of synthetic clips, NOT {about}"
    modalities = parts[0].modalities
    return Splits(
        *parts,
        front_end={},
        augmentations={name: augmentations[name] for name in modalities if name in augmentations},
        sample_rates={"audio": sample_rate} if "audio" in modalities else {},
        target_parts=target_parts,
        about=about,
    )
