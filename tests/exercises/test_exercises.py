"""Every check accepts the notebook's solution and kit's own function, tells typical mistakes by name, and the student's
edition holds no solution."""

import ast
import importlib
import json
import pkgutil

import nbformat
import pandas as pd
import pytest
import torch

from mmlib import exercises
from mmlib.__main__ import BAD, main
from mmlib.batch import editions, suites
from mmlib.exercises import Exercise, foremost, predicted
from mmlib.training import estimate

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(suites.NOTEBOOKS.glob("0*.ipynb"))}
TOPICS = [module.name for module in pkgutil.iter_modules(exercises.__path__) if module.name != "checking"]
EXERCISES = {
    f"{topic}.{name}": one
    for topic in TOPICS
    for name, one in vars(importlib.import_module(f"mmlib.exercises.{topic}")).items()
    if isinstance(one, Exercise)
}
WRONG = [
    pytest.param(exercise, answer, said, id=f"{exercise}-{number}")
    for exercise in EXERCISES
    for number, (answer, said) in enumerate(
        importlib.import_module(f"wrong.{exercise.split('.')[0]}").WRONG[exercise.split(".")[1]]
    )
]


def cells(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def solutions():
    """Every function in a cell that is tagged `solution`, by name; they see what the set-up imports, and no more."""
    found = {}
    for notebook in NOTEBOOKS.values():
        names = {}
        set_up = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1]
        for node in ast.parse(set_up).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), names)
        imported = set(names)
        for cell in cells(notebook, "solution"):
            exec(cell.source, names)
        found |= {name: names[name] for name in names.keys() - imported}
    return found


SOLUTIONS = solutions()


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_and_the_kits_own_function_have_all_properties(name, capsys):
    exercise = EXERCISES[name]
    solution = SOLUTIONS[exercise.name]
    assert exercise(solution) is solution, capsys.readouterr().out
    assert exercise.examine(lambda *given: exercise.kit(*given)) == ""
    assert exercise.examine(exercise.kit).startswith("This is the kit's own")


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, said, capsys):
    assert EXERCISES[name](answer) is EXERCISES[name].kit, "the notebook goes on with the kit's own"
    assert said in (told := capsys.readouterr().out) and told.startswith("Not right yet. "), told


@pytest.mark.parametrize("name", EXERCISES)
def test_at_least_three_wrong_answers_of_each_are_tried(name):
    told = [said for (exercise, _, said), *_ in WRONG if exercise == name]
    assert len(set(told)) >= 3


def test_every_exercise_is_posed_once_checked_by_the_next_cell_and_used():
    posed = []
    for notebook in NOTEBOOKS.values():
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        for cell in cells(notebook, "solution"):
            name = ast.parse(cell.source).body[-1].name
            check, *after = code[code.index(cell.source) + 1 :]
            first, *same = check.splitlines()
            assert first == f"{name} = exercises.{name}({name})"
            assert any(f"{name}(" in source for source in ("\n".join(same), *after)), f"nothing uses {name}"
            posed.append(name)
    assert sorted(posed) == sorted(exercise.name for exercise in EXERCISES.values())


def test_a_stub_says_that_it_is_not_written(capsys):
    exercise = EXERCISES["dropout.drop_probability"]
    (stub,) = [cell.source for cell in cells(NOTEBOOKS["03_adaptive_modality_dropout"], "solution")][:1]
    names = {}
    exec(editions.stubs(stub), names)
    assert exercise(names[exercise.name]) is exercise.kit
    assert capsys.readouterr().out.startswith("drop_probability is not written yet.")
    with pytest.raises(NotImplementedError, match="drop_probability is not written yet"):
        names[exercise.name](torch.ones(2))


def test_a_solution_that_is_no_function_is_refused():
    with pytest.raises(ValueError, match="functions with docstrings alone"):
        editions.stubs("answer = 3")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "edition"
    assert main(["student", "--out", str(folder)]) == 0
    return folder


def test_the_students_edition_has_every_notebook_and_no_solution(written):
    for path in suites.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        own = nbformat.read(path, as_version=4)
        text = (written / path.name).read_text()
        nbformat.validate(json.loads(text))
        assert len(json.loads(text)["cells"]) == len(own.cells)
        others = json.dumps([cell for cell in own.cells if "solution" not in cell.metadata.get("tags", [])])
        for cell in cells(own, "solution"):
            kept = editions.stubs(cell.source)
            for line in cell.source.splitlines():
                quoted = json.dumps(line.strip())[1:-1]
                assert line in kept or text.count(quoted) == others.count(quoted), line
        assert text.count("<summary>A hint</summary>") == len(cells(own, "hint"))


def test_a_students_work_is_never_overwritten(written, capsys):
    worked = written / "03_adaptive_modality_dropout.ipynb"
    before = worked.read_bytes()
    assert main(["student", "--out", str(written)]) == BAD
    said = capsys.readouterr().err
    assert "03_adaptive_modality_dropout.ipynb" in said and "another folder" in said
    assert worked.read_bytes() == before


def test_what_is_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["copy", str(tmp_path / "file")]) == BAD
    assert "file is a file. Name a folder." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["student", "--out", ""])
    assert "must not be empty" in capsys.readouterr().err


def test_a_copy_is_what_the_kit_has(tmp_path):
    assert main(["copy", str(tmp_path / "mine")]) == 0
    for path in suites.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        assert json.loads((tmp_path / "mine" / path.name).read_text()) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        (None, "Measured: rises (+2.000 ± "),
        ("rises", "As you predicted. Measured: rises"),
        ("falls", "You predicted: falls. Measured: rises"),
        ("up", "Your prediction, 'up', is none of: 'rises', 'falls', 'stays'. Measured: rises"),
    ],
)
def test_a_prediction_is_compared_and_nobody_is_told_off_for_none(guess, said, capsys):
    predicted(guess, estimate([1.9, 2.0, 2.1]), "rises", "falls", "stays")
    assert capsys.readouterr().out.startswith(said)
    predicted(None, estimate([-1.0, 1.0, 0.1]), "rises", "falls", "stays")
    assert capsys.readouterr().out.startswith("Measured: stays, not disting")


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        (None, "Measured: most (+2.000 ± "),
        ("most", "As you predicted. Measured: most"),
        ("least", "You predicted: least. Measured: most"),
        ("nobody", "Your prediction, 'nobody', is none of: 'most', 'some', 'neither', 'least'."),
    ],
)
def test_a_prediction_among_several_is_held_against_the_foremost(guess, said, capsys):
    values = {"least": [1.0, 2.0, 3.0], "most": [5.9, 7.0, 8.1], "some": [4.0, 5.0, 6.0]}
    foremost(guess, {name: pd.Series(of) for name, of in values.items()})
    assert capsys.readouterr().out.startswith(said)
