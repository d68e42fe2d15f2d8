"""The page of a batch: one static HTML file that works from disk, on a phone and read aloud, without a network."""

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
from PIL import Image

from mmlib.batch.execution import FINISHED, LOG, Result
from mmlib.batch.runner import NOTEBOOK, WITH_CODE, WITHOUT_CODE
from mmlib.batch.suites import but_seeds
from mmlib.data.cache import atomic_path
from mmlib.notebook.claims import VERDICTS, verdict_cell
from mmlib.training.estimates import Estimate, estimate, pooled

_CSS = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: #222; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; margin: .5rem 0 1.5rem; }
.wide:focus-visible, button:focus-visible, a:focus-visible { outline: 3px solid #0b5fa5; outline-offset: 2px; }
table { border-collapse: collapse; min-width: 100%; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } td.text { min-width: 14rem; }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button::after { content: " ↕"; color: #555; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
.bad { color: #a40000; font-weight: 600; } a { color: #0b5fa5; }
pre { overflow-x: auto; background: #f4f4f4; padding: .6rem; font-size: .85rem; } code { overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { font-size: .85rem; }
"""
# Sorts a table by the column whose button was pressed; numbers by `data-value`, all else as text.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
  const place = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
  const value = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
  const order = (a, b) => a.localeCompare(b, undefined, { numeric: true }) * (down ? -1 : 1);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
});
"""
_THUMBNAIL = 480  # pixels: twice the width it is shown at


def write_page(
    suite: str, about: str, results: Sequence[Result], outdated: set[str], missing: Sequence[str], out: Path
) -> Path:
    """Write `out/index.html`, and every training run as `out/results.csv`. Runs in `outdated` (names) were made with
    other code, data or versions: they are listed and take no part in verdicts and tables."""
    page, valid = out / "index.html", [result for result in results if result.name not in outdated]
    table = pd.DataFrame(_training_runs(valid))
    if len(table):
        with atomic_path(out / "results.csv") as temporary:
            table.to_csv(temporary, index=False)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in valid:
        groups.setdefault((result.notebook, spelled(but_seeds(result.parameters))), []).append(result)
    finished = sum(result.status == FINISHED for result in results)
    body = [
        f"<h1>{html.escape(suite)}</h1><p>{html.escape(about)}</p>",
        f"<p>{finished} of {len(results) + len(missing)} runs finished.",
    ]
    if len(table):
        body.append(f' <a href="results.csv">All {len(table)} trainings</a>, one a row.')
    body.append("</p>")
    if missing:
        body.append(f'<p class="bad">Not run yet: {html.escape(", ".join(missing))}. The same command goes on.</p>')
    failures = [result for result in results if result.status != FINISHED]
    body += [_verdicts(groups), *(_failure(result) for result in failures), _run_table(results, outdated)]
    body += [_configuration(*key, runs, out) for key, runs in groups.items()]
    with atomic_path(page) as temporary:
        temporary.write_text(_document(suite, "".join(body)), encoding="utf-8")
    return page


def spelled(parameters: Mapping[str, Any]) -> str:
    """Parameters to be read; "defaults" for none."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items()) or "defaults"


def _document(title: str, body: str) -> str:
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}: results</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body><main>{body}</main><script>{_SCRIPT}</script></body></html>"
    )


def _training_runs(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {"notebook": result.notebook.removesuffix(".ipynb"), "run": result.name, **row}
        for result in results
        for record in result.records
        for row in record["runs"]
    ]


def _table(caption: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table that its headings sort, and that scrolls by itself where the screen is narrow, also with the keyboard."""
    head = "".join(f'<th scope="col"><button>{html.escape(name)}</button></th>' for name in columns)
    name = html.escape(caption, quote=True)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{name}"><table><caption>{name}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _verdicts(groups: Mapping[tuple[str, str], Sequence[Result]]) -> str:
    """Every claim of every configuration, over all seeds of all its runs."""
    counts, rows = dict.fromkeys(VERDICTS.values(), 0), []
    for (notebook, parameters), runs in groups.items():
        claims: dict[str, list[dict[str, Any]]] = {}
        for result in runs:
            for record in result.records:
                for claim in record["claims"]:
                    claims.setdefault(claim["statement"], []).append(claim)
        for statement, made in claims.items():
            verdict, measured = over_runs(made)
            counts[verdict] += 1
            rows.append(
                f'<tr><td class="text">{html.escape(statement)}</td>{verdict_cell(verdict)}'
                f'<td class="number">{html.escape(measured)}</td><td>{html.escape(notebook.split("_")[0])}</td>'
                f"<td><code>{html.escape(parameters)}</code></td></tr>"
            )
    summary = ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
    columns = ("claim", "verdict", "measured (seeds)", "notebook", "parameters")
    return f"<h2>Claims</h2><p>{summary}.</p>" + _table("Claims over all seeds", columns, rows)


def over_runs(claims: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Verdict and measurement of one claim that several runs with different seeds made. Estimates are pooled into that
    of all seeds together. Other measurements must all agree, or the claim is not distinguishable."""
    if all(claim["estimate"] for claim in claims):
        value = pooled([Estimate(**claim["estimate"]) for claim in claims])
        return VERDICTS[value.above_zero], f"{value:+.3f} ({value.count})"
    verdicts = {claim["verdict"] for claim in claims}
    verdict = verdicts.pop() if len(verdicts) == 1 else VERDICTS[None]
    return verdict, "; ".join(dict.fromkeys(claim["measured"] for claim in claims))


def _failure(result: Result) -> str:
    parts = [
        f'<h2 class="bad">{html.escape(result.name)}: {html.escape(result.status)}</h2>',
        f"<p>{html.escape(result.error)}</p>",
    ]
    if result.cell:
        parts.append(f"<h3>The cell</h3><pre>{html.escape(result.cell)}</pre>")
    if result.stderr:
        parts.append(f"<h3>What it said</h3><pre>{html.escape(result.stderr)}</pre>")
    return "".join(parts)


def _run_table(results: Sequence[Result], outdated: set[str]) -> str:
    rows = []
    for result in results:
        folder = quote(result.name)
        links = {WITH_CODE: "with code", WITHOUT_CODE: "without", NOTEBOOK: "notebook", LOG: "log"}
        linked = ", ".join(f'<a href="{folder}/{file}">{text}</a>' for file, text in links.items())
        made_with = dict(result.environment)
        device = made_with.pop("gpu", "none")
        status = f"{result.status}, outdated" if result.name in outdated else result.status
        rows.append(
            f"<tr><td>{html.escape(result.name)}<br><small>{linked}</small></td>"
            f"<td{'' if status == FINISHED else ' class=bad'}>{html.escape(status)}</td>"
            f"<td><code>{html.escape(spelled(result.parameters))}</code></td>"
            f'<td class="number" data-value="{result.seconds:.1f}">{result.seconds:.0f} s</td>'
            f"<td>{html.escape(result.started)}</td><td>{html.escape('CPU' if device == 'none' else device)}</td>"
            f"<td>{html.escape(', '.join(f'{name} {value}' for name, value in made_with.items()))}</td></tr>"
        )
    columns = ("run", "status", "parameters", "time", "started (UTC)", "device", "environment")
    note = "<p>Outdated: made with other code, data or versions than those here now.</p>" if outdated else ""
    return "<h2>Runs</h2>" + note + _table("All runs in this folder", columns, rows)


def _configuration(notebook: str, parameters: str, runs: Sequence[Result], out: Path) -> str:
    """What runs that differ in their seeds alone have measured, and the figures of the first of them."""
    trainings = pd.DataFrame(_training_runs(runs))
    content = _scores(trainings) + _figures(runs[0], out)
    if not content:
        return ""
    name = html.escape(notebook.removesuffix(".ipynb"))
    return f"<h2>{name}</h2><p><code>{html.escape(parameters)}</code></p>{content}"


def _scores(trainings: pd.DataFrame) -> str:
    """Accuracy in the unseen domain, or on the test part, per method: paper, measured, difference."""
    if not {"method", "seed", "target accuracy"} <= set(trainings):
        return ""
    trainings = trainings.dropna(subset="target accuracy")
    names = ("method", "modalities", "source", "target", "settings")
    which = [name for name in names if name in trainings and trainings[name].any()]
    printed = "paper" in trainings and trainings["paper"].notna().any()
    rows = []
    for values, group in trainings.groupby(which, sort=False, dropna=False):
        once = group.drop_duplicates("seed")
        value = estimate(100 * once["target accuracy"])
        cells = [f"<td>{html.escape(str(text))}</td>" for text in values]
        cells.append(f'<td class="number">{value:.1f}</td><td class="number">{value.count}</td>')
        if printed:
            paper = group["paper"].iloc[0]
            away = Estimate(value.mean - paper, value.half_width, value.count)
            texts = ("—", "—") if pd.isna(paper) else (f"{paper:.2f}", f"{away:+.1f}")
            cells += [f'<td class="number">{text}</td>' for text in texts]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    columns = [*which, "accuracy, %", "seeds", *(("paper, %", "measured − paper") if printed else ())]
    about = "; ".join(trainings["data"].dropna().unique()) if "data" in trainings else ""  # a stand-in says so
    caption = "Test accuracy: the unseen domain's, or all domains' where none is"
    return _table(f"{caption}. {about}" if about else caption, columns, rows)


def _figures(result: Result, out: Path) -> str:
    """Small copies of the figures that the notebook calls its key figures."""
    notebook = nbformat.read(out / result.name / NOTEBOOK, as_version=4)
    figures = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        facts = output.get("metadata", {}).get("image/png", {})
        if facts.get("key"):
            alt = html.escape(facts["alt"], quote=True)
            small = _thumbnail(output["data"]["image/png"])
            figures.append(
                f'<figure><a href="{quote(result.name)}/{WITHOUT_CODE}">'
                f'<img src="data:image/png;base64,{small}" alt="{alt}"></a><figcaption>{alt}</figcaption></figure>'
            )
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _thumbnail(png: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((_THUMBNAIL, 4 * _THUMBNAIL))
    small = io.BytesIO()
    image.quantize(64).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()
