"""Training methods. They differ only here; `training.fit` runs them all.

`build(name, model)` makes the method of this name around a model; options go to its constructor. `register` adds one of
one's own for as long as the process lives, `registered` one from a file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmlib.methods.balancing import AGM, MBSD, OGMGE, PMR, MMPareto
from mmlib.methods.base import Method
from mmlib.methods.cmrf import CMRF
from mmlib.methods.erm import ERM, MultiLoss
from mmlib.methods.gmm_adaptive import GMMAdaptive, Purified
from mmlib.methods.mbcd import MBCD
from mmlib.methods.moosa import MOOSA
from mmlib.methods.own import Tune, WrongMethod, check_class, read
from mmlib.methods.rna_net import RNANet
from mmlib.methods.sim_mmdg import SimMMDG
from mmlib.methods.united import United
from mmlib.methods.variant import Variant
from mmlib.methods.weight_averaging import EMA, SWA, SWAD
from mmlib.models.classifier import MultimodalClassifier
from mmlib.seeding import torch_generator

# MBCD with some of its components switched off: the rows of the paper's Table 4, then their matched baselines. [kit]
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

METHODS: dict[str, Variant] = {
    "erm": Variant(ERM),
    "multi-loss": Variant(MultiLoss),
    "ema": Variant(EMA, ERM),
    "swa": Variant(SWA, ERM),
    "swad": Variant(SWAD, ERM),
    "ema + multi-loss": Variant(EMA, MultiLoss),
    "rna-net": Variant(RNANet),
    "sim-mmdg": Variant(SimMMDG),
    "moosa": Variant(MOOSA),
    "cmrf": Variant(CMRF),
    "ogm-ge": Variant(OGMGE),
    "agm": Variant(AGM),
    "mmpareto": Variant(MMPareto),
    "pmr": Variant(PMR),
    "mbsd": Variant(MBSD),
    "gmm-adaptive": Variant(GMMAdaptive),
    "purified": Variant(Purified),
    "mbcd": Variant(MBCD),
    "mbcd + gmm": Variant(United),
    **{f"mbcd: {row}": Variant(MBCD, options=options) for row, options in ABLATION.items()},
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
    "mbcd + gmm": ("half_life", (0.05, 0.2)),
}


def _grid(name: str, values: Sequence[Any]) -> list[tuple[tuple[str, Any], ...]]:
    return [(("learning_rate", rate), (name, value)) for rate in (1e-3, 3e-3) for value in values]


GRIDS = {method: _grid(*own) for method, own in _OWN.items()}
_KITS = frozenset(METHODS)

# The search spaces of the public benchmark (MMDG-Bench, arXiv 2605.06643): option → its default there, and the ends of
# what is drawn uniformly. Methods that the benchmark does not have get MBCD's averaging, or nothing. [kit]
_AVERAGING = {"decay": (0.999, 0.9, 1.0)}
_BENCH_SPACES: dict[str, dict[str, tuple[float, float, float]]] = {
    "erm": {},
    "multi-loss": {},
    "ema": _AVERAGING,
    "swad": {},
    "ema + multi-loss": _AVERAGING,
    "rna-net": {"weight": (1.0, 0.0, 3.0)},
    "sim-mmdg": {"translation": (0.1, 0.0, 1.0), "distance": (0.7, 0.0, 1.0), "contrast": (3.0, 0.0, 5.0)},
    "moosa": {"sharpen": (1e-3, 0.0, 1.0), "jigsaw": (1.0, 0.0, 3.0), "masked": (0.3, 0.0, 1.0)},
    "cmrf": {"distilled": (3.0, 0.0, 5.0), "unimodal": (2.0, 0.0, 5.0)},
    "mbcd": _AVERAGING
    | {"weight": (1.0, 0.0, 2.0), "unimodal_weight": (1.0, 0.0, 2.0), "base": (0.0, 0.0, 1.0)}
    | {"look_ahead": (1e-4, 1e-4, 1e-4)},
}


def bench_configurations(name: str, count: int = 10) -> list[tuple[tuple[str, float], ...]]:
    """What MMDG-Bench's protocol tries for a method: its default there, and `count` random draws from its space, the
    same in every process; a method without options has one configuration. Raises a ValueError that lists the methods
    with a space."""
    if name not in _BENCH_SPACES:
        raise ValueError(f"MMDG-Bench has no space for {name!r}, only for {', '.join(_BENCH_SPACES)}.")
    space = _BENCH_SPACES[name]
    if not space:
        return [()]
    draws = torch.rand(count, len(space), generator=torch_generator("mmdg-bench", name), dtype=torch.double).tolist()
    drawn = [[low + (high - low) * u for u, (_, low, high) in zip(row, space.values(), strict=True)] for row in draws]
    defaults = [default for default, _, _ in space.values()]
    return [tuple(zip(space, values, strict=True)) for values in (defaults, *drawn)]


def variant(name: str) -> Variant:
    """The class and options behind this name. Raises a ValueError that lists the methods."""
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def grid(name: str) -> list[tuple[tuple[str, Any], ...]]:
    """The settings that tuning tries for this method. Raises a ValueError for one that has none."""
    if name not in GRIDS:
        raise ValueError(
            f"{name} cannot be tuned: nothing says by which option. A method of your own says so with TUNE = "
            '("weight", (0.1, 0.3)) in its file, or register(…, tune=…).'
        )
    return GRIDS[name]


def register(name: str, kind: type[Method], tune: Tune | None = None) -> None:
    """Give a class of one's own a name for this session: runs, tables and tuning then know it like the kit's. `tune`:
    an option and the two values that `GRIDS` tries. A second registration replaces the first; the kit's own names
    cannot be replaced. Raises WrongMethod."""
    if not isinstance(name, str) or not name.strip() or name in _KITS:
        raise WrongMethod(f"{name!r} cannot be the name of your method: it is a method of the kit, or no name.")
    check_class(name, kind, tune)
    METHODS[name] = Variant(kind)
    GRIDS.pop(name, None)
    if tune is not None:
        GRIDS[name] = _grid(*tune)


def registered(method: str) -> str:
    """The name of a method that exists, as it is, or of the one in a file `….py`, which is registered under the file's
    name. Raises WrongMethod for a file without exactly one method, and like `variant`."""
    if not method.endswith(".py"):
        variant(method)
        return method
    path = Path(method)
    register(path.stem, *read(path))
    return path.stem


def build(name: str, model: MultimodalClassifier, seed: int = 0, **options: Any) -> Method:
    """The named method around this model, initialised from the seed alone. Raises a ValueError for an unknown name or
    option."""
    return variant(name).build(model, seed, **options)


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
    "United",
    "Variant",
    "WrongMethod",
    "bench_configurations",
    "build",
    "grid",
    "register",
    "registered",
    "variant",
]
