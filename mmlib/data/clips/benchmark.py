"""What differs between the papers' data sets, as one record, and what they share: from published files to a recipe, and
from a prepared cache to training, validation and test parts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmlib.checks import check
from mmlib.data.cache import MissingData, source_hash
from mmlib.data.clips.media import MOST_LOST, every_second, read_media
from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.dataset import MultimodalDataset
from mmlib.data.files import ENDINGS
from mmlib.data.splits import Splits
from mmlib.data.stored import Prepared, open_prepared
from mmlib.data.transforms import Augmentation
from mmlib.seeding import torch_generator

STAND_IN = "STAND-IN.txt"  # lies in a folder of synthetic clips that only have a data set's layout
_READ = "as players show it, on one clock"  # how clips are read; what was prepared otherwise is another data set
HELD_OUT, FOLDS = "held out", "folds"
FrontEnd = Callable[[Tensor], Tensor]  # raw signals → inputs
Found = tuple[list[Clip], dict[str, str]]  # clips of the lists below a folder; parameters for the recipe
Decoded = tuple[dict[str, np.ndarray], dict[str, float | int | str]]  # modality → array; facts for the manifest


@dataclass(frozen=True)
class Format:
    """How clips lie in the cache: height and width of frames, length of sound in seconds, its rate in Hz; and the share
    of a file's packets that may be undecodable."""

    size: tuple[int, int]
    seconds: int
    sample_rate: int
    most_lost: float = MOST_LOST

    def sound(self, waveform: np.ndarray) -> np.ndarray:
        """A waveform (samples,) cut to this length, or repeated up to it."""
        return np.resize(waveform[: self.seconds * self.sample_rate], self.seconds * self.sample_rate)


