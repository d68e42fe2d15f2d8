"""The run command, on small notebooks of its own."""

import json
import os
import subprocess
import sys

import joblib
import pandas as pd
import pytest
from conftest import write_notebook

from mmlib import batch
from mmlib.__main__ import main

GOOD = """import pandas as pd
from mmlib.estimates import Estimate
from mmlib.results import Record
record = Record("small")
table = pd.DataFrame({"method": ["erm", "=ema"], "target accuracy": [0.5, None]})
record.add_runs(table)
record.add_runs(table)
record.claim(f"<script>{name}</script> & more", Estimate(float(rate), 0.1, 3))
record"""


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / "quick.yaml").write_text("notebooks: all\n")
    (folder / "suites" / "loud.yaml").write_text("notebooks: ['01']\nparameters: {name: LOUD}\n")
    (folder / "suites" / "odd.yaml").write_text("notbooks: all\n")
    plan = batch.plan
    monkeypatch.setattr(batch, "plan", lambda suite, only, overrides: plan(suite, only, overrides, folder))
    monkeypatch.chdir(tmp_path)

    def write(name, code):
        parameters = 'name: str = "x"  # a name\nrate: float = 1.0  # a rate'
        write_notebook(folder / f"{name}.ipynb", parameters, code)

    return write


def result(tmp_path, name):
    return json.loads((tmp_path / "runs" / f"{name}.json").read_text())


def test_a_batch_goes_on_past_failures_and_says_what_failed(notebooks, tmp_path, capsys):
    notebooks("01_good", GOOD)
    notebooks("02_wrong", "assert rate > 5, 'rate is too small'")
    notebooks("03_missing", "from mmlib.data import MissingData\nraise MissingData('prepare it first')")
    notebooks("04_import", "import a_module_that_is_not_there")
    notebooks("05_slow", "import time\ntime.sleep(600)")
    notebooks("06_dead", "import os\nos._exit(1)")
    notebooks("07_good", GOOD)
    assert main(["run", "--timeout", "20"]) == 1
    printed = capsys.readouterr()
    statuses = {
        f"0{i}": result(tmp_path, path.stem)["status"]
        for i, path in enumerate(sorted((tmp_path / "notebooks").glob("*.ipynb")), 1)
    }
    assert statuses == {
        "01": "finished", "02": "assertion", "03": "missing data", "04": "dependency",
        "05": "timeout", "06": "kernel died", "07": "finished",
    }  # fmt: skip
    assert "02_wrong: assertion. AssertionError: rate is too small" in printed.err
    assert "2 of 7 notebooks finished. The page: " in printed.out

    page = (tmp_path / "runs" / "index.html").read_text()
    assert "&lt;script&gt;x&lt;/script&gt; &amp; more" in page and "<script>" not in page
    assert "http" not in page, "nothing is fetched from a network"
    for name in ("01_good", "02_wrong"):
        assert f'href="{name}.html"' in page and (tmp_path / "runs" / f"{name}.html").exists()
    runs = pd.read_csv(tmp_path / "runs" / "runs.csv")
    assert runs["notebook"].tolist() == ["01_good"] * 2 + ["07_good"] * 2, "each row once"
    assert runs["method"].tolist() == ["erm", "=ema"] * 2 and runs["target accuracy"].isna().sum() == 2
    assert 'href="runs.csv">All 4 training runs' in page
    executed = (tmp_path / "runs" / "01_good.html").read_text()
    for tag in ('<script src="http', '<link rel="stylesheet" href="http', "import('http", 'src="http'):
        assert tag not in executed
    leftovers = [path.name for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]
    assert not leftovers


def test_finished_work_is_kept_until_something_it_depends_on_changes(notebooks, tmp_path, capsys):
    notebooks("01_good", GOOD)
    notebooks("02_wrong", "assert rate > 5")
    assert main(["run"]) == 1
    first = result(tmp_path, "01_good")

    def again(*arguments):
        main(["run", *arguments])
        return "1 of 2 notebooks are finished already" in capsys.readouterr().out

    capsys.readouterr()
    assert again() and result(tmp_path, "01_good") == first
    assert not again("-p", "rate=2"), "other parameters"
    assert result(tmp_path, "01_good")["parameters"] == {"rate": 2.0}
    notebooks("01_good", GOOD + "\n# changed")
    assert not again(), "another notebook, and the first parameters again"
    (tmp_path / "runs" / "01_good.html").unlink()
    assert not again(), "an output is gone"
    (tmp_path / "runs" / "01_good.json").write_text("{")
    assert not again(), "a damaged result"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "volume=11"], "01_good.ipynb has no parameter 'volume'; it has: name, rate"),
        (["-p", "rate=fast"], "rate must be of type float, not 'fast'"),
        (["-p", "rate"], "not of the form name=value"),
        (["--only", "77"], "No notebook's name starts with '77'"),
        (["deep"], "There is no suite 'deep'; there are: loud, odd, quick"),
        (["odd"], "unknown entries: notbooks"),
    ],
)
def test_nothing_runs_where_anything_is_wrong(notebooks, tmp_path, capsys, arguments, message):
    notebooks("01_good", GOOD)
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Nothing was run: ") and message in error
    assert not (tmp_path / "runs").exists()


def test_suites_give_parameters_and_the_command_line_wins(notebooks, tmp_path):
    notebooks("01_good", GOOD)
    notebooks("02_good", GOOD)
    assert main(["run", "loud"]) == 0
    assert result(tmp_path, "01_good")["parameters"] == {"name": "LOUD"}
    assert not (tmp_path / "runs" / "02_good.json").exists()
    old = result(tmp_path, "01_good")
    for record in old["records"]:
        del record["runs"]
    (tmp_path / "runs" / "01_good.json").write_text(json.dumps(old))  # as the kit wrote it before it kept runs
    assert main(["run", "--only", "2"]) == 0
    page = (tmp_path / "runs" / "index.html").read_text()
    assert "01_good" in page and "02_good" in page, "the page shows all that the folder holds"
    assert main(["run", "loud", "-p", "name=soft", "--out", "other"]) == 0
    assert json.loads((tmp_path / "other" / "01_good.json").read_text())["parameters"] == {"name": "soft"}


def test_notebooks_run_side_by_side_wherever_the_workers_are(notebooks, tmp_path):
    joblib.Parallel(2)(joblib.delayed(os.chdir)("/") for _ in range(8))
    notebooks("01_good", GOOD)
    notebooks("02_good", GOOD)
    assert main(["run", "--jobs", "2"]) == 0
    assert {result(tmp_path, f"0{i}_good")["status"] for i in (1, 2)} == {"finished"}


def test_the_module_is_a_command():
    help_text = subprocess.run(
        [sys.executable, "-m", "mmlib", "run", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--only" in help_text and "--timeout" in help_text


@pytest.mark.parametrize("suite", sorted(path.stem for path in (batch.NOTEBOOKS / "suites").glob("*.yaml")))
def test_every_suite_of_the_kit_fits_its_notebooks(suite):
    assert batch.plan(suite, [], {})
