"""Reproduction tables: the published number, the measured one, their difference, the protocol, and what is missing."""

from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from mmlib.data.splits import Splits
from mmlib.estimates import Estimate


def comparison(measured: Mapping[str, Estimate], paper: Mapping[str, float], splits: Splits) -> pd.DataFrame:
    """A row per method, accuracies in percent: paper, measured with its interval, their difference. The interval is the
    measurement's; the paper's own spread is not in it. Methods the paper does not print stand with "—".

    On a stand-in no difference is formed, and the column of what was measured carries its name.
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


def captioned(table: pd.DataFrame, splits: Splits, what: str = "") -> Styler:
    """The table under a caption that says which data, which protocol and how many clips are missing; a stand-in's in
    red."""
    colour = "#a40000" if splits.is_stand_in else "inherit"
    caption = f"{splits.about}. {what}".strip()
    style = [{"selector": "caption", "props": f"caption-side: top; font-weight: 600; color: {colour}"}]
    return table.style.set_caption(caption).set_table_styles(style)