@dataclass(frozen=True)
class Benchmark:
    """One of the papers' data sets.

    A protocol trains on the official training part and is tested on the official test part; it says what selects the
    epoch: an official part, or HELD_OUT, a stratified tenth of the training part that is not trained on. With FOLDS,
    folds over the values of `fold_column`, it tests on one fold, selects on the next and trains on the rest.
    """

    title: str
    folder: str  # in the cache, and the name on the command line
    lists: str  # where its lists are published
    classes: tuple[str, ...]
    protocols: Mapping[str, str]  # name → what selects the epoch; the first is the default
    front_ends: Mapping[str, FrontEnd]  # by modality; a FrameCrop where it is one of frames
    frames: Mapping[str, int]  # modality → frames of each clip in the cache; networks see the crop's window of them
    find_clips: Callable[[Path], Found]
    decode: Callable[[Clip, Format], Decoded]
    known_traps: Callable[[Sequence[Clip]], list[str]]  # what users of the official lists should know, counted on them
    default_modalities: tuple[str, ...] = ("audio", "image")
    domains: tuple[str, ...] = ("all",)
    augmentations: Mapping[str, Augmentation] = field(default_factory=dict)  # besides random crops of frames
    sample_rate: int = 16000  # Hz
    seconds: int = 10  # of sound
    fold_column: str = ""
    folds: int = 1
    known_bad: tuple[str, ...] = ()  # keys of clips that are publicly known to be damaged or mislabelled
    target_parts: tuple[str, ...] = ("test",)  # parts of an unseen domain to test on

    def find(self, source: Path, name: str) -> Path:
        """The file of this name below `source`. Raises FileNotFoundError, which says where it is published."""
        found = sorted(path for path in source.rglob(name) if path.is_file())
        if not found:
            raise FileNotFoundError(f"{name} is missing below {source}. It is published at {self.lists}")
        return found[0]

    def recipe(self, source: Path, name: str | None = None, most_lost: float = MOST_LOST) -> Recipe:
        """How the published files below `source` become the prepared data set `name`. Clips of which more than the
        share `most_lost` cannot be decoded are corrupt.

        Raises FileNotFoundError where a list is missing, a ValueError where one is damaged or names a clip twice.
        """
        stand_in = (source / STAND_IN).exists()
        # A shorter side of 256, from which the papers crop; a stand-in is small.
        size, seconds = ((32, 42), 1) if stand_in else ((256, 340), self.seconds)
        sound = {modality: ((seconds * self.sample_rate,), "int16") for modality in self.front_ends}
        pictures = {
            modality: ((count, *size, len(self.front_ends[modality].mean)), "uint8")
            for modality, count in self.frames.items()
        }
        clips, parameters = self.find_clips(source)
        common = {
            "sample_rate": self.sample_rate,
            "frame_size": list(size),
            "seconds": seconds,
            "most_lost": most_lost,
            "read": _READ,
        }
        return Recipe(
            name or self.folder,
            clips,
            sound | pictures,
            partial(self.decode, form=Format(size, seconds, self.sample_rate, most_lost)),
            common | parameters | {"stand_in": stand_in},
        )

    def load(
        self,
        protocol: str | None = None,
        fold: int = 0,
        frames: int | None = None,
        modalities: Sequence[str] | None = None,
        size: int = 224,
        seed: int = 0,
        folder: str | None = None,
        without_known_bad: bool = False,
    ) -> Splits:
        """The prepared data, read from disk batch by batch: sound as a spectrogram (1, 257, time), frames as crops
        (3, frames, size, size), optical flow as (2, frames, size, size).

        `frames` are the middle ones of those in the cache, at random in training; `seed` draws what is held out, and
        the folds; `folder` is another folder in the cache; `without_known_bad` leaves out the clips in `known_bad`.
        Raises MissingData, which says how to get the data, where it was not prepared, and a ValueError for a dial that
        is not allowed or a part that is empty.
        """
        protocol = next(iter(self.protocols)) if protocol is None else protocol
        modalities = self.default_modalities if modalities is None else modalities
        self._check_dials(protocol, fold, frames, modalities)
        prepared = open_prepared(folder or self.folder)
        if prepared.parameters.get("read") != _READ and not prepared.parameters["stand_in"]:
            raise MissingData(
                f"{prepared.folder} was prepared when clips were read otherwise, some of them late, turned or cut "
                f"elsewhere. Prepare it again: `python -m mmlib data {self.folder} --source DIR`."
            )
        crops = {name: self.front_ends[name] for name in self.frames}
        crops = {name: replace(crop, size=size, window=frames or crop.window) for name, crop in crops.items()}
        augmentations = {**self.augmentations, **{name: crop.random for name, crop in crops.items()}}
        data = self._dataset(prepared, {name: crops.get(name, self.front_ends[name]) for name in modalities})
        manifest = prepared.manifest
        bad = manifest["key"].isin(self.known_bad) & without_known_bad
        if bad.any():
            data, manifest = data.subset(torch.tensor(~bad.to_numpy())), manifest[~bad]
        selects = self.protocols[protocol]
        named = f"{self.title}, protocol {protocol}" + (f" (fold {fold} of {self.folds})" if selects == FOLDS else "")
        parts = self._parts(data, manifest, protocol, fold, seed)
        for name, part in zip(("training", "validation", "test"), parts, strict=True):
            if not len(part):
                raise ValueError(f"{named}: the {name} part is empty; {prepared.missing} clips missing.")
        about = f"{named}, {prepared.missing} of {prepared.expected} clips missing"
        if without_known_bad:
            about += f", {bad.sum()} known to be bad left out"
        return Splits(
            *parts,
            front_end={},
            augmentations={name: augmentations[name] for name in modalities if name in augmentations},
            sample_rates={"audio": self.sample_rate} if "audio" in modalities else {},
            # Each clip once: where the test part selects, it is the validation part as well.
            target_parts=tuple(part for part in self.target_parts if (part, selects) != ("validation", "test")),
            about=f"STAND-IN of synthetic clips, NOT {about}" if prepared.parameters["stand_in"] else about,
        )

    def _check_dials(self, protocol: str, fold: int, frames: int | None, modalities: Sequence[str]) -> None:
        check({"protocol": protocol}, {"protocol": tuple(self.protocols)})
        check({"fold": fold}, {"fold": tuple(range(self.folds))})
        if frames is not None:
            check({"frames": frames}, {"frames": tuple(range(1, min(self.frames.values()) + 1))})
        for name in modalities:
            check({"a modality": name}, {"a modality": tuple(self.front_ends)})

    def _dataset(self, prepared: Prepared, front_ends: dict[str, FrontEnd]) -> MultimodalDataset:
        """All clips of the prepared data, in these modalities."""
        manifest = prepared.manifest
        domains = manifest["domain"] if "domain" in manifest else self.domains * len(manifest)
        return MultimodalDataset(
            {name: prepared.arrays[name] for name in front_ends},
            torch.tensor([self.classes.index(label) for label in manifest["label"]]),
            torch.tensor([self.domains.index(domain) for domain in domains]),
            self.classes,
            self.domains,
            front_end=front_ends,
        )

    def _parts(
        self, data: MultimodalDataset, manifest: pd.DataFrame, protocol: str, fold: int, seed: int
    ) -> list[MultimodalDataset]:
        """Training, validation and test parts."""
        selects = self.protocols[protocol]
        if selects == FOLDS:
            groups = torch.tensor(manifest[self.fold_column].to_numpy())
            drawn = groups.unique()
            drawn = drawn[torch.randperm(len(drawn), generator=torch_generator(f"{self.folder}/{protocol}", seed))]
            folds = [torch.isin(groups, drawn[start :: self.folds]) for start in range(self.folds)]
            test, validation = folds[fold], folds[(fold + 1) % self.folds]
            return [data.subset(mask) for mask in (~(test | validation), validation, test)]
        wanted = ("train", "test") if selects == HELD_OUT else ("train", selects, "test")
        train, *rest = (data.subset(torch.tensor((manifest["split"] == part).to_numpy())) for part in wanted)
        return [*(held_out(train, self.folder, seed) if selects == HELD_OUT else [train]), *rest]


