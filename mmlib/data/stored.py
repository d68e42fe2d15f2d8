"""Prepared data on disk: one memory-mapped array per modality and a manifest with one row per clip.

    <cache>/<name>/prepared.json   what was prepared, with which parameters, and counts of clips
    <cache>/<name>/manifest.csv    key, label, status, the splits' own columns, facts and source hash of every clip
    <cache>/<name>/<modality>.npy  (clips, …), rows in the manifest's order

`data.clips.preparation` writes it; `open_prepared` reads it. Nothing is loaded before a batch needs it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmlib.data.cache import MissingData, cache_directory, kept_at


class StoredRows:
    """Some rows of a memory-mapped array, in some order, in place of a tensor (N, …): selecting rows reads nothing,
    indexing reads the rows requested. `content` identifies what the array holds, for fingerprints."""

    device = torch.device("cpu")

    def __init__(self, array: Tensor, rows: Tensor, content: str) -> None:
        self.array, self.rows, self.content = array, rows, content

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        # NumPy's indexing, which starts no threads of its own: batches are read in a thread alongside training.
        return torch.from_numpy(self.array.numpy()[self.rows[indices].numpy()])

    @property
    def shape(self) -> torch.Size:
        """(N, …), as for the tensor it stands for."""
        return torch.Size((len(self.rows), *self.array.shape[1:]))

    @property
    def ndim(self) -> int:
        """As for the tensor it stands for, like the next four."""
        return self.array.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.array.dtype

    def is_floating_point(self) -> bool:
        return self.array.is_floating_point()

    def numel(self) -> int:
        return self.shape.numel()

    def element_size(self) -> int:
        return self.array.element_size()

    def select(self, selection: Tensor) -> "StoredRows":
        """These rows (int64), still unread."""
        return StoredRows(self.array, self.rows[selection.cpu()], self.content)

    def to(self, device: str | torch.device) -> "StoredRows | Tensor":
        """On another device as a tensor, read as a whole; on the CPU unchanged."""
        return self if torch.device(device).type == "cpu" else self[:].to(device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Pieces of this many rows, each read when it is reached."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def fingerprint(self) -> str:
        """What the array holds, and which rows of it in which order."""
        digest = hashlib.sha256(self.rows.numpy().data).hexdigest()
        return f"{self.content} {digest}"


def selected(values: Tensor | StoredRows, selection: Tensor) -> Tensor | StoredRows:
    """The rows at these indices (int64); rows on disk stay there."""
    return values.select(selection) if isinstance(values, StoredRows) else values[selection]


def joined(parts: list[Tensor | StoredRows]) -> Tensor | StoredRows:
    """The rows of several parts, concatenated; parts of one array on disk stay there."""
    first = parts[0]
    if isinstance(first, StoredRows) and all(isinstance(p, StoredRows) and p.array is first.array for p in parts):
        return StoredRows(first.array, torch.cat([part.rows for part in parts]), first.content)
    return torch.cat([part[:] for part in parts])


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: its manifest (the clips that are there), its arrays, its parameters, and the number of clips
    that were expected."""

    folder: Path
    manifest: pd.DataFrame
    arrays: dict[str, StoredRows]
    parameters: dict[str, object]
    expected: int
    content: str  # a hash of what it was made from

    @property
    def missing(self) -> int:
        """Number of clips that are missing or corrupt; manifest.csv names them."""
        return self.expected - len(self.manifest)


def folder_of(name: str) -> Path:
    """Where the data set of this name is, or will be."""
    return cache_directory() / name


def read_manifest(folder: Path) -> tuple[dict, pd.DataFrame]:
    """prepared.json and manifest.csv, all rows, text as text. Raises a ValueError where one is damaged."""
    try:
        about = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False, na_values=[""])
        text = ["key", "label", "split", "status", "reason"]
        manifest[text] = manifest[text].astype(object).fillna("").astype(str)
        assert len(manifest) == about["clips"]
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(f"{folder} is damaged ({error!r}). Delete it and prepare the data again.") from error
    return about, manifest


def map_arrays(folder: Path, about: dict) -> dict[str, Tensor]:
    """The arrays, memory-mapped. Raises a ValueError that names the first file whose size or shape is wrong."""
    arrays = {}
    for name, shape in about["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete {folder} and prepare the data again.") from error
        if list(array.shape) != [about["clips"], *shape]:
            raise ValueError(f"{path} has shape {array.shape}; expected {(about['clips'], *shape)}.")
        arrays[name] = torch.from_numpy(array)
    return arrays


def open_prepared(name: str) -> Prepared:
    """The prepared data set `name`. Raises MissingData, which says how to get it, where it was not prepared,
    and a ValueError where it is damaged."""
    folder = kept_at(name)
    if not (folder / "prepared.json").exists():
        raise MissingData(
            f"{name} is not prepared ({folder} does not exist). Run `python -m mmlib data {name} --source DIR`; "
            f"`python -m mmlib data {name}` says where the files come from."
        )
    about, manifest = read_manifest(folder)
    there = manifest[manifest["status"] == "prepared"]
    rows = torch.tensor(there.index.to_numpy())
    arrays = {
        modality: StoredRows(array, rows, f"{about['content']} {modality}")
        for modality, array in map_arrays(folder, about).items()
    }
    return Prepared(folder, there.reset_index(drop=True), arrays, about["parameters"], len(manifest), about["content"])
