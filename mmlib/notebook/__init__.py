"""What a notebook needs besides the science: parameters, claims, figures, sliders."""

from mmlib.notebook.claims import Record, environment
from mmlib.notebook.parameters import Settings

__all__ = ["Record", "Settings", "environment"]
