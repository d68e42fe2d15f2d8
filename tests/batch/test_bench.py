"""The bench: what it measures it names, and a notebook's seconds are split without a rest."""

import json

import nbformat
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmlib import methods
from mmlib.__main__ import main
from mmlib.batch import bench, bench_gpu
from mmlib.batch.execution import Result
from mmlib.models.architecture import Architecture


def once(functions, repeats=1):
    for function in functions.values():
        function()
    return dict.fromkeys(functions, 0.002)


def test_every_method_and_instrument_is_in_a_table_with_its_ratio(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "shortest_seconds", once)
    assert main(["bench", "--out", str(tmp_path / "bench.json")]) == 0
    said = capsys.readouterr().out
    for name in methods.GRIDS:
        assert f"| {name} | 2.0 | 1.0 |" in said
    assert "| evaluate 1000 samples | 2.0 | 1.0 |" in said and "Hessian trace" in said
    assert json.loads((tmp_path / "bench.json").read_text())["a step at batch 64"]["mbcd"] == {"ms": 2.0, "÷ erm": 1.0}


def test_what_a_gpu_is_asked_can_be_asked_of_a_cpu(monkeypatch, toy_splits):
    """With small networks in place of the papers'."""
    monkeypatch.setattr(bench_gpu, "shortest_seconds", once)
    trained = []
    monkeypatch.setattr(bench_gpu, "train_runs", lambda runs, *_, jobs, cached: trained.append((len(runs), jobs)))
    small = ("mbcd", Architecture(), {"audio": (1, 8, 8), "image": (1, 8, 8)}, 3, 4)
    monkeypatch.setattr(bench_gpu, "PAPERS", {"small": small})
    found = dict(bench_gpu.tables(toy_splits, torch.device("cpu")))
    agreement, steps, trainings, papers = found.values()
    assert list(agreement.index) == list(bench_gpu.METHODS)
    assert set(agreement["losses"]) == set(agreement["gradients"]) == {"0e+00"}, "random draws included"
    assert steps.loc["floor of mbcd", "ordinary"] == 2.0 and steps.loc["mbcd", "÷ erm"] == 1.0
    assert list(trainings.index) == ["1 at a time", "4 at a time"] and trained == [(1, 1), (8, 1), (4, 4), (8, 4)]
    assert papers.loc["small"].to_dict() == {"float32, ms": 2.0}


def test_random_numbers_are_drawn_on_the_cpu_whatever_the_device():
    """Also for a device that holds no numbers."""
    drawn = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **options or {})
            if torch.Tag.nondeterministic_seeded in function.tags:
                drawn.append(result.device.type)
            return result

    with Seen(), bench_gpu.DrawnOnCpu():
        results = [torch.rand(3, device="meta"), torch.randint(5, (2,), device="meta")]
        coins = torch.full((64,), 0.5)
        assert 0 < coins.bernoulli_(0.5).sum() < 64, "in place as well"
    assert {result.device.type for result in results} == {"meta"} and drawn == ["cpu"] * 3


def test_the_parts_of_a_run_add_up(tmp_path):
    sources = {
        "seeds: int = 3": 0.5,
        "settings = 1": 2.0,
        "load()": 1.0,
        "runs = train_runs(x)": 7.0,
        "arms = train_arms(x)": 3.0,
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
