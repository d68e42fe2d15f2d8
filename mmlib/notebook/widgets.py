"""Sliders on top of pure figure functions: thin, and safe to run headlessly.

`interact` and `Output` can hang and swallow exceptions in a kernel without a browser; a slider that is observed and
redraws through a display handle does neither.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from IPython.display import HTML, display
from matplotlib.figure import Figure

from mmlib.notebook.picture import Picture

_HEIGHT = 0.7  # of the window, so that a slider and its figure are seen together
# Sliders of ipywidgets have no name for a screen reader, and their value is the number of an option. This gives each
# slider of a cell its label, and the value that is written beside it.
NAMES = """<script>{
const area = document.currentScript?.closest(".jp-OutputArea");
const name = () => area.querySelectorAll(".widget-slider").forEach(one => {
  const handle = one.querySelector("[role=slider]");
  handle?.setAttribute("aria-label", one.querySelector(".widget-label").textContent);
  handle?.setAttribute("aria-valuetext", one.querySelector(".widget-readout").textContent);
});
if (area) { name(); new MutationObserver(name).observe(area, {childList: true, subtree: true}); }
}</script>"""


def slider_over(values: Sequence[Any], label: str, start: Any) -> ipywidgets.SelectionSlider:
    """A slider alone, which says so when it is let go; `NAMES` is to be displayed before it."""
    return ipywidgets.SelectionSlider(
        options=list(values),
        value=start,
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
        layout={"width": "30em"},
    )


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
    """A slider for each label, in this order, with the figure `draw(*values)` below them all; see `slide`. The figure's
    alternative text is `alt` and where the sliders stand."""
    sliders = {label: slider_over(options, label, start[label]) for label, options in values.items()}

    def picture() -> Picture:
        chosen = {label: slider.value for label, slider in sliders.items()}
        where = ", ".join(f"{label}: {value}" for label, value in chosen.items())
        return Picture(draw(*chosen.values()), f"{alt.rstrip('.')} ({where}).", height=_HEIGHT)

    display(HTML(NAMES), *sliders.values())
    handle = display(picture(), display_id=True)
    for slider in sliders.values():
        slider.observe(lambda _: handle.update(picture()), names="value")
    return sliders
