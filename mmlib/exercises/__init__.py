"""What students write and predict in the notebooks, a module for each notebook: every check, and what it tells whom."""

from mmlib.exercises.checking import Exercise, Finding, close, exercise, foremost, predicted, shaped

__all__ = ["Exercise", "Finding", "close", "exercise", "foremost", "predicted", "shaped"]
