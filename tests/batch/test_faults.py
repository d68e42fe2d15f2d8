"""Everything that can go wrong with a batch: each fault ends in the right message, exit code and state on disk."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
from conftest import WITHOUT_JUPYTER, Kit

from mmlib.__main__ import main
from mmlib.batch import execution, run, runner, suites
from mmlib.batch.execution import OWNER, Limits
from mmlib.batch.processes import MARK, kill_marked, marked
from mmlib.data import MissingData
from mmlib.notebook.parameters import BadParameter
from mmlib.training import Diverged

FAULTS = {
    # name: (code, status, part of the error, part of what the cell said)
    "01_assertion": ("assert rate > 5, 'rate is too small'", "assertion", "rate is too small", "rate is too small"),
    "02_data": (
        "class MissingData(Exception): pass\nraise MissingData('prepare it first')",
        "missing data", "prepare it first", "MissingData",
    ),
    "03_file": ("open('nowhere')", "missing data", "No such file or directory: 'nowhere'", "FileNotFoundError"),
    "04_import": ("import a_module_that_is_not_there", "dependency", "No module named", "ModuleNotFoundError"),
    "05_memory": ("raise MemoryError('too much')", "memory", "too much", "MemoryError"),
    "06_disk": ("open('/dev/full', 'w').write('x' * 10**6)", "disk full", "No space left on device", "OSError"),
    "07_parameter": (
        "from mmlib.notebook.parameters import BadParameter\nraise BadParameter('rate must be even')",
        "parameter", "rate must be even", "BadParameter",
    ),
    "15_diverged": ("raise type('Diverged', (Exception,), {})('in epoch 1')", "diverged", "in epoch 1", "Diverged"),
    "08_syntax": ("for", "error", "SyntaxError", "SyntaxError"),
    "09_cell_timeout": (
        "import sys, time\nprint('so far', file=sys.stderr)\ntime.sleep(600)", "timeout", "longer than 6 s", "so far",
    ),
    "10_exit": ("import os\nos._exit(3)", "kernel died", "The kernel died", ""),
    "11_killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "kernel died", "The kernel died", ""),
    "12_crash": (
        "import faulthandler\nfaulthandler._sigsegv()",
        "kernel died", "The kernel died", "Kernel died while waiting",
    ),
    "13_runner": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "process died", "signal 9", ""),
    "14_interrupt": ("raise KeyboardInterrupt", "error", "KeyboardInterrupt", "KeyboardInterrupt"),
}  # fmt: skip


# An exception by any name comes out of a kernel as one of them does: these need none.
PLAIN = ("02_data", "03_file", "04_import", "05_memory", "07_parameter", "15_diverged")


def test_each_fault_of_a_notebook_is_named_and_the_batch_continues(kit, capsys):
    each_is_named(kit, capsys, FAULTS.keys() - PLAIN)


def test_an_exception_is_named_by_what_it_means(kit, capsys, without_jupyter):
    assert {one.__name__ for one in (MissingData, BadParameter, Diverged)} <= runner._KINDS.keys()
    each_is_named(kit, capsys, PLAIN)


def each_is_named(kit, capsys, names):
    faults = {name: FAULTS[name] for name in sorted(names)}
    for name, (code, *_) in faults.items():
        kit.notebook(name, code)
    kit.notebook("20_good", "rate")
    assert kit.run("--cell-timeout", "6", "--jobs", "3") == 1
    said, results = capsys.readouterr(), kit.results()
    for name, (code, status, error, stderr) in faults.items():
        result = results[name]
        assert (result["status"], error in result["error"]) == (status, True), (name, result["status"], result["error"])
        assert f"{name}: {status}. " in said.err
        assert stderr in result["stderr"], (name, result["stderr"])
        if status != "process died":  # whose notebook may have been torn
            assert result["cell"].endswith(code), name
    assert results["20_good"]["status"] == "finished"
    assert f"1 of {len(faults) + 1} runs finished" in said.out
    assert not kit.leftovers()
    for name in results:
        assert {path.name for path in (kit.out / name).iterdir()} == {
            "result.json", "notebook.ipynb", "with_code.html", "without_code.html", "slides.html", "log.txt",
        }, name  # fmt: skip
        assert execution.read_result(kit.out / name) is not None


def test_a_run_that_takes_too_long_ends_with_all_that_it_started(kit, tmp_path, monkeypatch):
    """Also what has left the tree: a process of a process, in a session of its own, whose parent is gone."""
    code = f"""import subprocess, sys, time
