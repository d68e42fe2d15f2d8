"""What a file says before it is decoded: its streams, its packets on one clock, and whether it ends early."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
from av.stream import Disposition

HOLE = 0.1  # seconds: time stamps that differ by less are rounding, encoders' delays and the like
_SPLICE = 10.0  # seconds: a longer step of MPEG-TS's clock is a splice and no pause
_IN_PACKETS = ("mov", "matroska", "avi", "flv", "asf")  # the length of others is estimated, not declared


class CorruptClip(ValueError):
    """A file that exists but cannot be used; the message names it and says why."""


def chosen_stream(container: av.container.InputContainer, path: Path, kind: str) -> av.stream.Stream:
    """The "video" or "audio" stream that players take: the one marked as default, otherwise the first; cover pictures
    are none. Raises CorruptClip where there is no such stream, or nothing that decodes it."""
    streams = [one for one in getattr(container.streams, kind) if not one.disposition & Disposition.attached_pic]
    if not streams:
        raise CorruptClip(f"{path} has no {kind} stream.")
    stream = next((one for one in streams if one.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise CorruptClip(f"{path}: nothing is known that decodes its {kind} stream.")
    stream.thread_type = "NONE"  # clips are decoded in parallel; threads within one only slow that down
    return stream


class Packets:
    """A file's packets in their order, with time stamps on one clock: where the clock of an MPEG stream starts again,
    it goes on from the end of what was before, for sound and pictures alike.

    After the last packet, CorruptClip is raised where the file ends earlier than it says. A stream is compared with its
    own length, where the file states that, otherwise the longest stream with the length of the file.
    """

    def __init__(self, container: av.container.InputContainer, path: Path) -> None:
        self._container, self._path = container, path
        self._spliced = bool(container.format.flags & av.format.Flags.ts_discont.value)
        self._shifts = [0.0]  # seconds, of the file's parts
        self._part: dict[int, int] = {}  # stream → the part it is in
        self._before: dict[int, float] = {}  # stream → its last time stamp, as in the file
        self._first: dict[int, float] = {}
        self._end: dict[int, float] = {}
        self._longest: float = 0.0  # seconds between two packets of a stream

    def __iter__(self) -> Iterator[av.Packet]:
        packet = None
        for following in self._demuxed():
            if following.size:
                packet = following
                self._place(packet)
            yield following
        if packet is not None:
            self._refuse_early_end(packet)

    def _demuxed(self) -> Iterator[av.Packet]:
        with contextlib.suppress(IndexError):  # PyAV's at its very end, if a stream turned up after the file was opened
            yield from self._container.demux()

    def _place(self, packet: av.Packet) -> None:
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return
        stream, base = packet.stream_index, packet.time_base
        ticks, per = base.numerator, base.denominator  # products of fractions would take a tenth of a clip's time
        time, length = stamp * ticks / per, (packet.duration or 0) * ticks / per
        step = time - self._before.get(stream, time)
        part = self._part.get(stream, 0)
        if self._spliced and not -HOLE <= step <= _SPLICE:
            part += 1
            if part == len(self._shifts):
                self._shifts.append(max(self._end.values()) - time)
        else:
            self._longest = max(self._longest, step)
        self._part[stream], self._before[stream] = part, time
        if part and (shift := round(self._shifts[part] / base)):
            packet.dts = stamp + shift
            packet.pts = None if packet.pts is None else packet.pts + shift
        time = (packet.dts if packet.pts is None else packet.pts) * ticks / per
        self._first[stream] = min(self._first.get(stream, time), time)
        self._end[stream] = max(self._end.get(stream, time), time + length)

    def _refuse_early_end(self, last: av.Packet) -> None:
        lengths = {  # from the clock's zero or its own beginning: files count one or the other
            stream: max(end, end - self._first[stream]) for stream, end in self._end.items()
        }
        for says, lasts in self._declared(lengths):
            if says - lasts > max(0.5, 1.5 * self._longest):
                raise CorruptClip(
                    f"{self._path} says that it lasts {says:.1f} s and ends after {lasts:.1f} s (truncated?)."
                )
        if last.is_corrupt and self._container.format.name.startswith(_IN_PACKETS):
            raise CorruptClip(f"{self._path} ends within a packet (truncated?).")

    def _declared(self, lengths: dict[int, float]) -> list[tuple[float, float]]:
        """Seconds that the file says that something lasts, and how long that lasts."""
        whole = max(lengths.values(), default=0.0)
        if self._container.format.name == "wav":
            return [(_seconds_of_wav(self._path), whole)]
        if not self._container.format.name.startswith(_IN_PACKETS):
            return []
        # AVI counts packets of sound, whose lengths it does not know.
        sounds = () if self._container.format.name == "avi" else self._container.streams.audio
        streams = [one for one in (*self._container.streams.video, *sounds) if one.duration]
        each = [(float(one.duration * one.time_base), lengths.get(one.index, 0.0)) for one in streams]
        return each or [((self._container.duration or 0) / av.time_base, whole)]


def _seconds_of_wav(path: Path) -> float:
    """What the header of a WAV file says, which FFmpeg corrects silently; 0 where it does not say."""
    rate, chunk = 0, b""
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8 and not chunk.startswith(b"data"):
            size = int.from_bytes(chunk[4:], "little")
            if chunk.startswith(b"fmt "):
                rate = int.from_bytes(file.read(size)[8:12], "little")  # bytes in a second
                file.seek(-size, os.SEEK_CUR)
            file.seek(size + size % 2, os.SEEK_CUR)
    size = int.from_bytes(chunk[4:], "little")
    return size / rate if rate and chunk.startswith(b"data") and size != 0xFFFFFFFF else 0.0
