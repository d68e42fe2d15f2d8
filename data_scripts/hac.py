"""Prepare HAC (Apache-2.0 tag): 3,381 clips of 7 actions by humans, animals and cartoon figures.

    python -m mmlib data hac --download        three archives from Hugging Face, some 10 GB, lists from SimMMDG
    python -m mmlib data hac --source DIR      DIR holds {human,animal,cartoon}/{videos,flow,audio} and HAC_*_only_*.csv
    python -m mmlib data hac --verify          check what is prepared

Archives: https://huggingface.co/datasets/hdong51/Human-Animal-Cartoon
Lists: https://github.com/donghao51/SimMMDG/tree/main/dataset/HAC_Splits
The weights that the papers start from are those of EPIC-Kitchens (`python -m mmlib data epic_kitchens --help`).
"""

from collections.abc import Sequence
from pathlib import Path

from mmlib.data.clips import hac
from mmlib.data.clips.downloads import download, download_lfs, unpack
from mmlib.data.clips.script import run_script

LISTS = (
    "https://raw.githubusercontent.com/donghao51/SimMMDG/d74cda3bb7aeb617dbaf465828e399e5c1c8b322/dataset/HAC_Splits"
)
HASHES = {
    "HAC_train_only_human.csv": "4592505e84ae0061306cf3b44593330be30de4dc57c11481b49601db3ab2e456",
    "HAC_test_only_human.csv": "fa8a6b0dc35ef87d5d1f5eec3f04850abf67809f6c72579f206b9c64d6ed63a5",
    "HAC_train_only_animal.csv": "cd6b5e5328b908932fe02f6ba9723df10ff80d06657b876c3a170ce15eb4666c",
    "HAC_test_only_animal.csv": "28e2c2482f7fef6a2412bd4acd19e5f13a7d132186b6d00b0d85fd8bcf7770d4",
    "HAC_train_only_cartoon.csv": "2df289fe434ece5871ca77868f0f56be82c37400d12722e36b39667541acdf48",
    "HAC_test_only_cartoon.csv": "06227ea1d45de2e2de033450f1fa684f69af193fa907c92cc7f7f316b7524729",
}
ARCHIVES = "https://huggingface.co/datasets/hdong51/Human-Animal-Cartoon"


def main(arguments: Sequence[str]) -> None:
    run_script(hac.BENCHMARK, __doc__, arguments, download_all)


def download_all(folder: Path) -> None:
    for name, expected in HASHES.items():
        download(f"{LISTS}/{name}", folder / name, expected)
    for domain in hac.DOMAINS:
        archive = folder / f"{domain}.zip"
        download_lfs(f"{ARCHIVES}/raw/main/{archive.name}", f"{ARCHIVES}/resolve/main/{archive.name}", archive)
        if not (folder / f"unpacked_{domain}").exists():
            unpack(archive, folder / f"unpacked_{domain}")
