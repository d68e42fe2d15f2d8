"""CREMA-D: 7,442 clips of 91 actors who say one of 12 sentences with one of 6 emotions; sound and face.

Clip ids are `Actor_Sentence_EMOTION_Level`; the emotion is the class. The lists of the imbalance papers (OGM-GE) share
all 91 actors between training and test, and have no validation part. Three protocols, to be named in every table:

* `ogm`: the papers' lists; the test part is also used to select.
* `ogm-val`: a tenth of the training list, stratified, is held out to select.
* `actors`: five folds of actors; `fold` is tested on, the next one selects, nobody is in two parts.
"""

from pathlib import Path

import numpy as np
import torch

from mmlib.data.cache import source_hash
from mmlib.data.clips.benchmarks import (
    Stored,
    as_dataset,
    check_choice,
    find,
    held_out,
    lines_of,
    parts_of,
    refuse_unknown,
    repeated,
    sound_and_frames,
    splits_of,
)
from mmlib.data.clips.media import every_second, looped, read_media
from mmlib.data.clips.preparation import Clip, Recipe
from mmlib.data.splits import Splits
from mmlib.data.stored import open_prepared
from mmlib.data.transforms import FrameCrop, MagnitudeSpectrogram
from mmlib.seeding import torch_generator

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
PROTOCOLS = ("ogm-val", "ogm", "actors")
LISTS = "https://github.com/fanyunfeng-bit/Modal-Imbalance-PMR/tree/main/data/CREMAD"
SAMPLE_RATE, SECONDS, FRAMES, FOLDS = 22050, 3, 3, 5


def read_list(path: Path) -> list[tuple[str, str]]:
    """(clip, label) of a list without header, `clip_id,LABEL`. Raises a ValueError that names a line that is not."""
    entries = []
    for number, line in enumerate(lines_of(path), 1):
        clip, _, label = line.partition(",")
        if len(clip.split("_")) != 4 or clip.split("_")[2] != label:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not of the form Actor_Sentence_EMOTION_Level,EMOTION."
            )
        entries.append((clip, label))
    refuse_unknown(path, (label for _, label in entries), CLASSES)
    return entries


def read_lists(source: Path) -> dict[str, list[tuple[str, str]]]:
    """The lists of both parts below `source`. Raises a ValueError where a clip is listed twice."""
    lists = {part: read_list(find(source, f"{part}.csv", LISTS)) for part in ("train", "test")}
    twice = repeated(clip for entries in lists.values() for clip, _ in entries)
    if twice:
        raise ValueError(f"{source}: {len(twice)} clips are listed twice, first {twice[0]}.")
    return lists


def recipe(source: Path, name: str = "cremad") -> Recipe:
    """Sound from AudioWAV where that folder is (as in the papers), otherwise the soundtrack of VideoFlash."""
    wav = next((path for path in sorted(source.rglob("AudioWAV")) if path.is_dir()), None)
    videos = next((path for path in sorted(source.rglob("VideoFlash")) if path.is_dir()), source / "VideoFlash")
    clips = []
    for part, entries in read_lists(source).items():
        for clip, label in entries:
            files = {"video": videos / f"{clip}.flv"} | ({"audio": wav / f"{clip}.wav"} if wav else {})
            clips.append(Clip(clip, label, files, {"split": part, "actor": int(clip.split("_")[0])}))
    origin = {"frames": f"{FRAMES} at 1 per second", "sound": "AudioWAV" if wav else "VideoFlash"}
    return sound_and_frames(name, clips, decode, Stored.of(source, SECONDS), SAMPLE_RATE, FRAMES, **origin)


def decode(clip: Clip, stored: Stored) -> tuple[dict[str, np.ndarray], dict[str, float | int | str]]:
    """3 s of sound at 22,050 Hz, repeated where the clip is shorter, and 3 frames."""
    choose = every_second(0.0, np.inf, FRAMES)
    apart = "audio" in clip.files
    media = read_media(clip.files["video"], None if apart else SAMPLE_RATE, choose, stored.size)
    sound = read_media(clip.files["audio"], SAMPLE_RATE) if apart else media
    facts = sound.facts | media.facts | {"sha256": source_hash(*clip.files.values())}
    return {"audio": looped(sound.waveform, stored.seconds * SAMPLE_RATE), "image": media.frames}, facts


def known_traps(clips: list[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    actors = {
        part: {clip.columns["actor"] for clip in clips if clip.columns["split"] == part} for part in ("train", "test")
    }
    shared = len(actors["train"] & actors["test"])
    return [
        f"{shared} of {len(actors['test'])} actors of the test list are in the training list, too (not in `actors`)."
    ]


def load(
    protocol: str = "ogm-val", fold: int = 0, frames: int = 1, size: int = 224, seed: int = 0, folder: str = "cremad"
) -> Splits:
    """Modalities "audio" (1, 257, 188) and "image" (3, frames, size, size), read from disk batch by batch.

    `frames` of the 3 stored ones: the middle ones, at random in training. `seed` draws what is held out, and the folds.
    Raises MissingData, which says how to get the data, where it was not prepared.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    check_choice("fold", fold, range(FOLDS))
    check_choice("frames", frames, range(1, FRAMES + 1))
    prepared = open_prepared(folder)
    crop, spectrogram = FrameCrop(size, whole=True, window=frames), MagnitudeSpectrogram()
    data = as_dataset(prepared, CLASSES, {"audio": spectrogram, "image": crop})
    if protocol == "actors":
        actors = torch.tensor(prepared.manifest["actor"].to_numpy())
        people = actors.unique()
        people = people[torch.randperm(len(people), generator=torch_generator("cremad/actors", seed))]
        of_fold = [torch.isin(actors, people[start::FOLDS]) for start in range(FOLDS)]
        test, validation = of_fold[fold], of_fold[(fold + 1) % FOLDS]
        parts = [data.subset(mask) for mask in (~(test | validation), validation, test)]
    else:
        train, test = parts_of(prepared, data, ("train", "test"))
        parts = [train, test, test] if protocol == "ogm" else [*held_out(train, "cremad", seed), test]
    named = f"{protocol} (fold {fold} of {FOLDS})" if protocol == "actors" else protocol
    return splits_of(prepared, "CREMA-D", named, parts, {"image": crop.random}, SAMPLE_RATE)
