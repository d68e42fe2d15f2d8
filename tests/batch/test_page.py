"""The page of a batch: what it says, and how it behaves in a browser."""

import copy
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from pages import body_of, probed

from mmlib.batch import page as report
from mmlib.batch.execution import Result
from mmlib.notebook.claims import Record
from mmlib.notebook.picture import Picture
from mmlib.training import Estimate, estimate

HOSTILE = "\"><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
PROBE = """
const violations = []; document.addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
const tables = [...document.querySelectorAll("table")];
let table;
const column = place => [...table.tBodies[0].rows].map(row => row.cells[place].firstChild.textContent);
const press = name => [...table.querySelectorAll("button")].find(one => one.textContent === name).click();
const seen = { width: innerWidth, page: document.documentElement.scrollWidth, title: document.title };
seen.folds = [...document.querySelectorAll("details")].map(one => one.open);
seen.cards = [...document.querySelectorAll("article")].map(one => one.innerText);
seen.measured = tables.filter(one => one.caption.textContent.startsWith("Decided claims")).map(one => {
  table = one; press("measured (seeds)"); return column(2).map(text => text.split(" ")[0]);
});
table = tables.find(one => one.caption.textContent.startsWith("All runs"));
press("time"); seen.up = column(3); seen.sorted = table.querySelector("[aria-sort]").getAttribute("aria-sort");
press("time"); seen.down = column(3); press("run"); seen.names = column(0);
seen.images = [...document.images].map(image => [image.naturalWidth, image.alt]);
seen.headings = [...document.querySelectorAll("h1, h2, h3")].map(heading => Number(heading.tagName[1]));
seen.regions = [...document.querySelectorAll(".wide")].every(one => one.tabIndex === 0 && one.ariaLabel);
seen.violations = violations;
document.body.innerHTML = ""; document.body.append(JSON.stringify(seen));
"""


