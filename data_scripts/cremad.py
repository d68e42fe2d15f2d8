"""Prepare CREMA-D (ODbL 1.0): 7,442 clips of 91 actors, 6 emotions; sound and face.

    python -m mmlib data cremad --download        clips from GitHub (git LFS, some 2.5 GB), lists from PMR's repository
    python -m mmlib data cremad --source DIR      DIR holds VideoFlash/*.flv, AudioWAV/*.wav, train.csv and test.csv
    python -m mmlib data cremad --verify          check what is prepared

Clips: https://github.com/CheyneyComputerScience/CREMA-D (without AudioWAV, the sound of VideoFlash is used).
Lists: https://github.com/fanyunfeng-bit/Modal-Imbalance-PMR/tree/main/data/CREMAD, the same as OGM-GE's.
"""

from collections.abc import Sequence
from pathlib import Path

from mmlib.data.clips import cremad
from mmlib.data.clips.downloads import download, download_lfs_files
from mmlib.data.clips.script import run_script

LISTS = "https://raw.githubusercontent.com/fanyunfeng-bit/Modal-Imbalance-PMR/1e5c79b645ad0980c145f016e52a31b935d0d7fc/data/CREMAD"
HASHES = {
    "train.csv": "68d0d3fd253830328fc92c68f3cf2e215db8c5b86757ad9c5112d2c76ba68bde",
    "test.csv": "14866c99301fd56fb4a16f8a7048a8a6372a47069aee9f216443bc718be45f1f",
}
POINTERS = "https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master"
MEDIA = "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master"


def main(arguments: Sequence[str]) -> None:
    run_script(cremad.BENCHMARK, __doc__, arguments, download_all)


def download_all(folder: Path) -> None:
    for name, expected in HASHES.items():
        download(f"{LISTS}/{name}", folder / name, expected)
    clips = [clip for entries in cremad.read_lists(folder).values() for clip, _ in entries]
    names = [
        f"{kind}/{clip}.{suffix}" for kind, suffix in (("VideoFlash", "flv"), ("AudioWAV", "wav")) for clip in clips
    ]
    download_lfs_files({folder / name: (f"{POINTERS}/{name}", f"{MEDIA}/{name}") for name in names})
