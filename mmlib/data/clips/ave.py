"""AVE: 4,143 audio-visual events of 28 classes in 10-second clips from YouTube.

The official lists name an event's class, video, quality, start and end. 27 videos are in the training list twice,
under two classes, and some validation and test videos are in the training list under another class: a sample is an
event (video and class), not a video. One protocol, `official`: training, validation and test list.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmlib.data.clips.benchmark import (
    Benchmark,
    Found,
    by_part,
    decode_file,
    lines_of,
    refuse_repeated,
    refuse_unknown,
    repeated,
    videos_below,
)
from mmlib.data.clips.preparation import Clip
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
FILES = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
FRAMES = 4  # in the cache


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
    """The events of all parts below `source`. Raises a ValueError where an event (video and class) is listed twice."""
    lists = {part: read_list(BENCHMARK.find(source, name)) for part, name in FILES.items()}
    events = (f"{video} ({label})" for events in lists.values() for video, label, _, _ in events)
    refuse_repeated(source, "events", events)
    return lists


def find_clips(source: Path) -> Found:
    """Clips are `<video>.mp4` below `source`, or videos of that name with another ending."""
    find = videos_below(source)
    clips = [
        Clip(
            f"{video}|{label}",
            label,
            {"clip": find(video, source / "AVE" / f"{video}.mp4")},
            {"split": part, "video": video, "start": start, "end": end},
        )
        for part, events in read_lists(source).items()
        for video, label, start, end in events
    ]
    return clips, {"frames": f"{FRAMES} of those at 1 per second of the event"}


def known_traps(clips: Sequence[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = by_part(clips, "video")
    known = set(videos["train"])
    return [
        f"{len(repeated(videos['train']))} videos are in the training list twice, under two classes.",
        f"{len(known & set(videos['validation']))} validation and {len(known & set(videos['test']))} test videos are "
        "also in the training list, under another class.",
    ]


BENCHMARK = Benchmark(
    title="AVE",
    folder="ave",
    lists="https://sites.google.com/view/audiovisualresearch (AVE_Dataset.zip holds them beside the clips)",
    classes=CLASSES,
    protocols={"official": "validation"},
    front_ends={"audio": PowerSpectrogram(), "image": FrameCrop(whole=True, window=FRAMES)},
    frames={"image": FRAMES},
    find_clips=find_clips,
    decode=partial(decode_file, frames=FRAMES),
    known_traps=known_traps,
)
PROTOCOLS = tuple(BENCHMARK.protocols)
load, recipe = BENCHMARK.load, BENCHMARK.recipe
