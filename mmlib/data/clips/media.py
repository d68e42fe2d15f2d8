"""Decode sound, video and pictures with PyAV, which bundles FFmpeg: any common format, no system library."""

import tarfile
import threading
import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Choice = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds → indices of the frames wanted, in order
_POINTER = b"version https://git-lfs"
_own = threading.local()


class CorruptClip(ValueError):
    """A file that exists but cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Media:
    """What a file held: a mono waveform (samples,) int16, chosen frames (count, height, width, channels) uint8, and
    facts for the manifest: duration in seconds, number of frames, the sound's own sample rate."""

    waveform: np.ndarray | None
    frames: np.ndarray | None
    facts: dict[str, float | int]


def every_second(start: float, stop: float, count: int) -> Choice:
    """`count` of the frames at one per second between `start` and `stop` or the end, evenly spread; where there are
    fewer seconds, they are repeated. One frame per second is what the imbalance papers use."""

    def choose(times: np.ndarray) -> np.ndarray:
        seconds = np.arange(start, max(min(stop, times[-1] + 1e-3), start + 1e-3))
        if len(seconds) > count:
            seconds = seconds[np.linspace(0, len(seconds) - 1, count).round().astype(int)]
        return np.resize(np.searchsorted(times, seconds).clip(0, len(times) - 1), count)

    return choose


def middle_window(count: int, interval: int) -> Choice:
    """`count` frames, every `interval`-th, from the middle of the clip; a shorter clip is repeated."""

    def choose(times: np.ndarray) -> np.ndarray:
        first = max(0, (len(times) - count * interval) // 2)
        return (first + np.arange(count) * interval) % len(times)

    return choose


def read_media(
    path: Path,
    sample_rate: int | None = None,
    choose: Choice | None = None,
    size: tuple[int, int] | None = None,
    pixels: str = "rgb24",
    start: float = 0.0,
    stop: float | None = None,
) -> Media:
    """Decode one file in one pass: its sound at `sample_rate` between `start` and `stop` (seconds), if requested, and
    the frames that `choose` selects, scaled to `size` (height, width).

    Raises CorruptClip where a stream is missing, undecodable or shorter than the file says.
    """
    facts: dict[str, float | int] = {}
    waveform = _Waveform(sample_rate, start, stop) if sample_rate is not None else None
    frames: _Frames | None = None
    try:
        with av.open(str(path)) as container:
            video = _stream(container, path, "video") if choose is not None else None
            sound = _stream(container, path, "audio") if sample_rate is not None else None
            packets = container.demux(*(stream for stream in (video, sound) if stream is not None))
            if sound is not None:
                facts["sample_rate"] = sound.codec_context.sample_rate
            if video is not None:
                packets = list(packets)  # still compressed: their time stamps say which frames there are
                times = _frame_times([packet for packet in packets if packet.stream is video], container, path)
                frames = _Frames(choose(times), size, pixels)
                facts |= {"duration": round(float(times[-1]), 3), "frames": len(times)}
            elif start > 1:
                container.seek(int((start - 1) * av.time_base))
            for packet in packets:
                taker = frames if packet.stream is video else waveform
                if not taker.complete:
                    for frame in packet.decode():
                        taker.take(frame)
                if all(part is None or part.complete for part in (waveform, frames)):
                    break
            samples = None if waveform is None else waveform.joined(path)
            pictures = None if frames is None else frames.joined(path)
    except av.error.FFmpegError as error:
        if path.exists() and path.read_bytes().startswith(_POINTER):
            raise CorruptClip(f"{path} is a git-LFS pointer and not the clip: fetch it with git lfs pull.") from error
        raise CorruptClip(f"{path} cannot be decoded: {error.strerror or error}.") from error
    if samples is not None and pictures is None:
        facts["duration"] = round(len(samples) / sample_rate, 3)
    return Media(samples, pictures, facts)


def _stream(container: av.container.InputContainer, path: Path, kind: str) -> av.stream.Stream:
    streams = getattr(container.streams, kind)
    if not streams:
        raise CorruptClip(f"{path} has no {kind} stream.")
    streams[0].thread_type = "NONE"  # clips are decoded in parallel; threads within one only slow that down
    return streams[0]


def _frame_times(packets: list, container: av.container.InputContainer, path: Path) -> np.ndarray:
    """Presentation times of all frames, from 0 on, without decoding them."""
    stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets if packet.size]
    if not stamps or None in stamps:
        raise CorruptClip(f"{path} has no video frames with time stamps.")
    times = np.sort(np.array(stamps)) * float(packets[0].time_base)
    times -= times[0]
    declared = (container.duration or 0) / av.time_base
    if declared - times[-1] > 1.0:
        raise CorruptClip(f"{path} says that it lasts {declared:.1f} s and ends after {times[-1]:.1f} s (truncated?).")
    return times