start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], " \\
        "start_new_session=True); open({str(tmp_path / "started")!r}, 'w')"
subprocess.run([sys.executable, "-c", start])
subprocess.Popen(["sleep", "600"])
time.sleep(600)"""
    kit.notebook("01_family", code)

    def monotonic():
        """An hour has passed as soon as the family is there."""
        return time.monotonic() + 3600 * (tmp_path / "started").exists()

    clock = SimpleNamespace(monotonic=monotonic, perf_counter=time.perf_counter, sleep=time.sleep)
    monkeypatch.setattr(execution, "time", clock)
    assert kit.run("--run-timeout", "1800") == 1
    result = kit.results()["01_family"]
    assert (tmp_path / "started").exists()
    assert result["status"] == "timeout" and "longer than 1800 s. Its processes were killed" in result["error"]
    assert result["cell"] == code, "the cell that ran"
    assert not [process for process in psutil.process_iter() if "time.sleep(600)" in " ".join(_command(process))]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_out_of_memory_is_distinguished_from_other_deaths(kit, monkeypatch):
    """That the system killed for want of memory is made up here; the death is real."""
    kit.notebook("01_killed", FAULTS["11_killed"][0])
    kills = iter(range(100))
    monkeypatch.setattr(execution, "_out_of_memory_kills", lambda: next(kills))
    assert kit.run() == 1
    result = kit.results()["01_killed"]
    assert result["status"] == "memory" and "The system had run out of memory" in result["error"]


def test_a_python_process_at_its_limit_of_memory_is_reported(kit):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\nblock = bytearray(2**33)"
    kit.notebook("01_greedy", code)
    assert kit.run() == 1
    assert kit.results()["01_greedy"]["status"] == "memory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "volume=11"], "01_good.ipynb has no parameter 'volume'; it has: name, rate"),
        (["-p", "rate=fast"], "rate must be of type float, not 'fast'"),
        (["-p", "rate=[1, fast]"], "rate must be of type float, not 'fast'"),
        (["-p", "rate"], "not of the form name=value"),
        (["-p", "rate=[1"], "cannot be read as YAML"),
        (["-p", "rate=2026-02-30"], "cannot be read as YAML"),
        (["-p", f"rate={'[' * 500}"], "cannot be read as YAML: it is nested too deeply"),
        (["-p", "rate=&a [*a]"], "it holds more than 10000 values"),
        (["-p", "rate=[]"], "rate: an empty list is no value, and leaves nothing to run"),
        (["-p", "name=no"], "name must be of type str, not False"),
        (["-p", "rate="], "rate must be of type float, not ''"),
        (["-p", "rate=1", "-p", "rate=2"], "-p gives rate twice. For a grid: -p rate=[FIRST, SECOND]"),
        (["--only", "77"], "No notebook's name starts with '77'; there are: 01, 02."),
        (["--only", "01", "02"], "The suite 'quick' has no notebook 02"),
        (["deep"], "There is no suite 'deep'; there are: bomb, circle, "),
        (["../quick"], "There is no suite '../quick'"),
        (["odd"], "unknown entries: notbooks"),
        (["text"], "is not YAML of names and values"),
        (["torn"], "is not YAML of names and values"),
        (["typed"], "parameters cannot be 7"),
        (["limited"], "limits are seconds for `cell`, `run` and `start`, not page: 3"),
        (["circle"], "Suites inherit in a cycle: circle → ring → circle"),
        (["entry"], "is not of the form number: {name: value}"),
        (["--minutes", "5"], "--minutes is for suites with a budget, and 'quick' has none"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--cell-timeout", "0"], "--cell-timeout must be at least 1"),
        (["--start-timeout", "0"], "--start-timeout must be at least 1"),
        (["bomb"], "with its aliases written out, it holds more than 10000 values"),
        (["none"], "The suite 'none' has no notebook to run: its list is empty"),
    ],
)
def test_nothing_runs_where_anything_is_wrong(kit, capsys, arguments, message):
    kit.notebook("01_good", "rate")
    kit.notebook("02_other", "rate")
    for name, content in {
        "quick": "notebooks: ['01']\n",
        "odd": "notbooks: all\n",
        "text": "notebooks\n",
        "torn": "notebooks: [1, 2\n",
        "typed": "parameters: 7\n",
        "limited": "limits: {page: 3}\n",
        "circle": "inherits: ring\n",
        "ring": "inherits: circle\n",
        "entry": "notebooks: [{'01': 3}]\n",
        "none": "notebooks: []\n",
        "bomb": "parameters:\n  a0: &a0 {x: 1}\n"
        + "".join(f"  a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    }.items():
        kit.suite(name, content)
    assert kit.run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Nothing was run: ") and message in error
    assert not kit.out.exists()


def test_a_folder_without_numbered_notebooks_is_refused(kit, capsys):
    kit.notebook("analysis", "1")
    assert kit.run() == 2
    assert f"{kit.notebooks} holds none named like 01_name.ipynb" in capsys.readouterr().err
    assert main(["run", "--notebooks", str(kit.notebooks / "nowhere")]) == 2
    assert f"{kit.notebooks / 'nowhere'} is not a folder of notebooks." in capsys.readouterr().err
    assert main(["run", "--list", "--notebooks", str(kit.notebooks / "nowhere")]) == 0


def test_a_folder_that_cannot_be_made_is_named(kit, capsys):
    below_a_file = kit.notebook("01_good", "rate") / "runs"
    assert main(["run", "--notebooks", str(kit.notebooks), "--out", str(below_a_file)]) == 2
    assert f"{below_a_file} cannot be made (Not a directory); name another folder" in capsys.readouterr().err


def test_a_kernel_that_starts_another_interpreter_is_refused(kit, capsys, monkeypatch, tmp_path):
    kit.notebook("01_good", "rate")
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    arguments = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    facts = {"argv": [sys.executable, *arguments], "display_name": "Python 3", "language": "python"}
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(runner, "kernel_problem", runner.kernel_problem.__wrapped__)
    (other / "kernel.json").write_text(json.dumps(facts))
    assert runner.kernel_problem() == ""
    elsewhere = tmp_path / "bin" / Path(sys.executable).name  # as that of another virtual environment
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(sys.executable)
    (other / "kernel.json").write_text(json.dumps(facts | {"argv": [str(elsewhere), *arguments]}))
    monkeypatch.setattr(run, "kernel_problem", runner.kernel_problem)
    assert kit.run() == 2
    said = capsys.readouterr().err
    assert f"starts {elsewhere} and not {sys.executable}, which runs this command. Delete {other}" in said
    assert not kit.out.exists()


def kernel_of(program, folder, monkeypatch):
    """From now on, this program, in Python, is Jupyter's kernel."""
    (folder / "kernels" / "python3").mkdir(parents=True)
    argv = [sys.executable, "-c", program, "{connection_file}"]
    facts = {"argv": argv, "display_name": "P", "language": "python"}
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(facts))
    monkeypatch.setenv("JUPYTER_PATH", str(folder))


