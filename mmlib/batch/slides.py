"""An executed notebook as slides: one HTML file that needs no network. Arrow keys turn pages, N shows the notes.

Every heading and every text begins a slide, with two sentences of each paragraph, all lists and all formulas; the notes
have the whole text. The figure, table or player that follows stands below it, every further one on a slide of its own,
and so does what follows an exercise or a question.
Of the code, only solutions are shown; parameters, set-up, hints and what a cell prints are not.
"""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

from mmlib.batch.markdown import markdown_html
from mmlib.batch.template import filled

_HEADING = re.compile(r"^(#+) (.*)\n?", re.M)
_END_OF_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z`*$])")
_WHOLE = ("- ", "1. ", "$$", "```")  # how paragraphs begin that are no sentences
_ROWS = 10  # of a table, on a slide
_SHORT = 250  # letters that leave room for a figure


@dataclass
class Slide:
    """What is shown and what may be said, as HTML."""

    heading: str
    body: str
    notes: str = ""


def deck(notebook: NotebookNode) -> str:
    """The page of slides of an executed notebook."""
    found = list(slides(notebook)) or [Slide("Nothing to show", "")]
    return filled("slides", title=found[0].heading, slides=found)


def slides(notebook: NotebookNode) -> Iterator[Slide]:
    """The slides, in order."""
    section = heading = ""
    waiting = None  # a slide of text, for what the next cells show
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for shown in _shown(cell):
                asks = heading.startswith(("Exercise", "Predict"))
                long = waiting and "<img" in shown and len(re.sub("<[^>]*>", "", waiting.body)) > _SHORT
                if waiting and (asks or long):  # a question stands alone; a long text leaves a figure too little room
                    yield waiting
                    waiting = None
                if asks and not shown.startswith("<pre>"):  # the answer
                    heading = section
                slide, waiting = waiting or Slide(heading, ""), None
                slide.body += shown
                yield slide
        elif cell.cell_type == "markdown" and "hint" not in cell.metadata.get("tags", []):
            first, *parts = _HEADING.split(cell.source)
            for level, title, text in (("", "", first), *zip(parts[::3], parts[1::3], parts[2::3], strict=True)):
                section = section if level == "###" else html.escape(title) or section
                heading = html.escape(title) or section  # without one, a text returns to the section from an exercise
                if waiting and (title or text.strip()):
                    yield waiting
                    waiting = None
                if text.strip():
                    waiting = Slide(heading, markdown_html(_in_short(text)), markdown_html(text))
    if waiting:
        yield waiting


def _in_short(text: str) -> str:
    """Two sentences of every paragraph; lists and formulas whole, and no tables."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if not part.strip().startswith("|")]
    return "\n\n".join(
        part if part.startswith(_WHOLE) else " ".join(_END_OF_SENTENCE.split(part)[:2]) for part in paragraphs
    )


def _shown(cell: NotebookNode) -> Iterator[str]:
    """A code cell's solution, figures, tables and players; long tables in parts."""
    if "solution" in cell.metadata.get("tags", []):
        yield f"<pre>{html.escape(cell.source)}</pre>"
    players = ""
    for output in cell.outputs:
        data: Mapping[str, Any] = output.get("data", {})
        page = "".join(data.get("text/html", "")).replace(" ± ", "&nbsp;±&nbsp;")
        if "image/png" in data:
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""), quote=True)
            yield f'<img src="data:image/png;base64,{data["image/png"]}" alt="{alt}">'
        elif table := re.fullmatch(r"(.*<tbody>)(.*)(</tbody>.*)", page, re.S):
            before, body, after = table.groups()
            rows = re.findall(r"<tr.*?</tr>", body, re.S)
            each = -(-len(rows) // -(-len(rows) // _ROWS)) if rows else 1
            yield from (before + "".join(rows[at : at + each]) + after for at in range(0, len(rows), each))
        elif "<audio" in page:
            players += page
    if players:
        yield players
