"""Measurements on trained networks: balance, flatness, gradients, and separation of degraded samples."""

from mmlib.instruments.balance import (
    coalition_accuracies,
    features_of,
    learning_speed,
    modality_contributions,
    probe_accuracy,
    shapley_values,
    shift_curve,
)
from mmlib.instruments.gradients import LookAhead, fused_gradient_norms, gradient_cosines, predicted_change
from mmlib.instruments.truth import calibration, calibration_error, right_heads, separation_scores

__all__ = [
    "LookAhead",
    "calibration",
    "calibration_error",
    "coalition_accuracies",
    "features_of",
    "fused_gradient_norms",
    "gradient_cosines",
    "learning_speed",
    "modality_contributions",
    "predicted_change",
    "probe_accuracy",
    "right_heads",
    "separation_scores",
    "shapley_values",
    "shift_curve",
]