def test_a_kernel_that_does_not_start_is_named(kit, monkeypatch, tmp_path):
    kit.notebook("01_good", "rate")
    kernel_of("import time; time.sleep(60)", tmp_path, monkeypatch)
    assert kit.run("--start-timeout", "1") == 1
    result = kit.results()["01_good"]
    assert result["status"] == "kernel not started" and "didn't respond in 1 seconds" in result["error"]


def test_a_kernel_that_dies_at_its_start_is_started_once_more(kit, monkeypatch, tmp_path):
    """Of two that start at the same time, both may have chosen the same port."""
    starts = tmp_path / "starts"
    program = f"""import os, sys
open({str(starts)!r}, "a").write("x")
if os.path.getsize({str(starts)!r}) == 2:
    os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", sys.argv[1]])"""
    kernel_of(program, tmp_path, monkeypatch)
    kit.notebook("01_good", "rate")
    kit.notebook("02_good", "rate")
    assert kit.run("--jobs", "1") == 1
    first, second = (kit.results()[name] for name in ("01_good", "02_good"))
    assert first["status"] == "finished" and second["status"] == "kernel not started"
    assert "Kernel died" in second["error"] and len(starts.read_text()) == 4


def test_a_folder_may_have_any_name(tmp_path):
    """Also one that papermill would fill in with a parameter's value."""
    kit = Kit(tmp_path / "{seed} {} {" / "ünï [x] 100%s")
    kit.notebook("01_good", "import os\nprint(os.getcwd())")
    assert kit.run() == 0
    executed = json.loads((kit.out / "01_good" / "notebook.ipynb").read_text())
    assert executed["cells"][-1]["outputs"][0]["text"] == [f"{kit.notebooks}\n"]


