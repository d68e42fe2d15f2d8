"""Kinetics-Sounds, the variant of 31 classes: 10-second clips of Kinetics-400 whose classes can be seen and heard.

OGM-GE's lists have a training and a test part; `KS_train_val.json`, where it is there, adds a validation part.
Others use 32 or 34 classes: the variant belongs to every number. Protocols:

* `official-val`: selects on the 1,320 clips of the validation part.
* `ks-val`: a tenth of the training list, stratified, is held out to select, for those who lack the validation clips.
* `ogm`: the test part is also used to select, as in the papers.
"""

import json
from pathlib import Path

import numpy as np

from mmlib.data.cache import source_hash
from mmlib.data.clips.benchmarks import (
    SOUND_RATE,
    Stored,
    as_dataset,
    check_choice,
    find,
    held_out,
    lines_of,
    parts_of,
    repeated,
    sound_and_frames,
    splits_of,
)
from mmlib.data.clips.media import every_second, looped, read_media
from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.splits import Splits
from mmlib.data.stored import open_prepared
from mmlib.data.transforms import FrameCrop, PowerSpectrogram

CLASSES = (
    "blowing_nose",
    "blowing_out_candles",
    "bowling",
    "chopping_wood",
    "dribbling_basketball",
    "laughing",
    "mowing_lawn",
    "playing_accordion",
    "playing_bagpipes",
    "playing_bass_guitar",
    "playing_clarinet",
    "playing_drums",
    "playing_guitar",
    "playing_harmonica",
    "playing_keyboard",
    "playing_organ",
    "playing_piano",
    "playing_saxophone",
    "playing_trombone",
    "playing_trumpet",
    "playing_violin",
    "playing_xylophone",
    "ripping_paper",
    "shoveling_snow",
    "shuffling_cards",
    "singing",
    "stomping_grapes",
    "tap_dancing",
    "tapping_guitar",
    "tapping_pen",
    "tickling",
)
PROTOCOLS = ("official-val", "ks-val", "ogm")
LISTS = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound"
FILES = {"train": "my_train.txt", "test": "my_test.txt"}
SUBSETS = {"training": "train", "validation": "validation", "testing": "test"}
FRAMES = 4


def read_list(path: Path) -> list[tuple[str, str]]:
    """(clip, class) of a list `clip,10,class number`. Raises a ValueError naming the line that does not fit."""
    entries = []
    for number, line in enumerate(lines_of(path), 1):
        clip, *rest = line.rsplit(",", 2)
        if len(rest) != 2 or rest[0] != "10" or rest[1] not in map(str, range(len(CLASSES))):
            raise ValueError(f"{path}, line {number}: {line!r} is not of the form clip,10,0 … {len(CLASSES) - 1}.")
        entries.append((clip, CLASSES[int(rest[1])]))
    return entries


def read_json(path: Path) -> dict[str, tuple[str, str]]:
    """Clip → (part, class). Raises a ValueError where the file or its classes are others."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {clip: (SUBSETS[entry["subset"]], entry["label"]) for clip, entry in content["database"].items()}
        names = tuple(content["labels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not {{labels, database: {{clip: {{subset, label}}}}}}: {error!r}") from error
    if names != CLASSES or not {label for _, label in parts.values()} <= set(names):
        raise ValueError(f"{path} has other classes than the variant of {len(CLASSES)}.")
    return parts


def read_lists(source: Path) -> dict[str, tuple[str, str]]:
    """Clip → (part, class): training and test from the lists, validation from the json file where there is one, which
    must agree with the lists. Raises a ValueError where they disagree or a list names a clip twice."""
    listed: dict[str, tuple[str, str]] = {}
    for part, file in FILES.items():
        entries = read_list(find(source, file, LISTS))
        twice = repeated([*listed, *(clip for clip, _ in entries)])
        if twice:
            raise ValueError(f"{file}: {len(twice)} clips are listed twice, first {twice[0]}.")
        listed |= {clip: (part, label) for clip, label in entries}
    for path in sorted(source.rglob("KS_train_val.json")):
        parts = read_json(path)
        both = {clip: place for clip, place in parts.items() if place[0] != "validation"}
        wrong = [clip for clip in {**both, **listed} if both.get(clip) != listed.get(clip)]
        if wrong:
            raise ValueError(f"{path} and the lists disagree about {len(wrong)} clips, first {wrong[0]}.")
        listed |= parts
    return listed


def recipe(source: Path, name: str = "kinetics_sounds") -> Recipe:
    """Clips are `<id>_<start>_<end>.mp4` (six digits each) or `<id>_<start>.mp4` anywhere below `source`."""
    there = {_spelled(path.stem): path for path in sorted(source.rglob("*.mp4"))}
    clips = [
        Clip(
            clip,
            label,
            {"clip": there.get(_spelled(clip), source / f"{clip}.mp4")},
            {"split": part, "video": clip[:11]},
        )
        for clip, (part, label) in read_lists(source).items()
    ]
    frames = f"{FRAMES} of those at 1 per second"
    return sound_and_frames(name, clips, decode, Stored.of(source), SOUND_RATE, FRAMES, frames=frames)


def _spelled(clip: str) -> str:
    """The video's 11 characters and the start in seconds: equal for both ways to name a clip."""
    start = clip[12:].split("_")[0]
    return f"{clip[:11]} {int(start)}" if start.isdigit() else clip


def decode(clip: Clip, stored: Stored) -> tuple[dict[str, np.ndarray], dict[str, float | int | str]]:
    """The first 10 s of sound, repeated where the clip is shorter, and 4 frames."""
    path = clip.files["clip"]
    media = read_media(path, SOUND_RATE, every_second(0.0, 10.0, FRAMES), stored.size)
    sound = looped(media.waveform, stored.seconds * SOUND_RATE)
    return {"audio": sound, "image": media.frames}, media.facts | {"sha256": source_hash(path)}


def known_traps(clips: list[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = {
        part: {clip.columns["video"] for clip in clips if clip.columns["split"] == part} for part in SUBSETS.values()
    }
    shared = len(videos["train"] & (videos["validation"] | videos["test"]))
    return [f"31 classes; {shared} videos of the training part are in validation or test, too."]


def load(
    protocol: str = "official-val",
    frames: int = FRAMES,
    size: int = 224,
    seed: int = 0,
    folder: str = "kinetics_sounds",
) -> Splits:
    """Modalities "audio" (1, 257, 1004) and "image" (3, frames, size, size), read from disk batch by batch; `frames` of
    the 4 stored ones: the middle ones, at random in training. `seed` draws what `ks-val` holds out.
    Raises MissingData, which says how to get the data, where it was not prepared."""
    check_choice("protocol", protocol, PROTOCOLS)
    check_choice("frames", frames, range(1, FRAMES + 1))
    prepared = open_prepared(folder)
    crop = FrameCrop(size, whole=True, window=frames)
    data = as_dataset(prepared, CLASSES, {"audio": PowerSpectrogram(SOUND_RATE), "image": crop})
    train, validation, test = parts_of(prepared, data, SUBSETS.values())
    parts = {
        "official-val": lambda: [train, validation, test],
        "ks-val": lambda: [*held_out(train, "kinetics_sounds", seed), test],
        "ogm": lambda: [train, test, test],
    }[protocol]()
    return splits_of(prepared, "Kinetics-Sounds (31 classes)", protocol, parts, {"image": crop.random}, SOUND_RATE)
