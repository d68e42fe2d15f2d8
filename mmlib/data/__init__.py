"""Data behind one interface: `load(name, **dials)` returns `Splits` for every data set of the kit."""

from mmlib.data import av_digits, spoken_digits
from mmlib.data.cache import MissingData, cache_directory
from mmlib.data.dataset import Batch, DomainProtocol, MultimodalDataset, Splits, concatenate, with_shuffled_labels

LOADERS = {"spoken_digits": spoken_digits.load, "av_digits": av_digits.load}


def load(name: str, **dials: object) -> Splits:
    """The named data set. `dials` are the keyword arguments of its own `load`."""
    if name not in LOADERS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(LOADERS)}.")
    return LOADERS[name](**dials)


__all__ = [
    "LOADERS",
    "Batch",
    "DomainProtocol",
    "MissingData",
    "MultimodalDataset",
    "Splits",
    "cache_directory",
    "concatenate",
    "load",
    "with_shuffled_labels",
]
