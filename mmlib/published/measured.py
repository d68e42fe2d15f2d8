"""The kit's own results: a row per training in `mmlib/published/measured.csv`, and the page made of nothing else."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmlib.published import gmm_headlines, mbcd_table
from mmlib.training.estimates import Estimate, estimate, holm, over_targets, paired_difference

TABLE = Path(__file__).with_name("measured.csv")
# What a row is about, its result, and what made it.
COLUMNS = (
    *("notebook", "parameters", "part", "method", "settings", "source", "target", "seed"),
    *("selected epoch", "source accuracy", "target accuracy", "late target accuracy", "validation accuracy"),
    *("stops after", "AUC there", "best AUC", "last AUC"),  # of the warm-up rule, by the truth
    *("run", "machine"),
)
ABOUT = ["notebook", "parameters"]
_REPEATED = [*ABOUT, "run", "machine"]  # in the file, a cell of these is empty where it says the same as the one above
MARKS = {True: "ahead", False: "behind", None: "≈"}
_DATA = {"av_digits": "AV-Digits", "spoken_digits": "`spoken_digits`"}
_NAMES = {
    "erm": "ERM",
    "multi-loss": "ERM + uni-modal heads",
    "ema": "EMA",
    "ema + multi-loss": "EMA + uni-modal heads",
    "swad": "SWAD",
    "rna-net": "RNA-Net",
    "sim-mmdg": "SimMMDG",
    "moosa": "MOOSA",
    "cmrf": "CMRF",
    "mbcd": "MBCD",
    "ogm-ge": "OGM-GE",
    "agm": "AGM",
    "mmpareto": "MMPareto",
    "pmr": "PMR",
    "mbsd": "MBSD",
    "gmm-adaptive": "GMM-adaptive",
    "mbcd + gmm": "MBCD + GMM",
}
_CONDITIONS = {
    ("mismatch", "train"): "swapped in training",
    ("mismatch", "everywhere"): "swapped everywhere",
    ("noise", "train"): "noise in training",
    ("noise", "everywhere"): "noise everywhere",
    ("masking", "train"): "masked in training",
    ("masking", "everywhere"): "masked everywhere",
}


def measured() -> pd.DataFrame:
    """All rows; columns as in `COLUMNS`, accuracies between 0 and 1. `parameters` are those of the notebook's run,
    seeds aside, as JSON; `run` is that run's identity (`batch.suites.Job.identity`), `machine` what it ran on."""
    rows = pd.read_csv(TABLE, keep_default_na=False, dtype={"notebook": str})
    rows[_REPEATED] = rows[_REPEATED].where(rows[_REPEATED] != "").ffill()
    return rows


def write(rows: pd.DataFrame, path: Path) -> None:
    """As a file that `measured` reads: parameters are long, and the same for hundreds of rows."""
    own = rows[_REPEATED]
    rows.assign(**own.where(own != own.shift(), "")).to_csv(path, index=False)


def rendered(rows: pd.DataFrame) -> str:
    """The page: every table and every sentence about it, computed from these rows."""
    return "\n\n".join([_INTRODUCTION, *_sections(rows), *_protocols(rows), *_papers()]) + "\n"


def results_of(notebook: str) -> str:
    """What the page says of the runs of this notebook ("06" …), below headings of a notebook."""
    rows = measured()
    return "\n\n".join(_sections(rows[rows["notebook"] == notebook])).replace("## ", "#### ")


def _sections(rows: pd.DataFrame) -> Iterator[str]:
    made = {"06": _generalisation, "07": _warm_up_rule, "08": _gap, "09": _purification, "12": _contest}
    for (notebook, parameters), group in rows.groupby(ABOUT, sort=False):
        yield from made[notebook](json.loads(parameters), group)
        yield _origin(group)


_INTRODUCTION = """# Results

Made by `python -m mmlib results` from `mmlib/published/measured.csv`, a row per training; do not edit.

Accuracies are in percent, means over seeds with their 95 % interval; differences are paired by seed, in points. Where
one method is compared with several, "ahead", "behind" and "≈" (not distinguishable) are verdicts after Holm's
correction for all of them, at each reading of accuracy: an interval in the table itself knows nothing of the others.
"Last epochs" is the mean of the last three, which no selection of an epoch can help.

Tuned over its grid: a method has the best of four settings of its own (`mmlib.methods.GRIDS`), by the validation
accuracy of a seed that is not among those reported. SWAD's tolerance does not change what validation sees: of its four
settings, two differ. Tuned as in MMDG-Bench: of its default there and ten draws, by the first seed."""


