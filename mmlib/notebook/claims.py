"""What a notebook found: claims with verdicts, and its runs, kept where a batch can read them."""

import contextlib
import html
import json
import math
import numbers
import platform
from dataclasses import asdict, dataclass
from typing import Any

import joblib
import pandas as pd
import torch

from mmlib.training.estimates import Estimate

MIME_TYPE = "application/vnd.mmlib.record+json"
VERDICTS = {True: "holds", False: "fails", None: "not distinguishable"}
NOT_MEASURED = "not measured"
MARKS = {"holds": "✓", "fails": "✗", "not distinguishable": "≈", NOT_MEASURED: "?"}


@dataclass(frozen=True)
class Claim:
    """A sentence, what was measured, and whether it holds."""

    statement: str
    measured: str
    verdict: str  # one of MARKS
    estimate: Estimate | None = None  # where the measurement is one: other runs' seeds can be pooled with it
    key: bool = False  # what the notebook is about

    def __repr__(self) -> str:  # what a cell that ends in a claim shows
        return f"{MARKS[self.verdict]} {self.statement}: {self.measured}"


class Record:
    """Collects a notebook's claims. Shown as the last value of a cell, it is a table to read and JSON for the batch."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.claims: list[Claim] = []
        self.runs: list[dict[str, Any]] = []

    def add_runs(self, table: pd.DataFrame, part: str = "") -> None:
        """Keep a table with one row per run (`training.score_table`) for the batch, under the name of the notebook's
        part that they belong to. A row is kept once."""
        rows = json.loads(table.assign(part=part).to_json(orient="records"))
        self.runs += [row for row in rows if row not in self.runs]

    def claim(
        self, statement: str, measured: Estimate | float | str, holds: bool | None = None, key: bool = False
    ) -> Claim:
        """State a claim and what was measured, and return it. A batch's page opens with the `key` ones.

        For an `Estimate` the claim is that it is above zero: it holds or fails where its 95 % interval excludes zero,
        and is not distinguishable otherwise. Anything else needs `holds`. What is not a finite number is not measured.
        A repeated statement replaces the first one. Raises a ValueError for `holds` with an estimate, or without one
        and no `holds`.
        """
        kept = None
        if isinstance(measured, Estimate):
            if holds is not None:
                raise ValueError("An estimate determines the verdict; leave out `holds`.")
            holds, text = measured.above_zero, measured_in_words(measured)
            kept = measured if measured.count > 1 else None
        elif holds is None:
            raise ValueError(f"Say whether {statement!r} holds (True or False).")
        else:
            text = f"{measured:.3f}" if isinstance(measured, float) else str(measured)
        verdict = VERDICTS[holds if holds is None else bool(holds)]
        if not _finite(measured):
            verdict, kept = NOT_MEASURED, None
        made = Claim(statement, text, verdict, kept, key)
        self.claims = [claim for claim in self.claims if claim.statement != statement] + [made]
        return made

    def as_json(self) -> dict[str, Any]:
        """Title, claims, runs and environment, as plain values."""
        claims = [asdict(claim) for claim in self.claims]
        return {"title": self.title, "claims": claims, "runs": self.runs, "environment": environment()}

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {
            "text/plain": "\n".join(map(repr, self.claims)) or "No claims.",
            "text/html": claims_html([asdict(claim) for claim in self.claims]),
            MIME_TYPE: self.as_json(),
        }


def _finite(measured: Estimate | float | str) -> bool:
    """Whether this was measured at all. The interval of one seed is none, and NaN."""
    if isinstance(measured, Estimate):
        return math.isfinite(measured.mean) and (measured.count < 2 or math.isfinite(measured.half_width))
    return not isinstance(measured, numbers.Real) or math.isfinite(measured)


def measured_in_words(measured: Estimate) -> str:
    """Mean and interval; where it does not exclude zero, also how many seeds probably would."""
    text = format(measured, "+.3f")
    if measured.above_zero is not None or measured.count < 2 or not _finite(measured):
        return text
    enough = measured.runs_to_decide
    return f"{text}; {f'some {enough}' if enough else 'more than a thousand'} seeds would decide"


def claims_html(claims: list[dict[str, Any]]) -> str:
    """Claims as an HTML table; all text is escaped. A mark repeats the verdict and is hidden from screen
    readers."""
    rows = "".join(
        f'<tr><td style="text-align:left">{html.escape(claim["statement"])}</td>'
        f"<td>{html.escape(claim['measured'])}</td>"
        f'<td><span aria-hidden="true">{MARKS[claim["verdict"]]}</span> {html.escape(claim["verdict"])}</td></tr>'
        for claim in claims
    )
    head = '<tr><th style="text-align:left">claim</th><th>measured</th><th>verdict</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def environment() -> dict[str, str]:
    """The versions and hardware that the numbers were computed with."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu cores": str(joblib.cpu_count()),  # that this process may use
        "gpu": gpu,
    }


def records_in(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The records among an executed notebook's outputs."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get(MIME_TYPE)
            if data is not None:
                with contextlib.suppress(ValueError):  # text that is no JSON stays text, and the page says so
                    data = json.loads(data) if isinstance(data, str) else data
                found.append(data)
    return found
