"""The run command, on small notebooks of its own: what is run, what is kept, where it runs."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import joblib
import pandas as pd
import psutil
import pytest
from conftest import ROOT

from mmlib.__main__ import BAD, main
from mmlib.batch import execution, run, suites
from mmlib.batch import page as report
from mmlib.batch.backend import Backend, ClusterLost, Lost
from mmlib.batch.classroom import Speed
from mmlib.batch.execution import Limits
from mmlib.data.cache import source_hash
from mmlib.notebook.parameters import BadParameter

GOOD = """import pandas as pd
from mmlib.training import Estimate
from mmlib.notebook.claims import Record
record = Record("small")
table = pd.DataFrame({"method": ["erm", "=ema"], "target accuracy": [0.5, None], "seed": [0, 0]})
record.add_runs(table)
record.add_runs(table)
record.claim(f"{name} is good", Estimate(float(rate), 0.1, 3))
record"""
LIGHT = "print(rate)"
DIGITS = 'dataset: str = "spoken_digits"  # d\nname: str = "x"  # n\nrate: float = 1.0  # r'


def test_what_is_finished_is_kept_until_something_it_depends_on_changes(kit, capsys, without_jupyter):
    kit.notebook("01_good", LIGHT)
    kit.notebook("02_wrong", "assert rate > 5")
    assert kit.run() == 1
    first = kit.results()["01_good"]
    assert first["status"] == "finished" and kit.results()["02_wrong"]["status"] == "assertion"
    capsys.readouterr()

    def kept():
        kit.run("--only", "01")
        return "1 of 1 runs are already finished and are kept" in capsys.readouterr().out

    assert kept() and kit.results()["01_good"] == first
    kit.notebook("01_good", LIGHT + "\n# changed")
    assert not kept(), "another notebook"
    (kit.out / "01_good" / "with_code.html").unlink()
    assert not kept(), "an output is gone"
    (kit.out / "01_good" / "notebook.ipynb").open("a").write(" ")
    assert not kept(), "an output is not as it was written"
    (kit.out / "01_good" / "result.json").write_text('{"name": ')
    assert not kept(), "a torn result"
    assert kept()
    shutil.copytree(kit.out / "01_good", kit.out / ".01_good.abc.part")
    assert [result.name for result in run.results_in(kit.out)] == ["01_good", "02_wrong"], "none on its way"


def test_a_run_depends_on_library_data_and_versions(kit, monkeypatch, tmp_path):
    notebook = kit.notebook("01_good", GOOD, 'dataset: str = "av_digits"  # d\ndevice: str = "cpu"  # d')
    job = suites.Job(notebook, {})
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"AV-Digits is not prepared"):
        job.identity()
    (tmp_path / "av_digits.npz").write_bytes(b"some")
    found = [job.identity(), job.identity()]
    (tmp_path / "av_digits.npz").write_bytes(b"other")
    found.append(job.identity())
    monkeypatch.setattr(suites, "_versions", lambda: ("2.0",))
    found.append(job.identity())
    found.append(suites.Job(kit.notebook("01_good", GOOD + " "), {}).identity())
    assert found[0] == found[1] and len(set(found)) == 4


def test_a_run_depends_on_the_code_that_its_notebook_can_reach_and_on_no_other(kit, monkeypatch, tmp_path):
    """A change of the page or of the batch leaves finished runs as they are; one of an equation does not."""
    package = shutil.copytree(ROOT / "mmlib", tmp_path / "mmlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("mmlib.source_code.PACKAGE", package)
    job = suites.Job(
        kit.notebook(
            "01_good",
            GOOD + "\nfrom mmlib.training import train_runs\nfrom mmlib.published import gmm_headlines",
            DIGITS,
        ),
        {},
    )
    mine = suites.Job(kit.notebook("02_mine", GOOD, 'dataset: str = "mine"  # in a folder of one\'s own'), {})
    assert mine.identity() == mine.identity()
    before = job.identity()
    for path in package.joinpath("batch").rglob("*.*"):
        path.write_text(path.read_text() + "\n", encoding="utf-8")
    for file in ("batch/page.py", "batch/suites.py", "data/clips/media.py", "data/digits/av_digits.py"):
        (package / file).open("a").write("\nOTHER = 1\n")
    assert job.identity() == before
    for file in (
        "methods/cmrf.py",
        "equations/losses.py",
        "data/digits/spoken_digits.py",
        "published/gmm_headline.csv",
    ):
        (package / file).open("a").write("\nOTHER = 1\n")
        assert job.identity() != before, file
        before = job.identity()


def test_other_parameters_are_another_run_and_defaults_are_none(kit, without_jupyter):
    kit.notebook("01_good", LIGHT)
    assert kit.run("-p", "rate=[1, 2]", "-p", "name=x") == 0
    parameters = {name: result["parameters"] for name, result in kit.results().items()}
    (other,) = set(parameters) - {"01_good"}
    assert parameters == {"01_good": {}, other: {"rate": 2.0}}
    assert kit.run() == 0 and len(kit.results()) == 2


def test_a_dry_run_says_what_is_done_and_how_long_the_rest_takes(kit, capsys, without_jupyter):
    kit.notebook("01_good", LIGHT)
    kit.notebook("02_wrong", "assert rate > 5")
    kit.notebook("03_data", LIGHT, 'dataset: str = "cremad"  # d')
    assert kit.run("--only", "01", "02") == 1
    capsys.readouterr()
    assert kit.run("--dry-run", "-p", "rate=[1, 2]", "--only", "01") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["01_good", "done"] and lines[1].strip() == "defaults"
    assert " new  about " in lines[2] and lines[3].strip() == "rate=2.0"
    assert lines[4] == "1 of 2 runs to do." and lines[5].startswith("Earlier runs here suggest ")
    assert kit.run("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "02_wrong  failed before (assertion)" in printed
    assert "03_data  cannot run" in printed and "cremad is not prepared" in printed
    assert "1 of 3 runs to do.\nWithout an earlier run to go by: 1." in printed
    kit.notebook("01_good", LIGHT + "\n# changed")
    kit.run("--dry-run")
    assert re.search(r"^01_good  changed since  \d+ s$", capsys.readouterr().out, re.M), "its own time, not about it"


def test_a_time_is_its_own_or_the_median_of_its_notebooks_other_runs(kit):
    notebook = kit.notebook("01_good", LIGHT)
    jobs = [suites.Job(notebook, {"rate": float(rate)}) for rate in range(5)]
    empty = {"cell": "", "stderr": "", "started": "", "environment": {}, "records": [], "files": {}}

    def took(job, seconds, status="finished", notebook="01_good.ipynb"):
        return execution.Result(job.name, notebook, job.parameters, "", status, "", seconds=seconds, **empty)

    earlier = [took(job, seconds) for job, seconds in zip(jobs, (1.0, 30.0, 2.0), strict=False)]
    earlier += [took(jobs[3], 900.0, "timeout"), took(jobs[4], 900.0, notebook="02_other.ipynb")]
    assert run.expected_seconds(jobs[1], earlier) == (30.0, True)
    assert run.expected_seconds(jobs[4], earlier) == run.expected_seconds(jobs[3], earlier) == (2.0, False)
    assert run.expected_seconds(jobs[0], earlier[3:]) == (None, False), "a failure or another notebook says nothing"


def test_the_suites_there_are_can_be_listed(kit, capsys):
    kit.suite("deep", "about: for the night\ninherits: quick\n")
    assert kit.run("--list") == 0
    assert capsys.readouterr().out.splitlines() == ["deep   for the night", "quick  all of them"]


@pytest.mark.alone
def test_runs_go_side_by_side_and_results_are_a_table(kit, without_jupyter):
    code = """import time
