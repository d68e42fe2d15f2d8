"""Training methods. They differ only here; `training.fit` runs them all.

`build(name, model)` makes the method of this name around a model; options go to its constructor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from mmlib.methods.balancing import AGM, MBSD, OGMGE, PMR, MMPareto
from mmlib.methods.base import Method
from mmlib.methods.cmrf import CMRF
from mmlib.methods.erm import ERM, MultiLoss
from mmlib.methods.gmm_adaptive import GMMAdaptive, Purified
from mmlib.methods.mbcd import MBCD
from mmlib.methods.moosa import MOOSA
from mmlib.methods.rna_net import RNANet
from mmlib.methods.sim_mmdg import SimMMDG
from mmlib.methods.weight_averaging import EMA, SWA, SWAD
from mmlib.models.classifier import MultimodalClassifier
from mmlib.seeding import seed_for

# MBCD with some of its components off: the rows of the paper's Table 4, then the arms that make them fair. [kit]
_NOTHING = {"dropout": 0.0, "unimodal": False, "look_ahead": 0.0, "weight": 0.0}
_GCC = {"unimodal": True, "look_ahead": 1e-2}
ABLATION: dict[str, dict[str, Any]] = {
    "none": _NOTHING | {"decay": 0.0},
    "EMA": _NOTHING,
    "AMD+EMA": _NOTHING | {"dropout": "adaptive"},
    "fixed+EMA": _NOTHING | {"dropout": 0.5},
    "GCC+EMA": _NOTHING | _GCC,
    "EMA+DL": _NOTHING | {"weight": 1.0},
    "AMD+GCC+EMA+DL": {},
    "heads+EMA": _NOTHING | {"unimodal": True},
    "AMD+heads+EMA+DL": {"look_ahead": 0.0},
    "GCC+EMA+DL": {"dropout": 0.0},
    "fixed+GCC+EMA+DL": {"dropout": 0.5},
    "second-order": {"order": 2},
    "teacher=student": {"decay": 0.0},
}

METHODS: dict[str, Callable[..., Method]] = {
    "erm": ERM,
    "multi-loss": MultiLoss,
    "ema": lambda model, **options: EMA(ERM(model), **options),
    "swa": lambda model, **options: SWA(ERM(model), **options),
    "swad": lambda model, **options: SWAD(ERM(model), **options),
    "ema + multi-loss": lambda model, **options: EMA(MultiLoss(model), **options),
    "rna-net": RNANet,
    "sim-mmdg": SimMMDG,
    "moosa": MOOSA,
    "cmrf": CMRF,
    "ogm-ge": OGMGE,
    "agm": AGM,
    "mmpareto": MMPareto,
    "pmr": PMR,
    "mbsd": MBSD,
    "gmm-adaptive": GMMAdaptive,
    "purified": Purified,
    "mbcd": MBCD,
    **{f"mbcd: {row}": partial(MBCD, **options) for row, options in ABLATION.items()},
}

# An equal tuning budget: two learning rates by two values of what each method depends on most. [kit]
_OWN: dict[str, tuple[str, tuple[float, float]]] = {
    "erm": ("weight_decay", (0.0, 1e-4)),
    "multi-loss": ("weight_decay", (0.0, 1e-4)),
    "ema": ("half_life", (0.05, 0.2)),
    "swad": ("tolerance", (0.1, 0.3)),
    "ema + multi-loss": ("half_life", (0.05, 0.2)),
    "rna-net": ("weight", (0.1, 1.0)),
    "sim-mmdg": ("contrast", (0.3, 3.0)),
    "moosa": ("contrast", (0.3, 3.0)),
    "cmrf": ("distilled", (0.3, 3.0)),
    "mbcd": ("look_ahead", (1e-2, 1e-1)),
    "ogm-ge": ("strength", (0.1, 0.5)),
    "agm": ("strength", (0.3, 1.0)),
    "mmpareto": ("scale", (1.0, 1.5)),
    "pmr": ("strength", (0.3, 1.0)),
    "mbsd": ("weight", (0.3, 1.0)),
    "gmm-adaptive": ("release", (0.0, 1.0)),
}
GRIDS: dict[str, list[tuple[tuple[str, float], ...]]] = {
    method: [(("learning_rate", rate), (name, value)) for rate in (1e-3, 3e-3) for value in values]
    for method, (name, values) in _OWN.items()
}


def build(name: str, model: MultimodalClassifier, seed: int = 0, **options: Any) -> Method:
    """The named method; what it learns beside the model is initialised from the seed alone."""
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("initialise method", seed))
        try:
            return METHODS[name](model, **options)
        except TypeError as error:
            raise ValueError(f"{name!r} does not take the options {options}: {error}.") from error


__all__ = [
    "ABLATION",
    "AGM",
    "CMRF",
    "EMA",
    "ERM",
    "GRIDS",
    "MBCD",
    "MBSD",
    "METHODS",
    "MOOSA",
    "OGMGE",
    "PMR",
    "SWA",
    "SWAD",
    "GMMAdaptive",
    "MMPareto",
    "Method",
    "MultiLoss",
    "Purified",
    "RNANet",
    "SimMMDG",
    "build",
]
