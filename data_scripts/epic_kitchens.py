"""Prepare EPIC-Kitchens for domain generalisation (CC BY-NC 4.0): 10,094 segments, 8 verbs, 3 kitchens.

    python -m mmlib data epic_kitchens --download      pictures and flow from data.bris (128 archives), MM-SADA's lists
    python -m mmlib data epic_kitchens --source DIR    DIR holds rgb/, flow/ and D{1,2,3}_{train,test}.pkl
    python -m mmlib data epic_kitchens --verify        check what is prepared

DIR may hold the segments cut apart instead: {video,flow,audio}/{train,test}/D*/D1_P08_01_<start>_<stop>_<label>.mp4,
flow as …_flow_x.mp4 and …_flow_y.mp4, sound as ….wav, beside the lists.
Archives are read as they are and need not be unpacked. The sound has to be downloaded in a browser:
1. Open https://polybox.ethz.ch/index.php/s/PE2zIL99OWXQfMu and download EPIC-KITCHENS-audio.zip (1.1 GB).
2. Unpack it anywhere below DIR (with --download: $MMLIB_CACHE/downloads/epic_kitchens), then run again.
Pictures and flow: https://data.bris.ac.uk/data/dataset/3h91syskeag572hl6tvuovwv4d
Lists: https://github.com/jonmun/MM-SADA_Domain_Adaptation_Splits
Weights that the papers start from, for notebook 10:
https://download.openmmlab.com/mmaction/recognition/slowfast/slowfast_r101_8x8x1_256e_kinetics400_rgb/slowfast_r101_8x8x1_256e_kinetics400_rgb_20210218-0dd54025.pth
https://download.openmmlab.com/mmaction/recognition/slowonly/slowonly_r50_8x8x1_256e_kinetics400_flow/slowonly_r50_8x8x1_256e_kinetics400_flow_20200704-6b384243.pth
http://www.robots.ox.ac.uk/~vgg/data/vggsound/models/H.pth.tar
"""

from collections.abc import Sequence
from pathlib import Path

from mmlib.data.clips import epic_kitchens
from mmlib.data.clips.downloads import download
from mmlib.data.clips.script import run_script

LISTS = "https://raw.githubusercontent.com/jonmun/MM-SADA_Domain_Adaptation_Splits/master"
HASHES = {
    "D1_train.pkl": "01011c76c5fd892125d7091e7c34da97c5abb822ebe63366a67b07eeb97bc2d9",
    "D1_test.pkl": "9775ce39072635a21883f11095f6bead459f07a3db4deeea894397d9122705b9",
    "D2_train.pkl": "5872f41bd6624901057af20cdd3fd50d9bfe075873226bbbfc86f3d61100288c",
    "D2_test.pkl": "b6b403ec0c72f24818a816590be3d36e67decb7803af20ad91dcf24a6fa62409",
    "D3_train.pkl": "ea46462cc5b5ecad46613e3c6da8cddd3ef9550b59a8d7fd9c67f8e3b81b4b94",
    "D3_test.pkl": "4b09fb41be0dd612d8b2ff4d06466af4422454b6cd90b31d93e6a7ad13cb537f",
}
FRAMES = "https://data.bris.ac.uk/datasets/3h91syskeag572hl6tvuovwv4d/frames_rgb_flow"


def main(arguments: Sequence[str]) -> None:
    run_script(epic_kitchens.BENCHMARK, __doc__, arguments, download_all)


def download_all(folder: Path) -> None:
    for name, expected in HASHES.items():
        download(f"{LISTS}/{name}", folder / name, expected)
        domain, part = name.removesuffix(".pkl").split("_")
        for video in sorted(set(epic_kitchens.read_table(folder / name)["video_id"])):
            for kind in ("rgb", "flow"):
                person = video.partition("_")[0]
                download(f"{FRAMES}/{kind}/{part}/{person}/{video}.tar", folder / kind / part / domain / f"{video}.tar")
