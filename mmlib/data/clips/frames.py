"""From a stream's packets to the pictures that players show: which there are, the chosen ones, turned and scaled."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import PictureType

from mmlib.data.clips.demuxing import CorruptClip

Choice = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds → indices of the frames wanted, in order
_BLANK = 2.0  # standard deviation of a picture that shows nothing
_STILL = 0.5  # mean difference of two pictures between which nothing moves
_own = threading.local()


class Decoder:
    """Decodes packets, past those that cannot be decoded, and counts them, and pictures with errors."""

    def __init__(self) -> None:
        self.tried = self.lost = 0

    def __call__(self, packet: av.Packet) -> Iterator[av.frame.Frame]:
        """The frames that this packet completes; the empty one at a stream's end yields those still held back."""
        self.tried += bool(packet.size)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.lost += bool(packet.size)
            return
        for frame in frames:
            self.lost += frame.is_corrupt
            yield frame


@dataclass(frozen=True)
class Chosen:
    """The frames wanted (count, height, width, channels) uint8, the times of all frames in seconds, from the clock's
    zero, and the time at which the last one ends; facts for the manifest."""

    frames: np.ndarray
    times: np.ndarray
    end: float
    facts: dict[str, float | int | str]


class Frames:
    """The pictures of a stream that a player shows, found before they are decoded where their time stamps allow it.

    Packets that only lead up to the first picture shown, as at the beginning of a clip that was cut without encoding
    it anew, are none of them. Pictures are turned as the container says. With `size` (height, width), the whole picture
    fills it, whatever its shape; without, its pixels are made square. Interlaced pictures stay as they are coded, both
    fields in one [kit].
    """

    def __init__(
        self,
        stream: av.video.stream.VideoStream,
        packets: Sequence[av.Packet],
        size: tuple[int, int] | None,
        pixels: str,
        path: Path,
    ) -> None:
        self.decoder = Decoder()
        self._stream, self._packets, self._size, self._pixels, self._path = stream, packets, size, pixels, path
        self._filled = [packet for packet in packets if packet.size and not self._is_hidden(packet)]
        self._base = float(packets[0].time_base)
        self._certain = not self._stamps_hold()
        self._stamps = self._shown() if self._certain else sorted(packet.pts for packet in self._filled)
        self._facts: dict[str, float | int | str] = {}

    @property
    def begin(self) -> float:
        """When the first one is shown, in seconds."""
        return self._stamps[0] * self._base

    def choose(self, choose: Choice, zero: float) -> Chosen:
        """Those wanted, by their times after `zero` seconds."""
        while True:
            times = np.array(self._stamps) * self._base - zero
            wanted = choose(times).tolist()
            taken = self._by_number({*wanted}) if self._certain else self._between_key_frames({*wanted})
            if taken is not None:
                break
            self._stamps, self._certain = self._shown(), True
        lengths = {packet.pts: packet.duration for packet in self._filled if packet.duration}
        usual = float(np.median(np.diff(self._stamps))) if len(times) > 1 else 0.0
        end = float(times[-1]) + lengths.get(self._stamps[-1], usual) * self._base
        facts = self._facts | {"constant_picture": is_constant(list(taken.values()))}
        return Chosen(np.stack([taken[index] for index in wanted]), times, end, facts)

    def _is_hidden(self, packet: av.Packet) -> bool:
        """Decoded and not shown: before a cut's first picture, or an alternate reference of VP8."""
        vp8 = self._stream.codec_context.name == "vp8"
        return packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)

    def _stamps_hold(self) -> bool:
        """Whether the packets' time stamps say which pictures there will be: not without time stamps, in AVI, where
        they are guessed, with one that occurs twice, and where the first pictures refer to some that are not there."""
        first = next((packet for packet in self._packets if packet.size), None)
        stamps = [packet.pts for packet in self._filled]
        if not stamps or None in stamps or "avi" in self._stream.container.format.name:
            return False
        complete = first.is_keyframe and first.pts is not None and min(stamps) >= first.pts
        return complete and len({*stamps}) == len(stamps)

    def _shown(self) -> list[int]:
        """The time stamps of all pictures, by decoding them. Raises CorruptClip where there are none."""
        self.decoder, stamps = Decoder(), []
        for frame in self._decoded(self.decoder):
            stamps.append((stamps[-1] + 1 if stamps else 0) if frame.pts is None else frame.pts)
        if not stamps:
            raise CorruptClip(f"{self._path} has no picture that can be decoded.")
        coded = [packet.dts if packet.pts is None else packet.pts for packet in self._filled]
        return sorted(coded if len(coded) == len(stamps) and None not in coded else stamps)

    def _decoded(self, decoder: Decoder) -> Iterator[av.VideoFrame]:
        """All pictures, from the beginning."""
        self._stream.codec_context.flush_buffers()
        for packet in self._packets:
            yield from decoder(packet)

    def _by_number(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Those wanted among all pictures in the order in which they are shown."""
        taken: dict[int, np.ndarray] = {}
        for index, frame in enumerate(self._decoded(Decoder())):
            if index in wanted:
                taken[index] = self._kept(frame)
                if len(taken) == len(wanted):
                    break
        return taken

    def _between_key_frames(self, wanted: set[int]) -> dict[int, np.ndarray] | None:
        """Those wanted, by their time stamps, decoding from the key frame before each; None where one of them cannot be
        had, so that only decoding everything tells which there are."""
        numbers = {self._stamps[index]: index for index in wanted}
        starts = [
            (place, packet.pts)
            for place, packet in enumerate(self._packets)
            if packet.size and packet.is_keyframe and packet.pts is not None
        ]
        taken: dict[int, np.ndarray] = {}
        place, begun = 0, True
        for stamp in sorted(numbers):
            start, key = max(begin for begin in starts if begin[1] <= stamp)
            if start > place:
                place, begun = start, False
                self._stream.codec_context.flush_buffers()
            while numbers[stamp] not in taken:
                if place == len(self._packets):
                    return None
                for frame in self.decoder(self._packets[place]):
                    if not begun and frame.pts == key:  # which is whole, unless pictures are renewed bit by bit
                        begun = frame.pict_type == PictureType.I
                    if begun and frame.pts in numbers:
                        taken[numbers[frame.pts]] = self._kept(frame)
                place += 1
        return taken

    def _kept(self, frame: av.VideoFrame) -> np.ndarray:
        turn = turn_of(frame)
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        height, width = frame.height, round(frame.width * aspect)
        height, width = (width, height) if turn[0] else (height, width)
        self._size = self._size or (height, width)  # of the first, where a later one has another
        self._facts |= {"width": width, "height": height, "rotated": degrees(frame)}
        self._facts["interlaced"] = bool(self._facts.get("interlaced")) or frame.interlaced_frame
        return scaled(frame, self._size, self._pixels, turn)


def is_constant(frames: Sequence[np.ndarray]) -> bool:
    """Whether these pictures (height, width, channels) of a clip show nothing: each is of one colour, or there are
    several and nothing moves from one to the next."""
    few = [frame[::8, ::8].astype(np.float32) for frame in frames]
    still = len(few) > 1 and all(np.abs(after - before).mean() < _STILL for before, after in itertools.pairwise(few))
    return still or all(frame.std((0, 1)).max() < _BLANK for frame in few)


Turn = tuple[bool, bool, bool]  # rows and columns exchanged, then left and right, then top and bottom


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The container's display matrix: where a picture's right and lower neighbours lie when it is shown,
    (right, down) each."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    return a, b, c, d


def turn_of(frame: av.VideoFrame) -> Turn:
    """How players turn and mirror a picture, by quarters."""
    a, b, c, d = _matrix(frame)
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def degrees(frame: av.VideoFrame) -> int:
    """By how much players turn a picture clockwise."""
    a, b, _, _ = _matrix(frame)
    return round(math.degrees(math.atan2(b, a))) % 360


def scaled(
    frame: av.VideoFrame, size: tuple[int, int] | None, pixels: str, turn: Turn = (False, False, False)
) -> np.ndarray:
    """A frame, turned, as (height, width, channels) uint8; `pixels` is "rgb24" or "gray"."""
    if not hasattr(_own, "reformatter"):  # one per thread: setting one up takes as long as ten frames
        _own.reformatter = av.video.reformatter.VideoReformatter()
    exchanged, mirrored, upside_down = turn
    height, width = size or (frame.height, frame.width)
    height, width = (width, height) if exchanged else (height, width)
    array = _own.reformatter.reformat(frame, width, height, pixels, interpolation="BILINEAR", threads=1).to_ndarray()
    array = array if array.ndim == 3 else array[..., None]
    array = array.swapaxes(0, 1) if exchanged else array
    array = array[:, ::-1] if mirrored else array
    return array[::-1] if upside_down else array
