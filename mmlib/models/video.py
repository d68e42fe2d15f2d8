"""3-D ResNets for video: SlowFast and SlowOnly as in OpenMMLab's checkpoints, split where MMDG methods split them.

Bottleneck blocks "3x1x1": the first convolution may span three frames, the second is 3 × 3 in space.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mmlib.models.encoders import Encoder

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU where `active`."""

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        active: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        self.conv = nn.Conv3d(incoming, outgoing, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(outgoing)
        self.active = active

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, incoming, frames, height, width) → (batch, outgoing, …)."""
        maps = self.bn(self.conv(maps))
        return maps.relu_() if self.active else maps


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; the output has four times `width` channels."""

    def __init__(self, incoming: int, width: int, stride: int, look_at: int) -> None:
        super().__init__()
        outgoing = 4 * width
        self.conv1 = ConvNorm(incoming, width, (look_at, 1, 1))
        self.conv2 = ConvNorm(width, width, (1, 3, 3), (1, stride, stride))
        self.conv3 = ConvNorm(width, outgoing, (1, 1, 1), active=False)
        changed = stride != 1 or incoming != outgoing
        self.downsample = (
            ConvNorm(incoming, outgoing, (1, 1, 1), (1, stride, stride), active=False) if changed else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, incoming, frames, height, width) → (batch, 4 · width, …)."""
        carried = maps if self.downsample is None else self.downsample(maps)
        return (self.conv3(self.conv2(self.conv1(maps))) + carried).relu_()


def _stage(number: int, depth: int, base: int, look_at: int, extra: int = 0) -> nn.Sequential:
    """layer1 … layer4; `extra` channels come in from a lateral connection."""
    width = base * 2 ** (number - 1)
    incoming = (base if number == 1 else 2 * width) + extra
    blocks = []
    for index in range(_BLOCKS[depth][number - 1]):
        blocks.append(Bottleneck(incoming, width, 2 if index == 0 and number > 1 else 1, look_at))
        incoming = 4 * width
    return nn.Sequential(*blocks)


def _pool() -> nn.Module:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))


class SlowOnly(Encoder):
    """SlowOnly-ResNet: every frame is used; layer3 and layer4 see three at a time. layer4 is the last stage.

    Input (batch, channels, frames, height, width); output (batch, 2048).
    """

    features = 2048

    def __init__(self, input_shape: tuple[int, ...], depth: int = 50) -> None:
        super().__init__()
        _check(type(self).__name__, input_shape)
        self.trunk = nn.Sequential(
            OrderedDict(
                conv1=ConvNorm(input_shape[0], 64, (1, 7, 7), (1, 2, 2)),
                pool=_pool(),
                layer1=_stage(1, depth, 64, 1),
                layer2=_stage(2, depth, 64, 1),
                layer3=_stage(3, depth, 64, 3),
            )
        )
        self.last_stage = nn.Sequential(OrderedDict(layer4=_stage(4, depth, 64, 3)))
        self.head = nn.Sequential(OrderedDict(pool=_MeanOverMaps()))


class SlowFast(Encoder):
    """SlowFast-ResNet 8 × 8: a slow pathway sees every fourth frame, a fast one with an eighth of the channels sees all
    of them; after the stem and layer1 … layer3 a lateral connection joins the fast one to the slow one. layer4 of both
    is the last stage.

    Input (batch, channels, frames, height, width), frames a multiple of 4; output (batch, 2304), slow before fast.
    Raises a ValueError for other shapes.
    """

    features = 2048 + 256

    def __init__(self, input_shape: tuple[int, ...], depth: int = 101) -> None:
        super().__init__()
        _check(type(self).__name__, input_shape)
        if input_shape[1] % _Trunk.EVERY:
            raise ValueError(f"SlowFast reads a multiple of {_Trunk.EVERY} frames, not {input_shape[1]}.")
        self.trunk = _Trunk(input_shape[0], depth)
        self.last_stage = _LastStage(depth)
        self.head = nn.Sequential(OrderedDict(pool=_MeanOfBoth()))


class _Trunk(nn.Module):
    """Stem to layer3 of both pathways. The output is one tensor, so that it can be cached: the slow maps (1280, the
    lateral connection included), then the fast ones, four frames of 128 maps each beside every slow frame."""

    EVERY = 4

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        base, thin = 64, 8
        self.pool = _pool()
        self.slow_path = nn.ModuleDict({"conv1": ConvNorm(channels, base, (1, 7, 7), (1, 2, 2))})
        self.fast_path = nn.ModuleDict({"conv1": ConvNorm(channels, thin, (5, 7, 7), (1, 2, 2))})
        self.slow_path["conv1_lateral"] = _Lateral(thin)
        for number in (1, 2, 3):
            width = thin if number == 1 else thin * 2**number
            self.slow_path[f"layer{number}"] = _stage(number, depth, base, 3 if number == 3 else 1, 2 * width)
            self.fast_path[f"layer{number}"] = _stage(number, depth, thin, 3)
            self.slow_path[f"layer{number}_lateral"] = _Lateral(4 * thin * 2 ** (number - 1))

    def forward(self, video: Tensor) -> Tensor:
        slow = self.pool(self.slow_path["conv1"](video[:, :, :: self.EVERY]))
        fast = self.pool(self.fast_path["conv1"](video))
        slow = torch.cat([slow, self.slow_path["conv1_lateral"](fast)], 1)
        for number in (1, 2, 3):
            slow = self.slow_path[f"layer{number}"](slow)
            fast = self.fast_path[f"layer{number}"](fast)
            slow = torch.cat([slow, self.slow_path[f"layer{number}_lateral"](fast)], 1)
        return torch.cat([slow, fast.unflatten(2, (-1, self.EVERY)).transpose(2, 3).flatten(1, 2)], 1)


class _Lateral(nn.Module):
    """From the fast to the slow pathway: seven frames of the former to one of the latter, twice the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (7, 1, 1), (_Trunk.EVERY, 1, 1), (3, 0, 0), bias=False)

    def forward(self, fast: Tensor) -> Tensor:
        return self.conv(fast)


class _LastStage(nn.Module):
    """layer4 of both pathways: from the trunk's one tensor to (slow, fast) with their frames averaged, as one tensor
    (batch, 2304, height, width)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.slow_path = nn.ModuleDict({"layer4": _stage(4, depth, 64, 3, 256)})
        self.fast_path = nn.ModuleDict({"layer4": _stage(4, depth, 8, 3)})

    def forward(self, maps: Tensor) -> Tensor:
        slow, fast = maps.split([1280, 128 * _Trunk.EVERY], 1)
        fast = fast.unflatten(1, (128, _Trunk.EVERY)).transpose(2, 3).flatten(2, 3)
        # Means over frames, and in the head over space: deterministic on a GPU, unlike 3-D average pooling's gradient.
        return torch.cat([self.slow_path["layer4"](slow).mean(2), self.fast_path["layer4"](fast).mean(2)], 1)


class _MeanOfBoth(nn.Module):
    """(batch, 2304, height, width) → (batch, 2304)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class _MeanOverMaps(nn.Module):
    """(batch, 2048, frames, height, width) → (batch, 2048)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3, 4))


def _check(name: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 4:
        raise ValueError(f"{name} reads (channels, frames, height, width), not {tuple(input_shape)}.")
