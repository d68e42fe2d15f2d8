"""The two data sets of spoken and written digits, and ways to degrade their samples."""

from dataclasses import replace

from mmlib.data import load
from mmlib.data.splits import Splits

_CLEAR = {"spoken_digits": {"audio_snr_db": 9.0}, "av_digits": {}}


def load_clear(name: str, training_samples: int, augment: bool, **dials: object) -> Splits:
    """The data set of this name with clear signals, so that what is bad in a sample is bad because a dial made it so;
    about this many training samples, 600 for validation and 900 for the test. Without augmentation networks memorise
    what is wrong within a dozen epochs. Raises what the data set's `load` does."""
    splits = load(name, **_CLEAR[name], **dials)
    return replace(
        splits,
        augmentations=splits.augmentations if augment else {},
        train=splits.train.thinned(training_samples),
        validation=splits.validation.thinned(600),
        test=splits.test.thinned(900),
    )
