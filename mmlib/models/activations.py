"""Activations of frozen trunks, computed once per clip and kept on disk: training then starts at the last stage."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from mmlib.data.cache import atomic_path, cache_directory, kept_at, make_once, set_aside, used
from mmlib.data.dataset import MultimodalDataset
from mmlib.data.splits import Splits
from mmlib.data.stored import StoredRows
from mmlib.models.architecture import Architecture, has_frozen_trunk
from mmlib.source_code import identity_of

_PARTS = ("train", "validation", "test")


def with_cached_activations(
    splits: Splits, architecture: Architecture, device: torch.device
) -> tuple[Splits, Architecture]:
    """The same data, and the architecture that reads it, with the frozen trunks' outputs (float16) in place of
    every modality on disk that training does not augment. An augmented modality differs in every epoch and stays.

    The trunks are those of seed 0 where no weights are published. The outputs are in `$MMLIB_CACHE/activations`, under
    a hash of the clips, the front end and the trunk's weights. Raises a ValueError where the architecture is not
    frozen.
    """
    if not architecture.frozen:
        raise ValueError("Only activations of frozen trunks can be cached: the architecture is not frozen.")
    shapes = splits.train.input_shapes
    model = architecture.build(shapes, len(splits.train.class_names), 0).eval().to(device)
    cached = {}
    for name in shapes:
        stored = isinstance(splits.train.inputs[name], StoredRows)
        if stored and name not in splits.augmentations and has_frozen_trunk(model.encoders[name]):
            cached[name] = _cached_rows(splits, name, model.encoders[name].trunk, device)
    parts = {part: _with_inputs(getattr(splits, part), cached) for part in _PARTS}
    trunks_of = architecture.trunks_of + tuple((name, shapes[name]) for name in cached)
    return replace(splits, **parts), replace(architecture, trunks_of=trunks_of)


def _with_inputs(part: MultimodalDataset, cached: dict[str, StoredRows]) -> MultimodalDataset:
    inputs, front_end = dict(part.inputs), dict(part.front_end)
    for name, everything in cached.items():
        place = torch.searchsorted(everything.rows, part.inputs[name].rows)
        inputs[name] = StoredRows(everything.array, place, everything.content)
        front_end.pop(name, None)
    return replace(part, inputs=inputs, front_end=front_end)


@torch.no_grad()
def _cached_rows(splits: Splits, name: str, trunk: nn.Module, device: torch.device) -> StoredRows:
    """The trunk's output for every row that any part uses; `rows` of the result are the clips' rows, sorted."""
    source: StoredRows = splits.train.inputs[name]
    rows = torch.cat([getattr(splits, part).inputs[name].rows for part in _PARTS]).unique()
    front_end = splits.train.front_end[name]
    digest = hashlib.sha256(f"{source.content} {identity_of(front_end)}".encode() + rows.numpy().tobytes())
    for value in trunk.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    content = digest.hexdigest()[:24]
    path = kept_at(f"activations/{content}.npy")

    def make() -> None:
        with atomic_path(path) as temporary:
            array = None
            for start in tqdm(range(0, len(rows), 16), desc=f"activations of {name}", unit="batch"):
                outputs = trunk(front_end(source.array[rows[start : start + 16]].to(device))).half().cpu().numpy()
                if len(outputs) != len(rows[start : start + 16]):
                    raise ValueError(f"The trunk of {name!r} folds frames into the batch; it cannot be cached.")
                if array is None:
                    array = _space_for(temporary, (len(rows), *outputs.shape[1:]))
                array[start : start + len(outputs)] = outputs
            array.flush()
            del array

    make_once(path, make)
    try:
        array = np.load(path, mmap_mode="c")
    except (ValueError, EOFError) as error:
        print(f"{set_aside(path, error)}: it is made again.")
        path = cache_directory() / "activations" / path.name
        make_once(path, make)
        array = np.load(path, mmap_mode="c")
    used(path)
    return StoredRows(torch.from_numpy(array), rows, content)


def _space_for(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array on disk, to be filled. Its space is taken now: a disk that fills up under a mapped file kills the
    process, without a word."""
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
