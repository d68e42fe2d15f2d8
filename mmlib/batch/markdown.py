"""Markdown cells as HTML, with formulas as MathML, which browsers show by themselves."""

import html
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


def markdown_html(source: str, attachments: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A markdown cell's text as HTML, with formulas."""
    return MarkdownWithMath(_Renderer(escape=False, attachments=attachments)).render(source)


class _Renderer(IPythonRenderer):
    """nbconvert's, with formulas."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span style="display: block; overflow: auto hidden">{_formula(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _formula(latex: str, display: str) -> str:
    """As MathML; what is no formula, as it was written."""
    try:
        return convert(latex.replace("{aligned}", "{align*}"), display=display)  # it knows the second one only
    except Exception:  # the converter has some ten kinds of its own, and none in common
        return f"<code>{html.escape(latex)}</code>"