time.sleep(2)
runs = [{"method": "erm", "target accuracy": 0.5, "seed": 0}, {"method": "=ema", "target accuracy": None, "seed": 0}]
record = {"title": "small", "claims": [], "runs": runs, "environment": {}}"""
    for number in range(1, 5):
        kit.notebook(f"0{number}_good", code)
    started = time.perf_counter()
    assert kit.run("--jobs", "4") == 0
    took = time.perf_counter() - started
    alone = sum(result["seconds"] for result in kit.results().values())
    assert alone > 1.5 * took, "four at a time"
    table = pd.read_csv(kit.out / "results.csv")
    assert table["notebook"].tolist() == [f"0{number}_good" for number in range(1, 5) for _ in range(2)]
    assert table["method"].tolist() == ["erm", "'=ema"] * 4 and table["target accuracy"].isna().sum() == 4
    assert not kit.leftovers()


@pytest.fixture
def no_kernels(monkeypatch):
    """Runs end at once, finished, without a process of their own. What each was given: its name, its cores, and the
    page as it was then."""
    given = []

    def run_one(job, out, token, limits):
        page = out / "index.html"
        given.append((job.name, limits.cores, page.read_text() if page.exists() else ""))
        (out / job.name).mkdir(exist_ok=True)
        shutil.copy(job.notebook, out / job.name / "notebook.ipynb")
        files = {"notebook.ipynb": source_hash(job.notebook)}
        result = execution.Result(
            job.name, job.notebook.name, job.parameters, job.identity(), "finished", "", "", "", "", 1.0, {}, [], files
        )
        (out / job.name / "result.json").write_text(json.dumps(asdict(result)))
        return result

    monkeypatch.setattr(run, "run_one", run_one)
    return given


def test_the_page_is_there_before_the_batch_has_ended(kit, no_kernels, monkeypatch):
    read, configuration = [], report._configuration
    monkeypatch.setattr(report, "_configuration", lambda *given: read.append(given[0]) or configuration(*given))
    for number in range(1, 4):
        kit.notebook(f"0{number}_good", LIGHT)
    assert kit.run("--jobs", "1") == 0
    assert read == [f"0{number}_good.ipynb" for number in range(1, 4)], "each is read once, for four pages"
    for place, (_, _, page) in enumerate(no_kernels):
        to_come = ", ".join(f"0{number}_good" for number in range(place + 1, 4))
        assert f"{place} of 3 runs finished" in page and f"(UTC): {to_come}. This page" in page
        assert "Not run yet" not in page
        assert page.count('href="01_good/with_code.html"') == (place > 0)
    page = (kit.out / "index.html").read_text()
    assert "3 of 3 runs finished" in page and "still to come" not in page and "Not run yet" not in page
    kit.notebook("02_good", LIGHT + "\n# changed")
    no_kernels.clear()
    assert kit.run() == 0
    ((_, _, page),) = no_kernels
    assert "finished, outdated" in page and "(UTC): 02_good. This page" in page, "one that is made again"


def test_by_default_runs_share_the_cores_side_by_side(kit, monkeypatch, no_kernels):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for number in range(1, 4):
        kit.notebook(f"0{number}_good", LIGHT)
    assert kit.run() == 0
    assert [cores for _, cores, _ in no_kernels] == [2, 2, 2], "three at a time"
    for arguments, share in (
        (("-p", "rate=2"), 2),
        (("-p", "rate=3", "--jobs", "2"), 4),
        (("-p", "rate=4", "--jobs", "1"), 0),
        (("-p", "rate=5", "--only", "01"), 0),  # all of them, for one run
    ):
        no_kernels.clear()
        assert kit.run(*arguments) == 0
        assert {cores for _, cores, _ in no_kernels} == {share}, arguments


def test_a_suite_with_a_budget_goes_one_after_another(kit, monkeypatch, no_kernels):
    """As its costs were measured: its plan would be wrong otherwise."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr("mmlib.batch.classroom.calibrate", lambda: Speed(1.0, 1.0))
    for number in (1, 2):
        kit.notebook(f"0{number}_good", "1", "seeds: int = 3  # s\nepochs: int = 4  # e")
    budget = "{minutes: 9, unit: {alone: 1.0, together: 1.0}, costs: {'01': [1, 1], '02': [1, 1]}}"
    kit.suite("quick", f"about: b\nbudget: {budget}\n")
    assert kit.run("--minutes", "0") == 2, "which is no minute, and not the suite's own"
    assert kit.run() == 0
    assert [cores for _, cores, _ in no_kernels] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_cores_are_those_that_this_process_may_use(kit, monkeypatch):
    jobs = [suites.Job(kit.notebook(f"0{number}_good", LIGHT), {}) for number in range(1, 7)]
    allowed = os.sched_getaffinity(0)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    try:
        for count in range(1, len(allowed) + 1):
            os.sched_setaffinity(0, sorted(allowed)[:count])
            assert run.side_by_side(jobs) == min(count, 4)
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    assert run.side_by_side(jobs) == 4
    monkeypatch.setattr(run, "gpus", lambda: ["0", "1"])
    assert run.side_by_side(jobs) == 4, "they use none"
    on_gpu = suites.Job(kit.notebook("07_gpu", LIGHT, 'device: str = "auto"  # d'), {})
    assert run.side_by_side([*jobs, on_gpu]) == 2


