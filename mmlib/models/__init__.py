"""Encoders for single modalities and the classifier that joins them."""

from mmlib.models.architecture import Architecture
from mmlib.models.classifier import MultimodalClassifier, Outputs, build_classifier, is_frozen
from mmlib.models.encoders import Encoder, ResNet18, SmallConvNet
from mmlib.models.video import SlowFast, SlowOnly

__all__ = [
    "Architecture",
    "Encoder",
    "MultimodalClassifier",
    "Outputs",
    "ResNet18",
    "SlowFast",
    "SlowOnly",
    "SmallConvNet",
    "build_classifier",
    "is_frozen",
]
