"""Encoders for single modalities and the classifier that joins them."""

from mmlib.models.classifier import MultimodalClassifier, Outputs, build_classifier
from mmlib.models.encoders import ResNet18, SmallConvNet

__all__ = ["MultimodalClassifier", "Outputs", "ResNet18", "SmallConvNet", "build_classifier"]
