"""Training, validation and test parts of a data set, and protocols over its domains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mmlib.data.dataset import MultimodalDataset, concatenate
from mmlib.seeding import one_thread, torch_generator

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """A data set as a loader returns it: three disjoint parts, and how raw signals become network inputs."""

    train: MultimodalDataset
    validation: MultimodalDataset
    test: MultimodalDataset
    # Modality → batched transform, raw signal → input. Empty where the parts carry one of their own: data that is read
    # from disk batch by batch, whose augmentations start from the stored signal.
    front_end: dict[str, Callable[[Tensor], Tensor]]
    augmentations: dict[str, Callable[[Tensor, torch.Generator], Tensor]]  # modality → what training applies to inputs
    sample_rates: dict[str, int]  # modality → Hz, for modalities that can be listened to
    # The parts of an unseen domain to test on: only "test" where handwriting or actors recur across domains.
    target_parts: tuple[str, ...] = ("test",)
    about: str = ""  # data set, protocol and missing clips, for every table made from it

    @classmethod
    def of(cls, data: MultimodalDataset, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> "Splits":
        """Your own data in three parts: those that its truth `part` names by 0, 1 and 2, where `from_folder` read them
        from a table; otherwise drawn in these fractions, stratified by domain and class.

        Its front end becomes that of the splits. Raises a ValueError for wrong fractions and an empty part.
        """
        if len(fractions) != len(PARTS):
            raise ValueError(f"fractions must be three, of {', '.join(PARTS)}, not {list(fractions)}.")
        if "part" in data.truth:
            parts = [data.subset(data.truth["part"] == number) for number in range(len(PARTS))]
        else:
            parts = data.split(fractions, torch_generator("split", seed))
        for name, part in zip(PARTS, parts, strict=True):
            if not len(part):
                raise ValueError(f"The {name} part is empty: {len(data)} samples are too few, or none is named so.")
        return cls(
            *(replace(part, front_end={}) for part in parts),
            front_end=data.front_end,
            augmentations={},
            sample_rates={
                name: function.sample_rate
                for name, function in data.front_end.items()
                if hasattr(function, "sample_rate")
            },
        )

    @property
    def is_stand_in(self) -> bool:
        """Whether these are synthetic clips that only have a benchmark's layout (`about` says so as well)."""
        return self.about.startswith("STAND-IN")

    def preprocessed(self, device: str | torch.device = "cpu") -> "Splits":
        """What the networks see: the front end applied once, resident on the device."""
        with one_thread():
            parts = {name: getattr(self, name).to(device).transform(self.front_end) for name in PARTS}
        return replace(self, **parts, front_end={})

    def leave_out(self, target: str) -> "DomainProtocol":
        """Train, validate and test on the other domains; `target` is not seen before the target test. Raises a
        ValueError for an unknown target or an empty part."""
        sources = [name for name in self.train.domain_names if name != target]
        if len(sources) == len(self.train.domain_names):
            self.train.domain_index(target)  # raises, naming the domains there are
        return self._protocol(sources, target)

    def pooled(self) -> "DomainProtocol":
        """Train, validate and test on all domains; the target is the test part."""
        return DomainProtocol(self.train, self.validation, self.test, self.test)

    def single_source(self, source: str, target: str) -> "DomainProtocol":
        """Train, validate and test on one domain, then test on another. Raises a ValueError where a part is empty."""
        return self._protocol([source], target)

    def _protocol(self, sources: list[str], target: str) -> "DomainProtocol":
        protocol = DomainProtocol(
            self.train.select_domains(*sources),
            self.validation.select_domains(*sources),
            self.test.select_domains(*sources),
            concatenate([getattr(self, part).select_domains(target) for part in self.target_parts]),
        )
        for name, part in protocol._asdict().items():
            if not len(part):
                raise ValueError(f"The {name} part is empty with {', '.join(sources)} as sources and {target} unseen.")
        return protocol


class DomainProtocol(NamedTuple):
    """Domain generalisation: selection uses `validation` (source domains) and never `target`."""

    train: MultimodalDataset
    validation: MultimodalDataset
    source_test: MultimodalDataset
    target: MultimodalDataset


def with_shuffled_labels(splits: Splits, generator: torch.Generator) -> Splits:
    """A negative control: training labels permuted at random, so that there is nothing left to learn."""
    order = torch.randperm(len(splits.train), generator=generator).to(splits.train.device)
    return replace(splits, train=replace(splits.train, labels=splits.train.labels[order]))
