"""Encoders for single modalities and the classifier that joins them."""

from mmlib.models.activations import with_cached_activations
from mmlib.models.architecture import Architecture, published_files
from mmlib.models.classifier import MultimodalClassifier, Outputs, build_classifier, is_frozen
from mmlib.models.encoders import Encoder, ResNet18, SmallConvNet
from mmlib.models.evaluate import evaluate, sample_scores
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
    "evaluate",
    "is_frozen",
    "published_files",
    "sample_scores",
    "with_cached_activations",
]
