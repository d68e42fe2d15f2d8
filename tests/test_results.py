"""Results are data: collected from finished suites, and every table and sentence about them computed from rows."""

import json

import numpy as np
import pandas as pd
import pytest

from mmlib.__main__ import main
from mmlib.batch import collect, suites
from mmlib.published import measured
from mmlib.training import estimate, holm

PARAMETERS = "dataset: str = 'spoken_digits'  # data\nepochs: int = 2  # passes\ntuning: str = 'none'  # tuning\n" + (
    "seeds: int = 3  # runs\nfirst_seed: int = 0  # the first"
)
# Seeds 0, 1 … of two methods; MBCD is two points ahead.
NOTEBOOK = """
rows = [
    {"part": "compared", "method": method, "modalities": "a+b", "source": "", "target": "M", "seed": seed,
     "settings": "", "loaded": False, "selected epoch": 2, "source accuracy": 0.9, "validation accuracy": 0.8,
     "target accuracy": base + 0.01 * (seed % 2), "late target accuracy": base}
    for method, base in (("erm", 0.7), ("mbcd", 0.72)) for seed in range(first_seed, first_seed + seeds)
]
versions = {"python": "3", "torch": "2", "platform": "p", "cpu cores": "2", "gpu": "none"}
record = {"title": "t", "claims": [], "runs": [*rows, {**rows[0], "part": ""}], "environment": versions}
"""
ABOUT_TWO = '{"dataset": "spoken_digits", "epochs": 2, "tuning": "none"}'


@pytest.fixture
def finished(kit, without_jupyter, monkeypatch, tmp_path):
    """A folder of two finished runs that are pooled; what is collected goes to a table of its own."""
    monkeypatch.setattr(suites, "NOTEBOOKS", kit.notebooks)
    monkeypatch.setattr(collect, "PAGE", tmp_path / "RESULTS.md")
    for module in (measured, collect):
        monkeypatch.setattr(module, "TABLE", tmp_path / "measured.csv")
    pd.DataFrame(columns=measured.COLUMNS).to_csv(tmp_path / "measured.csv", index=False)
    kit.notebook("06_x", NOTEBOOK, PARAMETERS)
    assert kit.run("-p", "first_seed=[0, 3]") == 0
    return kit


def test_the_page_is_what_the_table_makes():
    assert collect.PAGE.read_text(encoding="utf-8") == measured.rendered(measured.measured()), "run mmlib results"


def test_suites_are_collected_once(finished, tmp_path):
    for _ in range(2):
        assert main(["results", "--collect", str(finished.out)]) == 0
    rows = measured.measured()
    assert list(rows.columns) == list(measured.COLUMNS) and len(rows) == 12
    assert sorted(rows[rows["method"] == "mbcd"]["seed"]) == list(range(6)) and set(rows["notebook"]) == {"06"}
    assert set(rows["parameters"]) == {ABOUT_TWO}
    assert rows["run"].str.len().eq(12).all() and rows["machine"].str.contains("torch").all()
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| ERM | 70.5 ± 0.6 | 70.5 ± 0.6 | +2.0 ± 0.0 | ahead |" in page
    assert "**MBCD** is ahead of ERM (6 seeds, Holm over 1 comparisons)." in page


def test_other_parameters_stand_beside_and_the_same_are_replaced(finished, tmp_path):
    assert main(["results", "--collect", str(finished.out)]) == 0
    other = finished.out.with_name("other")
    for arguments in (["-p", "epochs=3"], ["-p", "first_seed=10"]):
        assert main(["run", "--notebooks", str(finished.notebooks), "--out", str(other), *arguments]) == 0
    assert main(["results", "--collect", str(other)]) == 0
    rows = measured.measured()
    assert (tmp_path / "measured.csv").read_text().count('""epochs"": 3') == 1, "what repeats is written once"
    seeds = rows[rows["method"] == "erm"].groupby("parameters")["seed"].apply(list)
    assert seeds[ABOUT_TWO] == [10, 11, 12]
    assert seeds[ABOUT_TWO.replace("2", "3")] == [0, 1, 2]