class _Waveform:
    """Collects sound as mono int16 at one rate."""

    def __init__(self, sample_rate: int, start: float, stop: float | None) -> None:
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
        self.sample_rate, self.start, self.stop = sample_rate, start, stop
        self.parts: list[np.ndarray] = []
        self.skipped: int | None = None  # samples before `start`; known from the first frame on
        self.complete = False

    def take(self, frame: av.AudioFrame) -> None:
        if self.skipped is None:
            early = self.start - (frame.time or 0.0) if self.start else 0.0
            self.skipped = max(0, round(early * self.sample_rate))
        frame.pts = None  # gaps between time stamps are not filled
        self.parts += [part.to_ndarray()[0] for part in self.resampler.resample(frame)]
        if self.stop is not None:
            self.complete = sum(map(len, self.parts)) >= self.skipped + self._length()

    def _length(self) -> int:
        return round((self.stop - self.start) * self.sample_rate)

    def joined(self, path: Path) -> np.ndarray:
        self.parts += [part.to_ndarray()[0] for part in self.resampler.resample(None)]
        samples = np.concatenate(self.parts) if self.parts else np.zeros(0, np.int16)
        samples = samples[self.skipped or 0 :]
        samples = samples if self.stop is None else samples[: self._length()]
        if not len(samples):
            raise CorruptClip(f"{path} has no sound from {self.start:.2f} s on.")
        return samples


class _Frames:
    """Collects the wanted frames, scaled."""

    def __init__(self, wanted: np.ndarray, size: tuple[int, int] | None, pixels: str) -> None:
        self.wanted, self.size, self.pixels = wanted, size, pixels
        self.left = set(wanted.tolist())
        self.taken: dict[int, np.ndarray] = {}
        self.seen = 0

    @property
    def complete(self) -> bool:
        return not self.left

    def take(self, frame: av.VideoFrame) -> None:
        if self.seen in self.left:
            self.left.discard(self.seen)
            self.taken[self.seen] = scaled(frame, self.size, self.pixels)
        self.seen += 1

    def joined(self, path: Path) -> np.ndarray:
        if self.left:
            raise CorruptClip(f"{path}: frame {min(self.left)} and {len(self.left) - 1} more could not be decoded.")
        return np.stack([self.taken[index] for index in self.wanted.tolist()])


def scaled(frame: av.VideoFrame, size: tuple[int, int] | None, pixels: str) -> np.ndarray:
    """A frame as (height, width, channels) uint8; `pixels` is "rgb24" or "gray"."""
    if not hasattr(_own, "reformatter"):  # one per thread: setting one up takes as long as ten frames
        _own.reformatter = av.video.reformatter.VideoReformatter()
    height, width = size or (frame.height, frame.width)
    array = _own.reformatter.reformat(frame, width, height, pixels, interpolation="BILINEAR", threads=1).to_ndarray()
    return array if array.ndim == 3 else array[..., None]


def read_picture(content: bytes, name: str, size: tuple[int, int] | None = None, pixels: str = "rgb24") -> np.ndarray:
    """A JPEG file's content as (height, width, channels) uint8. Raises CorruptClip, which gives it this `name`."""
    try:
        decoder = av.CodecContext.create("mjpeg", "r")
        (frame, *_) = [*decoder.decode(av.Packet(content)), *decoder.decode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise CorruptClip(f"{name} cannot be decoded as a JPEG picture: {error}.") from error
    return scaled(frame, size, pixels)


class Pictures:
    """Numbered pictures `frame_0000000001.jpg` … in a folder, or in a tar file of that name, which is not unpacked.

    Raises FileNotFoundError where there is neither. Reading is safe from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder.with_name(folder.name + ".tar")
        self.places: dict[str, tuple[int, int]] = {}
        if folder.is_dir():
            return
        if not self.archive.is_file():
            raise FileNotFoundError(f"{folder} (a folder of frames) or {self.archive.name} is missing.")
        try:
            with tarfile.open(self.archive) as packed:
                self.places = {
                    member.name.removeprefix("./"): (member.offset_data, member.size)
                    for member in packed
                    if member.isfile()
                }
        except tarfile.TarError as error:
            raise CorruptClip(f"{self.archive} cannot be read: {error}.") from error

    def read(self, name: str) -> bytes:
        """The content of one picture. Raises CorruptClip where it is missing or cut short."""
        if not self.places:
            path = self.folder / name
            if not path.is_file():
                raise CorruptClip(f"{path} is missing.")
            return path.read_bytes()
        if name not in self.places:
            raise CorruptClip(f"{self.archive} does not hold {name}.")
        offset, size = self.places[name]
        with self.archive.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise CorruptClip(f"{self.archive} ends within {name} (truncated?).")
        return content


def write_video(
    path: Path, frames: np.ndarray, rate: int, waveform: np.ndarray | None = None, sound_rate: int = 0
) -> None:
    """Encode frames (count, height, width, 3) uint8 and mono sound int16 in the format that the file name implies, for
    stand-ins and tests. Width and height must be even."""
    codec, sound_codec = {".flv": ("flv", "aac"), ".mp4": ("mpeg4", "aac"), ".avi": ("mjpeg", "pcm_s16le")}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.bit_rate, video.codec_context.thread_count = 400_000, 1
        sound = None if waveform is None else container.add_stream(sound_codec, rate=sound_rate, layout="mono")
        for array in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(video.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
            frame.sample_rate = sound_rate
            container.mux(sound.encode(frame))
            container.mux(sound.encode())


def write_sound(path: Path, waveform: np.ndarray, sound_rate: int) -> None:
    """A mono WAV file of int16 samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound_rate)
        file.writeframes(waveform.astype("<i2").tobytes())


def picture_bytes(array: np.ndarray) -> bytes:
    """A picture (height, width, 3) uint8 as a JPEG file's content."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = array.shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "yuvj420p", Fraction(1, 1), 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
    frame = frame.reformat(format="yuvj420p", threads=1)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
