"""AVE: 4,143 audio-visual events of 28 classes in 10-second clips from YouTube.

The official lists name an event's class, video, quality, start and end. 27 videos stand twice in the training list,
under two classes, and some validation and test videos stand in the training list under another class: a sample is an
event (video and class), not a video. One protocol, `official`: training, validation and test list.
"""

from pathlib import Path

import numpy as np

from mmlib.data.cache import source_hash
from mmlib.data.clips.benchmarks import (
    SOUND_RATE,
    Stored,
    as_dataset,
    check_choice,
    find,
    lines_of,
    parts_of,
    refuse_unknown,
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
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
PROTOCOLS = ("official",)
LISTS = "https://sites.google.com/view/audiovisualresearch (AVE_Dataset.zip holds them beside the clips)"
FILES = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
FRAMES = 4


def read_list(path: Path) -> list[tuple[str, str, float, float]]:
    """(video, class, start, end) in seconds of each event. A header line is skipped; an event that ends where it starts
    lasts one second. Raises a ValueError naming the line that does not fit."""
    events = []
    for number, line in enumerate(lines_of(path), 1):
        fields = line.split("&")
        try:
            label, video, _, start, end = fields
            begin, stop = float(start), float(end)
        except ValueError as error:
            if number == 1 and fields[0].lower() == "category":
                continue
            raise ValueError(f"{path}, line {number}: {line!r} is not Category&VideoID&Quality&Start&End.") from error
        events.append((video, label, begin, max(stop, begin + 1)))
    refuse_unknown(path, (label for _, label, _, _ in events), CLASSES)
    return events


def read_lists(source: Path) -> dict[str, list[tuple[str, str, float, float]]]:
    """The events of all parts below `source`. Raises a ValueError where an event (video and class) stands twice."""
    lists = {part: read_list(find(source, name, LISTS)) for part, name in FILES.items()}
    twice = repeated(f"{video} ({label})" for events in lists.values() for video, label, _, _ in events)
    if twice:
        raise ValueError(f"{source}: {len(twice)} events are listed twice, first {twice[0]}.")
    return lists


def recipe(source: Path, name: str = "ave") -> Recipe:
    """Clips are `<video>.mp4` below `source`."""
    there = {path.stem: path for path in sorted(source.rglob("*.mp4"))}
    clips = [
        Clip(
            f"{video}|{label}",
            label,
            {"clip": there.get(video, source / "AVE" / f"{video}.mp4")},
            {"split": part, "video": video, "start": start, "end": end},
        )
        for part, events in read_lists(source).items()
        for video, label, start, end in events
    ]
    frames = f"{FRAMES} of those at 1 per second of the event"
    return sound_and_frames(name, clips, decode, Stored.of(source), SOUND_RATE, FRAMES, frames=frames)


def decode(clip: Clip, stored: Stored) -> tuple[dict[str, np.ndarray], dict[str, float | int | str]]:
    """The event's sound, repeated up to 10 s, and 4 of its frames."""
    start, end = clip.columns["start"], clip.columns["end"]
    path = clip.files["clip"]
    media = read_media(path, SOUND_RATE, every_second(start, end, FRAMES), stored.size, start=start, stop=end)
    sound = looped(media.waveform, stored.seconds * SOUND_RATE)
    return {"audio": sound, "image": media.frames}, media.facts | {"sha256": source_hash(path)}


def known_traps(clips: list[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = {part: [clip.columns["video"] for clip in clips if clip.columns["split"] == part] for part in FILES}
    known = set(videos["train"])
    return [
        f"{len(repeated(videos['train']))} videos stand twice in the training list, under two classes.",
        f"{len(known & set(videos['validation']))} validation and {len(known & set(videos['test']))} test videos stand "
        "in the training list, too, under another class.",
    ]


def load(protocol: str = "official", frames: int = FRAMES, size: int = 224, folder: str = "ave") -> Splits:
    """Modalities "audio" (1, 257, 1004) and "image" (3, frames, size, size), read from disk batch by batch; `frames` of
    the 4 stored ones: the middle ones, at random in training.
    Raises MissingData, which says how to get the data, where it was not prepared."""
    check_choice("protocol", protocol, PROTOCOLS)
    check_choice("frames", frames, range(1, FRAMES + 1))
    prepared = open_prepared(folder)
    crop = FrameCrop(size, whole=True, window=frames)
    data = as_dataset(prepared, CLASSES, {"audio": PowerSpectrogram(SOUND_RATE), "image": crop})
    return splits_of(prepared, "AVE", protocol, parts_of(prepared, data, FILES), {"image": crop.random}, SOUND_RATE)
