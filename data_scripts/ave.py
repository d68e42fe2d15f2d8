"""Prepare AVE: 4,143 audio-visual events of 28 classes in 10-second clips.

    python -m mmlib data ave --source DIR      DIR holds AVE/*.mp4, trainSet.txt, valSet.txt and testSet.txt
    python -m mmlib data ave --verify          check what is prepared

The clips come from YouTube; their collectors publish them as AVE_Dataset.zip, which has to be downloaded in a browser:
1. Open https://sites.google.com/view/audiovisualresearch and follow the link to the data set, or open
   https://drive.google.com/open?id=1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK
2. Unpack AVE_Dataset.zip into a folder DIR; it holds clips and lists.
"""

from collections.abc import Sequence

from mmlib.data.clips import ave
from mmlib.data.clips.script import run_script


def main(arguments: Sequence[str]) -> None:
    run_script(ave.BENCHMARK, __doc__, arguments)
