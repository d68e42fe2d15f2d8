"""The state from which interrupted training resumes, written completely or not at all."""

import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmlib.data.cache import atomic_path, set_aside


@dataclass
class Checkpoint:
    """Where a run saves its state, and which run that is.

    `identity` is the run's (`training.identity`): a file of another run is refused and stays. `beside`: those of runs
    that are trained together with it, and their paths. All of these are names of one file (copies of it, where a disk
    knows no hard links), so that each run resumes, whichever others it is then asked for with. State is written after
    an epoch, but not more often than every `seconds`: a killed run loses at most that much and one epoch.
    """

    path: Path
    identity: str
    seconds: float = 20.0
    beside: Mapping[str, Path] = field(default_factory=dict)
    _written: float = field(default_factory=time.monotonic, init=False)

    @property
    def runs(self) -> tuple[str, ...]:
        """The identities of all of them."""
        return self.identity, *self.beside

    def write(self, state: dict[str, Any]) -> None:
        """Save this state (tensors, plain values and containers of them), unless the last one is too recent."""
        if time.monotonic() - self._written < self.seconds:
            return
        self._written = time.monotonic()
        try:
            save(self.path, {"runs": self.runs, **state})
            for other in self.beside.values():
                with atomic_path(other) as temporary:
                    _link(self.path, temporary)
        except OSError as error:
            self.seconds = math.inf  # said once
            print(f"{self.path} could not be written ({error}); the training continues without.")

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """The state, on this device; None where there is none yet. Raises a ValueError for a file of another
        run. A damaged file is set aside."""
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            found = state["runs"]
        except MemoryError:
            raise
        except Exception as error:
            print(f"{set_aside(self.path, error)}: the training starts again.")
            return None
        if not set(self.runs) <= set(found):
            raise ValueError(f"{self.path} belongs to another run. Delete it, or use another checkpoint.")
        return state


def _link(path: Path, new: Path) -> None:
    new.unlink()
    try:
        os.link(path, new)
    except OSError:  # not on this disk
        shutil.copyfile(path, new)


def remove(path: Path) -> None:
    """The run's training has ended and its result is kept elsewhere. What killed writers have left goes, too."""
    for one in (path, *path.parent.glob(f".{path.name}.*.part")):
        one.unlink(missing_ok=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write it completely or not at all. Raises an OSError where the disk does not take it."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # about torch's inner workings, on the way of which the disk's own message is
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
