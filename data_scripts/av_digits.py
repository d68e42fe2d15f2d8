"""Prepare AV-Digits: download (or find) MNIST, USPS and FSDD, check them, and write the cache that mmlib reads.

    python -m mmlib data av_digits                 download, some 30 MB
    python -m mmlib data av_digits --source DIR    use files below DIR
    python -m mmlib data av_digits --verify        check what is prepared

Licences: FSDD is CC BY-SA 4.0 (Zohar Jackson and others); MNIST and USPS are free for research.
"""

import bz2
import gzip
import io
import wave
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.cache import cache_directory, load_arrays, save_arrays
from mmlib.data.clips.downloads import download
from mmlib.data.clips.script import arguments_of, downloads_of
from mmlib.data.digits import av_digits

URLS = {
    "t10k-images-idx3-ubyte.gz": "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz": "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
    "usps.bz2": "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.bz2",
    "usps.t.bz2": "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.t.bz2",
    "fsdd.zip": "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.zip",
}


def main(arguments: Sequence[str]) -> None:
    options = arguments_of("av_digits", __doc__, arguments)
    prepared = cache_directory() / av_digits.PREPARED
    if not options.verify:
        source = options.source or download_all(downloads_of("av_digits"))
        prepare(source, prepared)
    av_digits.check_content(load_arrays(prepared), prepared)
    counts = {part: len(getattr(av_digits.load(), part)) for part in ("train", "validation", "test")}
    print(f"AV-Digits is complete in {prepared}: {counts} pairs over the domains {av_digits.DOMAINS}.")


def download_all(folder: Path) -> Path:
    for name, url in URLS.items():
        download(url, folder / name)
    return folder


def prepare(source: Path, prepared: Path) -> None:
    """Parse everything below `source`, check it against the published content, write the cache file."""
    if not source.is_dir():
        raise FileNotFoundError(f"--source {source} is not a folder.")
    mnist_images = parse(find(source, "t10k-images-idx3-ubyte"), read_idx)
    mnist_labels = parse(find(source, "t10k-labels-idx1-ubyte"), read_idx)
    usps = [parse(find(source, name), read_libsvm) for name in ("usps", "usps.t")]
    waveforms, digits, speakers = read_recordings(source)
    arrays = {
        "mnist_images": mnist_images,
        "mnist_labels": mnist_labels,
        "usps_images": np.concatenate([images for images, _ in usps]),
        "usps_labels": np.concatenate([labels for _, labels in usps]),
        "fsdd_waveforms": waveforms,
        "fsdd_digits": digits,
        "fsdd_speakers": speakers,
    }
    av_digits.check_content(arrays, source)
    save_arrays(prepared, arrays)


def find(source: Path, name: str) -> Path:
    """The file of this name below `source`, packed (.gz, .bz2) or not."""
    for candidate in (name, f"{name}.gz", f"{name}.bz2"):
        for path in sorted(source.rglob(candidate)):
            if path.is_file():
                return path
    raise FileNotFoundError(f"{name} (or .gz, .bz2) is missing below {source}.")


def parse(path: Path, reader: Callable[[bytes], Any]) -> Any:
    """Unpack and read a file; any error in it is raised as a ValueError that names it."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        elif content[:3] == b"BZh":
            content = bz2.decompress(content)
        return reader(content)
    except (ValueError, OSError, EOFError, wave.Error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}. Get it again.") from error


def read_idx(content: bytes) -> np.ndarray:
    """MNIST's format: magic (0, 0, 8, dimensions), big-endian sizes, bytes."""
    if content[:3] != b"\x00\x00\x08":
        raise ValueError("not an idx file of bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").astype(int))
    if len(content) != header + int(np.prod(shape)):
        raise ValueError(f"{len(content) - header:,} values where the header says {int(np.prod(shape)):,}")
    return np.frombuffer(content[header:], np.uint8).reshape(shape)


def read_libsvm(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """USPS's format: `label 1:value … 256:value`, label = digit + 1. Values are kept as thousandths, int16."""
    lines = content.decode("ascii").split("\n")
    images = np.full((sum(map(bool, lines)), 256), -1000, np.int16)
    labels = np.empty(len(images), np.uint8)
    for row, line in enumerate(filter(None, lines)):
        label, *entries = line.split()
        labels[row] = int(label) - 1
        columns, values = zip(*(entry.split(":") for entry in entries), strict=True)
        images[row, np.array(columns, int) - 1] = np.rint(np.array(values, float) * 1000)
    return images.reshape(-1, 16, 16), labels


def read_recordings(source: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FSDD from a folder or zip file: clips of 0.8 s with the word in the middle, digits, speaker numbers."""
    names = [name for pair in av_digits.SPEAKERS for name in pair]
    clips: dict[tuple[int, str, int], np.ndarray] = {}
    for name, samples in _recordings(source):
        digit, speaker, index = Path(name).stem.split("_")
        if speaker in names:
            clips[int(digit), speaker, int(index)] = _clip(samples)
    expected = [(digit, speaker, index) for digit in range(10) for speaker in names for index in range(50)]
    missing = [key for key in expected if key not in clips]
    if missing:
        first = "{}_{}_{}.wav".format(*missing[0])
        raise FileNotFoundError(f"{len(missing)} of 3,000 recordings are missing below {source}, first {first}.")
    return (
        np.stack([clips[key] for key in expected]),
        np.array([digit for digit, _, _ in expected]),
        np.array([names.index(speaker) for _, speaker, _ in expected]),
    )


def _recordings(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    files = sorted(source.rglob("[0-9]_*_*.wav"))
    if files:
        for path in files:
            yield path.name, parse(path, _read_wav)
        return
    for archive in sorted(source.rglob("*.zip")):
        yield from parse(archive, _read_zip)


def _read_zip(content: bytes) -> list[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(io.BytesIO(content)) as packed:  # in memory: no path of the archive reaches the disk
        names = [name for name in packed.namelist() if "/recordings/" in name and name.endswith(".wav")]
        return [(Path(name).name, _read_wav(packed.read(name))) for name in sorted(names)]


def _read_wav(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        layout = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if layout != (1, 2, av_digits.SAMPLE_RATE):
            raise ValueError(f"channels, bytes and rate are {layout}; expected (1, 2, {av_digits.SAMPLE_RATE})")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        if len(samples) != file.getnframes():
            raise ValueError(f"{len(samples)} of {file.getnframes()} samples are there")
        return samples


def _clip(samples: np.ndarray) -> np.ndarray:
    clip = np.zeros(av_digits.CLIP_SAMPLES, np.int16)
    samples = samples[: len(clip)]
    start = (len(clip) - len(samples)) // 2
    clip[start : start + len(samples)] = samples
    return clip
