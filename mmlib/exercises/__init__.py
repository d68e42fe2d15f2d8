"""What students write and predict in the notebooks, a module for each notebook: every check, and what it tells whom."""

from mmlib.exercises.checking import Exercise, close, foremost, predicted

__all__ = ["Exercise", "close", "foremost", "predicted"]
