"""One file of sound, a picture, a video or an array → one signal, of the shape that all of its modality have."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmlib.checks import Number, Whole, check
from mmlib.data.dataset import LARGEST
from mmlib.data.transforms import LogMel, ScaleImages

ENDINGS = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma"),
    "video": (".mp4", ".webm", ".mkv", ".avi", ".flv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".3gp"),
    "array": (".npy",),
}
KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}


@dataclass(frozen=True)
class Reader:
    """How the files of one modality become rows of an array: of this shape and type each. `read` raises a ValueError
    that names the file."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[Path], np.ndarray]
    front_end: Callable[[Tensor], Tensor] | None

    @property
    def bytes_per_sample(self) -> int:
        """Of the signal, of its copy in a part, and of the network's input."""
        signal = torch.from_numpy(np.zeros((1, *self.shape), self.dtype))
        own = signal.numel() * signal.element_size()
        return 2 * own + (0 if self.front_end is None else 4 * self.front_end(signal).numel())


@dataclass(frozen=True)
class Form:
    """What sound, pictures and videos are brought to: see `from_folder`. Wrong values raise a ValueError."""

    sample_rate: int
    seconds: float
    size: int
    frames: int
    colour: bool

    ALLOWED: ClassVar[dict[str, Any]] = {
        "sample_rate": Whole(8000, 48000),
        "seconds": Number(0.25, 600),
        "size": Whole(4, 1024),
        "frames": Whole(1, 1024),
        "colour": bool,
    }

    def __post_init__(self) -> None:
        check(vars(self), self.ALLOWED)

    def reader(self, paths: Sequence[Path]) -> Reader:
        """For the files of one modality. Raises a ValueError where they are of several kinds, or arrays differ."""
        kinds = {KINDS[path.suffix.lower()]: path for path in reversed(paths)}
        if len(kinds) > 1:
            one, other, *_ = kinds.values()
            raise ValueError(f"{one} and {other} are of one modality and of different kinds: rename one.")
        if "array" in kinds:
            return _reader_of_arrays(paths)
        if "audio" in kinds:
            window = 2 ** round(math.log2(0.032 * self.sample_rate))  # about 32 ms
            return Reader((self._samples,), "int16", self._sound, LogMel(self.sample_rate, window, window // 2))
        channels, square = 3 if self.colour else 1, (self.size, self.size)
        if "image" in kinds:
            return Reader((channels, *square), "uint8", self._picture, ScaleImages())
        return Reader((channels, self.frames, *square), "uint8", self._video, ScaleImages())

    @property
    def _samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    def _sound(self, path: Path) -> np.ndarray:
        heard = _media().read_media(path, self.sample_rate, stop=self.seconds).waveform
        return np.pad(heard, (0, self._samples - len(heard)))

    def _video(self, path: Path) -> np.ndarray:
        pixels = "rgb24" if self.colour else "gray"
        media = _media().read_media(path, choose=self._evenly, size=(self.size, self.size), pixels=pixels)
        return media.frames.transpose(3, 0, 1, 2)

    def _evenly(self, times: np.ndarray) -> np.ndarray:
        """The middle frame of each of equal stretches; where there are fewer frames, they are repeated."""
        return ((np.arange(self.frames) + 0.5) * len(times) / self.frames).astype(int)

    def _picture(self, path: Path) -> np.ndarray:
        """With Pillow: PyAV 18 does not open photographs that carry a camera's notes (EXIF)."""
        try:
            with Image.open(path) as picture:
                if picture.mode[0] in "IF":
                    raise ValueError("its values have more than 8 bits; save them as .npy")
                shown = ImageOps.exif_transpose(picture).convert("RGB" if self.colour else "L")
                pixels = np.asarray(shown.resize((self.size, self.size), Image.Resampling.BILINEAR))
        except Exception as error:  # whatever a damaged file sets off
            raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
        return pixels.transpose(2, 0, 1) if self.colour else pixels[None]


def _media() -> ModuleType:
    """The decoder of sound and video, imported only where there is some."""
    return import_module("mmlib.data.clips.media")


def _reader_of_arrays(paths: Sequence[Path]) -> Reader:
    """Looks at the headers of all these files, not at their values."""
    first: tuple[Path, tuple[int, ...], np.dtype] | None = None
    for path in paths:
        try:
            array = _array(path, "r")
        except ValueError:
            continue  # it is reported when it is to be read
        if first is None:
            first = path, array.shape, array.dtype
        elif first[1:] != (array.shape, array.dtype):
            raise ValueError(
                f"{path} has shape {array.shape} of {array.dtype}, {first[0]} has {first[1]} of {first[2]}: arrays of "
                "one modality must agree. Cut, pad or convert them."
            )
    if first is None:
        _array(paths[0], "r")  # raises
    path, shape, dtype = first
    if dtype not in (np.float16, np.float32, np.float64, np.uint8):
        raise ValueError(f"{path} holds {dtype}; expected floating point or uint8: save array.astype('float32').")
    if 0 in shape or not shape:
        raise ValueError(f"{path} has shape {shape}; expected at least one axis, and values.")
    shape = (1, *shape) if len(shape) == 2 else shape
    return Reader(shape, "float32" if dtype == np.float64 else dtype.name, _values, None)


def _array(path: Path, mode: str | None = None) -> np.ndarray:
    try:
        return np.load(path, mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array of numbers: {error}.") from error


def _values(path: Path) -> np.ndarray:
    array = _array(path)
    if array.dtype.kind == "f" and not (np.abs(array.astype(np.float64)) <= LARGEST).all():
        raise ValueError(f"{path} has NaN, infinite values or values beyond ±{LARGEST:g}.")
    return array[None] if array.ndim == 2 else array
