"""The same measurements of several arms: their table, a figure of paired differences, and the estimates of claims."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from mmlib.notebook import plots
from mmlib.training.estimates import Estimate, estimate, paired_difference
from mmlib.training.run import Trained
from mmlib.training.tables import per_seed

Measure = str | Callable[[Trained], float]  # the name of a score, or a function of a run


class Comparison:
    """What was measured in every arm, by seed: `values[measurement][arm]`."""

    def __init__(self, values: Mapping[str, Mapping[str, pd.Series]]) -> None:
        self.values = {name: dict(by_arm) for name, by_arm in values.items()}

    def __getitem__(self, measurement: str) -> dict[str, pd.Series]:
        """What was measured in every arm, by seed."""
        return self.values[measurement]

    @property
    def table(self) -> pd.DataFrame:
        """Mean and interval of every arm (rows) in every measurement (columns); of percentages one decimal."""

        def written(values: pd.Series) -> str:
            found = estimate(values)
            return format(found, ".1f" if abs(found.mean) > 10 else ".3f")

        return pd.DataFrame(
            {name: {arm: written(values) for arm, values in of.items()} for name, of in self.values.items()}
        )

    def difference(self, first: str, second: str, measurement: str = "") -> Estimate:
        """The first arm minus the second, paired by seed. A single measurement need not be named."""
        if not measurement:
            (measurement,) = self.values
        return paired_difference(self.values[measurement][first], self.values[measurement][second])

    def show(
        self, pairs: Sequence[tuple[str, str]], unit: str, title: str, alt: str, key: bool = False
    ) -> pd.DataFrame:
        """Display the differences of pairs of arms, first minus second, a panel per measurement, in this unit
        ("accuracy"); `alt` and `key` as in `plots.show`. Returns the table of all arms."""
        sign = "minus" if any("+" in arm for pair in pairs for arm in pair) else "−"
        groups = {
            name: {f"{first} {sign} {second}": of[first] - of[second] for first, second in pairs}
            for name, of in self.values.items()
        }
        plots.show(plots.differences(groups, f"difference in {unit}", title), alt, key)
        return self.table


def compare(arms: Mapping[str, Sequence[Trained]], measures: Mapping[str, Measure]) -> Comparison:
    """Measure all runs of all arms: a score by its name ("target accuracy"), anything else by a function of a run."""

    def measured(measure: Measure, runs: Sequence[Trained]) -> pd.Series:
        return per_seed(runs, (lambda run: run.scores[measure]) if isinstance(measure, str) else measure)

    return Comparison(
        {name: {arm: measured(measure, runs) for arm, runs in arms.items()} for name, measure in measures.items()}
    )
