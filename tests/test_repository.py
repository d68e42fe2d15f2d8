"""The tree as a whole: style, imports that run one way, files of a readable size."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_own_folder

from mmlib import methods
from mmlib.batch import suites
from mmlib.data.clips import stand_in

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "notebooks/README.md", "data_scripts/README.md", "mmlib/README.md")
WINGS = ("data.clips", "batch")  # nothing else imports them


@pytest.mark.parametrize("arguments", [["format", "--check"], ["check"]], ids=["format", "lint"])
def test_ruff_is_content(arguments):
    result = subprocess.run([sys.executable, "-m", "ruff", *arguments, str(ROOT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def room_of(module: str) -> str:
    """The room that a module lies in: the first part of its name, or a wing."""
    inside = module.removeprefix("mmlib.")
    return next((wing for wing in WINGS if inside.startswith(wing)), inside.split(".")[0])


def imports_between_rooms() -> dict[str, dict[str, str]]:
    """Room → rooms it imports, each with the file that does."""
    found: dict[str, dict[str, str]] = {}
    for path in (ROOT / "mmlib").rglob("*.py"):
        own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmlib":
                whole = node.module == "mmlib" or (ROOT / node.module.replace(".", "/")).is_dir()
                for name in (f"{node.module}.{alias.name}" for alias in node.names) if whole else (node.module,):
                    if room_of(name) != own:
                        found.setdefault(own, {})[room_of(name)] = str(path)
    return found


def test_the_core_never_imports_a_wing():
    for room, imported in imports_between_rooms().items():
        if room not in (*WINGS, "__main__"):
            assert not imported.keys() & set(WINGS), imported


def test_no_two_rooms_import_each_other_in_a_circle():
    arrows = {room: set(imported) for room, imported in imports_between_rooms().items()}
    while leaves := {room for room in arrows if not arrows[room] & arrows.keys()}:
        arrows = {room: arrows[room] for room in arrows.keys() - leaves}
    assert not arrows, f"these lie on a circle, or above one: {arrows}"


def test_nothing_slow_is_imported_before_it_is_needed(tmp_path):
    """Every kernel and every process that trains imports these modules: each of the slow ones would cost it seconds."""
    code = """import sys
import mmlib.instruments.hessian, mmlib.training
import mmlib.notebook.plots, mmlib.notebook.claims, mmlib.notebook.widgets
import pathlib, torch
from mmlib import data, methods, models
from mmlib.instruments.balance import logistic_regression
from mmlib.training.checkpoint import Checkpoint
from mmlib.training import TrainingConfig, fit
labels = torch.arange(8) % 2
toys = data.MultimodalDataset.from_arrays({"a": torch.randn(8, 1, 8, 8)}, labels)
for optimiser in ("adam", "sgd"):
    method = methods.build("erm", models.build_classifier(toys.input_shapes, 2, 0))
    kept = Checkpoint(pathlib.Path(sys.argv[1]) / optimiser, "this run", seconds=0)
    fit(method, toys, toys, TrainingConfig(1, optimiser=optimiser, device="cpu"), checkpoint=kept, progress=False)
logistic_regression(torch.randn(8, 3), labels, 2)
print(sorted({"torchvision", "sklearn", "scipy.stats", "av", "torch._dynamo"}.intersection(sys.modules)))"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_requirement_says_why_it_is_there():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert "#" in line, line


def test_files_are_short_enough_to_read():
    for path in (ROOT / "mmlib").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 360, path


def test_no_file_holds_data_that_belongs_in_a_cache():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for path in filter(Path.is_file, (ROOT / name for name in listed)):
        assert path.stat().st_size < 2**19, f"{path} is too large"


def prose() -> Iterator[tuple[str, str]]:
    """Where, and what is written there: READMEs, notebooks, suites, docstrings."""
    for name in READMES:
        yield name, (ROOT / name).read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path.name, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for path in sorted((ROOT / "notebooks" / "suites").glob("*.yaml")):
        yield path.name, path.read_text()
    for path in sorted((*(ROOT / "mmlib").rglob("*.py"), *(ROOT / "data_scripts").glob("*.py"))):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
        yield str(path.relative_to(ROOT)), "\n".join(filter(None, map(ast.get_docstring, nodes)))


PROSE = dict(prose())


