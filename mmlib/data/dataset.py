"""The one container that every notebook, method and instrument uses: a multimodal data set and its batches."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.data.stored import StoredRows, joined, selected
from mmlib.source_code import identity_of


class Batch(NamedTuple):
    """Some samples. `indices` are rows of the data set, for methods that keep per-sample state."""

    inputs: dict[str, Tensor]  # modality → (batch, …)
    labels: Tensor  # (batch,) int64
    domains: Tensor  # (batch,) int64
    indices: Tensor  # (batch,) int64


@dataclass(frozen=True)
class MultimodalDataset:
    """N samples in any number of modalities.

    Tensors may live in memory, on a GPU, or on disk (`stored.StoredRows`); the interface is the same.
    Build one from your own arrays with `MultimodalDataset.from_arrays`, from your own files with `data.from_folder`.
    """

    inputs: dict[str, Tensor | StoredRows]  # modality → (N, …)
    labels: Tensor  # (N,) int64
    domains: Tensor  # (N,) int64
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    truth: dict[str, Tensor] = field(default_factory=dict)  # per-sample ground truth, each (N,)
    # Modality → what turns stored signals into inputs, batch by batch, for data too large to keep as inputs.
    front_end: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, np.ndarray | Tensor],
        labels: np.ndarray | Tensor | Sequence[int],
        domains: np.ndarray | Tensor | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        domain_names: Sequence[str] | None = None,
        truth: Mapping[str, np.ndarray | Tensor] | None = None,
    ) -> "MultimodalDataset":
        """Check and wrap your own arrays.

        `inputs` maps each modality to an array (N, …); floating-point or uint8, which networks read as numbers from 0
        to 255. `labels` and `domains` are integers (N,), counted from 0. Names default to "0", "1", …; without
        `domains`, all samples are in one domain.
        Raises ValueError or TypeError naming the modality or field, what was found and what was expected.
        """
        if not inputs:
            raise ValueError("inputs is empty: give at least one modality, e.g. {'audio': array}.")
        label_tensor = _integer_vector("labels", labels)
        count = len(label_tensor)
        if count == 0:
            raise ValueError("labels is empty: a data set needs at least one sample.")
        domain_tensor = (
            torch.zeros(count, dtype=torch.int64) if domains is None else _integer_vector("domains", domains)
        )
        for name in inputs:
            check_name(name)
        tensors = {name: _input_tensor(name, array, count) for name, array in inputs.items()}
        truth_tensors = {name: _tensor(array) for name, array in (truth or {}).items()}
        for name, tensor in {"domains": domain_tensor, **truth_tensors}.items():
            if len(tensor) != count:
                raise ValueError(f"{name} has {len(tensor)} entries but labels has {count}; they must match.")
        return cls(
            tensors,
            label_tensor,
            domain_tensor,
            _names("class_names", class_names, label_tensor, "labels"),
            _names("domain_names", domain_names, domain_tensor, "domains"),
            truth_tensors,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the labels are, and batches are gathered."""
        return self.labels.device

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality → shape of one sample, as the encoders need it."""
        seen = self.as_inputs({name: tensor[:1] for name, tensor in self.inputs.items() if name in self.front_end})
        return {name: tuple(seen.get(name, tensor).shape[1:]) for name, tensor in self.inputs.items()}

    @property
    def evaluation_batch(self) -> int:
        """How many samples to evaluate at a time: at most 512, and at most 2²⁶ input values (256 MiB)."""
        values = sum(math.prod(shape) for shape in self.input_shapes.values())
        return max(1, min(512, 2**26 // values))

    def as_inputs(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Network inputs of stored signals (batch, …)."""
        return {name: as_float(self.front_end.get(name, as_float)(value)) for name, value in stored.items()}

    def fingerprint(self) -> str:
        """A short hash of everything that training may see: content, names, ground truth, and the front end."""
        front_end = [(name, identity_of(function)) for name, function in sorted(self.front_end.items())]
        digest = hashlib.sha256(repr((self.class_names, self.domain_names, front_end)).encode())
        truth = [(f"truth {name}", values) for name, values in sorted(self.truth.items())]
        for name, tensor in [*self.inputs.items(), ("labels", self.labels), ("domains", self.domains), *truth]:
            if isinstance(tensor, StoredRows):
                digest.update(f"{name}{tensor.fingerprint()}".encode())
                continue
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            for chunk in tensor.split(4096):
                digest.update(chunk.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device) -> "MultimodalDataset":
        """Everything on one device, so that batches are gathered there; data on disk is read into memory only for a
        GPU."""
        return self._map(lambda tensor: tensor.to(device))

    def resident(self, device: torch.device) -> "MultimodalDataset":
        """On the GPU if it takes at most half of its free memory; otherwise it stays where it is, and batches are
        moved."""
        if device.type == "cuda" and self.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return self.to(device)

    @property
    def nbytes(self) -> int:
        """The memory that everything in it takes, or would take."""
        tensors = [*self.inputs.values(), self.labels, self.domains, *self.truth.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def subset(self, selection: Tensor | Sequence[int]) -> "MultimodalDataset":
        """The samples at these indices, or where this boolean mask (N,) is true. Raises ValueError or IndexError."""
        selection = torch.as_tensor(selection, device=self.device)
        if selection.dtype == torch.bool:
            if selection.shape != self.labels.shape:
                raise ValueError(f"The mask has shape {tuple(selection.shape)}; expected ({len(self)},).")
            selection = selection.nonzero().squeeze(1)
        elif selection.numel() and not (int(selection.min()) >= 0 and int(selection.max()) < len(self)):
            raise IndexError(f"Indices must lie in 0 … {len(self) - 1}.")
        return self._map(lambda values: selected(values, selection.long()))

    def thinned(self, count: int) -> "MultimodalDataset":
        """About `count` samples, evenly spaced (all of them where there are fewer)."""
        return self.subset(range(0, len(self), max(1, len(self) // count)))

    def select_domains(self, *names: str) -> "MultimodalDataset":
        """Only the samples of these domains (names and numbering stay as they are)."""
        wanted = torch.tensor([self.domain_index(name) for name in names], device=self.device)
        return self.subset(torch.isin(self.domains, wanted))

    def domain_index(self, name: str) -> int:
        """The number of a domain. Raises a ValueError that lists the domains of this data."""
        if name not in self.domain_names:
            raise ValueError(f"There is no domain {name!r}; this data has {', '.join(self.domain_names)}.")
        return self.domain_names.index(name)

    def select_modalities(self, *names: str) -> "MultimodalDataset":
        """Only these modalities. Raises a ValueError that lists the modalities of this data."""
        for name in names:
            if name not in self.inputs:
                raise ValueError(f"There is no modality {name!r}; this data has {', '.join(self.inputs)}.")
        return replace(self, inputs={name: self.inputs[name] for name in names})

    def transform(self, functions: Mapping[str, Callable[[Tensor], Tensor]]) -> "MultimodalDataset":
        """Apply a batched function to each named modality, in chunks; the others stay as they are."""
        inputs = dict(self.inputs)
        for name, function in functions.items():
            inputs[name] = torch.cat([function(chunk) for chunk in self.inputs[name].split(512)])
        return replace(self, inputs=inputs)

    def split(self, fractions: Sequence[float], generator: torch.Generator) -> tuple["MultimodalDataset", ...]:
        """Disjoint parts of these fractions (sum ≤ 1), stratified by domain and class. Raises ValueError."""
        if any(fraction <= 0 for fraction in fractions) or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to at most 1, not {list(fractions)}.")
        strata = self.domains.cpu() * len(self.class_names) + self.labels.cpu()
        parts: list[list[Tensor]] = [[] for _ in fractions]
        for stratum in strata.unique():
            members = (strata == stratum).nonzero().squeeze(1)
            members = members[torch.randperm(len(members), generator=generator)]
            edges = (torch.tensor([0.0, *fractions]).cumsum(0) * len(members)).round().long()
            for part, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
                part.append(members[start:stop])
        return tuple(self.subset(torch.cat(part).sort().values) for part in parts)

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        rows: Tensor | None = None,
        stored: bool = False,
    ) -> Iterator[Batch]:
        """All samples once, or these `rows`, in order or shuffled by the generator, without worker processes. Raises
        a ValueError for a batch_size below 1.

        The permutation is drawn on the CPU, so that it is the same on every device. Data on disk is gathered batch by
        batch, copied to `device`, and turned into network inputs there; `stored` leaves signals as they are stored. A
        last batch of a single sample, from which batch norm cannot be computed, is joined to the one before.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        order = torch.arange(len(self)) if rows is None else rows.cpu()
        if generator is not None:
            order = order[torch.randperm(len(order), generator=generator)]
        parts = order.to(self.device).split(batch_size)
        if batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
            parts = (*parts[:-2], torch.cat(parts[-2:]))
        for batch in self._gathered(parts):
            batch = batch if device is None else move(batch, device)
            yield batch if stored else batch._replace(inputs=self.as_inputs(batch.inputs))

    def _gathered(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """The rows of each part; data on disk is read in a thread while the previous part is processed."""

        def gather(indices: Tensor) -> Batch:
            inputs = {name: tensor[indices] for name, tensor in self.inputs.items()}
            return Batch(inputs, self.labels[indices], self.domains[indices], indices)

        if not any(isinstance(values, StoredRows) for values in self.inputs.values()):
            yield from map(gather, parts)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(gather, parts[0])
            for indices in (*parts[1:], None):
                batch = ahead.result()
                ahead = None if indices is None else reader.submit(gather, indices)
                yield batch

    def whole(self) -> Batch:
        """All samples as one batch."""
        inputs = self.as_inputs({name: tensor[:] for name, tensor in self.inputs.items()})
        return Batch(inputs, self.labels, self.domains, torch.arange(len(self), device=self.labels.device))

    def seen(self) -> "MultimodalDataset":
        """The same samples in memory, as network inputs."""
        return replace(self, inputs=self.whole().inputs, front_end={})

    def _map(self, function: Callable[[Tensor | StoredRows], Tensor | StoredRows]) -> "MultimodalDataset":
        return replace(
            self,
            inputs={name: function(tensor) for name, tensor in self.inputs.items()},
            labels=function(self.labels),
            domains=function(self.domains),
            truth={name: function(tensor) for name, tensor in self.truth.items()},
        )


def as_float(stored: Tensor) -> Tensor:
    """Values stored with less than single precision, bytes among them, as the same numbers in single precision."""
    return stored if stored.dtype in (torch.float32, torch.float64) else stored.float()


def draw_evenly(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` members of the pool in random order; none is drawn twice before all are drawn once."""
    rounds = [pool[torch.randperm(len(pool), generator=generator)] for _ in range(-(-count // len(pool)))]
    return torch.cat(rounds)[:count]


def move(batch: Batch, device: str | torch.device) -> Batch:
    """The batch on another device."""
    return Batch(
        {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()},
        *(tensor.to(device, non_blocking=True) for tensor in batch[1:]),
    )


def concatenate(datasets: Sequence[MultimodalDataset]) -> MultimodalDataset:
    """Several parts of the same data as one. Truth fields that not all parts have are dropped. Raises a ValueError
    where class or domain names differ."""
    first = datasets[0]
    for other in datasets[1:]:
        if (other.class_names, other.domain_names) != (first.class_names, first.domain_names):
            raise ValueError("Only parts with the same class and domain names can be concatenated.")
    shared_truth = [name for name in first.truth if all(name in part.truth for part in datasets)]
    return replace(
        first,
        inputs={name: joined([part.inputs[name] for part in datasets]) for name in first.inputs},
        labels=torch.cat([part.labels for part in datasets]),
        domains=torch.cat([part.domains for part in datasets]),
        truth={name: torch.cat([part.truth[name] for part in datasets]) for name in shared_truth},
    )


def _tensor(array: np.ndarray | Tensor | Sequence) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))


def _integer_vector(name: str, values: np.ndarray | Tensor | Sequence[int]) -> Tensor:
    tensor = _tensor(values)
    if tensor.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, (N,), not {tuple(tensor.shape)}.")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be integers counted from 0, not {tensor.dtype}.")
    return tensor.long()


# What methods call the parts of their losses, beside those of the modalities.
LOSSES = ("fused", "contrast", "translation", "distance", "classes", "entropy", "jigsaw", "norms", "distillation")
LOSSES += ("alignment", "gap", "shift")


def check_name(name: str, where: str = "") -> None:
    """Raises a ValueError, which begins with `where`, for what no modality can be called."""
    if not name or "." in name or name in LOSSES or hasattr(torch.nn.ModuleDict, name):
        raise ValueError(
            f"{where}A modality cannot be called {name!r}: networks and losses have other uses for this name."
        )


LARGEST = 1e9  # of inputs: their squares still have a variance in single precision


def _input_tensor(name: str, array: np.ndarray | Tensor, count: int) -> Tensor:
    tensor = _tensor(array)
    if tensor.ndim < 2 or tensor.shape[0] != count:
        raise ValueError(f"Modality {name!r} has shape {tuple(tensor.shape)}; expected (N, …) with N = {count} labels.")
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8):
        raise TypeError(f"Modality {name!r} has dtype {tensor.dtype}; expected floating point or uint8.")
    if tensor[0].numel() == 0:
        raise ValueError(f"Modality {name!r} has shape {tuple(tensor.shape)}: its samples are empty.")
    if tensor.is_floating_point():
        low, high = map(float, tensor.aminmax())  # much faster than to look at every value, and NaN where one is
        if not (low >= -LARGEST and high <= LARGEST):
            sample = int((~(tensor.double().abs() <= LARGEST)).flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"Modality {name!r} has NaN, infinite values or values beyond ±{LARGEST:g}, first in sample {sample}: "
                "repair, rescale or leave out such samples."
            )
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _names(field_name: str, names: Sequence[str] | None, values: Tensor, of: str) -> tuple[str, ...]:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise ValueError(f"{of} has the value {lowest}; they are counted from 0.")
    if names is None:
        return tuple(str(index) for index in range(highest + 1))
    if highest >= len(names):
        raise ValueError(f"{of} has the value {highest} but {field_name} has only {len(names)} names.")
    return tuple(names)
