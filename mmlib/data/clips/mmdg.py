"""What EPIC-Kitchens and HAC share, the benchmarks of multi-modal domain generalisation (MMDG): stored windows of
frames, pre-processing, and protocols over domains."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mmlib.data.clips.benchmarks import SOUND_RATE, Stored, as_dataset, check_choice, held_out, parts_of, splits_of
from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.splits import Splits
from mmlib.data.stored import open_prepared
from mmlib.data.transforms import Augmented, FrameCrop, PowerSpectrogram, noise_and_blank_band

PROTOCOLS = ("papers", "held-out")
# Frames of a network's window, frames stored, and the interval between them in source frames. More are stored than
# the networks read, so that training can take a random stretch of them; the papers' pipelines do over a whole clip.
VIDEO_FRAMES, VIDEO_STORED, VIDEO_INTERVAL = 32, 48, 2
FLOW_FRAMES, FLOW_STORED, FLOW_INTERVAL = 8, 12, 4
FLOW_NORM = (128.0, 128.0)


def recipe_of(name: str, source: Path, clips: Sequence[Clip], decode: Callable) -> Recipe:
    """The recipe of both: `decode(clip, stored=…)` gives the three arrays."""
    stored = Stored.of(source)
    return Recipe(
        name,
        clips,
        {
            "video": ((VIDEO_STORED, *stored.size, 3), "uint8"),
            "flow": ((FLOW_STORED, *stored.size, 2), "uint8"),
            "audio": ((stored.seconds * SOUND_RATE,), "int16"),
        },
        partial(decode, stored=stored),
        stored.parameters(
            SOUND_RATE,
            video=f"{VIDEO_STORED} frames from the middle, interval {VIDEO_INTERVAL}",
            flow=f"{FLOW_STORED} frames from the middle, interval {FLOW_INTERVAL}",
        ),
    )


def load_domains(
    title: str,
    folder: str,
    classes: tuple[str, ...],
    domains: tuple[str, ...],
    protocol: str,
    modalities: tuple[str, ...],
    size: int,
    seed: int,
    whole_target: bool,
) -> Splits:
    """Training and official test parts of all domains. `papers`: the sources' test part selects [port]; `held-out`: a
    tenth of the training part, stratified, does. `whole_target`: an unseen domain is tested on all its clips."""
    check_choice("protocol", protocol, PROTOCOLS)
    prepared = open_prepared(folder)
    crops = {
        "video": FrameCrop(size, window=VIDEO_FRAMES),
        "flow": FrameCrop(size, FLOW_NORM, FLOW_NORM, window=FLOW_FRAMES),
    }
    spectrogram = PowerSpectrogram(SOUND_RATE)
    front_end = {**crops, "audio": spectrogram}
    for name in modalities:
        check_choice("a modality", name, tuple(front_end))
    data = as_dataset(prepared, classes, {name: front_end[name] for name in modalities}, domains)
    train, test = parts_of(prepared, data, ("train", "test"))
    parts = [*held_out(train, folder, seed), test] if protocol == "held-out" else [train, test, test]
    target_parts = ("train", "test") if whole_target else ("test",)
    if whole_target and protocol == "held-out":
        target_parts = ("train", "validation", "test")
    augmentations = {name: crop.random for name, crop in crops.items()}
    augmentations["audio"] = Augmented(spectrogram, noise_and_blank_band)
    return splits_of(prepared, title, protocol, parts, augmentations, SOUND_RATE, target_parts)