def held_out(train: MultimodalDataset, name: str, seed: int, share: float = 0.1) -> list[MultimodalDataset]:
    """The training part without a stratified share of it, and that share, for selection. At least one sample of every
    class is held out where it has two."""
    generator = torch_generator(f"{name}/held out", seed)
    strata = train.domains * len(train.class_names) + train.labels
    mask = torch.zeros(len(train), dtype=torch.bool)
    for stratum in strata.unique():
        members = (strata == stratum).nonzero().squeeze(1)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        mask[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return [train.subset(~mask), train.subset(mask)]


def decode_file(clip: Clip, form: Format, frames: int) -> Decoded:
    """Sound, repeated up to its length, and `frames` of the frames at 1 per second of a clip that is one file: of the
    event between the seconds `start` and `end` where its columns name one, otherwise of the first 10 s."""
    start, end = clip.columns.get("start", 0.0), clip.columns.get("end", 10.0)
    path = clip.files["clip"]
    media = read_media(
        path, form.sample_rate, every_second(start, end, frames), form.size, "rgb24", start, end, form.most_lost
    )
    return {"audio": form.sound(media.waveform), "image": media.frames}, media.facts | {"sha256": source_hash(path)}


def videos_below(folder: Path, identity: Callable[[str], str] = str) -> Callable[[str, Path], Path]:
    """A function from a clip's name to its video below `folder`, whatever its ending, as downloaders leave them, and to
    the path given with it where there is none. `identity` is equal for names of one clip. The function raises a
    ValueError that names both where a clip has two videos."""
    there = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS["video"] and path.is_file():
            there[identity(path.stem)].append(path)

    def find(name: str, otherwise: Path) -> Path:
        first, *others = there.get(identity(name), [otherwise])
        if others:
            raise ValueError(f"{first} and {others[0]} are both the clip {name}: keep one of them.")
        return first

    return find


def lines_of(path: Path) -> list[str]:
    """The non-empty lines of a published list, whatever its line endings, byte order mark or encoding slips."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def refuse_unknown(path: Path, labels: Iterable[str], known: Sequence[str]) -> None:
    """Raise a ValueError that names the first label of a published list that is not a known class."""
    for label in labels:
        if label not in known:
            raise ValueError(f"{path}: {label!r} is not a class; the classes are {', '.join(known)}.")


def repeated(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in order of first occurrence."""
    return [value for value, count in Counter(values).items() if count > 1]


def refuse_repeated(where: Path | str, what: str, keys: Iterable[str]) -> None:
    """Raise a ValueError that names the first key that occurs more than once."""
    if twice := repeated(keys):
        raise ValueError(f"{where}: {len(twice)} {what} are listed twice, first {twice[0]}.")


def by_part(clips: Iterable[Clip], column: str) -> dict[str, list[Any]]:
    """Official part → the values of its clips in this column of the manifest."""
    values = defaultdict(list)
    for clip in clips:
        values[clip.columns["split"]].append(clip.columns[column])
    return values
