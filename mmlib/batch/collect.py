"""From finished suites to the rows of `mmlib/published/measured.csv`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmlib.batch import run, suites
from mmlib.batch.execution import Result
from mmlib.data.cache import atomic_path
from mmlib.notebook.parameters import BadParameter
from mmlib.published.measured import ABOUT, COLUMNS, TABLE, measured, rendered, write

PAGE = suites.NOTEBOOKS / "RESULTS.md"


def write_results(folders: Sequence[Path]) -> Path:
    """Take over the trainings of these batches' folders, if any, and write the page. Raises like `collected`; then
    nothing is written."""
    rows = collected(folders, measured()) if folders else measured()
    page = rendered(rows)
    if folders:
        with atomic_path(TABLE) as temporary:
            write(rows, temporary)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return PAGE


def collected(folders: Sequence[Path], rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the trainings of all finished runs in these folders of batches. What was there of a notebook with the
    same parameters is replaced as a whole; a line says by how much.

    Raises BadParameter for a folder without finished runs, for a seed that two of its runs share, that a method lacks
    or that diverged, and for a run that the present code, data or versions would not repeat: its numbers would stand
    beside others that they cannot be compared with.
    """
    found = pd.concat([_rows_of(folder) for folder in folders], ignore_index=True)
    _check(found)
    kept = rows
    for about, group in found.groupby(ABOUT, sort=False):
        there = (kept[ABOUT] == list(about)).all(axis=1)
        print(f"{about[0]} with {about[1]}: {int(there.sum())} rows replaced by {len(group)}")
        kept = kept[~there]
    return pd.concat([kept, found[list(COLUMNS)]], ignore_index=True).sort_values(ABOUT, kind="stable")


def _check(rows: pd.DataFrame) -> None:
    for about, group in rows.groupby([*ABOUT, "part"], sort=False):
        keys = ["method", "settings", "source", "target", "seed"]
        if (twice := group[group.duplicated(keys)]).size:
            first = twice.iloc[0]
            raise BadParameter(
                f"Two runs of {about[0]} with {about[1]} hold seed {first['seed']} of {first['method']}."
            )
        seeds = group.groupby(["method", "target"])["seed"].agg(lambda of: tuple(sorted(set(of))))
        if len(set(seeds)) > 1 or len(seeds) != group["method"].nunique() * group["target"].nunique():
            raise BadParameter(
                f"Not every method of {about[0]} with {about[1]} has every target and seed: {dict(seeds)}."
            )


def _rows_of(folder: Path) -> pd.DataFrame:
    rows = [row for result in run.results_in(folder) for row in _rows(result, folder)]
    if not rows:
        raise BadParameter(
            f"{folder} holds no finished run that names the part of its table which each training is for."
        )
    return pd.DataFrame(rows)


def _rows(result: Result, folder: Path) -> list[dict[str, object]]:
    trainings = [row for record in result.records for row in record["runs"] if row.get("part")]
    if not trainings:
        return []
    job = suites.make_job(suites.NOTEBOOKS / result.notebook, result.parameters)
    _, identity, problem = run.check(job)
    if problem or (why := run.state(job, identity, folder)) != run.DONE:
        raise BadParameter(
            f"{folder / result.name} cannot be collected: {problem or why}. Run its suite again, or delete this folder "
            "where no suite makes it any more; collect on the machine that ran it."
        )
    if diverged := [row for row in trainings if row.get("diverged")]:
        first = diverged[0]
        raise BadParameter(
            f"{folder / result.name}: seed {first['seed']} of {first['method']} has no result to collect."
        )
    # With tuning by the first seed, runs from different first seeds have different settings, and are not pooled.
    apart = () if job.effective.get("tuning") == "mmdg-bench" else ("first_seed",)
    chosen = {name: value for name, value in job.effective.items() if name not in ("seeds", "device", *apart)}
    on_cpu = result.environment["gpu"] == "none" or job.effective.get("device") == "cpu"
    shared = {
        "notebook": result.notebook[:2],
        "parameters": json.dumps(chosen),
        "run": identity[:12],
        "machine": f"{'CPU' if on_cpu else result.environment['gpu']}, torch {result.environment['torch']}",
    }
    return [{name: _short((row | shared).get(name, "")) for name in COLUMNS} for row in trainings]


def _short(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
