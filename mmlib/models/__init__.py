"""Encoders for single modalities and the classifier that joins them."""

from mmlib.models.classifier import MultimodalClassifier, Outputs, build_classifier, is_frozen
from mmlib.models.encoders import Encoder, ResNet18, SmallConvNet

__all__ = ["Encoder", "MultimodalClassifier", "Outputs", "ResNet18", "SmallConvNet", "build_classifier", "is_frozen"]