def test_a_run_keeps_to_its_share_of_the_cores(kit):
    code = "import os, joblib\nprint(os.environ['OMP_NUM_THREADS'], joblib.cpu_count())"
    job = suites.Job(kit.notebook("01_cores", code), {})
    kit.out.mkdir()
    (kit.out / execution.OWNER).write_text('{"token": "mine"}')
    assert execution.run_one(job, kit.out, "mine", Limits(cores=1)).status == "finished"
    assert '"1 1\\n"' in (kit.out / "01_cores" / "notebook.ipynb").read_text()


def test_the_record_of_a_notebook_is_in_the_table_and_on_the_page(kit):
    kit.notebook("01_good", GOOD)
    assert kit.run() == 0
    table = pd.read_csv(kit.out / "results.csv")
    assert table["method"].tolist() == ["erm", "'=ema"] and table["target accuracy"].tolist()[0] == 0.5, "once"
    assert "x is good" in (kit.out / "index.html").read_text()


def test_each_run_has_a_gpu_of_its_own(kit, monkeypatch, without_jupyter):
    """The GPUs are made up; that a run sees the one it was given, and nobody else meanwhile, is real."""
    monkeypatch.setattr(execution, "gpus", lambda: ["GPU-a", "GPU-b"])
    code = """import os, time
begin = time.time()
time.sleep(0.5)
print(os.environ["CUDA_VISIBLE_DEVICES"], begin, time.time())"""
    for number in range(1, 5):
        kit.notebook(f"0{number}_gpu", code, 'device: str = "auto"  # d')
    code = "import os\nprint('none', repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    kit.notebook("05_cpu", code, 'device: str = "cpu"  # d')
    assert kit.run("--jobs", "5") == 0
    spans = {}
    for number in range(1, 5):
        (said,) = json.loads((kit.out / f"0{number}_gpu" / "notebook.ipynb").read_text())["cells"][-1]["outputs"]
        gpu, begin, end = "".join(said["text"]).split()
        spans.setdefault(gpu, []).append((float(begin), float(end)))
    assert {gpu: len(found) for gpu, found in spans.items()} == {"GPU-a": 2, "GPU-b": 2}
    for found in spans.values():
        first, second = sorted(found)
        assert first[1] < second[0]
    assert "none ''" in (kit.out / "05_cpu" / "notebook.ipynb").read_text()