def test_seeds_that_would_count_twice_are_refused(kit, capsys):
    kit.notebook("01_seeds", "seeds", "seeds: int = 3  # runs\nfirst_seed: int = 0  # from here")
    assert kit.run("-p", "first_seed=[0, 2]") == 2
    assert "share seed 2: with seeds=3, values of first_seed must be at least 3 apart" in capsys.readouterr().err
    assert kit.run("-p", "first_seed=[0, 3]", "--dry-run") == 0


def test_what_the_set_up_would_refuse_is_refused_before_anything_runs(kit, capsys, tmp_path):
    setup = f"""from mmlib.notebook import Settings
open({str(tmp_path / "ran")!r}, "w")
settings = Settings(globals(), seeds=(2, 9), kind=("one", "two"))"""
    parameters = 'seeds: int = 3  # runs\nkind: str = "one"  # which\nepochs: int = 4  # e\nwarm_up: int = 2  # w'
    parameters += '\ndevice: str = "cpu"  # d'
    kit.notebook("01_checks", setup, parameters)
    for chosen, message in {
        ("seeds=1",): "01_checks.ipynb: seeds must be an integer in 2 … 9, not 1.",
        ("kind=three",): "kind must be one of one, two, not 'three'",
        ("warm_up=[3, 7]",): "warm_up must be shorter than training, 4 epochs; it is 7",
    }.items():
        assert kit.run(*(part for text in chosen for part in ("-p", text))) == 2
        assert message in capsys.readouterr().err
    assert kit.run("-p", "device=mps", "--dry-run") == 2
    assert "01_checks.ipynb: device must be auto, cpu, cuda or cuda:1 … (on a Mac, the CPU" in capsys.readouterr().err
    assert not kit.out.exists() and not (tmp_path / "ran").exists(), "nothing was executed"


@pytest.mark.parametrize("content", ["", "{", '{"cells": 3}', "[]"], ids=["empty", "torn", "no cells", "a list"])
def test_a_file_that_is_no_notebook_is_named(kit, capsys, content):
    kit.notebook("01_good", "rate")
    (kit.notebooks / "02_broken.ipynb").write_text(content)
    assert kit.run() == 2
    assert "02_broken.ipynb cannot be read as a notebook" in capsys.readouterr().err
    assert not kit.out.exists()


def test_missing_data_weights_and_gpu_are_found_before_anything_runs(kit, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "resolve_device", lambda name: (_ for _ in ()).throw(ValueError(f"no {name} here")))
    needs = (
        'benchmark: str = "hac"  # d\ndata: str = "real"  # d\nweights: str = "there"  # w\nmodalities: str = "video"'
    )
    kit.notebook("01_needs", "1", needs + '  # m\ndevice: str = "cuda"  # d')
    assert kit.run() == 2
    error = capsys.readouterr().err
    for part in ("no cuda here", "there/slowfast_r101", "hac is not prepared", "python -m mmlib data hac"):
        assert part in error
    assert not kit.out.exists()