@pytest.mark.parametrize("where", PROSE)
def test_every_suite_data_set_file_and_name_in_prose_is_there(where):
    text = PROSE[where]
    for name in re.findall(r"mmlib run ([a-z]\w*)", text):
        assert name in suites.names(), f"there is no suite {name}"
    for name in re.findall(r"mmlib data ([a-z]\w*)", text):
        assert (ROOT / "data_scripts" / f"{name}.py").is_file(), f"there is no data set {name}"
    for name in re.findall(r"`(0\d|1[0-2])`", text):
        assert list((ROOT / "notebooks").glob(f"{name}_*.ipynb")), f"there is no notebook {name}"
    for name in re.findall(r"`(\d\d_\w+)`", text):
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file(), f"there is no notebook {name}"
    for name in re.findall(r"`((?:mmlib|tests|notebooks|methods|data_scripts)/[\w/.*]+)`", text):
        assert list(ROOT.glob(name)) or list((ROOT / "mmlib").glob(name)), f"there is no file {name}"
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)(?:\(.*?\))?`", text):
        is_file = name.endswith(".py") and list((ROOT / "mmlib").rglob(name))
        assert is_file or named(name), f"there is nothing called {name}"


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "mmlib").rglob("*.py")
    if path.stem != "__main__"
}


def named(name: str) -> bool:
    """Whether a dotted name whose beginning is a module's leads to a thing of it, or to an attribute of its classes.
    Names that begin with no module of the kit say nothing about it."""
    first, *rest = name.split(".")
    starts = [module for module in MODULES if module == first or module.split(".")[-1] == first]
    return not starts or any(leads_to(module, rest) for module in starts)


def leads_to(module: str, names: Sequence[str]) -> bool:
    while names and f"{module}.{names[0]}" in MODULES:
        module, names = f"{module}.{names[0]}", names[1:]
    thing: Any = importlib.import_module(module)
    if names and not hasattr(thing, names[0]):
        classes = [value for value in vars(thing).values() if isinstance(value, type)]
        return any(names[0] in dir(one) or names[0] in getattr(one, "__annotations__", ()) for one in classes)
    return not names or len(names) == 1 or hasattr(getattr(thing, names[0]), names[1])


def test_the_first_readme_fits_on_a_screen_or_two():
    text = PROSE["README.md"]
    assert len(text.splitlines()) <= 80 and len(text.split()) <= 900


@pytest.mark.parametrize("where", READMES)
def test_what_a_readme_links_to_or_shows_is_there(where):
    headings = [line.strip("# ").lower().replace(" ", "-") for line in re.findall(r"^#.*", PROSE[where], re.M)]
    for target in re.findall(r"\]\(([^)]+)\)", PROSE[where]):
        assert target.removeprefix("#") in headings or (ROOT / where).parent.joinpath(target).is_file(), target


def test_readmes_name_every_notebook_suite_data_set_and_room():
    for where, folder, pattern in (
        ("README.md", "notebooks", "*.ipynb"),
        ("notebooks/README.md", "notebooks/suites", "*.yaml"),
        ("data_scripts/README.md", "data_scripts", "*.py"),
        ("mmlib/README.md", "mmlib", "*/__init__.py"),
    ):
        for path in (ROOT / folder).glob(pattern):
            name = path.parent.name if path.stem == "__init__" else path.stem
            assert f"`{name}`" in PROSE[where], f"{where} does not mention {name}"


PLANS = {"One class of 90 minutes": 90, "A day": 360, "Four weeks": 4 * 90}


def course(title: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """A section of the course: its text, and each row of its table as a notebook's number and the cells."""
    _, text = re.split(rf"^##+ {title}\n", PROSE["notebooks/README.md"], flags=re.M)
    text = re.split(r"^##+ ", text, maxsplit=1, flags=re.M)[0]
    rows = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("|"))
    return text, [(found[0], row) for row in rows if (found := re.findall(r"`(\d\d)`", "".join(row)))]


@pytest.mark.parametrize("title", ["The map", "How long it runs", *PLANS])
def test_every_teaching_notebook_is_in_the_map_and_in_each_plan_or_left_out(title):
    text, rows = course(title)
    (left_out,) = re.findall(r"^Left out: ([^.]*)", text, re.M) or [""]
    shown, left_out = {number for number, _ in rows}, set(re.findall(r"`(\d\d)`", left_out))
    assert not shown & left_out
    assert (shown | left_out) - {"10", "11", "12"} == {path.name[:2] for path in (ROOT / "notebooks").glob("0*.ipynb")}
    for number, row in rows:
        (notebook,) = (text for where, text in PROSE.items() if re.match(rf"{number}_.*ipynb", where))
        for name in re.findall(r"\*([^*]+)\*", "".join(row)):
            assert re.search(rf"^##+ {re.escape(name)}$", notebook, re.M), f"{number} has no section {name}"


@pytest.mark.parametrize(("title", "minutes"), PLANS.items())
def test_the_minutes_of_a_plan_add_up(title, minutes):
    assert sum(int(row[0]) for _, row in course(title)[1]) == minutes


def test_notebooks_and_the_first_readme_agree_on_how_long_they_take():
    minutes = {"half a minute": "½", "a minute": "1", "a minute and a half": "1½", "two minutes": "2"}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (time,) = re.findall(r"^Time: about (.*?) on two CPU cores", PROSE[path.name], re.M)
        (row,) = (line for line in PROSE["README.md"].splitlines() if line.startswith(f"| `{path.stem}` |"))
        assert row.endswith(f"| {minutes[time]} min |"), path.name


def test_every_way_to_install_installs_the_same():
    """The lines for laptops, the dev container and Binder follow requirements.txt; the Python is new enough."""
    written = (ROOT / "requirements.txt").read_text()
    install, without_cuda = re.findall(r"^python3 -m venv.*", PROSE["README.md"], re.M)
    pinned = re.findall(r"^(torch\w*==\S+)", written, re.M)
    assert len(pinned) == 3 and without_cuda.endswith(" ".join(pinned))
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert install == f"{container['postCreateCommand']} && .venv/bin/python -m mmlib run"
    (index,) = re.findall(r"--index-url (\S+)", without_cuda)
    binder = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    assert binder[1:] == [f"--extra-index-url {index}", "-r ../requirements.txt"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest} to " in PROSE["README.md"]
    assert f"python:{oldest}-" in container["image"]
    assert (ROOT / ".binder" / "runtime.txt").read_text() == f"python-{oldest}\n"


def test_licence_and_citation_agree_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"]
    assert (citation["license"], citation["version"]) == (project["license"], project["version"])
    assert citation["authors"] == project["authors"] == [{"name": "The mmlib authors"}]
    first, _, copyright_line, *_ = (ROOT / "LICENSE").read_text().splitlines()
    assert (first, copyright_line) == (f"{project['license']} License", "Copyright (c) 2026 The mmlib authors")
    for paper in citation["references"]:
        (identifier,) = (one["value"].removeprefix("arXiv:") for one in paper["identifiers"])
        assert paper["url"] == f"https://arxiv.org/abs/{identifier}" and paper["title"] and paper["authors"]
        assert f"arXiv {identifier}" in PROSE["mmlib/README.md"]


def examples(where: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PROSE[where], re.S)


def shortened(example: str, *replaced: tuple[str, str]) -> str:
    for text, shorter in replaced:
        assert example.count(text) == 1, text
        example = example.replace(text, shorter)
    return example


def test_the_readme_reads_own_data_in_ten_lines(capsys, tmp_path, monkeypatch):
    (example,) = examples("README.md")
    assert len(list(filter(None, example.splitlines()))) <= 10
    write_own_folder(tmp_path / "data")
    (tmp_path / "data" / "domains.csv").rename(tmp_path / "domains.csv")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert "'target accuracy'" in capsys.readouterr().out


def test_the_readme_reads_a_benchmark(monkeypatch, capsys):
    """On the stand-in: the clips themselves are not here."""
    monkeypatch.setattr("mmlib.data.load", lambda name, **dials: stand_in.load_or_stand_in(name, "stand-in", **dials))
    (example,) = examples("data_scripts/README.md")
    exec(example, {})
    assert "STAND-IN of synthetic clips, NOT CREMA-D, protocol actors (fold 0 of 5)" in capsys.readouterr().out


def test_the_readme_makes_a_table(capsys, av_digits_prepared):
    """Shortened: fewer pairs, one epoch, two seeds."""
    replaced = ('"av_digits"', '"av_digits", pairs=200'), ("epochs=12", "epochs=1"), ("range(5)", "range(2)")
    exec(shortened(examples("mmlib/README.md")[0], *replaced), {})
    counts, *lines = capsys.readouterr().out.splitlines()
    trained, loaded = map(int, re.fullmatch(r"(\d+) runs trained, (\d+) loaded from the cache", counts).groups())
    assert trained + loaded == 24, "loaded where these tests have run before"
    assert [line.split("  ")[0] for line in lines] == ["erm", "ema", "ema + multi-loss", "mbcd"]


def test_the_readme_trains_a_method_of_ones_own(capsys, monkeypatch, tmp_path):
    """Shortened: few samples, one epoch."""
    monkeypatch.setattr(methods, "METHODS", methods.METHODS.copy())
    monkeypatch.setattr(methods, "GRIDS", methods.GRIDS.copy())
    monkeypatch.chdir(tmp_path)
    _, file, session = examples("mmlib/README.md")
    Path("hesitant.py").write_text(file)
    replaced = ('"spoken_digits"', '"spoken_digits", samples_per_class=5'), ("epochs=6", "epochs=1")
    exec(shortened(session, *replaced), {})
    assert "'target accuracy'" in capsys.readouterr().out
