"""EPIC-Kitchens for domain generalisation: 8 verbs in three kitchens (domains), D1 = P08, D2 = P01, D3 = P22.

Lists are the pickled tables of MM-SADA. A pickle is a program: `read_table` runs none of it. Layout (SimMMDG):
`rgb/{train,test}/D*/PXX_YY/frame_%010d.jpg` (a folder or PXX_YY.tar) with `PXX_YY.wav` beside it, and
`flow/{train,test}/D*/PXX_YY/{u,v}/frame_%010d.jpg`, a flow frame for every second picture.

Or segments cut apart, `{video,flow,audio}/{train,test}/D*/D1_PXX_YY_<start>_<stop>_<label>`, `.mp4`, `_flow_x.mp4` and
`_flow_y.mp4`, `.wav`; start and stop are those of the list, as frames or as times.
"""

import functools
import hashlib
import math
import pickle
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmlib.data.clips import mmdg
from mmlib.data.clips.benchmark import Decoded, Format, Found, by_part, refuse_repeated
from mmlib.data.clips.frames import is_constant
from mmlib.data.clips.media import CorruptClip, Pictures, read_media, read_picture
from mmlib.data.clips.preparation import Clip

CLASSES = ("get/take", "put/place", "open", "close", "wash", "cut", "mix/stir", "pour")
DOMAINS = ("D1", "D2", "D3")
COLUMNS = ("uid", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame", "verb_class")


class RefusedPickle(ValueError):
    """A pickle that asks to run something that a table of values does not need."""


class _Inert:
    """Stands in for a pandas object: keeps what the pickle says about it, and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_EMPTY = np.zeros(0)
_ADMITTED = {
    **{
        (module, "_reconstruct"): _EMPTY.__reduce__()[0]
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("pandas.core.frame", "DataFrame"): _Inert,
    ("pandas.core.internals.managers", "BlockManager"): _Inert,
    ("pandas.core.indexes.base", "_new_Index"): _Inert,
    ("pandas.core.indexes.base", "Index"): _Inert,
    ("pandas.core.indexes.range", "RangeIndex"): _Inert,
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
        raise ValueError(f"{path} is damaged or not a list of MM-SADA ({error!r}).") from error
    wrong = ~table["verb_class"].isin(range(len(CLASSES)))
    if wrong.any():
        raise ValueError(f"{path}: verb_class {table['verb_class'][wrong].iloc[0]} is not in 0 … {len(CLASSES) - 1}.")
    return table


def find_clips(source: Path) -> Found:
    """All segments of the three kitchens' training and test lists. Sound is `PXX_YY.wav` beside the pictures, or
    anywhere else below `source`. Where there are no pictures and segments cut apart, those are taken; raises a
    ValueError where the label in the name of one is not the list's."""
    sounds = {path.stem: path for path in sorted(source.rglob("P*_*.wav"))}
    cuts = {} if (source / "rgb").is_dir() else _cuts_below(source)
    clips = []
    for domain in DOMAINS:
        for part in ("train", "test"):
            path = BENCHMARK.find(source, f"{domain}_{part}.pkl")
            table = read_table(path)
            refuse_repeated(path, "segments", map(str, table["uid"]))
            for row in table.itertuples():
                columns = {
                    "split": part,
                    "domain": domain,
                    "video": row.video_id,
                    "start": _seconds(row.start_timestamp),
                    "end": _seconds(row.stop_timestamp),
                    "first_frame": int(row.start_frame),
                    "last_frame": int(row.stop_frame),
                }
                files = _cut_files(source, cuts, columns, row.verb_class) if cuts else _files(source, sounds, columns)
                clips.append(Clip(f"{domain}/{part}/{row.uid}", CLASSES[int(row.verb_class)], files, columns))
    return clips, mmdg.PARAMETERS | ({"segments": "cut apart"} if cuts else {})


def _files(source: Path, sounds: Mapping[str, Path], columns: Mapping[str, Any]) -> dict[str, Path]:
    """Where a segment's pictures, flow and sound lie among those of its whole video."""
    place = Path(columns["split"], columns["domain"], columns["video"])
    video, flow = source / "rgb" / place, source / "flow" / place
    sound = sounds.get(columns["video"], video.with_name(f"{video.name}.wav"))
    return {
        "video": video,
        "audio": sound,
        "flow": flow if flow.with_name(flow.name + ".tar").is_file() else flow / "u",
    }


_CUT = re.compile(r"(?P<domain>D\d)_(?P<video>P\d+_\d+)_(?P<start>[\d.:-]+)_(?P<stop>[\d.:-]+)_(?P<label>\d+)")
Place = tuple[str, str, str, float, float]  # part, domain, video, start and stop


def _cuts_below(source: Path) -> dict[Place, tuple[Path, int]]:
    """Segments cut apart: what their folders and names say → their video, and their label."""
    cuts = {}
    for path in sorted(source.rglob("video/*/D*/*.mp4")):
        if name := _CUT.fullmatch(path.stem):
            start, stop = (
                int(text) if text.isdigit() else _seconds(text.replace("-", ":"))
                for text in name.group("start", "stop")
            )
            place = (path.parts[-3], name["domain"], name["video"], start, stop)
            cuts[place] = (path, int(name["label"]))
    return cuts


def _cut_files(
    source: Path, cuts: Mapping[Place, tuple[Path, int]], columns: Mapping[str, Any], label: int
) -> dict[str, Path]:
    """The files of a segment cut apart."""
    where = columns["split"], columns["domain"], columns["video"]
    frames = columns["first_frame"], columns["last_frame"]
    name = "_".join(map(str, (*where[1:], *frames, label)))
    missing = (source / "video" / where[0] / where[1] / f"{name}.mp4", label)
    path, named = cuts.get((*where, *frames)) or cuts.get((*where, columns["start"], columns["end"])) or missing
    if named != label:
        raise ValueError(f"{path} is named as of class {named}; the list says {label} ({CLASSES[label]}).")
    part = Path(*path.parts[-3:])  # part, domain, file
    home = path.parents[3]
    return {
        "video": path,
        "flow x": home / "flow" / part.with_name(f"{path.stem}_flow_x.mp4"),
        "flow y": home / "flow" / part.with_name(f"{path.stem}_flow_y.mp4"),
        "audio": home / "audio" / part.with_name(f"{path.stem}.wav"),
    }


def _seconds(stamp: str) -> float:
    seconds = 0.0
    for part in stamp.split(":"):  # hours, minutes, seconds
        seconds = 60 * seconds + float(part)
    return round(seconds, 3)


_lock = threading.Lock()


@functools.lru_cache(maxsize=8)
def _opened(folder: Path) -> Pictures:
    return Pictures(folder)


def decode(clip: Clip, form: Format) -> Decoded:
    """Windows of pictures and flow from the middle of the segment, and its sound, cut or repeated to 10 s."""
    if "flow x" in clip.files:
        return mmdg.decode_files(clip, form)
    first, last = clip.columns["first_frame"], clip.columns["last_frame"]
    if last - first < 2:
        raise CorruptClip(f"{clip.key}: the segment from frame {first} to {last} is empty.")
    digest = hashlib.sha256()

    def read(kind: str, folder: Path, begin: int, total: int, inner: str, pixels: str) -> np.ndarray:
        with _lock:  # an archive's table of contents is read once, not by every thread
            pictures = _opened(folder)
        frames = {}
        chosen = (begin + mmdg.WINDOWS[kind](np.arange(total))).tolist()
        for number in sorted(set(chosen)):
            name = f"{inner}frame_{number:010d}.jpg"
            content = pictures.read(name)
            digest.update(content)
            frames[number] = read_picture(content, f"{folder}/{name}", form.size, pixels)
        return np.stack([frames[number] for number in chosen])

    video = read("video", clip.files["video"], first, last - first, "", "rgb24")
    flow_folder = clip.files["flow"].parent if clip.files["flow"].name == "u" else clip.files["flow"]
    half, total = math.ceil(first / 2), (last - first) // 2
    flow = [read("flow", flow_folder, half, total, f"{axis}/", "gray") for axis in ("u", "v")]
    stop = min(clip.columns["end"], clip.columns["start"] + form.seconds)
    media = read_media(
        clip.files["audio"], form.sample_rate, start=clip.columns["start"], stop=stop, most_lost=form.most_lost
    )
    digest.update(media.waveform)
    arrays = {"video": video, "flow": np.concatenate(flow, -1), "audio": form.sound(media.waveform)}
    facts = {
        "frames": last - first,
        "duration": round(clip.columns["end"] - clip.columns["start"], 3),
        "constant_picture": is_constant(list(video)),
        "sha256": digest.hexdigest(),
    }
    return arrays, media.facts | facts


def known_traps(clips: Sequence[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    videos = by_part(clips, "video")
    return [
        f"{len({*videos['train']} & {*videos['test']})} videos are both in a training and a test list.",
        "An unseen kitchen is tested on its test list only.",
    ]


BENCHMARK = mmdg.DomainBenchmark(
    title="EPIC-Kitchens",
    folder="epic_kitchens",
    lists="https://github.com/jonmun/MM-SADA_Domain_Adaptation_Splits",
    classes=CLASSES,
    find_clips=find_clips,
    decode=decode,
    known_traps=known_traps,
    domains=DOMAINS,
)
PROTOCOLS = tuple(BENCHMARK.protocols)
load, recipe = BENCHMARK.load, BENCHMARK.recipe
