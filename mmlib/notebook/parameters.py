"""The parameters of notebooks: one table of those that several share, and the check in a set-up cell.

A notebook declares its parameters in its first code cell, each with type, default and comment. Its set-up cell calls
`settings = Settings(globals(), …)`. Parameters of the table are checked by the table; keywords add the notebook's own,
and narrow others. Allowed values are written as literals: `(low, high)` for numbers, both included (two integers:
integers only), texts to choose from, or a type. `str` among the choices of `target` and `protocol` stands for the
domains and protocols of the data set, `int` for `frames` for at most as many as it stores.

`python -m mmlib run` checks the same for every run before the first one starts. It reads that call and executes
nothing. It knows these parameters by name: `dataset` or `benchmark` (the data a run reads) with `data` (whether a
stand-in will do), `weights` with `modalities` (the published weights it starts from), `device` (the GPU it waits for),
`seeds` with `first_seed` (what is pooled), `epochs` with `warm_up` (what a budget of minutes scales), `method` with the
text `rivals` (which must exist, and be methods; a file is read before, and its content is part of what a run is).
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, NamedTuple

from mmlib.checks import Number, Text, Whole, check
from mmlib.data import DIGITS, reader
from mmlib.data.digits.degradation import KINDS
from mmlib.source_code import parsed
from mmlib.training import DEVICE, TUNING, TrainingConfig


class BadParameter(ValueError):
    """A parameter that does not exist or has a wrong value; the message names it and what is allowed."""


class Shared(NamedTuple):
    """A parameter that several notebooks share: its allowed values, and its meaning in all of them."""

    allowed: Any
    meaning: str


SHARED = {
    "dataset": Shared(DIGITS, '"spoken_digits" (made here), or "av_digits" (real recordings; prepare them first)'),
    "target": Shared(("auto", str), "the domain that training never sees"),
    "degradation": Shared(KINDS, 'what is wrong with bad samples: "mismatch", "noise" or "masking"'),
    "degraded_in": Shared(("train", "everywhere"), '"train": only training samples'),
    "conditions": Shared(
        Text(r"(clean|swapped|noisy)(, *(clean|swapped|noisy))*", 'some of "clean, swapped, noisy"'),
        "what training samples are like, one contest each",
    ),
    "share": Shared(Number(0.01, 0.9), "share of samples that are degraded, in each modality"),
    "training_samples": Shared(Whole(100, 10**6), "approximate number of training samples"),
    "draw": Shared(Whole(0), "which samples are drawn, and which of them are degraded"),
    "seeds": Shared(Whole(2, 100), "independent runs behind every interval"),
    "first_seed": Shared(Whole(0, 899), "number of the first run; the others count up from it"),
    "epochs": Shared(Whole(1, 1000), "passes over the training data"),
    "warm_up": Shared(Whole(1, 999), "epochs of plain training before the mixture is used"),
    "batch_size": Shared(Whole(2, 4096), "clips per step"),
    "learning_rate": Shared(Number(1e-6, 1.0), "of the optimiser"),
    "weight_decay": Shared(Number(0.0, 1.0), "of the optimiser"),
    "tuning": Shared(
        TUNING, '"none"; "grid": each method\'s settings by validation data, of four; "mmdg-bench": of eleven'
    ),
    "tuned": Shared(bool, "choose each method's settings on validation data first, from equally large grids"),
    "rivals": Shared(bool, "also compare with more methods"),
    "directions": Shared(Whole(2, 1000), "random directions for the loss increase"),
    "data": Shared(("auto", "real", "stand-in"), '"auto": the prepared clips, or a stand-in where there are none'),
    "precision": Shared(("float32", "tf32", "bfloat16"), '"float32", "tf32", or "bfloat16" on a GPU'),
    "device": Shared(DEVICE, '"auto": a GPU where there is one; "cpu"; "cuda"'),
}


class Settings(SimpleNamespace):
    """A notebook's parameters as attributes, all of them checked: `values` holds them by name (and may hold
    more), `own` the allowed values of those that the table does not have, or that are narrower here. Raises
    BadParameter."""

    def __init__(self, values: Mapping[str, Any], **own: Any) -> None:
        allowed = {name: shared.allowed for name, shared in SHARED.items() if name in values} | own
        if missing := sorted(own.keys() - values.keys()):
            raise BadParameter(f"There is no parameter {', '.join(missing)} to check.")
        data_set = {name: _plain(allowed.pop(name)) for name in ("dataset", "benchmark") if name in allowed}
        check(values, data_set, error=BadParameter)
        for name in data_set:
            allowed |= _of_data(values[name], allowed)
        check(values, {name: _plain(what) for name, what in allowed.items()}, error=BadParameter)
        super().__init__(**{name: values[name] for name in (*data_set, *allowed)})
        self._check_together()

    def _check_together(self) -> None:
        chosen = vars(self)
        if chosen.get("warm_up", 0) >= chosen.get("epochs", 1000):
            raise BadParameter(f"warm_up must be shorter than training, {self.epochs} epochs; it is {self.warm_up}.")
        if chosen.get("flow") and self.dataset != "spoken_digits":
            raise BadParameter(f"flow exists in spoken_digits only, not in {self.dataset}.")

    @property
    def numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def targets(self, domains: tuple[str, ...]) -> tuple[str, ...]:
        """The domains to leave out of training, one at a time: "auto" is the last one, "all" each of them, "none" the
        empty name, which leaves out none."""
        return {"auto": domains[-1:], "all": domains, "none": ("",)}.get(self.target, (self.target,))

    def training(self, **more: Any) -> TrainingConfig:
        """The training configuration that these parameters describe."""
        names = {field.name for field in fields(TrainingConfig)}
        return TrainingConfig(**{name: value for name, value in vars(self).items() if name in names} | more)


def _plain(allowed: Any) -> Any:
    """`(low, high)` as a range; anything else unchanged."""
    if isinstance(allowed, tuple) and len(allowed) == 2 and all(type(end) in (int, float) for end in allowed):
        return Number(*allowed, whole=all(type(end) is int for end in allowed))
    return allowed


def _of_data(name: str, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's allowed values of `target`, `protocol` and `frames`, where those are among the parameters."""
    if not {"target", "protocol", "frames"} & allowed.keys():
        return {}
    of = reader(name)
    filled = {}
    for parameter, choices in {"target": "DOMAINS", "protocol": "PROTOCOLS"}.items():
        if parameter in allowed:
            written = allowed[parameter] if isinstance(allowed[parameter], tuple) else (allowed[parameter],)
            filled[parameter] = (*(one for one in written if one is not str), *getattr(of, choices))
    return filled | ({"frames": Whole(1, of.FRAMES)} if "frames" in allowed else {})


TYPES = {"int": int, "float": float, "str": str, "bool": bool}


def own_of(cells: Iterable[str]) -> dict[str, Any] | None:
    """What the call of `Settings` in these cells' source says about the notebook's own parameters; None where there is
    no such call. Raises BadParameter where a keyword is not a literal."""
    for cell in cells:
        for node in ast.walk(parsed(cell)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Settings":
                return {keyword.arg: _written(keyword) for keyword in node.keywords}
    return None


def _written(keyword: ast.keyword) -> Any:
    def read(node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in TYPES:
            return TYPES[node.id]
        return tuple(map(read, node.elts)) if isinstance(node, ast.Tuple) else ast.literal_eval(node)

    try:
        allowed = read(keyword.value)
        if not isinstance(allowed, tuple | type):
            raise ValueError("neither alternatives nor a type")
    except (ValueError, TypeError) as error:
        raise BadParameter(
            f"The allowed values of {keyword.arg} must be literals, not {ast.unparse(keyword.value)}: (low, high), "
            "several texts, or a type."
        ) from error
    return allowed
