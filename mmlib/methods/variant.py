"""What a method's name stands for: a class, and options that differ from its defaults."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mmlib.methods.base import Method
from mmlib.models.classifier import MultimodalClassifier
from mmlib.seeding import seed_for


@dataclass(frozen=True)
class Variant:
    """A method by its class `kind`; `inner`: the class that a weight-averaging method trains like."""

    kind: type[Method]
    inner: type[Method] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[type[Method], ...]:
        """The classes that hold its code."""
        return (self.kind,) if self.inner is None else (self.kind, self.inner)

    def complete(self, **options: Any) -> dict[str, Any]:
        """All its options by name, defaults included. Raises a ValueError for one that it does not take."""
        try:
            bound = inspect.signature(self.kind).bind(None, **self.options | options)
        except TypeError as error:
            raise ValueError(f"{self.kind.__name__} does not take the options {options}: {error}.") from error
        bound.apply_defaults()
        return {name: value for name, value in list(bound.arguments.items())[1:]}

    def build(self, model: MultimodalClassifier, seed: int = 0, **options: Any) -> Method:
        """The method around this model; what it learns besides the model is initialised from the seed alone. Raises a
        ValueError for an unknown option."""
        self.complete(**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("initialise method", seed))
            return self.kind(model if self.inner is None else self.inner(model), **self.options | options)
