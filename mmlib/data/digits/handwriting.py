"""scikit-learn's handwritten digits, kept in the cache: importing scikit-learn takes longer than all that is read."""

import numpy as np
from torch import Tensor

from mmlib.data.cache import cached_arrays, tensors


def scikit_digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 8, 8) in 0 … 1, in the original order, and labels (1797,) int64."""
    arrays = tensors(cached_arrays("handwriting", _digits))
    return arrays["images"].float() / 16, arrays["labels"].long()


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)}
