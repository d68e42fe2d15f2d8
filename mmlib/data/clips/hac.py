"""HAC: 7 actions by humans, animals and cartoon figures (domains), as video, optical flow and sound.

Lists are rows `file.mp4,label`. Layout: `{human,animal,cartoon}/{videos,flow,audio}/`, flow as `<name>_flow_x.mp4` and
`<name>_flow_y.mp4`, sound as `<name>.wav`. An unseen domain is tested on its training and test clips.
"""

from collections.abc import Sequence
from pathlib import Path

from mmlib.data.clips import mmdg
from mmlib.data.clips.benchmark import Found, lines_of, videos_below
from mmlib.data.clips.preparation import Clip

CLASSES = ("sleeping", "watching tv", "eating", "drinking", "swimming", "running", "opening door")
DOMAINS = ("human", "animal", "cartoon")


def read_list(path: Path) -> list[tuple[str, int]]:
    """(file, class number) of a list. Raises a ValueError naming the line that does not fit."""
    entries = []
    for number, line in enumerate(lines_of(path), 1):
        file, _, label = line.rpartition(",")
        if not file.endswith(".mp4") or label not in map(str, range(len(CLASSES))):
            raise ValueError(f"{path}, line {number}: {line!r} is not of the form file.mp4,0 … {len(CLASSES) - 1}.")
        entries.append((file, int(label)))
    return entries


def find_clips(source: Path) -> Found:
    """All clips of the three domains' lists. A clip that is in a training and in a test list is a sample of both.
    Raises a ValueError where a list names a clip twice."""
    clips: dict[str, Clip] = {}
    for domain in DOMAINS:
        home = next((path.parent for path in sorted(source.rglob(f"{domain}/videos"))), source / domain)
        video, flow = videos_below(home / "videos"), videos_below(home / "flow")
        for part in ("train", "test"):
            for file, number in read_list(BENCHMARK.find(source, f"HAC_{part}_only_{domain}.csv")):
                stem = Path(file).stem
                files = {
                    "video": video(stem, home / "videos" / file),
                    "flow x": flow(f"{stem}_flow_x", home / "flow" / f"{stem}_flow_x.mp4"),
                    "flow y": flow(f"{stem}_flow_y", home / "flow" / f"{stem}_flow_y.mp4"),
                    "audio": home / "audio" / f"{stem}.wav",
                }
                key = f"{domain}/{part}/{stem}"
                if key in clips:
                    raise ValueError(f"{key} is listed twice below {source}.")
                clips[key] = Clip(key, CLASSES[number], files, {"split": part, "domain": domain, "video": file})
    return list(clips.values()), mmdg.PARAMETERS


def known_traps(clips: Sequence[Clip]) -> list[str]:
    """What a user of the official lists should know, counted on them."""
    parts: dict[tuple[str, str], set[str]] = {}
    for clip in clips:
        parts.setdefault((clip.columns["domain"], clip.columns["video"]), set()).add(clip.columns["split"])
    again = len(clips) - len(parts)
    leaking = sum(len(there) > 1 for there in parts.values())
    return [
        f"{again} entries of the lists repeat a clip; {leaking} clips are both in a training and a test list.",
        "An unseen domain is tested on its training and its test clips.",
    ]


BENCHMARK = mmdg.DomainBenchmark(
    title="HAC",
    folder="hac",
    lists="https://github.com/donghao51/SimMMDG/tree/main/dataset/HAC_Splits",
    classes=CLASSES,
    find_clips=find_clips,
    decode=mmdg.decode_files,
    known_traps=known_traps,
    domains=DOMAINS,
    target_parts=("train", "validation", "test"),
)
PROTOCOLS = tuple(BENCHMARK.protocols)
load, recipe = BENCHMARK.load, BENCHMARK.recipe
