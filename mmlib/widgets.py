"""Sliders on top of pure figure functions: thin, and safe to run headlessly.

`interact` and `Output` can hang and swallow exceptions in a kernel without a browser; a slider that is observed and
redraws through a display handle does neither.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from IPython.display import Image, display
from matplotlib.figure import Figure

from mmlib.plots import png


def slide(
    draw: Callable[[Any], Figure], values: Sequence[Any], label: str, start: Any, alt: str
) -> ipywidgets.SelectionSlider:
    """A slider over `values` with the figure `draw(value)` below it. The figure at `start` stands for print.

    An exception in `draw` is raised where the slider is moved.
    """
    slider = ipywidgets.SelectionSlider(
        options=list(values),
        value=start,
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
        layout={"width": "30em"},
    )

    def picture() -> Image:
        return Image(png(draw(slider.value)), format="png", alt=alt)

    display(slider)
    handle = display(picture(), display_id=True)
    slider.observe(lambda _: handle.update(picture()), names="value")
    return slider
