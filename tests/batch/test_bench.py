"""The bench: what it measures it names, and a notebook's seconds are split without a rest."""

import json

import nbformat

from mmlib import methods
from mmlib.__main__ import main
from mmlib.batch import bench
from mmlib.batch.execution import Result


def test_every_method_and_instrument_is_in_a_table_with_its_ratio(monkeypatch, capsys):
    def once(functions, repeats=1):
        for function in functions.values():
            function()
        return dict.fromkeys(functions, 0.002)

    monkeypatch.setattr(bench, "shortest_seconds", once)
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    for name in methods.GRIDS:
        assert f"| {name} | 2.0 | 1.0 |" in said
    assert "| evaluate 1000 samples | 2.0 | 1.0 |" in said and "Hessian trace" in said


def test_the_parts_of_a_run_add_up(tmp_path):
    sources = {
        "seeds: int = 3": 0.5,
        "settings = 1": 2.0,
        "load()": 1.0,
        "runs = train_runs(x)": 10.0,
        "plot(runs)": 4.0,
    }
    cells = []
    for source, seconds in sources.items():
        cells.append(nbformat.v4.new_code_cell(source, metadata={"papermill": {"duration": seconds}}))
    (tmp_path / "01_x").mkdir()
    (tmp_path / "01_x" / "notebook.ipynb").write_text(json.dumps(nbformat.v4.new_notebook(cells=cells)))
    result = Result("01_x", "01_x.ipynb", {}, "", "finished", "", "", "", "", 20.0, {}, [], {})
    parts = bench.parts_of(result, tmp_path)
    assert parts == {"set-up": 3.5, "training": 10.0, "instruments and figures": 4.0, "around": 2.5, "together": 20.0}


def test_a_device_that_is_not_there_is_named(capsys):
    assert main(["bench", "--device", "cuda:99"]) == 2
    assert "Nothing was measured: device 'cuda:99' was requested" in capsys.readouterr().err
