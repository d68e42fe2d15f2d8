"""Which network a run trains, as plain values: encoders, published weights they start from, and what is frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlib.data.cache import source_hash
from mmlib.models.classifier import ENCODERS, MultimodalClassifier, build_classifier, is_frozen
from mmlib.models.encoders import Encoder, ResNet18
from mmlib.source_code import identity_of

Pairs = tuple[tuple[str, str], ...]  # (modality, value)


@dataclass(frozen=True)
class Architecture:
    """`encoder` is used for every modality except those in `encoders`. `checkpoints` are files of published weights,
    read by `load_published`. With `frozen`, trunks (stem to layer3) keep their weights and statistics. `trunks_of`:
    modalities with data that holds the outputs of their frozen trunk (`models.activations`), and the shape the trunk
    reads."""

    encoder: str = "small"
    encoders: Pairs = ()
    fused_head: str = "linear"
    checkpoints: Pairs = ()
    frozen: bool = False
    trunks_of: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def build(self, input_shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int) -> MultimodalClassifier:
        """The classifier for these modalities, initialised from the seed alone where no weights are given. Raises like
        `build_classifier` and `load_published`."""
        own = dict(self.encoders)
        shapes = {name: dict(self.trunks_of).get(name, shape) for name, shape in input_shapes.items()}
        names = {name: own.get(name, self.encoder) for name in shapes}
        model = build_classifier(shapes, classes, seed, names, fused_head=self.fused_head)
        for name, path in self.checkpoints:
            if name in shapes:
                load_published(model.encoders[name], path)
        if self.frozen:
            model.freeze_trunks()
        for name, _ in self.trunks_of:
            if name in shapes:
                model.encoders[name].trunk = nn.Identity()
        return model

    def identity(self) -> str:
        """Equal for architectures that build the same network, whatever their files are called."""
        weights = [(name, source_hash(Path(path))) for name, path in self.checkpoints]
        names = {self.encoder, *dict(self.encoders).values()}
        code = [identity_of(type(self)), *(identity_of(ENCODERS[name]) for name in sorted(names & ENCODERS.keys()))]
        return repr((self.encoder, self.encoders, self.fused_head, weights, self.frozen, self.trunks_of, code))


def trained_state(model: MultimodalClassifier) -> dict[str, Tensor]:
    """The state without frozen trunks, which the architecture restores."""
    fixed = tuple(f"encoders.{name}.trunk." for name, encoder in model.encoders.items() if has_frozen_trunk(encoder))
    return {name: value for name, value in model.state_dict().items() if not (fixed and name.startswith(fixed))}


def has_frozen_trunk(encoder: nn.Module) -> bool:
    """Whether this is an encoder in parts whose trunk has weights, none of them trained."""
    return isinstance(encoder, Encoder) and any(True for _ in encoder.trunk.parameters()) and is_frozen(encoder.trunk)


# Modality → the file name of the published weights that MMDG papers start from.
PUBLISHED_FILES = {
    "video": "slowfast_r101_8x8x1_256e_kinetics400_rgb_20210218-0dd54025.pth",
    "flow": "slowonly_r50_8x8x1_256e_kinetics400_flow_20200704-6b384243.pth",
    "audio": "H.pth.tar",
}


def published_files(folder: str, modalities: Sequence[str]) -> Pairs:
    """The published weights of these modalities in a folder. Raises FileNotFoundError, which says where to get them."""
    pairs = tuple((name, str(Path(folder, PUBLISHED_FILES[name]))) for name in modalities)
    for _, path in pairs:
        if Path(path).is_dir():
            raise FileNotFoundError(
                f"{path} is a folder: the file of weights was unpacked. It is no archive, whatever its name: delete "
                "the folder and put the file there as it was downloaded."
            )
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is missing; `python -m mmlib data epic_kitchens --help` says where it is.")
    return pairs


def load_published(encoder: Encoder, path: str) -> None:
    """Fill an encoder with published weights: OpenMMLab's of SlowFast and SlowOnly, VGGSound's of ResNet-18.

    The file is read with `weights_only=True`. Classification heads are left out; every other name and shape must agree,
    or a ValueError lists those that do not. Raises FileNotFoundError where there is no file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a file of plain weights, or is damaged: {error}.") from error
    state = next((content[key] for key in ("state_dict", "model_state_dict") if key in content), content)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = encoder.state_dict()
    names = published_names(encoder)
    body = {name for name in state if not name.startswith(_HEADS)}
    counters = {name for name in names.values() if name.endswith("num_batches_tracked")}
    problems = [f"{name} is missing" for name in names.values() if name not in body | counters]
    problems += [f"{name} is not known" for name in sorted(body - set(names.values()))]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[key].shape)}"
        for key, name in names.items()
        if name in body and state[name].shape != own[key].shape
    ]
    if problems:
        raise ValueError(f"{path} does not fit {type(encoder).__name__}: {'; '.join(problems)}.")
    encoder.load_state_dict({key: state.get(name, own[key]) for key, name in names.items()})


_HEADS = ("cls_head.", "audnet.fc.", "fc.")


def published_names(encoder: Encoder) -> dict[str, str]:
    """This encoder's parameter and buffer names → the names that published files give them."""
    prefix, last = ("audnet.", "audnet.layer4.") if isinstance(encoder, ResNet18) else ("backbone.", "backbone.")
    return {
        name: name.replace("trunk.", prefix, 1) if name.startswith("trunk.") else name.replace("last_stage.", last, 1)
        for name in encoder.state_dict()
    }
