"""CREMA-D: 7,442 clips of 91 actors who say one of 12 sentences with one of 6 emotions; sound and face.

Clip ids are `Actor_Sentence_EMOTION_Level`; the emotion is the class. The lists of the imbalance papers (OGM-GE) share
all 91 actors between training and test, and have no validation part. Three protocols, named in every table:

* `ogm`: the papers' lists; the epoch is selected on the test part.
* `ogm-val`: the epoch is selected on a stratified tenth of the training list, held out.
* `actors`: five folds of actors; tested on `fold`, selected on the next one; no actor is in two parts.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlib.data.cache import source_hash
from mmlib.data.clips.benchmark import (
    FOLDS,
    HELD_OUT,
    Benchmark,
    Decoded,
    Format,
    Found,
    by_part,
    lines_of,
    refuse_repeated,
    refuse_unknown,
    videos_below,
)
from mmlib.data.clips.media import every_second, facts_of, read_media
from mmlib.data.clips.preparation import Clip
from mmlib.data.transforms import FrameCrop, MagnitudeSpectrogram

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
FRAMES = 3  # in the cache
# Blank, silent, without a face, or 61 s long with several emotions. The official lists hold them.
KNOWN_BAD = ("1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD", "1005_IWW_DIS_XX")


def read_list(path: Path) -> list[tuple[str, str]]:
    """(clip, label) of a list without header, `clip_id,LABEL`. Raises a ValueError that names a line of another
    form."""
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
    lists = {part: read_list(BENCHMARK.find(source, f"{part}.csv")) for part in ("train", "test")}
    refuse_repeated(source, "clips", (clip for entries in lists.values() for clip, _ in entries))
    return lists


def find_clips(source: Path) -> Found:
    """Sound from AudioWAV where that folder exists (as in the papers), otherwise the soundtrack of VideoFlash."""
    wav = next((path for path in sorted(source.rglob("AudioWAV")) if path.is_dir()), None)
    videos = next((path for path in sorted(source.rglob("VideoFlash")) if path.is_dir()), source / "VideoFlash")
    find, clips = videos_below(videos), []
    for part, entries in read_lists(source).items():
        for clip, label in entries:
            files = {"video": find(clip, videos / f"{clip}.flv")} | ({"audio": wav / f"{clip}.wav"} if wav else {})
            clips.append(Clip(clip, label, files, {"split": part, "actor": int(clip.split("_")[0])}))
    return clips, {"frames": f"{FRAMES} at 1 per second", "sound": "AudioWAV" if wav else "VideoFlash"}


def decode(clip: Clip, form: Format) -> Decoded:
    """3 s of sound at 22,050 Hz, repeated where the clip is shorter, and 3 frames."""
    choose = every_second(0.0, np.inf, FRAMES)
    apart = "audio" in clip.files
    rate, lost = form.sample_rate, form.most_lost
    media = read_media(clip.files["video"], None if apart else rate, choose, form.size, most_lost=lost)
    sound = read_media(clip.files["audio"], rate, most_lost=lost) if apart else media
    facts = facts_of(media, sound) if apart else media.facts
    arrays = {"audio": form.sound(sound.waveform), "image": media.frames}
    return arrays, facts | {"sha256": source_hash(*clip.files.values())}


def known_traps(clips: Sequence[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    actors = by_part(clips, "actor")
    tested = set(actors["test"])
    shared = len(tested & set(actors["train"]))
    traps = [f"{shared} of {len(tested)} actors of the test list are also in the training list (not in `actors`)."]
    if bad := [clip.key for clip in clips if clip.key in KNOWN_BAD]:
        traps.append(
            f"{len(bad)} clips are known as bad (blank, silent, without a face, several emotions): {', '.join(bad)}; "
            "load(…, without_known_bad=True) leaves them out."
        )
    return traps


BENCHMARK = Benchmark(
    title="CREMA-D",
    folder="cremad",
    lists="https://github.com/fanyunfeng-bit/Modal-Imbalance-PMR/tree/main/data/CREMAD",
    classes=CLASSES,
    protocols={"ogm-val": HELD_OUT, "ogm": "test", "actors": FOLDS},
    front_ends={"audio": MagnitudeSpectrogram(), "image": FrameCrop(whole=True, window=1)},
    frames={"image": FRAMES},
    find_clips=find_clips,
    decode=decode,
    known_traps=known_traps,
    sample_rate=22050,
    seconds=3,
    fold_column="actor",
    folds=5,
    known_bad=KNOWN_BAD,
)
PROTOCOLS = tuple(BENCHMARK.protocols)
load, recipe = BENCHMARK.load, BENCHMARK.recipe
