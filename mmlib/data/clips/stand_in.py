"""Stand-ins: synthetic clips in a benchmark's official layout, with lists in its official formats. They let
scripts, readers and notebooks run end to end without the data itself. What is measured on them says nothing about the
data set, and every table made from them says so.
"""

import json
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from mmlib.checks import check
from mmlib.data import CLIPS, load, reader
from mmlib.data.cache import kept_at, make_once
from mmlib.data.clips import ave, cremad, epic_kitchens, hac, kinetics_sounds
from mmlib.data.clips.benchmark import STAND_IN
from mmlib.data.clips.media import picture_bytes, write_sound, write_video
from mmlib.data.clips.preparation import prepare
from mmlib.data.splits import Splits

_SIZE, _RATE, _SECONDS = (32, 48), 8, 1.5  # of the encoded clips: pixels, frames per second
_SOUND_RATE = 16000
_COUNTS = {"train": 3, "validation": 1, "test": 1}  # clips for every class (and domain)


def prepared(name: str) -> str:
    """Write and prepare the stand-in of this benchmark, once; returns the folder to `load` it from."""
    folder = f"stand_in/{name}"

    def make() -> None:
        with tempfile.TemporaryDirectory() as source:
            write(name, Path(source))
            prepare(reader(name).recipe(Path(source), folder), jobs=1)

    make_once(kept_at(folder) / "prepared.json", make)
    return folder


def load_or_stand_in(name: str, which: str = "auto", **dials: object) -> Splits:
    """The benchmark `name` with these dials: "real", as prepared; "stand-in"; "auto": the stand-in where it was not
    prepared, with small frames. `Splits.is_stand_in` and `about` say which was loaded. Raises a
    ValueError for an unknown choice, and MissingData for "real" data that was not prepared."""
    check({"benchmark": name, "which": which}, {"benchmark": CLIPS, "which": ("auto", "real", "stand-in")})
    there = (kept_at(name) / "prepared.json").exists()
    if which == "real" or (which == "auto" and there):
        return load(name, **dials)
    return load(name, **dials, size=28, folder=prepared(name))


def write(name: str, source: Path) -> None:
    """The stand-in's published files: a few clips for every class (and domain)."""
    source.mkdir(parents=True, exist_ok=True)
    (source / STAND_IN).write_text("Synthetic clips in the layout of a data set. No result can come from them.\n")
    _WRITERS[name](source)


def _sound(label: int, draw: np.random.Generator, strength: float = 0.3) -> np.ndarray:
    """A tone whose pitch encodes the class, in noise."""
    time = np.arange(round(_SECONDS * _SOUND_RATE)) / _SOUND_RATE
    tone = np.sin(2 * np.pi * (300 * 1.08**label * time + draw.random()))
    return (8000 * (strength * tone + draw.normal(0, 0.3, len(time)))).clip(-32768, 32767).astype(np.int16)


