"""Prepare Kinetics-Sounds, the variant of 31 classes: 14,799 training, 1,320 validation and 2,597 test clips.

    python -m mmlib data kinetics_sounds --source DIR      DIR holds the clips (*.mp4) and the lists
    python -m mmlib data kinetics_sounds --verify          check what is prepared

The clips belong to Kinetics-400, whose videos are on YouTube; many are gone by now, and every table says how many.
1. Get the Kinetics-400 archives as https://github.com/cvdfoundation/kinetics-dataset describes (k400_downloader.sh and
   k400_extractor.sh; some 450 GB), and keep the clips that the lists name: <id>_<start>_<end>.mp4 or <id>_<start>.mp4.
2. Get my_train.txt and my_test.txt from https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound
3. With KS_train_val.json below DIR, the validation part is prepared as well. Without it: --protocol ks-val.
4. --allow-missing N allows for clips that are no longer available.
"""

from collections.abc import Sequence

from mmlib.data.clips import kinetics_sounds
from mmlib.data.clips.script import run_script


def main(arguments: Sequence[str]) -> None:
    run_script(kinetics_sounds.BENCHMARK, __doc__, arguments)
