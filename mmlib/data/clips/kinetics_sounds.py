"""Kinetics-Sounds, the variant of 31 classes: 10-second clips of Kinetics-400 whose classes can be both seen and heard.

OGM-GE's lists have a training and a test part; `KS_train_val.json`, where it exists, adds a validation part.
Others use 32 or 34 classes: every number must state its variant. Protocols:

* `official-val`: the epoch is selected on the 1,320 clips of the validation part.
* `ks-val`: it is selected on a stratified tenth of the training list, held out, if you lack the validation clips.
* `ogm`: it is selected on the test part, as in the papers.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmlib.data.clips.benchmark import (
    HELD_OUT,
    Benchmark,
    Found,
    by_part,
    decode_file,
    lines_of,
    refuse_repeated,
    videos_below,
)
from mmlib.data.clips.preparation import Clip
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
FILES = {"train": "my_train.txt", "test": "my_test.txt"}
SUBSETS = {"training": "train", "validation": "validation", "testing": "test"}
FRAMES = 4  # in the cache


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
    """Clip → (part, class). Raises a ValueError where the format or the classes differ."""
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
        entries = read_list(BENCHMARK.find(source, file))
        refuse_repeated(file, "clips", [*listed, *(clip for clip, _ in entries)])
        listed |= {clip: (part, label) for clip, label in entries}
    for path in sorted(source.rglob("KS_train_val.json")):
        parts = read_json(path)
        both = {clip: place for clip, place in parts.items() if place[0] != "validation"}
        wrong = [clip for clip in {**both, **listed} if both.get(clip) != listed.get(clip)]
        if wrong:
            raise ValueError(f"{path} and the lists disagree about {len(wrong)} clips, first {wrong[0]}.")
        listed |= parts
    return listed


def find_clips(source: Path) -> Found:
    """Clips are `<id>_<start>_<end>.mp4` (six digits each) or `<id>_<start>.mp4` anywhere below `source`, or videos of
    these names with another ending."""
    find = videos_below(source, _video_and_start)
    clips = [
        Clip(
            clip,
            label,
            {"clip": find(clip, source / f"{clip}.mp4")},
            {"split": part, "video": clip[:11]},
        )
        for clip, (part, label) in read_lists(source).items()
    ]
    return clips, {"frames": f"{FRAMES} of those at 1 per second"}


def _video_and_start(clip: str) -> str:
    """The video's 11 characters and the start in seconds: equal for both ways of naming a clip."""
    start = clip[12:].split("_")[0]
    return f"{clip[:11]} {int(start)}" if start.isdigit() else clip


def known_traps(clips: Sequence[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = by_part(clips, "video")
    shared = len({*videos["train"]} & {*videos["validation"], *videos["test"]})
    return [f"31 classes; {shared} videos of the training part are also in validation or test."]


BENCHMARK = Benchmark(
    title="Kinetics-Sounds (31 classes)",
    folder="kinetics_sounds",
    lists="https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound",
    classes=CLASSES,
    protocols={"official-val": "validation", "ks-val": HELD_OUT, "ogm": "test"},
    front_ends={"audio": PowerSpectrogram(), "image": FrameCrop(whole=True, window=FRAMES)},
    frames={"image": FRAMES},
    find_clips=find_clips,
    decode=partial(decode_file, frames=FRAMES),
    known_traps=known_traps,
)
PROTOCOLS = tuple(BENCHMARK.protocols)
load, recipe = BENCHMARK.load, BENCHMARK.recipe