def notebook_with(path: Path, *outputs) -> None:
    cells = [nbformat.v4.new_code_cell("1", outputs=list(outputs))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def figure_output(alt: str, key: bool):
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    data, metadata = Picture(figure, alt, key)._repr_mimebundle_()
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


@pytest.fixture
def folder(tmp_path):
    """Adds a run's folder and gives its Result."""

    def add(name, values, *, parameters=None, status="finished", seconds=10.0, paper=None, notebook="01_small.ipynb"):
        record = Record("small")
        record.claim("it helps", estimate(values), key=True)
        record.claim("it is so", "as measured", all(value > 0 for value in values))
        first = (parameters or {}).get("first_seed", 0)
        table = pd.DataFrame(
            {
                "method": "erm",
                "modalities": "audio+image",
                "source": "",
                "target": "U",
                "settings": "",
                "seed": range(first, first + len(values)),
                "target accuracy": values,
            }
        )
        record.add_runs(table if paper is None else table.assign(paper=paper))
        place = tmp_path / name
        place.mkdir()
        notebook_with(place / "notebook.ipynb", figure_output("A line <up>.", True), figure_output("Not key.", False))
        failed = status != "finished"
        return Result(
            name, notebook, parameters or {}, "", status, "It <b>failed</b>." if failed else "",
            "assert '<cell>'" if failed else "", "said <so>" if failed else "", "2026-11-25T08:00:00+00:00", seconds,
            {"python": "3.11", "gpu": "H200"}, [record.as_json()], {},
        )  # fmt: skip

    return add


def test_claims_are_read_over_all_seeds_of_all_runs(folder, tmp_path):
    """Neither run alone tells; all five seeds do. And the pooled interval is that of all values together."""
    parts = [[0.10, 0.30], [0.15, 0.2, 0.25]]
    results = [folder(f"01_small-{i}", part, parameters={"first_seed": 10 * i}) for i, part in enumerate(parts)]
    assert estimate(parts[0]).above_zero is None
    verdict, measured = report.over_runs([result.records[0]["claims"][0] for result in results])
    assert verdict == "holds" and measured == f"{estimate(sum(parts, [])):+.3f} (5)"  # noqa: RUF017
    page = report.write_page("s", "", results, set(), [], tmp_path).read_text()
    assert page.count('<td class="text">it helps</td>') == 1 and measured in page
    other = folder("01_small-x", [-0.5, 0.5], parameters={"rate": 2.0})
    page = report.write_page("s", "", [*results, other], set(), [], tmp_path).read_text()
    assert page.count('<td class="text">it helps</td>') == 2, "another configuration is another question"
    assert "holds: 2, fails: 1, not distinguishable: 1." in page


def test_claims_that_disagree_are_not_distinguishable():
    claims = [{"verdict": verdict, "measured": verdict, "estimate": None} for verdict in ("holds", "fails")]
    assert report.over_runs(claims) == ("not distinguishable", "holds; fails")
    assert report.over_runs(claims[:1] * 2) == ("holds", "holds")


def test_a_claim_that_one_run_could_not_measure_is_not_measured(folder, tmp_path):
    results = [folder(f"01_small-{i}", [0.1, 0.2], parameters={"first_seed": 10 * i}) for i in range(2)]
    record = Record("small")
    claims = [record.claim("it helps", Estimate(math.nan, 0.1, 2)), record.claim("it is so", math.nan, True)]
    claims += [record.claim("all", Estimate(0.1, math.inf, 2)), record.claim("as such", np.float32("inf"), False)]
    assert [(claim.verdict, claim.estimate) for claim in claims] == [("not measured", None)] * 4
    assert "? it helps: +nan ± 0.100" in record._repr_mimebundle_()["text/plain"]
    assert record.claim("one seed", Estimate(0.1, math.nan, 1)).verdict == "not distinguishable"
    results[1].records[:] = [json.loads(json.dumps(record.as_json()))]
    page = report.write_page("s", "", results, set(), [], tmp_path).read_text()
    assert "holds: 0, fails: 0, not distinguishable: 1, not measured: 4." in page
    assert "+nan ± 0.100" in page


def test_a_run_that_diverged_is_left_out_visibly(folder, tmp_path):
    rows = [
        {"method": method, "seed": seed, "target accuracy": math.nan if why else 0.5, "diverged": why}
        for method, diverged in (("erm", (1,)), ("mbcd", (0, 1, 2)))
        for seed in range(3)
        for why in ["in epoch 1" if seed in diverged else ""]
    ]
    scores = report._scores(pd.DataFrame(rows))
    assert [numbers for _, numbers in scores.rows] == [["50.0 ± 0.0 (1 left out)", "2"], ["— (3 diverged)", "0"]]


SPOILT = {
    "estimate": lambda record: record["claims"][0].update(estimate={"mean": "nan", "half_width": 0.1, "count": 2}),
    "verdict": lambda record: record["claims"][1].update(verdict="perhaps"),
    "statement": lambda record: record["claims"][0].pop("statement"),
    "values": lambda record: record.update(runs=[{"method": ["erm"], "seed": 0, "target accuracy": "high"}]),
    "a number": lambda record: record.update(runs=7),
    "nothing": lambda record: record.pop("runs"),
}


def test_no_record_can_stop_the_page(folder, tmp_path):
    """It is named, and another run of the same configuration still has its say."""
    sound = [folder(f"01_small-{i}", [0.1, 0.2], parameters={"first_seed": 10 * i}) for i in range(2)]
    for what, spoil in SPOILT.items():
        results = copy.deepcopy(sound)
        spoil(results[0].records[0])
        page = report.write_page("s", "", results, set(), [], tmp_path).read_text()
        assert "The record or the figures of 01_small-0 cannot be read (" in page, what
        assert "of 01_small-1 cannot" not in page and "<img" in page, what
        assert "holds: 1, fails: 0, not distinguishable: 1." in page, what
        assert set(pd.read_csv(tmp_path / "results.csv")["run"]) == {"01_small-1"}, what


def test_the_paper_stands_beside_what_was_measured(folder, tmp_path):
    values = [0.60, 0.62, 0.64]
    results = [folder("01_small", values, paper=60.0), folder("02_own", values, notebook="02_own.ipynb")]
    page = report.write_page("s", "", results, set(), [], tmp_path).read_text()
    value = estimate([100 * one for one in values])
    away = Estimate(value.mean - 60, value.half_width, value.count)
    assert (
        f'{value:.1f}</td><td class="number">3</td><td class="number">60.00</td><td class="number">{away:+.1f}' in page
    )
    assert page.count("measured − paper") == 1, "no column of dashes where no paper is"
    table = pd.read_csv(tmp_path / "results.csv")
    assert table["run"].tolist() == ["01_small"] * 3 + ["02_own"] * 3


def test_a_table_says_what_data_it_is_about(folder, tmp_path):
    result = folder("10_hac", [0.6, 0.7])
    for row in result.records[0]["runs"]:
        row["data"] = "STAND-IN of synthetic clips, NOT HAC"
    page = report.write_page("s", "", [result], set(), [], tmp_path).read_text()
    assert "where none is. STAND-IN of synthetic clips, NOT HAC</caption>" in page


def test_trainings_without_an_accuracy_are_no_table(folder, tmp_path):
    result = folder("01_small", [0.6, 0.7])
    for row in result.records[0]["runs"]:
        row["target accuracy"] = None
    page = report.write_page("s", "", [result], set(), [], tmp_path).read_text()
    assert "All 2 training runs" in page and "Test accuracy" not in page and "<img" in page


def test_failures_missing_and_outdated_runs_are_reported(folder, tmp_path):
    results = [folder("01_small", [1, 2]), folder("02_bad", [1, 2], status="timeout"), folder("03_old", [7, 8])]
    page = report.write_page("night", "", results, {"03_old"}, ["04_new"], tmp_path).read_text()
    assert "2 of 4 runs finished" in page and "Not run yet: 04_new" in page
    assert "finished, outdated" in page and "7.500" not in page, "an outdated run has no say"
    for text in (
        "02_bad: timeout",
        "It &lt;b&gt;failed&lt;/b&gt;.",
        "assert &#39;&lt;cell&gt;&#39;",
        "said &lt;so&gt;",
    ):
        assert text in page
    assert len(pd.read_csv(tmp_path / "results.csv")) == 4


def test_the_page_of_an_unfinished_batch_says_so_and_reports_no_failure(folder, tmp_path):
    results = [folder("01_small", [1, 2]), folder("02_again", [7, 8])]
    page = report.write_page("night", "", results, {"02_again"}, [], tmp_path, ["02_again", "03_new"]).read_text()
    assert "2 of 3 runs finished" in page and re.search(
        r"still to come on [-\d]+ \d\d:\d\d \(UTC\): 02_again, 03_new", page
    )
    assert "Not run yet" not in page and page.count('<td class="text">it helps') == 1
    page = report.write_page("night", "", results[:1], set(), ["02_again"], tmp_path).read_text()
    assert "still to come" not in page and "Not run yet: 02_again" in page


def test_key_figures_are_small_copies(folder, tmp_path):
    page = report.write_page("s", "", [folder("01_small", [1, 2])], set(), [], tmp_path).read_text()
    (source,) = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="A line &lt;up&gt;."', page)
    assert len(source) < 20_000 and "Not key" not in page and 'href="01_small/without_code.html"' in page


def test_nothing_comes_from_a_network(folder, tmp_path):
    page = report.write_page("s", "", [folder("01_small", [1, 2])], set(), [], tmp_path).read_text()
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page


@pytest.mark.parametrize("width", [1280, 500], ids=["screen", "phone"])
def test_the_page_in_a_browser(folder, tmp_path, chromium, width):
    """Sorts, shows its figures, scrolls tables and not the page, and runs no script but its own."""
    parameters = {"target": HOSTILE, "long": "x" * 300}
    results = [folder(f"0{i}_run", [1, 2], seconds=seconds) for i, seconds in ((1, 30), (3, 200), (2, 4))]
    results.append(folder("04_hostile", [-1, -2], parameters=parameters, status=HOSTILE, seconds=1))
    results.append(folder("05_low", [-40, -50], notebook="05_low.ipynb"))
    page = report.write_page(HOSTILE, HOSTILE, results, set(), [HOSTILE], tmp_path)
    seen = body_of(chromium(probed(page, PROBE), tmp_path / "profile", width))
    assert seen["up"] == ["1 s", "4 s", "10 s", "30 s", "200 s"] and seen["down"] == seen["up"][::-1]
    assert seen["sorted"] == "ascending" and seen["names"] == ["01_run", "02_run", "03_run", "04_hostile", "05_low"]
    assert seen["measured"] == [["as", "+1.500"], ["as"], ["as"]] and not any(seen["folds"])
    assert [re.search(r"(\d) of 2 claims decided", card)[1] for card in seen["cards"]] == ["2", "1", "1"]
    assert "✓ it helps: holds, +1.500" in seen["cards"][0]
    assert "≈ it helps: not distinguishable, -45.000" in seen["cards"][2]
    assert seen["images"] == [[width_, "A line <up>."] for width_, _ in seen["images"]] and len(seen["images"]) == 3
    assert all(width_ > 100 for width_, _ in seen["images"])
    assert seen["width"] == width and seen["page"] <= width, "tables scroll by themselves, the page does not"
    assert seen["headings"][0] == 1 and all(
        b - a <= 1 for a, b in zip(seen["headings"], seen["headings"][1:], strict=False)
    )
    assert seen["regions"] and not seen["violations"]
    assert "pwned" not in seen["title"].replace(HOSTILE, "")


def test_an_executed_notebook_cannot_run_scripts(kit, chromium, tmp_path):
    """Neither from what it displays nor from a parameter; and its pages without code have none."""
    code = """from IPython.display import HTML, Markdown, display
display(HTML(name), Markdown(name), HTML(f"<table><tbody><tr><td>{name}</td></tr></tbody></table>"))
print(name)"""
    kit.notebook("01_hostile", code)
    assert kit.run("-p", f"name={json.dumps(HOSTILE)}") == 0
    (run,) = kit.results()
    for page in ("with_code.html", "without_code.html", "slides.html"):
        said = chromium(kit.out / run / page, tmp_path / "profile")
        assert ("<title>t" if page == "slides.html" else "<title>Notebook") in said
        assert ("display" in said.split("</head>")[1]) == (page == "with_code.html")
    assert "http" not in (kit.out / "index.html").read_text().replace("http-equiv", "")
