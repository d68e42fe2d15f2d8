"""Data behind one interface: `load(name, **dials)` returns `Splits` for every data set of the kit, `from_folder` a data
set of your own."""

from importlib import import_module
from types import ModuleType

from mmlib.data.cache import MissingData, cache_directory
from mmlib.data.dataset import Batch, MultimodalDataset, concatenate
from mmlib.data.folder import from_folder
from mmlib.data.splits import DomainProtocol, Splits, with_shuffled_labels
from mmlib.data.stored import open_prepared
from mmlib.seeding import one_thread

DIGITS = ("spoken_digits", "av_digits")
# The papers' data: prepared once (`python -m mmlib data NAME`), then read from disk.
CLIPS = ("cremad", "ave", "kinetics_sounds", "epic_kitchens", "hac")
_READERS = {name: f"digits.{name}" for name in DIGITS} | {name: f"clips.{name}" for name in CLIPS}


def module_of(name: str) -> str:
    """The name of the module that reads this data set. Raises a ValueError that lists the available data sets."""
    if name not in _READERS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(_READERS)}.")
    return f"{__name__}.{_READERS[name]}"


def reader(name: str) -> ModuleType:
    """The module that reads this data set, imported only when needed: training on digits needs no video decoder. Raises
    like `module_of`."""
    return import_module(module_of(name))


def load(name: str, **dials: object) -> Splits:
    """The named data set, the same on any number of cores. `dials` are the keyword arguments of its own `load`, which
    says what it raises."""
    with one_thread():
        return reader(name).load(**dials)


def content_of(name: str, dispensable: bool = False) -> str:
    """A hash of the prepared files of this data set; "" for data that is generated, and for no name. Reads no
    clips. Raises MissingData, which says how to get them, where there are none, unless they are `dispensable`."""
    try:
        if name in CLIPS:
            return open_prepared(name).content
        return reader(name).content() if name == "av_digits" else ""
    except MissingData:
        if dispensable:
            return "missing"
        raise


__all__ = [
    "CLIPS",
    "DIGITS",
    "Batch",
    "DomainProtocol",
    "MissingData",
    "MultimodalDataset",
    "Splits",
    "cache_directory",
    "concatenate",
    "content_of",
    "from_folder",
    "load",
    "module_of",
    "reader",
    "with_shuffled_labels",
]
