"""What EPIC-Kitchens and HAC, the benchmarks of multi-modal domain generalisation (MMDG), share.

Protocols: with `papers`, the epoch is selected on the test part of the training domains [port]; with `held-out`, on a
stratified tenth of their training part.
"""

from functools import partial

import numpy as np

from mmlib.data.cache import source_hash
from mmlib.data.clips.benchmark import HELD_OUT, Benchmark, Decoded, Format
from mmlib.data.clips.media import facts_of, middle_window, read_media
from mmlib.data.clips.preparation import Clip
from mmlib.data.transforms import Augmented, FrameCrop, PowerSpectrogram, noise_and_blank_band

# Frames in the cache, and the interval between them in the video. They are more than the networks read, so that
# training can take a random stretch of them; the papers' pipelines take one from the whole clip.
FRAMES, INTERVALS = {"video": 48, "flow": 12}, {"video": 2, "flow": 4}
WINDOWS = {name: middle_window(FRAMES[name], INTERVALS[name]) for name in FRAMES}
PARAMETERS = {name: f"{FRAMES[name]} frames from the middle, interval {INTERVALS[name]}" for name in FRAMES}
_FLOW_NORM = (128.0, 128.0)
_SELECTS = {"papers": "test", "held-out": HELD_OUT}
DomainBenchmark = partial(
    Benchmark,
    protocols=_SELECTS,
    front_ends={
        "video": FrameCrop(window=32),
        "flow": FrameCrop(mean=_FLOW_NORM, deviation=_FLOW_NORM, window=8),
        "audio": PowerSpectrogram(),
    },
    frames=FRAMES,
    default_modalities=("video", "audio"),
    augmentations={"audio": Augmented(PowerSpectrogram(), noise_and_blank_band)},
)


def decode_files(clip: Clip, form: Format) -> Decoded:
    """Of a clip that is a file each of "video", "flow x", "flow y" and "audio": windows of pictures and flow from its
    middle, and its first 10 s of sound, repeated where it is shorter."""
    lost = form.most_lost
    video = read_media(clip.files["video"], choose=WINDOWS["video"], size=form.size, most_lost=lost)
    flow = [
        read_media(clip.files[f"flow {axis}"], None, WINDOWS["flow"], form.size, "gray", most_lost=lost)
        for axis in ("x", "y")
    ]
    sound = read_media(clip.files["audio"], form.sample_rate, most_lost=lost)
    arrays = {
        "video": video.frames,
        "flow": np.concatenate([one.frames for one in flow], -1),
        "audio": form.sound(sound.waveform),
    }
    return arrays, facts_of(video, *flow, sound) | {"sha256": source_hash(*clip.files.values())}
