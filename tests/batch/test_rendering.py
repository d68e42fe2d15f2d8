"""Executed notebooks as pages: formulas without a script, and nothing that a page cannot show."""

import re
from pathlib import Path

import nbformat
import pytest
from pages import formulas_left

from mmlib.batch.rendering import render
from mmlib.batch.suites import NOTEBOOKS


def pages_of(folder: Path, *cells) -> list[str]:
    """With code, and without."""
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / "n.ipynb")
    render(*(folder / name for name in ("n.ipynb", "with.html", "without.html", "slides.html")))
    return [(folder / name).read_text() for name in ("with.html", "without.html")]


def shown(*bundles):
    outputs = [nbformat.v4.new_output("display_data", data) for data in bundles]
    return nbformat.v4.new_code_cell("x = 1", outputs=outputs)


def test_every_formula_of_the_notebooks_is_drawn(tmp_path):
    notebooks = [nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    prose = [cell.source for notebook in notebooks for cell in notebook.cells if cell.cell_type == "markdown"]
    _, page = pages_of(tmp_path, *map(nbformat.v4.new_markdown_cell, prose))
    written = sum(len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.S)) for text in prose)
    assert written > 20 and page.count("<math") == written
    assert not formulas_left(page) and "\\" not in "".join(re.findall("<math.*?</math>", page, re.S))


def test_formulas_that_were_not_drawn_are_found():
    assert formulas_left("<p>so $$a^2$$ and $b_k$</p><style>$c$</style><code>$d$</code>") == ["$$a^2$$", "$b_k$"]
    assert not formulas_left("<p>It costs $5, or $ 6 elsewhere.</p>")


def test_formulas_in_outputs_and_over_several_lines_are_drawn(tmp_path):
    source = "$$\n\\begin{aligned} a &= b \\\\ c &< d \\end{aligned}\n$$\n\n\\begin{equation} e \\end{equation}"
    _, page = pages_of(tmp_path, shown({"text/markdown": "a $q_i$ here"}), nbformat.v4.new_markdown_cell(source))
    assert page.count("<math") == 3 and page.count("<mtr") == 2 and not formulas_left(page)


@pytest.mark.parametrize("broken", [r"x^", r"\left( x"])
def test_what_is_no_formula_stays_as_it_was_written(tmp_path, broken):
    _, page = pages_of(tmp_path, nbformat.v4.new_markdown_cell(f"# A title\n\nbefore ${broken}$ after"))
    assert f"before <code>{broken}</code> after" in page


def test_widgets_and_scripts_are_left_out(tmp_path):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a slider"}
    pages = pages_of(tmp_path, shown(widget, {"text/html": "<script>let named</script>"}, {"text/plain": "a result"}))
    assert all("a result" in page and "a slider" not in page and "let named" not in page for page in pages)
    assert ["highlight" in page.split("</head>")[1] for page in pages] == [True, False]
