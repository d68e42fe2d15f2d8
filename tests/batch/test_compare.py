"""`python -m mmlib compare`: notebook 12 on a method in a file."""

import pytest

from mmlib import methods
from mmlib.__main__ import main
from mmlib.batch import run, suites
from mmlib.batch.backend import Backend

METHOD = """from mmlib import methods

class Mine(methods.Method):
    def step_losses(self, batch):
        return {"fused": self.model(batch.inputs).fused_logits.square().mean()}
"""


@pytest.fixture(autouse=True)
def session(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", methods.METHODS.copy())
    monkeypatch.setattr(methods, "GRIDS", methods.GRIDS.copy())


@pytest.fixture
def file(tmp_path, monkeypatch):
    folder = tmp_path / "a, b: c #d"  # as YAML and lists would not read it
    folder.mkdir()
    (folder / "mine.py").write_text(METHOD)
    monkeypatch.chdir(folder)
    return folder / "mine.py"


@pytest.fixture
def ran(monkeypatch):
    """What was asked of a batch."""
    found = []

    def note(suite, jobs, out, limits, backend):
        found.append((suite, jobs, out))
        return [], out

    monkeypatch.setattr(run, "run", note)
    return found


def test_it_runs_the_notebook_on_the_file_with_what_was_said(file, ran):
    options = ["--data", "spoken_digits", "--seeds", "3", "--tuned", "-p", "target=all", "-p", "rivals=erm, mbcd"]
    assert main(["compare", "mine.py", *options]) == 0
    ((suite, (job,), out),) = ran
    assert (suite.name, out.name, job.notebook.stem) == ("mine", "mine", "12_your_own_method")
    assert job.parameters == {
        "method": str(file), "seeds": 3, "tuned": True, "target": "all", "rivals": "erm, mbcd"
    }  # fmt: skip


def test_a_method_of_the_kit_is_compared_by_its_name(ran, tmp_path):
    assert main(["compare", "mmpareto", "--out", str(tmp_path)]) == 0
    ((_, (job,), out),) = ran
    assert (job.parameters, out) == ({"method": "mmpareto"}, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["mine.py"], "class Mine(:", "mine.py, line 1 is not Python"),
        (["mine.py"], "x = 1", "mine.py has no method"),
        (["other.py"], METHOD, "There is no file "),
        (["mine.py", "-p", "rivals=erm, best"], METHOD, "There is no method 'best'; choose one of erm"),
        (["mine"], METHOD, "There is no method 'mine'"),
        (["mine.py", "--seeds", "many"], METHOD, "seeds must be of type int"),
        (["mine.py", "-p", "conditions=dirty"], METHOD, 'conditions must be some of "clean, swapped, noisy"'),
    ],
)
def test_nothing_is_run_where_something_is_wrong(file, arguments, text, message, capsys):
    file.write_text(text)
    assert main(["compare", *arguments, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("Nothing was run: ") and message in said and not (file.parent / "out" / "index.html").exists()
    )


def test_a_run_is_done_until_the_methods_file_changes(file):
    job = suites.make_job(next(suites.NOTEBOOKS.glob("12_*.ipynb")), {"method": str(file)})
    before = job.identity()
    assert job.identity() == before
    file.write_text(METHOD.replace("square", "abs"))
    assert job.identity() != before
    assert "new" in run.forecast([job], file.parent / "out", Backend("local", "", 1))
