"""Encoders: one modality's input → a feature vector (batch, features)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Three parts in sequence, so that a method can act on the last ones only: head(last_stage(trunk(x))).

    A subclass sets the parts and `features`, the length of its output.
    """

    features: int
    trunk: nn.Module
    last_stage: nn.Module
    head: nn.Module

    def forward(self, signals: Tensor) -> Tensor:
        """One modality's inputs (batch, …) → embeddings θ_k(x_k) (batch, features)."""
        return self.head(self.last_stage(self.trunk(signals)))


class SmallConvNet(Encoder):
    """Two strided convolutions with batch norm, for spectrograms and small images; the second is the last stage.

    The first cuts its input into overlapping patches of 6 × 6, one every four pixels: a step on a CPU costs a third of
    what three convolutions of stride two cost, for networks that know nearly as much. Input (batch, channels, height,
    width) of the shape it was built for, at least 4 × 4, or video (batch, channels, frames, height, width) whose frames
    are encoded one by one and averaged; output (batch, features).
    """

    def __init__(self, input_shape: tuple[int, ...], features: int = 64, width: int = 16) -> None:
        super().__init__()
        _check(type(self).__name__, input_shape)
        if min(input_shape[-2:]) < 4:
            raise ValueError(f"SmallConvNet reads at least 4 × 4 values, not {tuple(input_shape[-2:])}.")
        self.features = features
        self.trunk = _convolution(input_shape[0], width, kernel_size=6, stride=4)
        self.last_stage = _convolution(width, 2 * width, kernel_size=3, stride=2)
        height, extent = (-(-(size // 4) // 2) for size in input_shape[-2:])
        self.head = nn.Sequential(_FlattenChannelsLast(), nn.Linear(2 * width * height * extent, features))
        if len(input_shape) == 4:
            self.trunk.insert(0, _FramesAsBatch())
            self.head.append(_MeanOverFrames(input_shape[1]))
        # On CPUs, a step of such a narrow network takes less time with channels last.
        self.to(memory_format=torch.channels_last)


def _convolution(incoming: int, outgoing: int, kernel_size: int, stride: int) -> nn.Sequential:
    """With batch norm and ReLU; one pixel of padding on each side."""
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, kernel_size, stride, padding=1, bias=False), nn.BatchNorm2d(outgoing), nn.ReLU()
    )


class ResNet18(Encoder):
    """ResNet-18 from scratch with any number of input channels, as in the imbalance papers; layer4 is the last stage.

    Input (batch, channels, height, width), or video (batch, channels, frames, height, width) whose frames are
    encoded one by one and averaged; output (batch, 512).
    """

    features = 512

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        from torchvision.models import resnet18  # takes seconds to import

        super().__init__()
        _check(type(self).__name__, input_shape)
        network = resnet18(weights=None)
        network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        trunk = {name: getattr(network, name) for name in _STEM_TO_LAYER3}
        head: dict[str, nn.Module] = {"pool": network.avgpool, "flatten": nn.Flatten()}
        if len(input_shape) == 4:
            trunk = {"frames": _FramesAsBatch(), **trunk}
            head["frames"] = _MeanOverFrames(input_shape[1])
        self.trunk = nn.Sequential(OrderedDict(trunk))
        self.last_stage = network.layer4
        self.head = nn.Sequential(OrderedDict(head))


def _check(name: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{name} reads (channels, height, width) or (channels, frames, height, width), not {tuple(input_shape)}."
        )


_STEM_TO_LAYER3 = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")


class _FlattenChannelsLast(nn.Module):
    """(batch, channels, height, width) → (batch, height · width · channels): with channels last in memory, a view."""

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 2, 3, 1).flatten(1)


class _FramesAsBatch(nn.Module):
    """(batch, channels, frames, height, width) → (batch · frames, channels, height, width)."""

    def forward(self, video: Tensor) -> Tensor:
        return video.transpose(1, 2).flatten(0, 1)


class _MeanOverFrames(nn.Module):
    """(batch · frames, features) → (batch, features)."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, features: Tensor) -> Tensor:
        return features.unflatten(0, (-1, self.frames)).mean(1)
