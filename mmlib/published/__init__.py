"""Numbers that papers print, to be shown beside measured ones and never mixed with them."""

from importlib.resources import files

import pandas as pd


def mbcd_table(number: int, **chosen: str) -> pd.DataFrame:
    """Rows of a table of the MBCD paper (1: multi-source, 2: single-source, 3: in-domain, 4: ablation, 5: dropout),
    accuracies in percent. `chosen` selects by column, e.g. benchmark="hac", modalities="flow+audio"."""
    with files(__package__).joinpath("mbcd_tables.csv").open() as file:
        rows = pd.read_csv(file)
    rows = rows[rows["table"] == number]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        raise ValueError(f"The paper's tables have no rows with table={number}, {chosen}.")
    return rows.drop(columns="table").reset_index(drop=True)
