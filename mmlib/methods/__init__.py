"""Training methods. They differ only here; `training.fit` runs them all.

`build(name, model)` makes the method of this name around a model.
"""

from collections.abc import Callable

from mmlib.methods.base import Method
from mmlib.methods.erm import ERM, MultiLoss
from mmlib.methods.weight_averaging import EMA, SWA, SWAD
from mmlib.models.classifier import MultimodalClassifier

METHODS: dict[str, Callable[[MultimodalClassifier], Method]] = {
    "erm": ERM,
    "multi-loss": MultiLoss,
    "ema": lambda model: EMA(ERM(model)),
    "swa": lambda model: SWA(ERM(model)),
    "swad": lambda model: SWAD(ERM(model)),
    "ema + multi-loss": lambda model: EMA(MultiLoss(model)),
}


def build(name: str, model: MultimodalClassifier) -> Method:
    """The named method at its default settings."""
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name](model)


__all__ = ["EMA", "ERM", "METHODS", "SWA", "SWAD", "Method", "MultiLoss", "build"]
