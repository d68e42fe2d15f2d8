"""The page of a batch: one static HTML file that needs no network and works from disk, on a phone and in a screen
reader. This module gathers the content of the page; `templates` determines how it looks."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from PIL import Image

from mmlib.batch.execution import FINISHED, LOG, Result
from mmlib.batch.runner import NOTEBOOK, SLIDES, WITH_CODE, WITHOUT_CODE
from mmlib.batch.suites import but_seeds
from mmlib.batch.template import filled
from mmlib.data.cache import atomic_path
from mmlib.notebook.claims import MARKS, NOT_MEASURED, VERDICTS, measured_in_words
from mmlib.training.estimates import Estimate, estimate, pooled

_THUMBNAIL = 480  # pixels: twice the width it is shown at
_LINKS = {"with code": WITH_CODE, "without": WITHOUT_CODE, "slides": SLIDES, "notebook": NOTEBOOK, "log": LOG}


@dataclass(frozen=True)
class ClaimRow:
    """A claim of one configuration, over all seeds of all its runs."""

    statement: str
    verdict: str
    measured: str
    key: bool  # whether the notebook is about it

    @property
    def decided(self) -> bool:
        """Whether it holds or fails."""
        return self.verdict in (VERDICTS[True], VERDICTS[False])


@dataclass(frozen=True)
class ScoreTable:
    """Accuracy per method; a row is its labels and its numbers, as they are shown."""

    caption: str
    columns: list[str]
    rows: list[tuple[list[str], list[str]]]


@dataclass(frozen=True)
class Figure:
    """A small copy of a key figure: a PNG in base64, and its alternative text."""

    run: str
    alt: str
    thumbnail: str


@dataclass(frozen=True)
class Configuration:
    """What runs that differ only in their seeds have claimed and measured, and the figures of the first of them."""

    notebook: str
    parameters: str
    run: str  # the name of that first one
    claims: list[ClaimRow]
    scores: ScoreTable | None
    figures: list[Figure]


# Notebook and parameters → the runs, what they found, and which of them could not be read.
Known = dict[tuple[str, str], tuple[list[Result], Configuration, dict[str, str]]]


def write_page(
    suite: str,
    about: str,
    results: Sequence[Result],
    outdated: set[str],
    missing: Sequence[str],
    out: Path,
    to_come: Sequence[str] = (),
    read: Known | None = None,
) -> Path:
    """Write `out/index.html`, and every training run as `out/results.csv`. Runs in `outdated` (names) were made with
    other code, data or versions: they are listed but left out of verdicts and tables. The batch is still working on
    those in `to_come`; nobody is on those in `missing`. `read` holds what earlier pages have read, and receives the
    rest: a page that is written after each of 500 runs would otherwise read the first of them 500 times."""
    valid, configurations, unread = [result for result in results if result.name not in outdated], [], {}
    read = {} if read is None else read
    for key, runs in by_configuration(valid).items():
        if key not in read or read[key][0] != runs:
            read[key] = runs, *_configuration(*key, runs, out)
        configurations.append(read[key][1])
        unread |= read[key][2]
    trainings = _training_runs([result for result in valid if result.name not in unread])
    if len(trainings):
        with atomic_path(out / "results.csv") as temporary:
            _for_spreadsheets(trainings).to_csv(temporary, index=False)
    claims = [row for configuration in configurations for row in configuration.claims]
    counts = {verdict: sum(row.verdict == verdict for row in claims) for verdict in MARKS}
    text = filled(
        "page",
        links=_LINKS,
        marks=MARKS,
        in_words=in_words,
        suite=suite,
        about=about,
        results=results,
        failures=[result for result in results if result.status != FINISHED],
        outdated=outdated,
        missing=missing,
        to_come=to_come,
        total=len({result.name for result in results}.union(missing, to_come)),
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        trainings=len(trainings),
        unread=unread,
        counts={verdict: count for verdict, count in counts.items() if count or verdict in VERDICTS.values()},
        configurations=configurations,
    )
    page = out / "index.html"
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def in_words(parameters: Mapping[str, Any]) -> str:
    """Parameters as readable text; "defaults" for none."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items()) or "defaults"


