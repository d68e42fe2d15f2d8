"""Slides of a notebook: what becomes a slide, and how they behave in a browser."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pages import CUT_OFF, body_of, probed

from mmlib.batch.slides import deck, slides

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
TABLE = "<table><thead><tr><th>n</th></tr></thead><tbody>{}</tbody></table>"


def shown(source, *bundles, tags=()):
    outputs = [new_output("display_data", data, metadata={"image/png": {"alt": "A <dot>."}}) for data in bundles]
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


@pytest.fixture
def notebook():
    rows = "".join(f"<tr><td>row {number}</td></tr>" for number in range(20))
    return new_notebook(
        cells=[
            new_markdown_cell("# 01 · A title\n\nOne. Two. Three.\n\n- a list\n- of two"),
            shown("seeds: int = 3", tags=["parameters"]),
            shown("import torch"),
            new_markdown_cell("## Section\n\nAbout $x_k$.\n\n### Exercise · Write it\n\nSay how."),
            shown("def f(x):\n    return x < 1", tags=["solution"]),
            new_markdown_cell("Hint: think.", metadata={"tags": ["hint"]}),
            shown("show()", {"image/png": PNG}, {"image/png": PNG}),
            new_markdown_cell("Back again."),
            shown("table()", {"text/html": TABLE.format(rows)}, {"text/plain": "3"}, {"text/html": "<p>no</p>"}),
            new_markdown_cell("## Empty"),
        ]
    )


def test_headings_texts_and_what_is_shown_become_slides(notebook):
    found = list(slides(notebook))
    exercise, section = ["Exercise · Write it"], ["Section"]
    assert [slide.heading for slide in found] == ["01 · A title", *section, *exercise * 2, *section * 4]
    title, section, exercise, solution, one, two, *tables = (slide.body for slide in found)
    assert "One. Two." in title and "Three" not in title and "of two" in title and "Three" in found[0].notes
    assert "<math" in section and "Say how" in exercise and "return x &lt; 1" in solution
    assert one.count("<img") == two.count("<img") == 1 and 'alt="A &lt;dot&gt;."' in one
    assert "Back again" in tables[0] and [body.count("<td>") for body in tables] == [10, 10]
    assert all("<th>n</th>" in body for body in tables)
    assert not any(word in "".join(map(str, found)) for word in ("seeds", "import", "think", "show()", ">no<"))


def test_a_notebook_without_anything_says_so():
    assert deck(new_notebook(cells=[new_markdown_cell("# t")])).count("Nothing to show") == 2


def test_in_a_browser_keys_turn_pages_and_nothing_is_cut_off(notebook, tmp_path, chromium):
    notebook.cells[3].source += " Long." + "\n\nA paragraph of some length, and of another one." * 12
    (tmp_path / "deck.html").write_text(deck(notebook))
    seen = body_of(chromium(probed(tmp_path / "deck.html", CUT_OFF), tmp_path / "profile", height=720))
    assert seen["slides"] == 8 and not seen["cut"] and not seen["violations"]
    assert seen["pages"] == ["#2", "#3", "#2", "#8", "#8", "#1", "#1"], "and no further than the first and the last"
    assert seen["notes"] == [True, False, True]
