"""What makes two runs the same. This is decided here, from plain values, and nowhere else:

* the run: method with all its options, modalities, domains, seed;
* the configuration, and the kind of device;
* the architecture, with the content of published weights;
* the data: every part's content, ground truth included, and its augmentation;
* the code that the method and the training loop can reach (`source_code`), and torch's version.

No network is built to identify a run. A kept result carries the identity of its run, a checkpoint those of
all runs that are trained together.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from mmlib import methods
from mmlib.data.splits import Splits
from mmlib.models.architecture import Architecture
from mmlib.source_code import changed_since_import, code_hash, identity_of
from mmlib.training.loop import TrainingConfig
from mmlib.training.run import Run


def identities(
    runs: Sequence[Run],
    splits: Splits,
    config: TrainingConfig,
    architecture: Architecture,
) -> dict[Run, str]:
    """The identity of each run, 24 hexadecimal digits. Raises a ValueError for a method, an option or a setting that
    does not exist."""
    shared = (
        [getattr(splits, part).fingerprint() for part in ("train", "validation", "test")],
        sorted((name, identity_of(function)) for name, function in splits.augmentations.items()),
        splits.target_parts,
        architecture.identity(),
        torch.__version__,
        config.torch_device.type,
    )
    code = {name: code_of_training(methods.variant(name)) for name in {run.method for run in runs}}
    return {run: _digest((shared, _of_run(run, config), code[run.method])) for run in runs}


_AVERAGES = (methods.EMA, methods.SWA, methods.SWAD)  # they change nothing but an average of their own
_AVERAGED = (methods.ERM, methods.MultiLoss)  # they do nothing besides their steps, and keep nothing between them


def trajectory(run: Run, config: TrainingConfig, variant: methods.Variant) -> Hashable:
    """The same for runs, of the same data, that train the same network in the same way and differ in what is averaged
    of it. Any other method trains alone: among others, what it does besides its steps it would do several times."""
    configured, _ = run.configured(config)
    trained = variant.inner if variant.kind in _AVERAGES else variant.kind
    return (trained, configured, replace(run, method="", settings=())) if trained in _AVERAGED else run


def _of_run(run: Run, config: TrainingConfig) -> tuple[object, ...]:
    variant = methods.variant(run.method)
    configured, options = run.configured(config)
    return (
        identity_of(dict(sorted(variant.complete(**options).items()))),
        (run.modalities, run.source, run.target),
        replace(configured, device="auto"),
    )


def code_of_training(variant: methods.Variant) -> str:
    """The code that decides what training with this method does: its own, that of one run, and what they import. The
    table of all methods is not among it: another method's code decides nothing here."""
    modules, registry = ("mmlib.training.run", "mmlib.methods.variant"), ("mmlib.methods",)
    own = [kind.__module__ for kind in variant.classes if kind.__module__.startswith("mmlib.")]
    if changed := changed_since_import((*modules, *own), registry):
        raise RuntimeError(
            f"{', '.join(changed)} changed since this process imported it: restart the kernel, so that what is kept "
            "was trained by the code that is there."
        )
    return f"{code_hash(modules, registry)} {[identity_of(kind) for kind in variant.classes]}"


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