def test_a_gpu_that_is_asked_for_and_not_there_is_a_failure(kit, monkeypatch):
    """On a machine of a cluster, where nothing was checked before."""
    monkeypatch.setattr(execution, "gpus", list)
    job = suites.Job(kit.notebook("01_gpu", "1", 'device: str = "cuda"  # d'), {})
    kit.out.mkdir()
    result = execution.run_one(job, kit.out, "nobody", Limits())
    assert (
        result.status == "error" and "device 'cuda' was requested, but" in result.error and "has no GPU" in result.error
    )


def test_gpus_are_those_that_the_environment_allows(monkeypatch):
    for value, expected in (("2,GPU-1f", ["2", "GPU-1f"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert execution.gpus() == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(execution.torch.cuda, "device_count", lambda: 2)
    assert execution.gpus() == ["0", "1"]


class TestOnACluster:
    def test_the_same_suite_runs_on_two_workers(self, kit, cluster):
        assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "65536", "what Dask sets"
        watched = """import os, psutil, time
time.sleep(0.5)
assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
print('watched by', psutil.Process(os.getppid()).ppid())"""
        for number in range(1, 4):
            kit.notebook(f"0{number}_good", watched)
        kit.notebook("04_wrong", "assert rate > 5")
        assert kit.run("--backend", "dask", "--address", cluster.scheduler_address) == 1
        assert [result["status"] for result in kit.results().values()] == ["finished"] * 3 + ["assertion"]
        said = "".join((kit.out / f"0{number}_good" / "notebook.ipynb").read_text() for number in range(1, 4))
        watchers = set(re.findall(r"watched by (\d+)", said))
        assert len(watchers) == 2 and str(os.getpid()) not in watchers
        assert not kit.leftovers()

    def test_a_machine_that_is_lost_mid_run_costs_no_result(self, kit, tmp_path, cluster, capsys):
        """A worker is killed while it watches a run; another one runs it again."""
        marks = tmp_path / "marks"
        marks.mkdir()
        code = """import os, pathlib, time, psutil
watcher = psutil.Process(os.getppid()).ppid()
first = not list(pathlib.Path(marks).iterdir())
(pathlib.Path(marks) / str(watcher)).touch()
time.sleep(600 if first else 0)"""
        kit.notebook("01_lost", code, f'marks: str = "{marks}"  # m')

        def lose():
            while not list(marks.iterdir()):
                time.sleep(0.05)
            psutil.Process(int(next(marks.iterdir()).name)).kill()

        loss = threading.Thread(target=lose, daemon=True)
        loss.start()
        assert kit.run("--backend", "dask", "--address", cluster.scheduler_address) == 0
        assert "1 of 1 runs finished" in capsys.readouterr().out
        assert kit.results()["01_lost"]["status"] == "finished" and len(list(marks.iterdir())) == 2

    def test_what_kills_every_worker_and_a_lost_scheduler_are_told_apart(self, cluster, monkeypatch):
        """Of the same batch: what was finished before is there."""
        monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)
        with Backend("dask", cluster.scheduler_address).parallel() as parallel:
            (lost,) = parallel([joblib.delayed(os._exit)(1)])
            assert (lost.job, lost.why) == (1, "2 workers died while they ran it.")
            results = parallel([joblib.delayed(abs)(-1), joblib.delayed(time.sleep)(600)])
            assert next(results) == 1
            for connection in list(cluster.scheduler.client_comms.values()):  # of which its own thread may remove some
                cluster.loop.add_callback(connection.abort)
            what = f"The connection to Dask's scheduler at {cluster.scheduler_address} was lost"
            with pytest.raises(ClusterLost, match=re.escape(what)):
                next(results)


def test_a_cluster_that_loses_machines_keeps_what_is_finished(kit, monkeypatch, capsys, no_kernels):
    """What the cluster does is made up here."""
    for number in range(1, 4):
        kit.notebook(f"0{number}_good", LIGHT)

    @contextlib.contextmanager
    def parallel(self):
        yield calls_of

    def calls_of(calls):
        for place, (function, given, _) in enumerate(calls):
            if function is not run.check and place == 1:
                yield Lost(given[0], "4 workers died while they ran it.")
            elif function is not run.check and place == 2:
                raise ClusterLost("It is gone.")
            else:
                yield function(*given)

    monkeypatch.setattr(Backend, "parallel", parallel)
    assert kit.run() == 1
    said = capsys.readouterr()
    assert "02_good: worker died" in said.out
    assert "It is gone. What is finished is kept; the same command resumes." in said.err
    assert list(kit.results()) == ["01_good"]
    assert "Not run yet: 02_good, 03_good" in (kit.out / "index.html").read_text() and not kit.leftovers()


def test_slides_are_those_of_a_run_that_is_used_again(kit, capsys):
    table = "<table><tbody><tr><td>seen</td></tr></tbody></table>"
    kit.notebook("01_good", f"from IPython.display import HTML\nHTML('{table}')")
    where = ["--notebooks", str(kit.notebooks), "--out", str(kit.out)]
    for _ in range(2):
        assert main(["slides", "01", *where]) == 0
        said = capsys.readouterr().out
        place = Path(re.search("The slides: (.*)", said)[1])
        assert place == kit.out / "01_good" / "slides.html" and "<td>seen</td>" in place.read_text()
    assert "1 of 1 runs are already finished" in said
    assert main(["slides", "99", *where]) == BAD and "99" in capsys.readouterr().err


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "mmlib", "run", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for option in ("--only", "--dry-run", "--cell-timeout", "--run-timeout", "--backend"):
        assert option in help_text


def test_threads_of_other_libraries_do_not_move_the_batch(kit):
    joblib.Parallel(2, backend="threading")(joblib.delayed(time.sleep)(0) for _ in range(4))
    kit.notebook("01_good", "import os\nprint(os.getcwd())")
    assert kit.run() == 0
    assert str(kit.notebooks) in (kit.out / "01_good" / "notebook.ipynb").read_text()


def test_a_cluster_that_does_not_answer_is_named(kit, capsys):
    kit.notebook("01_good", GOOD)
    assert kit.run("--backend", "dask", "--address", "nowhere") == 2
    assert "No Dask scheduler answers at 'nowhere'" in capsys.readouterr().err


def test_backends_that_are_not_installed_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    what = r"needs a package that is not installed: pip install dask distributed"
    with pytest.raises(BadParameter, match=what), Backend("dask").parallel():
        pass
