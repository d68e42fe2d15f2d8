"""Data behind one interface: `load(name, **dials)` returns `Splits` for every data set of the kit."""

from mmlib.data import av_digits, ave, cremad, epic_kitchens, hac, kinetics_sounds, spoken_digits
from mmlib.data.cache import MissingData, cache_directory
from mmlib.data.dataset import Batch, MultimodalDataset, concatenate
from mmlib.data.splits import DomainProtocol, Splits, with_shuffled_labels
from mmlib.data.stored import open_prepared

LOADERS = {"spoken_digits": spoken_digits.load, "av_digits": av_digits.load}
# The papers' data, by the module that reads it: prepared once (`python -m mmlib data NAME`), then read from disk.
BENCHMARKS = {
    "cremad": cremad,
    "ave": ave,
    "kinetics_sounds": kinetics_sounds,
    "epic_kitchens": epic_kitchens,
    "hac": hac,
}


def load(name: str, **dials: object) -> Splits:
    """The named data set. `dials` are the keyword arguments of its own `load`."""
    loaders = LOADERS | {name: reader.load for name, reader in BENCHMARKS.items()}
    if name not in loaders:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(loaders)}.")
    return loaders[name](**dials)


def content_of(name: str, dispensable: bool = False) -> str:
    """What the prepared files of this data set hold, as a hash; "" for data that code makes, and for no name. Reads no
    clips. Raises MissingData, which says how to get them, where there are none, unless they are `dispensable`."""
    try:
        if name in BENCHMARKS:
            return open_prepared(name).content
        return av_digits.content() if name == "av_digits" else ""
    except MissingData:
        if dispensable:
            return "missing"
        raise


__all__ = [
    "BENCHMARKS",
    "LOADERS",
    "Batch",
    "DomainProtocol",
    "MissingData",
    "MultimodalDataset",
    "Splits",
    "cache_directory",
    "concatenate",
    "content_of",
    "load",
    "with_shuffled_labels",
]
