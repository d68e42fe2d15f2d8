"""From a stream's frames to sound at one rate, on the clock of the file."""

from pathlib import Path

import av
import numpy as np

from mmlib.data.clips.demuxing import HOLE, CorruptClip

_LONGEST = 60.0  # seconds of silence that a damaged time stamp may ask for


class Waveform:
    """Collects sound as mono int16 at one rate, from `start` to `stop` (seconds; None: to the end).

    Rate and channels may change from frame to frame. Where time stamps leave a hole of more than a tenth of a second,
    as after packets that cannot be decoded, there is silence, so that what follows comes when it should; a shorter one
    is within what time stamps are rounded to.
    """

    def __init__(self, sample_rate: int, start: float, stop: float | None, path: Path) -> None:
        self.sample_rate, self.start, self.stop, self._path = sample_rate, start, stop, path
        self.zero: float | None = None  # of the clock, where the file is not read from its beginning
        self.begin: float | None = None  # the first frame's time in seconds, on the file's clock
        self.own_rate = 0  # Hz, of the first frame
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._parts: list[np.ndarray] = []
        self._heard = 0.0  # seconds so far, of the sound itself
        self.complete = False

    def take(self, frame: av.AudioFrame) -> None:
        if self.begin is None:
            self.begin, self.own_rate = frame.time or 0.0, frame.sample_rate
        hole = 0.0 if frame.time is None else frame.time - self.begin - self._heard
        if hole > HOLE:
            self._silence(hole)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._format:
            self._finish()
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self.sample_rate)
            self._format = form
        self._heard += frame.samples / frame.sample_rate
        frame.pts = None  # a rounded time stamp would move samples
        self._parts += [part.to_ndarray()[0] for part in self._resampler.resample(frame)]
        # Sound that begins after the pictures fills the stretch earlier, but how late it is is not known yet.
        skipped = 0.0 if self.zero is None else self.begin - self.zero
        self.complete = self.stop is not None and skipped + self._heard > self.stop + HOLE

    def _silence(self, seconds: float) -> None:
        if seconds > _LONGEST:
            raise CorruptClip(f"{self._path}: its sound stops for {seconds:.0f} s, more than any clip's.")
        self._finish()
        self._parts.append(np.zeros(round(seconds * self.sample_rate), np.int16))
        self._heard += seconds

    def _finish(self) -> None:
        """Take out what the resampler holds back; the next frame gets another one."""
        if self._resampler is not None:
            self._parts += [part.to_ndarray()[0] for part in self._resampler.resample(None)]
        self._resampler = self._format = None

    def samples(self, late: float) -> np.ndarray:
        """The stretch requested (samples,), where the first sample lies `late` seconds after the clock's zero. Raises
        CorruptClip where nothing of it is there."""
        self._finish()
        heard = np.concatenate(self._parts) if self._parts else np.zeros(0, np.int16)
        begin = round((self.start - late) * self.sample_rate)
        end = None if self.stop is None else max(0, begin + round((self.stop - self.start) * self.sample_rate))
        stretch = heard[max(0, begin) : end]
        if not len(stretch):
            raise CorruptClip(f"{self._path} has no sound from {self.start:.2f} s on.")
        if -begin > _LONGEST * self.sample_rate:
            raise CorruptClip(f"{self._path}: its sound begins after {late:.0f} s, later than any clip's.")
        return np.concatenate([np.zeros(max(0, -begin), np.int16), stretch])


def share_of_silence(samples: np.ndarray, sample_rate: int) -> float:
    """The share of hundredths of a second (samples,) in which nothing was recorded, not even noise."""
    block = max(1, sample_rate // 100)
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    return round(float((np.abs(blocks.astype(np.int32)).max(1) <= 1).mean()), 3) if len(blocks) else 0.0