def by_configuration(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Runs that are pooled, under their notebook's file name and the parameters other than seeds, as text."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.notebook, in_words(but_seeds(result.parameters))), []).append(result)
    return groups


def _configuration(
    notebook: str, parameters: str, runs: Sequence[Result], out: Path
) -> tuple[Configuration, dict[str, str]]:
    """What these runs found together. Records are others' work: a run whose record or figures cannot be read has no
    part in it, and is among the second, with why."""
    name, unread = notebook.removesuffix(".ipynb"), {}

    def read(some: Sequence[Result]) -> Configuration:
        claims, scores = _claim_rows(some), _scores(_training_runs(some))
        return Configuration(name, parameters, some[0].name, claims, scores, _figures(some[0], out))

    def readable(some: Sequence[Result]) -> bool:
        try:
            return bool(read(some))
        except Exception as error:
            unread.update(dict.fromkeys((result.name for result in some), f"{type(error).__name__}: {error}"))
            return False

    try:
        return read(runs), unread
    except Exception:
        sound = [result for result in runs if readable([result])]
    found = read(sound) if sound and readable(sound) else Configuration(name, parameters, runs[0].name, [], None, [])
    return found, unread


def _training_runs(results: Sequence[Result]) -> pd.DataFrame:
    """One row per training run."""
    return pd.DataFrame(
        {"notebook": result.notebook.removesuffix(".ipynb"), "run": result.name, **row}
        for result in results
        for record in result.records
        for row in record["runs"]
    )


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text that a spreadsheet would execute as a formula."""

    def harmless(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

    return table.map(harmless).rename(columns=harmless)


def _claim_rows(runs: Sequence[Result]) -> list[ClaimRow]:
    """Every claim of one configuration."""
    claims: dict[str, list[dict[str, Any]]] = {}
    for result in runs:
        for record in result.records:
            for claim in record["claims"]:
                claims.setdefault(claim["statement"], []).append(claim)
    return [
        ClaimRow(statement, *over_runs(made), any(claim.get("key") for claim in made))
        for statement, made in claims.items()
    ]


def over_runs(claims: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Verdict and measurement of one claim made by several runs with different seeds. Estimates are pooled into one
    over all seeds. For other measurements all verdicts must agree, or the claim is not distinguishable. What one of
    the runs could not measure is not measured."""
    if all(claim["estimate"] for claim in claims):
        value = pooled([Estimate(**claim["estimate"]) for claim in claims])
        return VERDICTS[value.above_zero], f"{measured_in_words(value)} ({value.count})"
    verdicts = {claim["verdict"] for claim in claims}
    if unknown := verdicts - MARKS.keys():
        raise ValueError(f"there is no verdict {unknown.pop()!r}")
    verdict = verdicts.pop() if len(verdicts) == 1 else NOT_MEASURED if NOT_MEASURED in verdicts else VERDICTS[None]
    return verdict, "; ".join(dict.fromkeys(claim["measured"] for claim in claims))


def _scores(trainings: pd.DataFrame) -> ScoreTable | None:
    """Accuracy in the unseen domain, or on the test part, per method: paper, measured, difference."""
    if not {"method", "seed", "target accuracy"} <= set(trainings):
        return None
    broken = trainings["diverged"].fillna("").ne("") if "diverged" in trainings else False
    trainings = trainings[trainings["target accuracy"].notna() | broken]
    if trainings.empty:
        return None
    names = ("method", "modalities", "source", "target", "settings")
    which = [name for name in names if name in trainings and trainings[name].any()]
    printed = "paper" in trainings and trainings["paper"].notna().any()
    rows = []
    for values, group in trainings.groupby(which, sort=False, dropna=False):
        accuracies = 100 * group.drop_duplicates("seed")["target accuracy"].astype(float)
        if accuracies.isna().all():
            rows.append(
                ([str(label) for label in values], [f"— ({len(accuracies)} diverged)", "0", *["—", "—"] * printed])
            )
            continue
        value = estimate(accuracies)
        numbers = [f"{value:.1f}", str(value.count)]
        if printed:
            paper = group["paper"].iloc[0]
            away = Estimate(value.mean - paper, value.half_width, value.count)
            numbers += ["—", "—"] if pd.isna(paper) else [f"{paper:.2f}", f"{away:+.1f}"]
        rows.append(([str(label) for label in values], numbers))
    columns = [*which, "accuracy, %", "seeds", *(("paper, %", "measured − paper") if printed else ())]
    about = "; ".join(trainings["data"].dropna().unique()) if "data" in trainings else ""  # a stand-in says so
    caption = "Test accuracy: the unseen domain's, or all domains' where none is"
    return ScoreTable(f"{caption}. {about}" if about else caption, columns, rows)


def _figures(result: Result, out: Path) -> list[Figure]:
    """Small copies of the figures that the notebook calls its key figures."""
    made = _thumbnails(out / result.name / NOTEBOOK, result.files.get(NOTEBOOK, ""))
    return [Figure(result.name, alt, small) for alt, small in made]


@cache
def _thumbnails(path: Path, digest: str) -> list[tuple[str, str]]:
    """Alternative text and small copy of each key figure, made once for a notebook of this content: the page of a batch
    is written after every run."""
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [(output.get("metadata", {}).get("image/png", {}), output) for output in outputs]
    return [(facts["alt"], thumbnail(output["data"]["image/png"])) for facts, output in found if facts.get("key")]


def thumbnail(png: str) -> str:
    """A PNG in base64, at most `_THUMBNAIL` pixels wide and in 64 colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((_THUMBNAIL, 4 * _THUMBNAIL))
    small = io.BytesIO()
    image.quantize(64).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()
