"""An executed notebook as two pages, with and without code, and as slides. They need nothing from the network: no
MathJax, no require.js, no widgets (a figure stands for each)."""

from pathlib import Path
from typing import Any

import nbconvert
import nbformat
from jinja2 import pass_context

from mmlib.batch.markdown import markdown_html
from mmlib.batch.slides import deck

_WIDGET = "application/vnd.jupyter.widget-view+json"
# These pages show outputs of others' code: nothing is fetched, and no script runs, whatever is in an output.
_HEAD = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; media-src data:; font-src data:; style-src 'unsafe-inline'\">"
    # a phone's width is needed for what stands in the cells; other fonts do not know where scripts go
    "<style>@media (max-width: 600px) { .jp-InputPrompt, .jp-OutputPrompt { display: none } } math { font-family: "
    "'Cambria Math', 'STIX Two Math', 'Latin Modern Math', 'DejaVu Math TeX Gyre', math }</style>"
)


def render(notebook: Path, with_code: Path, without_code: Path, slides: Path) -> None:
    """Write both pages of a notebook, and its slides."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output.get("data", {}))]
    exporter = _Exporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    exporter.widget_renderer_url = ""
    for path, without in ((with_code, False), (without_code, True)):
        exporter.exclude_input = without  # one exporter for both: the second page costs next to nothing
        page, _ = exporter.from_notebook_node(content)
        path.write_text(page.replace("<head>", f"<head>{_HEAD}", 1), encoding="utf-8")
    slides.write_text(deck(content), encoding="utf-8")


def _is_shown(data: dict[str, Any]) -> bool:
    return _WIDGET not in data and not str(data.get("text/html", "")).startswith("<script>")


class _Exporter(nbconvert.HTMLExporter):
    """nbconvert's, with formulas."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return markdown_html(source, context.get("cell", {}).get("attachments", {}))