def test_an_output_folder_that_is_a_file_is_named(kit, capsys):
    kit.notebook("01_good", "rate")
    kit.out.write_text("mine")
    assert kit.run() == 2
    assert f"{kit.out} is not a folder" in capsys.readouterr().err
    assert kit.out.read_text() == "mine"


def test_a_full_disk_keeps_what_is_finished_and_says_so(kit, capsys, small_disk):
    kit.out = small_disk
    kit.notebook("01_good", "rate")
    kit.notebook("02_large", "print('x' * 10**6)")
    assert kit.run("--jobs", "1") == 1
    error = capsys.readouterr().err
    assert "02_large: disk full." in error and "No space left on device" in error
    assert {result["name"] for result in kit.results().values() if result["status"] == "finished"} == {"01_good"}
    assert execution.read_result(kit.out / "01_good") is not None and not kit.leftovers()


def running(process, until):
    """The process at the moment when `until()` is true."""
    end = time.monotonic() + 120
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


SLOW = "import pathlib, time\npathlib.Path(mark).touch()\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("number", "code", "start"),
    [
        pytest.param(signal.SIGINT, 130, Kit.start_afresh, id="int"),
        pytest.param(signal.SIGTERM, 130, Kit.start, id="term"),
        pytest.param(signal.SIGKILL, -9, Kit.start, id="kill"),
    ],
)
def test_a_batch_that_is_stopped_leaves_whole_runs_and_no_process(kit, tmp_path, monkeypatch, number, code, start):
    kit.notebook("01_good", "rate")
    mark = tmp_path / "mark"
    kit.notebook("02_slow", SLOW, f'mark: str = "{mark}"  # m')
    process = running(start(kit), until=lambda: mark.exists() and (kit.out / "01_good" / "result.json").exists())
    token = json.loads((kit.out / OWNER).read_text())["token"]
    assert len(marked(token)) == 2, "a runner and its kernel"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    end = time.monotonic() + 20
    while marked(token) and time.monotonic() < end:
        time.sleep(0.1)
    assert not marked(token), "runner and kernel are gone, whoever was left to stop them"
    assert list(kit.results()) == ["01_good"]
    if number != signal.SIGKILL:
        assert "The same command resumes where this one stopped" in error
        assert "Not run yet: 02_slow" in (kit.out / "index.html").read_text()
    finished = kit.results()["01_good"]
    kit.notebook("02_slow", "mark", 'mark: str = "x"  # m')
    monkeypatch.setattr(execution, "RUNNER", WITHOUT_JUPYTER)
    assert kit.run() == 0
    assert kit.results()["01_good"] == finished and not kit.leftovers()


def test_two_batches_in_one_folder_refuse_each_other(kit, tmp_path, capsys, without_jupyter):
    mark = tmp_path / "mark"
    kit.notebook("01_slow", SLOW, f'mark: str = "{mark}"  # m')
    process = running(kit.start(), until=mark.exists)
    assert kit.run() == 2
    error = capsys.readouterr().err
    assert f"Another batch is writing to {kit.out}: process {process.pid} on " in error and "--out" in error
    assert process.poll() is None, "the first continues"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    kit.notebook("01_slow", "mark", 'mark: str = "x"  # m')
    assert kit.run() == 0


def test_what_a_killed_batch_has_left_is_cleared_away(kit, without_jupyter):
    """As after a power cut: an owner that is no more, half a run, an old run that was being replaced, a process."""
    kit.notebook("01_good", "rate")
    kit.out.mkdir()
    (kit.out / OWNER).write_text(json.dumps({"token": "deadbeef", "process": 1, "host": "h", "since": "then"}))
    for name in (".01_good.abc.part", ".01_good.abc.old"):
        (kit.out / name).mkdir()
        (kit.out / name / "notebook.ipynb").write_text("{")
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "deadbeef/1"})
    assert kit.run() == 0
    assert not psutil.pid_exists(orphan.pid)
    assert list(kit.results()) == ["01_good"] and not kit.leftovers()


