"""EPIC-Kitchens for domain generalisation: 8 verbs in three kitchens (domains), D1 = P08, D2 = P01, D3 = P22.

Lists are the pickled tables of MM-SADA. A pickle is a program: `read_table` runs none of it. Layout (SimMMDG):
`rgb/{train,test}/D*/PXX_YY/frame_%010d.jpg` (a folder or PXX_YY.tar) with `PXX_YY.wav` beside it, and
`flow/{train,test}/D*/PXX_YY/{u,v}/frame_%010d.jpg`, a flow frame for every second picture.
"""

import functools
import hashlib
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmlib.data.clips import mmdg
from mmlib.data.clips.benchmarks import SOUND_RATE, Stored, find, repeated
from mmlib.data.clips.media import CorruptClip, Pictures, looped, middle_window, read_media, read_picture
from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.splits import Splits

CLASSES = ("get/take", "put/place", "open", "close", "wash", "cut", "mix/stir", "pour")
DOMAINS = ("D1", "D2", "D3")
PROTOCOLS = mmdg.PROTOCOLS
LISTS = "https://github.com/jonmun/MM-SADA_Domain_Adaptation_Splits"
COLUMNS = ("uid", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame", "verb_class")


class RefusedPickle(ValueError):
    """A pickle that wants something run that a table of values does not need."""


class _Kept:
    """Stands for a pandas object: takes what the pickle says of it, and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> str:  # no such object leaves this module
        raise TypeError("not to be pickled")


_EMPTY = np.zeros(0)
_ADMITTED = {
    **{
        (module, "_reconstruct"): _EMPTY.__reduce__()[0]
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("pandas.core.frame", "DataFrame"): _Kept,
    ("pandas.core.internals.managers", "BlockManager"): _Kept,
    ("pandas.core.indexes.base", "_new_Index"): _Kept,
    ("pandas.core.indexes.base", "Index"): _Kept,
    ("pandas.core.indexes.range", "RangeIndex"): _Kept,
}


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise RefusedPickle(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, _: Any) -> Any:
        raise RefusedPickle("it refers to outside objects")


def read_table(path: Path) -> pd.DataFrame:
    """A pickled table of MM-SADA, read without running anything but NumPy's constructors of arrays.

    Raises RefusedPickle where the file asks for anything else, and a ValueError where it is damaged or lacks a column.
    """
    try:
        with path.open("rb") as file:
            frame = _TableUnpickler(file).load()
        manager = frame.state.get("_data", frame.state.get("_mgr"))
        blocks = manager.state[3]["0.14.1"]
        names = blocks["axes"][0].arguments[1]["data"]
        columns: dict[str, np.ndarray] = {}
        for block in blocks["blocks"]:
            columns |= {str(names[place]): block["values"][row] for row, place in enumerate(block["mgr_locs"])}
        table = pd.DataFrame(columns)[list(COLUMNS)]
    except RefusedPickle as error:
        raise RefusedPickle(f"{path} is refused: {error}. A list of EPIC-Kitchens needs no such thing.") from error
    except Exception as error:
        raise ValueError(f"{path} is damaged or no list of MM-SADA ({error!r}).") from error
    wrong = ~table["verb_class"].isin(range(len(CLASSES)))
    if wrong.any():
        raise ValueError(f"{path}: verb_class {table['verb_class'][wrong].iloc[0]} is none of 0 … {len(CLASSES) - 1}.")
    return table


def recipe(source: Path, name: str = "epic_kitchens") -> Recipe:
    """All segments of the three kitchens' training and test lists. Sound is `PXX_YY.wav` beside the pictures, or
    anywhere else below `source`."""
    sounds = {path.stem: path for path in sorted(source.rglob("P*_*.wav"))}
    clips = []
    for domain in DOMAINS:
        for part in ("train", "test"):
            path = find(source, f"{domain}_{part}.pkl", LISTS)
            table = read_table(path)
            twice = repeated(map(str, table["uid"]))
            if twice:
                raise ValueError(f"{path}: {len(twice)} segments are listed twice, first {twice[0]}.")
            for row in table.itertuples():
                video = source / "rgb" / part / domain / row.video_id
                files = {"video": video, "audio": sounds.get(row.video_id, video.with_name(f"{row.video_id}.wav"))}
                flow = source / "flow" / part / domain / row.video_id
                files |= {"flow": flow if flow.with_name(flow.name + ".tar").is_file() else flow / "u"}
                columns = {
                    "split": part,
                    "domain": domain,
                    "video": row.video_id,
                    "start": _seconds(row.start_timestamp),
                    "end": _seconds(row.stop_timestamp),
                    "first_frame": int(row.start_frame),
                    "last_frame": int(row.stop_frame),
                }
                clips.append(Clip(f"{domain}/{part}/{row.uid}", CLASSES[int(row.verb_class)], files, columns))
    return mmdg.recipe_of(name, source, clips, decode)


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.split(":")
    return round((int(hours) * 60 + int(minutes)) * 60 + float(seconds), 3)


_lock = threading.Lock()


@functools.lru_cache(maxsize=8)
def _pictures(folder: Path) -> Pictures:
    return Pictures(folder)


def _opened(folder: Path) -> Pictures:
    with _lock:  # an archive's table of contents is read once, not by every thread
        return _pictures(folder)


def decode(clip: Clip, stored: Stored) -> tuple[dict[str, np.ndarray], dict[str, float | int | str]]:
    """Windows of pictures and flow from the middle of the segment, and its sound, repeated up to 10 s."""
    first, last = clip.columns["first_frame"], clip.columns["last_frame"]
    if last - first < 2:
        raise CorruptClip(f"{clip.key}: the segment from frame {first} to {last} is empty.")
    digest = hashlib.sha256()

    def read(folder: Path, begin: int, total: int, count: int, interval: int, inner: str, pixels: str) -> np.ndarray:
        pictures = _opened(folder)
        frames = {}
        chosen = (begin + middle_window(count, interval)(np.arange(total))).tolist()
        for number in sorted(set(chosen)):
            name = f"{inner}frame_{number:010d}.jpg"
            content = pictures.read(name)
            digest.update(content)
            frames[number] = read_picture(content, f"{folder}/{name}", stored.size, pixels)
        return np.stack([frames[number] for number in chosen])

    video = read(clip.files["video"], first, last - first, mmdg.VIDEO_STORED, mmdg.VIDEO_INTERVAL, "", "rgb24")
    flow_folder = clip.files["flow"].parent if clip.files["flow"].name == "u" else clip.files["flow"]
    half, total = math.ceil(first / 2), (last - first) // 2
    flow = [
        read(flow_folder, half, total, mmdg.FLOW_STORED, mmdg.FLOW_INTERVAL, f"{axis}/", "gray") for axis in ("u", "v")
    ]
    stop = min(clip.columns["end"], clip.columns["start"] + stored.seconds)
    media = read_media(clip.files["audio"], SOUND_RATE, start=clip.columns["start"], stop=stop)
    digest.update(media.waveform)
    arrays = {
        "video": video,
        "flow": np.concatenate(flow, -1),
        "audio": looped(media.waveform, stored.seconds * SOUND_RATE),
    }
    return arrays, media.facts | {"frames": last - first, "sha256": digest.hexdigest()}


def known_traps(clips: list[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = {
        part: {clip.columns["video"] for clip in clips if clip.columns["split"] == part} for part in ("train", "test")
    }
    return [
        f"{len(videos['train'] & videos['test'])} videos are both in a training and a test list.",
        "An unseen kitchen is tested on its test list only.",
    ]


def load(
    protocol: str = "papers",
    modalities: tuple[str, ...] = ("video", "audio"),
    size: int = 224,
    seed: int = 0,
    folder: str = "epic_kitchens",
) -> Splits:
    """Modalities "video" (3, 32, size, size), "flow" (2, 8, size, size), "audio" (1, 257, 1004), read from disk batch
    by batch; protocols as in `mmdg.load_domains`. Raises MissingData, which says how to get the data."""
    return mmdg.load_domains(
        "EPIC-Kitchens", folder, CLASSES, DOMAINS, protocol, modalities, size, seed, whole_target=False
    )
