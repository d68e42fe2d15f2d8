"""How a figure is displayed: with an alternative text, in a notebook, on a page, on a phone."""

import base64
import html
import io
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


class Picture:
    """A figure as it is displayed, with an alternative text for those who cannot see it; closes the figure.

    JupyterLab ignores a PNG's alternative text, so it gets HTML. Whatever shows no HTML, and a batch's page, read the
    PNG. On a phone the picture keeps a width at which its letters can be read, and scrolls; `height` is the largest
    share of the window's height that it takes.
    """

    def __init__(self, figure: Figure, alt: str, key: bool = False, height: float | None = None) -> None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        plt.close(figure)
        self.png, self.alt, self.key, self.height = base64.b64encode(buffer.getvalue()).decode(), alt, key, height

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        most = "" if self.height is None else f"; max-height: {100 * self.height:.0f}vh; object-fit: contain"
        image = (
            f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{self.png}" '
            f'style="max-width: 100%; min-width: 600px{most}">'
        )
        data = {"text/html": f'<div style="overflow-x: auto">{image}</div>', "image/png": self.png}
        return data | {"text/plain": self.alt}, {"image/png": {"alt": self.alt} | ({"key": True} if self.key else {})}