def test_what_is_cleared_away_twice_at_a_time_is_gone(kit, without_jupyter, monkeypatch):
    """When a batch is stopped, by it and by the thread that watches a run."""
    kit.notebook("01_good", "rate")
    (kit.out / ".01_good.abc.part").mkdir(parents=True)
    removed = os.rmdir

    def by_the_other_first(path, **options):
        removed(path, **options)
        if str(path).endswith(".abc.part"):
            removed(path, **options)

    monkeypatch.setattr(os, "rmdir", by_the_other_first)
    assert kit.run() == 0 and not kit.leftovers()


def test_a_run_whose_batch_lost_the_folder_keeps_nothing(kit, tmp_path, without_jupyter):
    """On another machine, say, after the batch was killed and another one has begun."""
    mark = tmp_path / "mark"
    job = suites.Job(kit.notebook("01_slow", SLOW, f'mark: str = "{mark}"  # m'), {})
    kit.out.mkdir()
    (kit.out / OWNER).write_text('{"token": "first"}')

    def take_over():
        while not mark.exists():
            time.sleep(0.05)
        (kit.out / OWNER).write_text('{"token": "second"}')

    other = threading.Thread(target=take_over)
    other.start()
    result = execution.run_one(job, kit.out, "first", Limits())
    other.join()
    assert result.status == "interrupted"
    assert not kit.results() and not kit.leftovers() and not marked("first")


def test_a_result_that_cannot_take_its_place_leaves_the_one_that_is_there(tmp_path, monkeypatch):
    new, place = tmp_path / "new", tmp_path / "run"
    for folder in (new, place):
        folder.mkdir()
        (folder / "result.json").write_text(folder.name)
    rename = os.rename

    def failing(source, target):
        if source == new:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        execution._publish(new, place)
    assert (place / "result.json").read_text() == "run"
    monkeypatch.undo()
    execution._publish(new, place)
    assert (place / "result.json").read_text() == "new" and list(tmp_path.iterdir()) == [place]


def test_kill_marked_needs_a_mark():
    with pytest.raises(ValueError, match=r"empty mark"):
        kill_marked("")


COUNTED = """import time
record = {"title": "counted", "claims": [], "runs": [{"number": number}], "environment": {}}
time.sleep(0.1)"""


def test_many_runs_survive_random_kills(kit, without_jupyter):
    """Again and again something is killed: the batch, a runner, a kernel. In the end all is there, once."""
    kit.notebook("01_counted", COUNTED, "number: int = 0  # which")
    arguments = ("--jobs", "4", "-p", f"number={list(range(40))}")
    chance, kills = random.Random(0), {"batch": 0, "runner": 0, "kernel": 0}
    for _ in range(60):
        process = kit.start(*arguments)
        while process.poll() is None:
            victim = min(kills, key=kills.get)  # at a random moment, whoever was spared
            try:
                process.communicate(timeout=chance.uniform(0.05, 0.5) if kills[victim] < 3 else None)
            except subprocess.TimeoutExpired:
                kills[victim] += _kill(kit, process, victim, chance)
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert all(kills.values()), kills
    results = kit.results()
    assert sorted(result["parameters"].get("number", 0) for result in results.values()) == list(range(40))
    assert {result["status"] for result in results.values()} == {"finished"}
    assert sorted(pd.read_csv(kit.out / "results.csv")["number"]) == list(range(40))
    assert not kit.leftovers()


def _kill(kit, process, victim, chance):
    """How many were killed: none where there is no such process just now."""
    if victim == "batch":
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return 1
    token = execution.owner_of(kit.out).get("token")
    found = marked(token) if token else []
    try:
        runners = [one for one in found if one.ppid() == process.pid]
        chosen = runners if victim == "runner" else [one for one in found if one not in runners]
        if chosen:
            chance.choice(chosen).kill()
    except psutil.NoSuchProcess:  # it was faster
        return 0
    return len(chosen[:1])
