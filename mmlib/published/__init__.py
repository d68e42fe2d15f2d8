"""Numbers printed in papers, shown beside measured ones and never mixed with them; and the kit's own (`measured`)."""

from importlib.resources import files

import pandas as pd

from mmlib.published.reproduction import beside_paper, captioned, comparison

__all__ = [
    "balance_benchmark",
    "beside_paper",
    "captioned",
    "comparison",
    "gmm_headlines",
    "mbcd_accuracies",
    "mbcd_table",
]


def gmm_headlines() -> pd.DataFrame:
    """The accuracies in percent that the abstracts of the modality-gap paper (arXiv 2510.21797) state, by version and
    data set; we do not know the paper's tables."""
    return _read("gmm_headline.csv")


def balance_benchmark(dataset: str) -> pd.Series:
    """BalanceBenchmark's accuracies in percent by method ("KS", "CREMA-D", …). Its protocol and networks are its own:
    never the same experiment as a paper's table or ours. Raises a ValueError for an unknown data set."""
    rows = _read("balancebenchmark.csv")
    rows = rows[rows["dataset"] == dataset]
    if rows.empty:
        raise ValueError(f"BalanceBenchmark has no data set {dataset!r}.")
    return rows.set_index("method")["accuracy_percent"]


def mbcd_table(number: int, **chosen: str) -> pd.DataFrame:
    """Rows of a table of the MBCD paper (1: multi-source, 2: single-source, 3: in-domain, 4: ablation, 5: dropout),
    accuracies in percent. `chosen` selects by column, e.g. benchmark="hac", modalities="flow+audio". Raises a
    ValueError where no row is left."""
    rows = _read("mbcd_tables.csv")
    rows = rows[rows["table"] == number]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        raise ValueError(f"The paper's tables have no rows with table={number}, {chosen}.")
    return rows.drop(columns="table").reset_index(drop=True)


def mbcd_accuracies(
    number: int, benchmark: str, modalities: str, source: str = "", target: str = ""
) -> dict[str, float]:
    """Method → accuracy in percent in a table of the MBCD paper, for the transfer from `source` ("": all other domains)
    to `target`, domains by the names of the kit's readers; without `target`, the average over transfers. Empty where
    the paper does not print this combination."""
    rows = _read("mbcd_tables.csv")
    rows = rows[(rows["table"] == number) & (rows["benchmark"] == benchmark) & (rows["modalities"] == modalities)]
    short = {"human": "H", "animal": "A", "cartoon": "C"}
    wanted = "average"
    for transfer in rows["transfer"].unique():
        begin, _, end = transfer.partition("->")
        if target and end == short.get(target, target) and (not source or begin == short.get(source, source)):
            wanted = transfer
    if target and wanted == "average":
        return {}
    return dict(rows[rows["transfer"] == wanted].set_index("method")["accuracy_percent"])


def _read(name: str) -> pd.DataFrame:
    with files(__package__).joinpath(name).open() as file:
        return pd.read_csv(file)
