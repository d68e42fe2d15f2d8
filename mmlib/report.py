"""The page of a batch: one static HTML file that works from disk, without a network."""

import html
from pathlib import Path
from typing import Any

import pandas as pd

from mmlib.data.cache import atomic_path
from mmlib.results import claims_html

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.failed { color: #a40000; font-weight: 600; } code { background: #f4f4f4; padding: 0 .2em; }
pre { overflow-x: auto; background: #f4f4f4; padding: .6rem; }
"""


def write_page(results: list[dict[str, Any]], out: Path) -> Path:
    """Write `out/index.html`, and all notebooks' runs as `out/runs.csv` where there are any, from the batch's results
    (`batch.Result` as dictionaries)."""
    page = out / "index.html"
    runs = [
        {"notebook": result["name"], **row}
        for result in results
        for record in result["records"]
        for row in record.get("runs", [])  # results of earlier versions have none
    ]
    if runs:
        with atomic_path(out / "runs.csv") as temporary:
            pd.DataFrame(runs).to_csv(temporary, index=False)
    with atomic_path(page) as temporary:
        temporary.write_text(_page(results, len(runs)), encoding="utf-8")
    return page


def _page(results: list[dict[str, Any]], runs: int) -> str:
    finished = sum(result["status"] == "finished" for result in results)
    claims = [claim for result in results for record in result["records"] for claim in record["claims"]]
    verdicts = [claim["verdict"] for claim in claims]
    summary = (
        f"{finished} of {len(results)} notebooks finished; of {len(claims)} claims {verdicts.count('holds')} hold, "
        f"{verdicts.count('fails')} fail, {verdicts.count('not distinguishable')} are not distinguishable."
    )
    if runs:
        summary += f' <a href="runs.csv">All {runs} training runs</a> as a table.'
    rows = "".join(_row(result) for result in results)
    sections = "".join(_section(result) for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>mmlib: results</title>'
        f"<style>{_CSS}</style></head><body><h1>Results</h1><p>{summary}</p>"
        "<table><thead><tr><th>notebook</th><th>status</th><th>time</th><th>parameters</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{sections}</body></html>"
    )


def _row(result: dict[str, Any]) -> str:
    name = html.escape(result["name"])
    parameters = ", ".join(f"{key}={value!r}" for key, value in result["parameters"].items()) or "defaults"
    kind = "" if result["status"] == "finished" else ' class="failed"'
    return (
        f'<tr><td><a href="{name}.html">{name}</a> (<a href="{name}.ipynb">.ipynb</a>)</td>'
        f"<td{kind}>{html.escape(result['status'])}</td><td>{result['seconds']:.0f} s</td>"
        f"<td><code>{html.escape(parameters)}</code></td></tr>"
    )


def _section(result: dict[str, Any]) -> str:
    parts = [f"<h2>{html.escape(result['name'])}</h2>"]
    if result["error"]:
        parts.append(f'<pre class="failed">{html.escape(result["error"])}</pre>')
    for record in result["records"]:
        made_with = ", ".join(f"{key} {value}" for key, value in record["environment"].items())
        parts += [claims_html(record["claims"]), f"<p><small>{html.escape(made_with)}</small></p>"]
    return "".join(parts)