def test_what_the_present_code_would_not_repeat_is_refused(finished, tmp_path, capsys):
    before = (tmp_path / "measured.csv").read_bytes()
    finished.notebook("06_x", NOTEBOOK.replace("0.72", "0.9"), PARAMETERS)
    assert main(["results", "--collect", str(finished.out)]) == 2
    assert "06_x cannot be collected: changed since. Run its suite again" in capsys.readouterr().err
    assert main(["results", "--collect", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert (tmp_path / "measured.csv").read_bytes() == before and not (tmp_path / "RESULTS.md").exists()


def test_a_seed_that_is_there_twice_missing_or_diverged_is_refused(finished, tmp_path, capsys):
    before = (tmp_path / "measured.csv").read_bytes()
    other = finished.out.with_name("other")
    assert main(["run", "--notebooks", str(finished.notebooks), "--out", str(other), "-p", "seeds=4"]) == 0
    assert main(["results", "--collect", str(finished.out), str(other)]) == 2
    assert "hold seed 0 of erm" in capsys.readouterr().err
    finished.notebook(
        "06_x", NOTEBOOK.replace("first_seed + seeds)", "first_seed + (method == 'erm') + 1)"), PARAMETERS
    )
    third = finished.out.with_name("third")
    assert main(["run", "--notebooks", str(finished.notebooks), "--out", str(third)]) == 0
    assert main(["results", "--collect", str(third)]) == 2
    assert "Not every method of 06 with" in capsys.readouterr().err
    finished.notebook(
        "06_y", NOTEBOOK.replace('"loaded"', '"diverged": "in epoch 1" * (seed == 2), "loaded"'), PARAMETERS
    )
    fourth = finished.out.with_name("fourth")
    assert main(["run", "--only", "06_y", "--notebooks", str(finished.notebooks), "--out", str(fourth)]) == 0
    assert main(["results", "--collect", str(fourth)]) == 2
    assert "seed 2 of erm has no result to collect" in capsys.readouterr().err
    assert (tmp_path / "measured.csv").read_bytes() == before and not (tmp_path / "RESULTS.md").exists()


def rows_of(part, method, settings, level):
    """Four seeds, by which differences do not vary."""
    found = {
        "part": part,
        "method": method,
        "settings": settings,
        "source": "",
        "target": "",
        "run": "x",
        "machine": "m",
    }
    return [found | {"seed": s, "target accuracy": level + s / 100, "late target accuracy": level} for s in range(4)]


def test_arms_of_an_ablation_are_named_by_what_they_lack():
    chosen = {"dataset": "av_digits", "degradation": "noise", "degraded_in": "train", "share": 0.3, "epochs": 9}
    ours = "gmm-adaptive"
    rows = rows_of("compared", "erm", "", 0.7) + rows_of("compared", ours, "warm_up=6", 0.8)
    rows += rows_of("ablation", "erm", "", 0.7) + rows_of("ablation", ours, "warm_up=6", 0.8)
    rows += rows_of("ablation", ours, "gap=0.0, warm_up=6", 0.9)
    rows += rows_of("ablation", ours, "fusion=0.0, gap=0.0, trust=1.0, warm_up=6", 0.8)
    about = {"notebook": "08", "parameters": json.dumps(chosen | {"tuned": False})}
    page = measured.rendered(pd.DataFrame(rows).assign(**about))
    assert "## GMM-adaptive on AV-Digits, 30 % of each modality noise in training (9 epochs, one setting" in page
    assert "| without gap | 91.5 ± 2.1 | -10.0 ± 0.0 | behind | 90.0 ± 0.0 | -10.0 ± 0.0 | behind |" in page
    assert "is ahead of ERM; behind without gap; not distinguishable from trust alone (4 seeds" in page


def test_purification_without_its_early_arm():
    chosen = {"dataset": "av_digits", "degradation": "mismatch", "share": 0.3, "epochs": 9, "warm_up": 7}
    rows = rows_of("purification", "multi-loss", "", 0.7) + rows_of("purification", "purified", "warm_up=7", 0.8)
    rows += rows_of("purification", "purified", "keep=random, warm_up=7", 0.6)
    rows += rows_of("purification", "purified", "relative=False, warm_up=7", 0.75)
    rows += rows_of("purification", "purified", "known=0.0, warm_up=7", 0.81)
    rows += rows_of("purification", "purified", "threshold=1.0, warm_up=7", 0.78)
    rows += rows_of("purification", "purified", "warm_up=1", 0.2)
    page = measured.rendered(pd.DataFrame(rows).assign(notebook="09", parameters=json.dumps(chosen)))
    ahead = "everything, as many at random, purified by plain scores and purified by what a modality knows alone"
    assert f"**purified** is ahead of {ahead}; behind purified by the gap alone" in page
    assert "| everything | 71.5 ± 2.1 | +10.0 ± 0.0 | ahead |" in page and "+60.0" not in page


def test_two_ways_to_choose_settings_stand_side_by_side():
    def measured_with(tuning, ahead):
        rows = rows_of("compared", "mbcd", "", 0.7 + ahead) + rows_of("compared", "ema + multi-loss", "", 0.7)
        chosen = {"dataset": "av_digits", "epochs": 12, "tuning": tuning}
        return pd.DataFrame(rows).assign(target="M", notebook="06", parameters=json.dumps(chosen))

    grid, bench = measured_with("grid", 0.02), measured_with("mmdg-bench", 0.01)
    assert "## Two ways" not in measured.rendered(grid)
    page = measured.rendered(pd.concat([grid, bench]))
    assert "| each method tuned over its grid | 4 | 73.5 ± 2.1 | 71.5 ± 2.1 | +2.0 ± 0.0 |" in page
    assert "| each method tuned as in MMDG-Bench | 4 | 72.5 ± 2.1 | 71.5 ± 2.1 | +1.0 ± 0.0 |" in page


def test_the_warm_up_rule_stands_between_the_best_epoch_and_the_last():
    chosen = {"dataset": "av_digits", "degradation": "mismatch", "share": 0.3, "epochs": 25}
    rows = pd.DataFrame(rows_of("warm-up rule", "multi-loss", "", 0.7)).assign(**{"last AUC": "0.7"})
    rows = rows.assign(**{"stops after": ["9", "12", "9", "10"], "AUC there": "0.9", "best AUC": "0.95"})
    page = measured.rendered(rows.assign(notebook="07", parameters=json.dumps(chosen)))
    assert "## The warm-up rule on AV-Digits, 30 % of each modality swapped in training (25 epochs)" in page
    figures = ("0.900 ± 0.000", "0.950 ± 0.000", "0.700 ± 0.000", "0.050 ± 0.000", "+0.200 ± 0.000")
    assert f"| 9 to 12 | {' | '.join(figures)} | ahead |" in page


def test_holm_in_steps():
    """The second p-value exceeds 0.05/3, and so the third does not count either."""
    values = [estimate(mean + np.array([-1.0, 0.0, 1.0, 0.0])) for mean in (4.9, 1.73, -1.5, 0.6)]
    expected = [0.0012442507770934691, 0.024056715275369865, 0.034896984510150914, 0.2379856997738206]  # scipy's
    assert [value.p_value for value in values] == pytest.approx(expected)
    assert holm(values) == [True, None, None, None] and holm(values[1:3]) == [True, False]
    assert holm([]) == [] and holm([estimate([1.0]), values[0], estimate([1.0]), values[0]]) == [None, True, None, True]


def test_holm_keeps_its_promise():
    """Seven equal rivals, five seeds: single intervals call one distinguishable in some 30 % of tables, Holm in 5."""
    generator = np.random.default_rng(0)
    tables = generator.normal(size=(400, 7, 5))
    corrected = np.mean([any(v is not None for v in holm([estimate(r) for r in table])) for table in tables])
    single = np.mean([any(estimate(r).above_zero is not None for r in table) for table in tables])
    assert corrected <= 0.07 and single > 0.2


def test_a_contest_is_rendered_with_what_each_part_adds():
    chosen = {"dataset": "av_digits", "method": "mbcd + gmm", "conditions": "swapped", "target": "all", "share": 0.3}
    chosen |= {"tuned": True, "epochs": 3}
    arms = [("swapped", "mbcd + gmm", "", 0.9), ("swapped", "cmrf", "", 0.8)]
    arms += [("swapped, without", "mbcd + gmm", "warm_up=1" + more, value) for more, value in _PARTS.items()]
    rows = pd.DataFrame(
        {"part": part, "method": method, "settings": used, "target": "M", "seed": seed, "target accuracy": value}
        for part, method, used, value in arms
        for seed in range(3)
    )
    page = "\n".join(measured._contest(chosen, rows))
    assert "## MBCD + GMM on AV-Digits, 30 % of each modality swapped in training, an unseen domain (3 epochs" in page
    assert "| CMRF | 80.0 ± 0.0 | 80.0 ± 0.0 | +10.0 ± 0.0 | ahead |" in page
    for name, more in {"without fusion": "+2.0", "judged at random": "+5.0"}.items():
        assert f"| {name} | " in page and f" | {more} ± 0.0 | ahead |" in page
    assert measured.results_of("12").startswith("#### MBCD + GMM on ")


_PARTS = {"": 0.9, ", fusion=0.0": 0.88, ", judge=random": 0.85}
