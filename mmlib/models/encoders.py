"""Encoders: one modality's input → a feature vector (batch, features)."""

from itertools import pairwise

import torchvision
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Three strided convolutions with batch norm, for spectrograms and small images.

    Input (batch, channels, height, width) of the shape it was built for; output (batch, features).
    """

    def __init__(self, input_shape: tuple[int, ...], features: int = 64, width: int = 16) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"SmallConvNet reads (channels, height, width), not {tuple(input_shape)}.")
        self.features = features
        channels = (input_shape[0], width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for incoming, outgoing in pairwise(channels):
            layers += [
                nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outgoing),
                nn.ReLU(),
            ]
        height, extent = (-(-size // 8) for size in input_shape[1:])
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels[-1] * height * extent, features)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class ResNet18(nn.Module):
    """ResNet-18 from scratch with any number of input channels, as in the imbalance papers.

    Input (batch, channels, height, width), or video (batch, channels, frames, height, width) whose frames are
    encoded one by one and averaged; output (batch, 512).
    """

    features = 512

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(input_shape) not in (3, 4):
            raise ValueError(
                "ResNet18 reads (channels, height, width) or (channels, frames, height, width), "
                f"not {tuple(input_shape)}."
            )
        self.network = torchvision.models.resnet18(weights=None)
        self.network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.network.fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            return self.network(images)
        batch, _, frames = images.shape[:3]
        by_frame = self.network(images.transpose(1, 2).flatten(0, 1))
        return by_frame.reshape(batch, frames, -1).mean(1)


ENCODERS: dict[str, type[nn.Module]] = {"small": SmallConvNet, "resnet18": ResNet18}
