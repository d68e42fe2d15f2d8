"""Decode sound, video and pictures with PyAV, which bundles FFmpeg: any common format, no system library."""

import tarfile
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mmlib.data.clips.demuxing import HOLE, CorruptClip, Packets, chosen_stream
from mmlib.data.clips.frames import Choice, Decoder, Frames, scaled
from mmlib.data.clips.sound import Waveform, share_of_silence

MOST_LOST = 0.05  # share of a clip's packets that may be undecodable before the clip is corrupt
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Media:
    """What a file held: a mono waveform (samples,) int16, chosen frames (count, height, width, channels) uint8, and
    facts for the manifest.

    Of pictures: their `duration` in seconds (where only sound was read, its), the number of `frames`, `width` and
    `height` as shown, `rotated` by degrees clockwise, `interlaced`, `constant_picture`. Of the stretch of sound:
    `sound_seconds`, its own `sample_rate`, the share of digital `silence`, which `sound_track`. Of both: the `offset`
    in seconds by which sound begins after the pictures, and how many packets were `lost`, of those decoded.
    """

    waveform: np.ndarray | None
    frames: np.ndarray | None
    facts: dict[str, float | int | str]


def facts_of(*media: Media) -> dict[str, float | int | str]:
    """The facts of a clip of several files: the first one's where several state the same, all packets lost."""
    together = {name: value for one in reversed(media) for name, value in one.facts.items()}
    return together | {"lost": sum(one.facts["lost"] for one in media)}


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
    most_lost: float = MOST_LOST,
) -> Media:
    """Decode one file in one pass: its sound at `sample_rate` between `start` and `stop` (seconds), if requested, and
    the frames that `choose` selects, scaled to `size` (height, width), which the whole picture fills.

    Sound and pictures are on one clock, which is zero where the first of both begins. Beginnings that differ by less
    than a tenth of a second are taken to be the same. Raises CorruptClip where a stream is missing or shorter than the
    file says, and where more than the share `most_lost` of the packets decoded cannot be, or come out with errors.
    """
    waveform = None if sample_rate is None else Waveform(sample_rate, start, stop, path)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            media = _read(container, path, waveform, choose, size, pixels)
    except CorruptClip:
        raise
    except Exception as error:  # whatever else a damaged file sets off, in FFmpeg or here, is the matter of this clip
        if path.is_file() and path.read_bytes().startswith(_POINTER):
            raise CorruptClip(f"{path} is a git-LFS pointer and not the clip: fetch it with git lfs pull.") from error
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CorruptClip(f"{path} cannot be decoded: {what}.") from error
    lost, tried = media.facts["lost"], media.facts.pop("tried")
    if lost > most_lost * tried:
        raise CorruptClip(f"{path}: {lost} of {tried} packets cannot be decoded without errors.")
    return media


def _read(
    container: av.container.InputContainer,
    path: Path,
    waveform: Waveform | None,
    choose: Choice | None,
    size: tuple[int, int] | None,
    pixels: str,
) -> Media:
    video = None if choose is None else chosen_stream(container, path, "video")
    sound = None if waveform is None else chosen_stream(container, path, "audio")
    if video is None and waveform.start > 1:
        waveform.zero = float((sound.start_time or 0) * sound.time_base)
        container.seek(int((waveform.zero + waveform.start - 1) * av.time_base))
    packets: Iterable[av.Packet] = Packets(container, path)
    if video is not None:
        packets = list(packets)  # still compressed: their time stamps say which frames there are
    decoders = [] if waveform is None else [_hear(waveform, packets, sound)]
    begin = 0.0 if waveform is None or waveform.begin is None else waveform.begin
    late = 0.0 if waveform is None or waveform.zero is None else begin - waveform.zero
    facts: dict[str, float | int | str] = {}
    pictures = samples = None
    if video is not None:
        own = [packet for packet in packets if packet.stream_index == video.index]
        frames = Frames(video, own, size, pixels, path)
        if sound is not None:
            facts["offset"] = round(begin - frames.begin, 3)
            late = begin - frames.begin if abs(begin - frames.begin) > HOLE else 0.0
        chosen = frames.choose(choose, frames.begin + min(late, 0.0))
        pictures = chosen.frames
        decoders.append(frames.decoder)
        facts |= {"frames": len(chosen.times), "duration": round(chosen.end - float(chosen.times[0]), 3)} | chosen.facts
    if waveform is not None:
        samples = waveform.samples(max(late, 0.0))
        tracks = container.streams.audio
        facts = (
            {"duration": round(len(samples) / waveform.sample_rate, 3)}
            | facts
            | {
                "sample_rate": waveform.own_rate,
                "sound_seconds": round(len(samples) / waveform.sample_rate, 3),
                "silence": share_of_silence(samples, waveform.sample_rate),
                "sound_track": f"{tracks.index(sound) + 1} of {len(tracks)}",
            }
        )
    totals = {name: sum(getattr(decoder, name) for decoder in decoders) for name in ("lost", "tried")}
    return Media(samples, pictures, facts | totals)


def _hear(waveform: Waveform, packets: Iterable[av.Packet], sound: av.audio.stream.AudioStream) -> Decoder:
    """Decode the sound among these packets, as far as it is wanted; returns what counted the packets lost."""
    decoder = Decoder()
    for packet in packets:
        if packet.stream_index == sound.index:
            for frame in decoder(packet):
                waveform.take(frame)
            if waveform.complete:
                break
    return decoder


def read_picture(content: bytes, name: str, size: tuple[int, int] | None = None, pixels: str = "rgb24") -> np.ndarray:
    """A JPEG file's content as (height, width, channels) uint8. Raises CorruptClip, which gives it this `name`."""
    try:
        decoder = av.CodecContext.create("mjpeg", "r")
        (frame, *_) = [*decoder.decode(av.Packet(content)), *decoder.decode(None)]
        return scaled(frame, size, pixels)
    except Exception as error:  # as in `read_media`
        raise CorruptClip(f"{name} cannot be decoded as a JPEG picture: {error}.") from error


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
        except (tarfile.TarError, ValueError, EOFError) as error:
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
