"""Numbers that papers print, to be shown beside measured ones and never mixed with them."""

from importlib.resources import files

import pandas as pd


def gmm_headlines() -> pd.DataFrame:
    """The accuracies in percent that the abstracts of the modality-gap paper (arXiv 2510.21797) state, by version and
    data set; the paper's tables are not public to us."""
    return _read("gmm_headline.csv")


def mbcd_table(number: int, **chosen: str) -> pd.DataFrame:
    """Rows of a table of the MBCD paper (1: multi-source, 2: single-source, 3: in-domain, 4: ablation, 5: dropout),
    accuracies in percent. `chosen` selects by column, e.g. benchmark="hac", modalities="flow+audio"."""
    rows = _read("mbcd_tables.csv")
    rows = rows[rows["table"] == number]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        raise ValueError(f"The paper's tables have no rows with table={number}, {chosen}.")
    return rows.drop(columns="table").reset_index(drop=True)


def _read(name: str) -> pd.DataFrame:
    with files(__package__).joinpath(name).open() as file:
        return pd.read_csv(file)