def _pictures(label: int, draw: np.random.Generator, count: int = round(_SECONDS * _RATE)) -> np.ndarray:
    """A drifting block whose position and colour encode the class, in noise: (count, height, width, 3) uint8."""
    height, width = _SIZE
    frames = draw.normal(110, 25, (count, height, width, 3))
    row, column = 4 + 7 * (label % 4), 4 + 8 * (label // 4 % 5)
    for number, frame in enumerate(frames):
        shift = (number + int(draw.integers(3))) % 4
        frame[row : row + 7, column + shift : column + shift + 8] += 90 * np.eye(3)[label % 3]
    return frames.clip(0, 255).astype(np.uint8)


def _clip(path: Path, label: int, draw: np.random.Generator) -> None:
    write_video(path, _pictures(label, draw), _RATE, _sound(label, draw), _SOUND_RATE)


def _cremad(source: Path) -> None:
    for part, count in (("train", 10), ("test", 4)):
        lines = []
        for label, name in enumerate(cremad.CLASSES):
            for number in range(count):
                clip = f"{1001 + (label + 5 * number) % 20}_{'ABC'[number % 3]}{part[:2].upper()}_{name}_{number:02}"
                draw = np.random.default_rng([1, label, number, len(part)])
                _clip(source / "VideoFlash" / f"{clip}.flv", label, draw)
                write_sound(source / "AudioWAV" / f"{clip}.wav", _sound(label, draw), _SOUND_RATE)
                lines.append(f"{clip},{name}")
        (source / f"{part}.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("utf-8-sig"))


def _ave(source: Path) -> None:
    for part, file in ave.FILES.items():
        lines = ["Category&VideoID&Quality&StartTime&EndTime"]
        for label, name in enumerate(ave.CLASSES):
            for number in range(_COUNTS[part]):
                video = f"{part[:2]}_{label:02}_{number:02}_xx"
                _clip(source / "AVE" / f"{video}.mp4", label, np.random.default_rng([2, label, number, len(part)]))
                lines.append(f"{name}&{video}&good&0&{1 + number % 2}")
        (source / file).write_text("\n".join(lines) + "\n")


def _kinetics_sounds(source: Path) -> None:
    database = {}
    for subset, part in kinetics_sounds.SUBSETS.items():
        lines = []
        for label, name in enumerate(kinetics_sounds.CLASSES):
            for number in range(_COUNTS[part]):
                video = f"{part[:2]}_{label:02}_{number:02}_x"[:11].ljust(11, "x")
                clip = f"{video}_000005_000015" if part == "train" else f"{video}_5"
                _clip(source / part / f"{clip}.mp4", label, np.random.default_rng([3, label, number, len(part)]))
                lines.append(f"{clip},10,{label}\r\n")
                database[clip] = {"subset": subset, "label": name}
        if part != "validation":
            (source / kinetics_sounds.FILES[part]).write_text("".join(lines), newline="")
    content = {"labels": kinetics_sounds.CLASSES, "database": database}
    (source / "KS_train_val.json").write_text(json.dumps(content))


def _hac(source: Path) -> None:
    for place, domain in enumerate(hac.DOMAINS):
        for part in ("train", "test"):
            lines = []
            for label in range(len(hac.CLASSES)):
                for number in range(_COUNTS[part]):
                    stem = f"{part}_{label}_{number}"
                    draw = np.random.default_rng([4, place, label, number, len(part)])
                    frames = _pictures(label, draw)
                    lighter = (frames.astype(int) + 20 * place).clip(0, 255).astype(np.uint8)
                    write_video(source / domain / "videos" / f"{stem}.mp4", lighter, _RATE)
                    for axis in ("x", "y"):
                        write_video(source / domain / "flow" / f"{stem}_flow_{axis}.mp4", frames, _RATE)
                    write_sound(source / domain / "audio" / f"{stem}.wav", _sound(label, draw), _SOUND_RATE)
                    lines.append(f"{stem}.mp4,{label}\r\n")
            (source / f"HAC_{part}_only_{domain}.csv").write_text("".join(lines), newline="")


def _epic_kitchens(source: Path) -> None:
    """One video per kitchen and part, with fewer training clips than elsewhere: what reads them is large. Pictures of
    the training part lie in folders, those of the test part in archives; flow the other way round."""
    length = 12  # frames of a segment, at 8 per second
    for place, (domain, person) in enumerate(zip(epic_kitchens.DOMAINS, ("P08", "P01", "P22"), strict=True)):
        for part, count in {"train": 2, "test": 1}.items():
            video = f"{person}_{'01' if part == 'train' else '11'}"
            rows, sound = [], []
            files: dict[str, dict[str, bytes]] = {"rgb": {}, "flow": {}}
            for number in range(count * len(epic_kitchens.CLASSES)):
                label = number % len(epic_kitchens.CLASSES)
                draw = np.random.default_rng([5, place, number, len(part)])
                begin = 1 + number * length
                for offset, frame in enumerate(_pictures(label, draw, length)):
                    content = picture_bytes(frame)
                    files["rgb"][f"frame_{begin + offset:010}.jpg"] = content
                    for axis in ("u", "v"):
                        files["flow"][f"{axis}/frame_{-(-(begin + offset) // 2):010}.jpg"] = content
                sound.append(_sound(label, draw))
                start = number * _SECONDS
                stamps = [f"00:{int(time // 60):02}:{time % 60:05.2f}" for time in (start, start + _SECONDS)]
                verb = epic_kitchens.CLASSES[label]
                rows.append((1000 * place + number, person, video, verb, *stamps, begin, begin + length, verb, label))
            place_and_time = epic_kitchens.COLUMNS[2:6]
            columns = ["uid", "participant_id", "video_id", "narration", *place_and_time, "verb", "verb_class"]
            _write_table(source / f"{domain}_{part}.pkl", pd.DataFrame(rows, columns=columns))
            for kind, pictures in files.items():
                folder = source / kind / part / domain / video
                (_as_folder if (kind == "rgb") == (part == "train") else _as_archive)(folder, pictures)
            write_sound(source / "rgb" / part / domain / f"{video}.wav", np.concatenate(sound), _SOUND_RATE)


def _as_folder(folder: Path, pictures: dict[str, bytes]) -> None:
    for name, content in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _as_archive(folder: Path, pictures: dict[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder.with_name(folder.name + ".tar"), "w") as archive:
        for name, content in pictures.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


@dataclass(frozen=True)
class _Named:
    """Stands in for a class or function of pandas, called with `arguments` (None: not called), given `state`."""

    module: str
    name: str
    arguments: tuple | None = None
    state: Any = None


class _TablePickler(pickle._Pickler):
    """Writes `_Named` under the names of pandas 1, as in MM-SADA's files, whatever pandas is installed."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_named(self, value: _Named) -> None:
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        if value.arguments is not None:
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[_Named] = save_named


def _write_table(path: Path, table: pd.DataFrame) -> None:
    """The table in the form of MM-SADA's files, whatever pandas is installed: a DataFrame around a BlockManager with a
    block of objects and one of integers."""
    numbers = [name for name in table if table[name].dtype.kind == "i"]
    others = [name for name in table if name not in numbers]
    blocks = []
    for names, kind in ((others, object), (numbers, np.int64)):
        places = np.array([list(table.columns).index(name) for name in names])
        blocks.append({"values": table[names].to_numpy().T.astype(kind), "mgr_locs": places})
    index = _Named("pandas.core.indexes.base", "Index")
    axes = [
        _Named("pandas.core.indexes.base", "_new_Index", (index, {"data": np.array(list(table.columns), object)})),
        _Named("pandas.core.indexes.range", "RangeIndex", ()),
    ]
    state = (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = _Named("pandas.core.internals.managers", "BlockManager", (), state)
    with path.open("wb") as file:
        _TablePickler(file, 4).dump(_Named("pandas.core.frame", "DataFrame", (), {"_data": manager}))


_WRITERS = dict(zip(CLIPS, (_cremad, _ave, _kinetics_sounds, _epic_kitchens, _hac), strict=True))
