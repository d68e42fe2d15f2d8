"""The tree as a whole: style, imports that run one way, files of a readable size."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmlib.data import stand_in

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    {"seeding", "published"},
    {"data", "models", "losses"},
    {"averaging", "mixture"},
    {"methods"},
    {"training"},
    {"estimates", "flatness", "diagnosis", "experiments"},
    {"plots", "widgets", "results", "reproduction", "parameters", "notebook_parameters", "processes", "runner"},
    {"suites"},
    {"execution"},
    {"report", "run_times"},
    {"batch", "classroom"},
    {"__main__"},
)


@pytest.mark.parametrize("arguments", [["format", "--check"], ["check"]], ids=["format", "lint"])
def test_ruff_is_content(arguments):
    result = subprocess.run([sys.executable, "-m", "ruff", *arguments, str(ROOT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_run_one_way():
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in (ROOT / "mmlib").rglob("*.py"):
        own = path.relative_to(ROOT / "mmlib").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmlib"):
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for name in names:
                    assert rank[name] <= rank[own], f"{path.name} imports {name}, which lies above it"


def test_nothing_slow_is_imported_before_it_is_needed():
    """Every kernel and every process that trains imports these modules: each of the slow ones would cost it seconds."""
    code = """import sys
import mmlib.diagnosis, mmlib.experiments, mmlib.flatness, mmlib.plots, mmlib.results, mmlib.widgets
print(sorted({"torchvision", "sklearn", "scipy.stats"}.intersection(sys.modules)))"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_requirement_says_why_it_is_there():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert "#" in line, line


def test_files_are_short_enough_to_read():
    for path in (ROOT / "mmlib").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 360, path


def readme_examples():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_readme_reads_own_data(capsys):
    exec(readme_examples()[0], {})
    assert "'target accuracy'" in capsys.readouterr().out


def test_the_readme_reads_a_benchmark(monkeypatch, capsys):
    """On the stand-in: the clips themselves are not here."""
    monkeypatch.setattr("mmlib.data.load", lambda name, **dials: stand_in.load_or_stand_in(name, "stand-in", **dials))
    exec(readme_examples()[1], {})
    assert "STAND-IN of synthetic clips, NOT CREMA-D, protocol actors (fold 0 of 5)" in capsys.readouterr().out


def test_the_readme_makes_a_table(capsys, av_digits_prepared):
    """Shortened: fewer pairs, one epoch."""
    example = readme_examples()[2].replace('"av_digits"', '"av_digits", pairs=200').replace("epochs=12", "epochs=1")
    exec(example, {})
    counts, *lines = capsys.readouterr().out.splitlines()
    trained, loaded = map(int, re.fullmatch(r"(\d+) runs trained, (\d+) loaded from the cache", counts).groups())
    assert trained + loaded == 60, "loaded where these tests have run before"
    assert [line.split("  ")[0] for line in lines] == ["erm", "ema", "ema + multi-loss", "mbcd"]
