"""Spoken digits from espeak-ng: a bank of utterances by named speakers, synthesised once and cached.

espeak-ng keeps state from one utterance to the next, so the same call can give slightly different samples later
in a process. The bank is therefore always made in one order, in a process of its own:
`python -m mmlib.data.digits.speech FILE`.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import espeakng_loader
import numpy as np
import torch
import torchaudio

from mmlib.data import cache
from mmlib.source_code import code_hash

_MODULE = "mmlib.data.digits.speech"
SAMPLE_RATE = 8000  # Hz
CLIP_SAMPLES = 6400  # 0.8 s
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# A speaker is an accent with a voice. Accents belong to one domain, voices to one part of the data.
# Breathy voices (f2, f3, f5, whisper, …) use uninitialised noise: no two runs agree, so none of them is used.
ACCENTS = (("gmw/en", "gmw/en-GB-x-rp"), ("gmw/en-US", "gmw/en-US-nyc"), ("gmw/en-GB-scotland", "gmw/en-029"))
VOICES = (("m1", "m3", "m4", "f1", "f4", "steph"), ("m7", "linda"), ("m2", "m6", "belinda"))
SPEEDS = (170, 200, 235)  # words per minute
PITCHES = (35, 60)  # espeak-ng's scale, 0 … 99

_SYNCHRONOUS, _NO_EXIT, _UTF8, _RATE, _PITCH = 2, 0x8000, 1, 1, 3  # constants of espeak-ng's C interface


def utterance_bank() -> dict[str, np.ndarray]:
    """All utterances: `waveform` (U, 6400) int16 at 8 kHz with the word at the start, and for each of them
    `length` (samples), `digit`, `domain`, `part` (0 train, 1 validation, 2 test) and `speaker` (U,)."""
    return cache.cached_arrays(f"speech-{code_hash([_MODULE])}", _bank_from_own_process)


def _bank_from_own_process() -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.npz"
        result = subprocess.run([sys.executable, "-m", _MODULE, str(path)], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"espeak-ng could not make the spoken digits:\n{result.stderr.strip()}")
        return cache.load_arrays(path)


def _synthesise_bank() -> dict[str, np.ndarray]:
    say = _EspeakNG()
    rows, waveforms = [], []
    for domain, accents in enumerate(ACCENTS):
        for part, voices in enumerate(VOICES):
            for accent in accents:
                for voice in voices:
                    speaker = _speaker_number(accent, voice)
                    for digit, word in enumerate(WORDS):
                        for speed in SPEEDS:
                            for pitch in PITCHES:
                                waveforms.append(say(word, f"{accent}+{voice}", speed, pitch))
                                rows.append((digit, domain, part, speaker))
    longest = max(map(len, waveforms))
    padded = torch.zeros(len(waveforms), longest)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform.astype(np.float32) / 32768)
    resampled = torchaudio.functional.resample(padded, say.sample_rate, SAMPLE_RATE)
    lengths = [len(waveform) * SAMPLE_RATE // say.sample_rate for waveform in waveforms]
    if max(lengths) > CLIP_SAMPLES:
        raise RuntimeError(f"An utterance has {max(lengths)} samples; a clip holds {CLIP_SAMPLES}.")
    clip = torch.zeros(len(waveforms), CLIP_SAMPLES)
    width = min(CLIP_SAMPLES, resampled.shape[1])
    clip[:, :width] = resampled[:, :width]
    clip *= 0.5 / clip.abs().amax(1, keepdim=True)
    digit, domain, part, speaker = np.array(rows, dtype=np.int64).T
    return {
        "waveform": (clip * 32767).round().short().numpy(),
        "length": np.array(lengths),
        "digit": digit,
        "domain": domain,
        "part": part,
        "speaker": speaker,
    }


def _speaker_number(accent: str, voice: str) -> int:
    accents = [name for group in ACCENTS for name in group]
    voices = [name for group in VOICES for name in group]
    return accents.index(accent) * len(voices) + voices.index(voice)


class _EspeakNG:
    """The few calls of espeak-ng's C library that are needed to get samples from text. Its folder of voices becomes the
    process's working directory."""

    def __init__(self) -> None:
        self._library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        voices = espeakng_loader.get_data_path()
        os.chdir(voices)  # espeak-ng has room for 159 bytes of their path, and an environment may lie deeper than that
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, b".", _NO_EXIT)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng could not read its voices in {voices}.")
        self._chunks: list[np.ndarray] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._collect)  # kept alive as long as the library may call it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def __call__(self, word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """The word as int16 samples without the silence around it."""
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice!r}.")
        self._library.espeak_SetParameter(_RATE, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        text = word.encode()
        self._library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._chunks)
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 0.02 * np.abs(samples.astype(np.int32)).max())
        return samples[loud[0] : loud[-1] + 1]


if __name__ == "__main__":
    cache.save_arrays(Path(sys.argv[1]).absolute(), _synthesise_bank())
