"""Reproduction tables: the published number, the measured one, their difference, the protocol, and missing clips."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from mmlib.data.splits import Splits
from mmlib.training.estimates import Estimate


def comparison(measured: Mapping[str, Estimate], paper: Mapping[str, float], splits: Splits) -> pd.DataFrame:
    """A row per method, accuracies in percent: paper, measured with its interval, their difference. The interval is
    that of the measurement; it does not include the paper's own spread. "—" stands for methods that the paper does not
    print.

    On a stand-in there is no difference, and the column of measured numbers says that it is a stand-in.
    """
    column = "STAND-IN, no result, %" if splits.is_stand_in else "measured, %"
    rows = {}
    for method, value in measured.items():
        known = paper.get(method)
        away = "—"
        if known is not None and not splits.is_stand_in:
            away = format(Estimate(value.mean - known, value.half_width, value.count), "+.1f")
        rows[method] = {
            "paper, %": "—" if known is None else f"{known:.2f}",
            column: format(value, ".1f"),
            "measured − paper": away,
            "runs": value.count,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def beside_paper(
    runs: pd.DataFrame, names: Mapping[str, str], paper: Callable[[str, str], Mapping[str, float]], splits: Splits
) -> pd.DataFrame:
    """One row per run (`training.score_table`), for the record: with the data it is about and, except on a stand-in,
    the number that the paper prints for its method (`names`: method → the paper's name) and transfer, in percent."""
    known = [
        math.nan if splits.is_stand_in else paper(source, target).get(names.get(method, ""), math.nan)
        for method, source, target in zip(runs["method"], runs["source"], runs["target"], strict=True)
    ]
    return runs.assign(data=splits.about, paper=known)


def captioned(table: pd.DataFrame, splits: Splits, what: str = "") -> Styler:
    """The table under a caption that says which data, which protocol and how many clips are missing; in red
    for a stand-in."""
    colour = "#a40000" if splits.is_stand_in else "inherit"
    caption = f"{splits.about}. {what}".strip()
    style = [{"selector": "caption", "props": f"caption-side: top; font-weight: 600; color: {colour}"}]
    return table.style.set_caption(caption).set_table_styles(style)