_TUNING = {
    "none": "one setting for all methods",
    "grid": "each method tuned over its grid",
    "mmdg-bench": "each method tuned as in MMDG-Bench",
}


def _generalisation(chosen: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """MBCD against its rivals, each domain left out in turn, and its ablation."""
    tuned = _TUNING[chosen["tuning"]]
    yield f"## MBCD on {_DATA[chosen['dataset']]}, an unseen domain ({chosen['epochs']} epochs, {tuned})"
    compared = rows[rows["part"] == "compared"]
    yield _versus("mbcd", compared, list(dict.fromkeys(compared["target"])))
    yield _settings(compared)
    single = rows[rows["part"] == "single source"]
    if len(single):
        yield "From a single source domain, the first of the others:"
        yield _versus("mbcd", single, list(dict.fromkeys(single["target"])))
    ablation = rows[rows["part"] == "ablation"].replace({"method": _SHORT})
    if len(ablation):
        yield "Its components (the paper's names), and the matched baselines:"
        yield _versus("AMD+GCC+EMA+DL", ablation, list(dict.fromkeys(ablation["target"])))


# In the ablation, what is a method of its own goes by its components.
_SHORT = {"erm": "none", "ema": "EMA", "ema + multi-loss": "heads+EMA", "mbcd": "AMD+GCC+EMA+DL"}


def _versus(ours: str, rows: pd.DataFrame, targets: Sequence[str]) -> str:
    """A row per method: its accuracy in each target and on average, and ours minus it, with a verdict."""
    by_method = {name: 100 * over_targets(of, "target accuracy") for name, of in rows.groupby("method", sort=False)}
    rivals = [name for name in by_method if name != ours]
    ahead = {name: paired_difference(by_method[ours], by_method[name]) for name in rivals}
    verdicts = dict(zip(rivals, holm(list(ahead.values())), strict=True))
    table = []
    for name, values in by_method.items():
        of_method = rows[rows["method"] == name]
        each = [100 * of_method[of_method["target"] == target]["target accuracy"] for target in targets]
        line = [_name(name), *(f"{estimate(of_target):.1f}" for of_target in each), f"{estimate(values):.1f}"]
        line += [f"{ahead[name]:+.1f}", MARKS[verdicts[name]]] if name in ahead else ["", ""]
        table.append(line)
    head = ["method", *(f"→ {target}" for target in targets), "mean", f"{_name(ours)} minus it", "verdict"]
    return "\n\n".join([_markdown(head, table), _sentence(_name(ours), verdicts, ahead)])


def _protocols(rows: pd.DataFrame) -> Iterator[str]:
    """What the way of choosing settings does to MBCD and its matched baseline, where more than one was measured."""
    table, compared = [], ("mbcd", "ema + multi-loss")
    rows = rows[(rows["notebook"] == "06") & (rows["part"] == "compared") & rows["method"].isin(compared)]
    for parameters, group in rows.groupby("parameters", sort=False):
        chosen = json.loads(parameters)
        both = [100 * over_targets(group[group["method"] == method], "target accuracy") for method in compared]
        if not all(map(len, both)):
            continue
        ours, base = both
        line = [_DATA[chosen["dataset"]], _TUNING[chosen["tuning"]], str(len(ours)), f"{estimate(ours):.1f}"]
        table.append([*line, f"{estimate(base):.1f}", f"{paired_difference(ours, base):+.1f}"])
    if len(table) > 1:
        yield "## Two ways to choose settings"
        yield _PROTOCOLS
        yield _markdown(["data", "settings", "seeds", "MBCD", "EMA + uni-modal heads", "difference"], table)


_PROTOCOLS = """The kit's grid gives each method four settings, two learning rates among them, and chooses on a seed
that is not reported. MMDG-Bench holds the learning rate fixed and gives each method its default and ten draws from a
space of its own: of four dials for MBCD, of one for an average alone, of none for ERM, whose eleven tries are one. It
chooses on the first of the seeds that it reports. So there a method with more dials gets more of the search, the
averages' decay is drawn anew, and a method keeps a learning rate that may not suit it."""


def _degraded(chosen: Mapping[str, Any]) -> str:
    """The data, and what is wrong with how much of it."""
    condition = _CONDITIONS[chosen["degradation"], chosen.get("degraded_in", "train")]
    return f"{_DATA[chosen['dataset']]}, {100 * chosen['share']:.0f} % of each modality {condition}"


def _warm_up_rule(chosen: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """Where it stops, against the best epoch, which only the truth knows, and against training to the end."""
    yield f"## The warm-up rule on {_degraded(chosen)} ({chosen['epochs']} epochs)"
    yield "How well relative gaps find what is bad, as the area under the ROC curve (AUC), where the rule stops."
    there, best, last = (rows.set_index("seed")[name].astype(float) for name in ("AUC there", "best AUC", "last AUC"))
    over_last = paired_difference(there, last)
    stops = rows["stops after"].astype(int)
    head = ["stops after", "AUC there", "best epoch's", "last epoch's", "loses to the best", "over the last", "verdict"]
    line = [f"{stops.min()} to {stops.max()}", *(f"{estimate(values):.3f}" for values in (there, best, last))]
    line += [f"{paired_difference(best, there):.3f}", f"{over_last:+.3f}", MARKS[over_last.above_zero]]
    yield _markdown(head, [line])


def _gap(chosen: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """GMM-adaptive against its rivals under one condition, and its ablation."""
    tuned = _TUNING["grid" if chosen["tuned"] else "none"]
    yield f"## GMM-adaptive on {_degraded(chosen)} ({chosen['epochs']} epochs, {tuned})"
    compared = rows[rows["part"] == "compared"]
    yield _two_readings("gmm-adaptive", compared.assign(arm=compared["method"]))
    yield _settings(compared)
    ablation = rows[rows["part"] == "ablation"]
    if ablation.empty:
        return
    yield "Its parts, one left out at a time, with one setting:"
    without = ablation["settings"].map(_without)
    yield _two_readings("gmm-adaptive", ablation.assign(arm=ablation["method"].where(without == "", without)))


def _contest(chosen: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """A method against others on one kind of training samples, and without each of its parts."""
    ours, (condition, *_) = chosen["method"], chosen["conditions"].split(", ")
    tuned = _TUNING["grid" if chosen["tuned"] else "none"]
    about = {"swapped": "mismatch", "noisy": "noise"}.get(condition)
    samples = _degraded(chosen | {"degradation": about}) if about else f"{_DATA[chosen['dataset']]}, clean"
    where = "all domains" if chosen["target"] == "none" else "an unseen domain"
    yield f"## {_name(ours)} on {samples}, {where} ({chosen['epochs']} epochs, {tuned})"
    compared = rows[rows["part"] == condition]
    targets = [target for target in dict.fromkeys(compared["target"]) if target]
    yield _versus(ours, compared, targets)
    yield _settings(compared)
    parts = rows[rows["part"] == f"{condition}, without"]
    if len(parts):
        yield "Its parts, one left out at a time, with one setting; and what a judge would do that deals at random:"
        yield _versus(_WHOLE, parts.assign(method=parts["settings"].map(_lacking)), targets)


_WHOLE = "with all parts"
_LACKING = {
    "peaks": "the mixture always speaks",
    "calm": "judged by the student",
    "maturity": "the teacher is never young",
    "judge": "judged at random",
    "weight": "without distillation",
}


def _lacking(settings: str) -> str:
    """An arm of that by what it lacks."""
    changed = [name for name, _, _ in (pair.partition("=") for pair in settings.split(", ")) if name != "warm_up"]
    return _LACKING.get(changed[0], f"without {changed[0]}") if changed else _WHOLE


_FILTERS = {
    ("relative", "False"): "purified by plain scores",
    ("known", "0.0"): "purified by the gap alone",
    ("threshold", "1.0"): "purified by what a modality knows alone",
    ("keep", "random"): "as many at random",
    ("keep", "clean"): "the clean ones",
}


def _filter(settings: str) -> str:
    """An arm of purification by what it keeps."""
    chosen = [tuple(pair.split("=")) for pair in settings.split(", ")]
    return next((name for pair, name in _FILTERS.items() if pair in chosen), "purified")


def _purification(chosen: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """The filter against its controls."""
    yield f"## Purification on {_degraded(chosen)} ({chosen['epochs']} epochs)"
    rows = rows[(rows["method"] != "purified") | rows["settings"].str.contains(f"warm_up={chosen['warm_up']}")]
    arms = (
        rows["method"]
        .where(rows["method"] != "purified", rows["settings"].map(_filter))
        .replace("multi-loss", "everything")
    )
    yield _two_readings("purified", rows.assign(arm=arms))


def _without(settings: str) -> str:
    """An arm of the ablation by what it lacks, "" for none."""
    off = [pair.split("=")[0] for pair in settings.split(", ") if pair.endswith("=0.0")]
    return "trust alone" if len(off) > 1 else f"without {off[0]}" if off else ""


def _two_readings(ours: str, rows: pd.DataFrame) -> str:
    """A row per arm: accuracy at the selected epoch and over the last three, and ours minus it in both."""
    readings = {"selected epoch": "target accuracy", "last epochs": "late target accuracy"}
    by_arm = {
        arm: {reading: 100 * of.set_index("seed")[column] for reading, column in readings.items()}
        for arm, of in rows.groupby("arm", sort=False)
    }
    rivals = [arm for arm in by_arm if arm != ours]
    ahead = {r: {arm: paired_difference(by_arm[ours][r], by_arm[arm][r]) for arm in rivals} for r in readings}
    verdicts = {r: dict(zip(rivals, holm(list(ahead[r].values())), strict=True)) for r in readings}
    table = []
    for arm, values in by_arm.items():
        line = [_name(arm)]
        for r in readings:
            line.append(f"{estimate(values[r]):.1f}")
            line += [f"{ahead[r][arm]:+.1f}", MARKS[verdicts[r][arm]]] if arm in rivals else ["", ""]
        table.append(line)
    head = [f"{r}{column}" for r in readings for column in ("", f": {_name(ours)} minus it", ": verdict")]
    sentences = [f"At the {r}: " + _sentence(_name(ours), verdicts[r], ahead[r]) for r in readings]
    return "\n\n".join([_markdown(["method", *head], table), *sentences])


_DIGITS = re.compile(r"\d+\.\d{4,}")  # of settings that were drawn


def _settings(rows: pd.DataFrame) -> str:
    """What was chosen for each method, by target."""
    lines = ["<details><summary>Settings</summary>", ""]
    for name, of_method in rows.groupby("method", sort=False):
        pairs = dict.fromkeys(zip(of_method["target"], of_method["settings"], strict=True))
        pairs = [
            (target, _DIGITS.sub(lambda found: f"{float(found[0]):.3g}", used) or "defaults") for target, used in pairs
        ]
        chosen = [f"→ {target}: {used}" if target else used for target, used in pairs]
        lines.append(f"- {_name(name)}: {'; '.join(chosen)}")
    return "\n".join([*lines, "", "</details>"])


def _sentence(ours: str, verdicts: Mapping[str, bool | None], ahead: Mapping[str, Estimate]) -> str:
    """Whom ours is ahead of, whom behind, and from whom it cannot be told."""
    groups = {verdict: [_name(name) for name, found in verdicts.items() if found is verdict] for verdict in MARKS}
    parts = []
    for verdict, phrase in ((True, "ahead of"), (False, "behind"), (None, "not distinguishable from")):
        if groups[verdict]:
            parts.append(f"{phrase} {_listed(groups[verdict])}")
    seeds = next(iter(ahead.values())).count
    return f"**{ours}** is {'; '.join(parts)} ({seeds} seeds, Holm over {len(verdicts)} comparisons)."


def _origin(rows: pd.DataFrame) -> str:
    identities, machines = (", ".join(dict.fromkeys(rows[column])) for column in ("run", "machine"))
    trainings = len(rows.drop_duplicates(["method", "settings", "source", "target", "seed"]))
    return f"*{trainings} trainings; {machines}; run {identities}.*"


def _papers() -> Iterator[str]:
    """The papers' numbers: other data, other networks."""
    yield "## The papers' numbers"
    yield "On other data and with other networks than ours above: for the order only, never the same experiment."
    multi = mbcd_table(1, transfer="average").assign(on=lambda of: of["benchmark"] + ", " + of["modalities"])
    yield "MBCD, Table 1: several sources, average over the unseen domains."
    yield _pivoted(multi)
    parts = mbcd_table(4, transfer="average").assign(on=lambda of: of["benchmark"] + ", " + of["modalities"])
    yield "MBCD, Table 4: its components."
    yield _pivoted(parts)
    yield "arXiv 2510.21797: the abstracts' accuracies, by version. We do not know the paper's tables."
    yield _pivoted(gmm_headlines().rename(columns={"version": "method", "dataset": "on"}))


def _pivoted(rows: pd.DataFrame) -> str:
    table = rows.pivot_table(index="method", columns="on", values="accuracy_percent", sort=False)
    lines = [
        [name, *("" if pd.isna(value) else f"{value:.2f}" for value in line)] for name, *line in table.itertuples()
    ]
    return _markdown(["", *table.columns], lines)


def _name(method: str) -> str:
    return _NAMES.get(method, method.removeprefix("mbcd: "))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _markdown(head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
