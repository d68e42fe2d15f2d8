"""Sliders on top of pure figure functions: thin, and safe to run headlessly.

`interact` and `Output` can hang and swallow exceptions in a kernel without a browser; a slider that is observed and
redraws through a display handle does neither.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from IPython.display import Image, display
from matplotlib.figure import Figure

from mmlib.notebook.plots import png


def slide(
    draw: Callable[[Any], Figure], values: Sequence[Any], label: str, start: Any, alt: str
) -> ipywidgets.SelectionSlider:
    """A slider over `values` with the figure `draw(value)` below it. The figure at `start` is what print shows.

    An exception in `draw` is raised when the slider is moved.
    """
    return slide_several(draw, {label: values}, {label: start}, alt)[label]


def slide_several(
    draw: Callable[..., Figure], values: Mapping[str, Sequence[Any]], start: Mapping[str, Any], alt: str
) -> dict[str, ipywidgets.SelectionSlider]:
    """A slider for each label, in this order, with the figure `draw(*values)` below them all; see `slide`."""
    sliders = {
        label: ipywidgets.SelectionSlider(
            options=list(options),
            value=start[label],
            description=label,
            continuous_update=False,
            style={"description_width": "initial"},
            layout={"width": "30em"},
        )
        for label, options in values.items()
    }

    def picture() -> Image:
        return Image(png(draw(*(slider.value for slider in sliders.values()))), format="png", alt=alt)

    display(*sliders.values())
    handle = display(picture(), display_id=True)
    for slider in sliders.values():
        slider.observe(lambda _: handle.update(picture()), names="value")
    return sliders
