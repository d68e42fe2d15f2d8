"""From finished suites to the rows of `mmlib/published/measured.csv`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmlib.batch import run, suites
from mmlib.batch.execution import Result, read_result
from mmlib.data.cache import atomic_path
from mmlib.notebook.parameters import BadParameter
from mmlib.published.measured import COLUMNS, TABLE, measured, rendered

PAGE = suites.NOTEBOOKS / "RESULTS.md"
_OF_EACH_RUN = ("seeds", "first_seed", "device")  # these say which rows there are, and not what they are about


def write_results(folders: Sequence[Path]) -> Path:
    """Take over the trainings of these batches' folders, if any, and write the page. Raises like `collected`."""
    rows = measured()
    if folders:
        rows = collected(folders, rows)
        with atomic_path(TABLE) as temporary:
            rows.to_csv(temporary, index=False, float_format="%.6g")
        rows = measured()  # as the next reader finds them
    with atomic_path(PAGE) as temporary:
        temporary.write_text(rendered(rows), encoding="utf-8")
    return PAGE


def collected(folders: Sequence[Path], rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the trainings of all finished runs in these folders of batches. What was there of a notebook with the
    same parameters is replaced as a whole.

    Raises BadParameter for a folder without finished runs, and for a run that the present code, data or versions would
    not repeat: its numbers would stand beside others that they cannot be compared with.
    """
    found = pd.concat([_rows_of(folder) for folder in folders], ignore_index=True).drop_duplicates()
    about = ["notebook", "parameters"]
    replaced = rows[about].apply(tuple, axis=1).isin(set(found[about].apply(tuple, axis=1))) if len(rows) else []
    kept = rows[[not there for there in replaced]]
    return pd.concat([kept, found[list(COLUMNS)]], ignore_index=True).sort_values(about, kind="stable")


def _rows_of(folder: Path) -> pd.DataFrame:
    results = [result for path in sorted(folder.glob("*/")) if (result := read_result(path)) is not None]
    rows = [row for result in results for row in _rows(result, folder)]
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
        raise BadParameter(f"{folder / result.name} cannot be collected: {problem or why}. Run its suite again.")
    chosen = {name: value for name, value in job.effective.items() if name not in _OF_EACH_RUN}
    machine = result.environment["gpu"] if result.environment["gpu"] != "none" else "CPU"
    shared = {
        "notebook": result.notebook[:2],
        "parameters": ", ".join(f"{name}={value}" for name, value in chosen.items()),
        "code": identity[:12],
        "machine": f"{machine}, torch {result.environment['torch']}",
    }
    return [{name: (row | shared).get(name, "") for name in COLUMNS} for row in trainings]
