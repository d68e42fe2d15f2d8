"""The command line: `python -m mmlib` and `run`, `compare`, `slides`, `copy`, `student`, `data`, `bench`, `results` or
`cache`."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

STOPPED, BAD = 130, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status: 0, 1 after failures, 2 if nothing was run, 130 if it was stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m mmlib",
        description="Run the notebooks; compare methods; prepare data; measure; show what was measured.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = argparse.ArgumentParser(add_help=False)  # what all that run notebooks understand
    runs.add_argument("--dry-run", action="store_true", help="say what would run, and how long it may take")
    runs.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="a parameter; [a, b] makes a grid")
    runs.add_argument("--out", type=Path, help="folder for results (default: runs/SUITE, or runs/METHOD)")
    runs.add_argument(
        "--jobs",
        type=int,
        help="runs at the same time, which share the cores (default: one per core or GPU, at most four; "
        "one after another for a suite with a budget)",
    )
    runs.add_argument("--cell-timeout", type=int, help="seconds that one cell may take")
    runs.add_argument("--run-timeout", type=int, help="seconds that one notebook may take")
    runs.add_argument("--start-timeout", type=int, help="seconds that a notebook's kernel may take to start")
    run = commands.add_parser("run", parents=[runs], help="run notebooks and write an HTML page of what they found")
    run.add_argument("suite", nargs="?", default="quick", help="a file of notebooks/suites, without .yaml")
    run.add_argument("--list", action="store_true", help="list the available suites")
    run.add_argument("--only", nargs="+", default=[], metavar="NN", help="only these notebooks, e.g. 01 02")
    run.add_argument("--minutes", type=float, help="the time that a suite with a budget may take")
    run.add_argument(
        "--notebooks", type=Path, metavar="DIR", help="a folder of notebooks and suites to use instead of the kit's"
    )
    run.add_argument("--backend", choices=("local", "dask", "ray"), default="local", help="where runs are executed")
    run.add_argument("--address", default="", help="of the cluster, for dask and ray")
    compare = commands.add_parser("compare", parents=[runs], help="compare a method of your own with others, on a page")
    compare.add_argument("method", metavar="FILE", help="with a class derived from mmlib.methods.Method; or a name")
    compare.add_argument("--data", metavar="NAME", help="spoken_digits (default) or av_digits")
    compare.add_argument("--seeds", metavar="N", help="independent runs behind every interval")
    compare.add_argument(
        "--tuned", action="store_true", help="choose settings for all methods first, with equal effort"
    )
    compare.set_defaults(list=False, only=[], minutes=None, notebooks=None, backend="local", address="")
    copy = commands.add_parser("copy", help="write a copy of the notebooks to work in")
    student = commands.add_parser("student", help="the same without the solutions of the exercises")
    copy.add_argument("out", type=_folder, metavar="DIR")
    student.add_argument("--out", type=_folder, default=Path("student"), metavar="DIR", help="default: student")
    slides = commands.add_parser("slides", help="show a notebook as slides, with the figures of a run")
    slides.add_argument("number", metavar="NN", help="of the notebook, e.g. 03")
    slides.add_argument("--notebooks", type=Path, metavar="DIR", help="as of run")
    slides.add_argument("--out", type=_folder, default=Path("runs/quick"), help="where a finished run is used again")
    data = commands.add_parser("data", help="prepare a data set; NAME --help says more", add_help=False)
    data.add_argument("name", nargs="?")
    data.add_argument("rest", nargs=argparse.REMAINDER)
    bench = commands.add_parser("bench", help="measure what steps, instruments and data cost here, as tables to paste")
    bench.add_argument("--notebooks", action="store_true", help="also every notebook, by part, with an empty cache")
    bench.add_argument("--device", default="cpu", help="of the steps and instruments (default: cpu)")
    bench.add_argument("--out", type=Path, metavar="FILE", help="also write all tables to this file, as JSON")
    results = commands.add_parser("results", help="write notebooks/RESULTS.md from the kit's measured results")
    results.add_argument(
        "--collect", nargs="+", type=Path, default=[], metavar="DIR", help="first take over what these suites measured"
    )
    cache = commands.add_parser("cache", help="show what the cache holds, by kind and age, and remove what is old")
    cache.add_argument(
        "--keep-days", type=int, metavar="N", help="remove runs and other things made here that nobody used for N days"
    )
    options = parser.parse_args(arguments)
    chosen = {
        "run": _run,
        "compare": _compare,
        "slides": _slides,
        "data": _data,
        "bench": _bench,
        "results": _results,
        "cache": _cache,
    }
    chosen |= dict.fromkeys(("copy", "student"), _copy)
    return chosen[options.command](options)


def _folder(name: str) -> Path:
    """A folder to write to. Nothing, as an unset variable leaves it, is not the current one."""
    if not name:
        raise argparse.ArgumentTypeError("a folder's name must not be empty")
    return Path(name)


def _run(options: argparse.Namespace) -> int:
    from mmlib.batch import classroom, run, suites
    from mmlib.batch.backend import Backend, ClusterLost
    from mmlib.batch.execution import FINISHED, Limits
    from mmlib.batch.given import parse_assignments
    from mmlib.notebook.parameters import BadParameter

    folder = (options.notebooks or suites.NOTEBOOKS).resolve()
    try:
        if options.list:
            print(run.overview(folder))
            return 0
        for name in ("jobs", "cell_timeout", "run_timeout", "start_timeout"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise BadParameter(f"--{name.replace('_', '-')} must be at least 1.")
        suite = options.suite if options.command == "compare" else suites.read(options.suite, folder)
        jobs = suite.jobs(options.only, parse_assignments(options.p))
        if options.minutes is not None and not suite.budget:
            raise BadParameter(f"--minutes is for suites with a budget, and {suite.name!r} has none.")
        if suite.budget:
            minutes = suite.budget["minutes"] if options.minutes is None else options.minutes
            jobs, plan = classroom.within(jobs, suite.budget, classroom.calibrate(), minutes)
            print(plan)
        out = options.out or Path("runs") / suite.name
        # A budget's costs were measured one after another; on a cluster, the scheduler decides.
        default = 1 if suite.budget or options.backend != "local" else run.side_by_side(jobs)
        backend = Backend(options.backend, options.address, options.jobs or default)
        given = {"cell": options.cell_timeout, "run": options.run_timeout, "start": options.start_timeout}
        limits = Limits(**suite.limits | {name: value for name, value in given.items() if value is not None})
        if options.dry_run:
            print(run.forecast(jobs, out, backend))
            return 0
        results, page = run.run(suite, jobs, out, limits, backend)
    except (BadParameter, run.FolderInUse) as error:
        print(f"Nothing was run: {error}", file=sys.stderr)
        return BAD
    except ClusterLost as error:
        print(f"{error} What is finished is kept; the same command resumes.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command resumes where this one stopped.", file=sys.stderr)
        return STOPPED
    failed = [result for result in results if result.status != FINISHED]
    for result in failed:
        print(f"{result.name}: {result.status}. {result.error}", file=sys.stderr)
    print(f"{len(results) - len(failed)} of {len(results)} runs finished. The page: {page.resolve()}")
    return 1 if failed else 0


def _compare(options: argparse.Namespace) -> int:
    """Run the notebook on methods of one's own for this one."""
    from mmlib.batch.suites import NOTEBOOKS, Suite

    path = Path(options.method)
    file = path.suffix == ".py"
    method = json.dumps(str(path.resolve()) if file else options.method)  # whatever YAML would make of a path
    given = {"method": method, "dataset": options.data, "seeds": options.seeds, "tuned": options.tuned or None}
    options.p = [*(f"{name}={value}" for name, value in given.items() if value is not None), *options.p]
    name, hours = path.stem if file else options.method, {"cell": 30000, "run": 60000}
    options.suite = Suite(name, NOTEBOOKS, f"{name} against its rivals", ["12"], limits=hours)
    return _run(options)


def _copy(options: argparse.Namespace) -> int:
    from mmlib.batch import editions

    try:
        written = editions.write(options.out, solutions=options.command == "copy")
    except OSError as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return BAD
    print(f"{len(written)} notebooks: jupyter lab {options.out.resolve()}")
    return 0


def _slides(options: argparse.Namespace) -> int:
    from mmlib.batch.runner import SLIDES
    from mmlib.batch.suites import NOTEBOOKS, read

    folder = options.notebooks or NOTEBOOKS
    given = ["--only", options.number, "--notebooks", str(folder), "--out", str(options.out)]
    if status := main(["run", *given]):
        return status
    for job in read("quick", folder).jobs([options.number], {}):
        print(f"The slides: {(options.out / job.name / SLIDES).resolve()}")
    return 0


def _data(options: argparse.Namespace) -> int:
    scripts = Path(__file__).resolve().parent.parent / "data_scripts"
    names = sorted(path.stem for path in scripts.glob("*.py"))
    if options.name not in names:
        if options.name:
            print(f"There is no data set {options.name!r}.", file=sys.stderr)
        print(f"usage: python -m mmlib data NAME [--help], NAME one of: {', '.join(names)}", file=sys.stderr)
        return BAD
    specification = importlib.util.spec_from_file_location(f"data_{options.name}", scripts / f"{options.name}.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    try:
        script.main(options.rest)
    except (OSError, ValueError) as error:
        print(f"{options.name} was not prepared: {error}", file=sys.stderr)
        return 1
    return 0


def _bench(options: argparse.Namespace) -> int:
    from mmlib.batch import bench
    from mmlib.training import resolve_device

    try:
        resolve_device(options.device)
    except (ValueError, RuntimeError) as error:
        print(f"Nothing was measured: {error}", file=sys.stderr)
        return BAD
    for table in bench.report(options.device, options.notebooks, options.out):
        print(table, flush=True)
        print()
    return 0


def _results(options: argparse.Namespace) -> int:
    from mmlib.batch import collect
    from mmlib.notebook.parameters import BadParameter

    try:
        page = collect.write_results(options.collect)
    except BadParameter as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return BAD
    print(f"The page: {page}")
    return 0


def _cache(options: argparse.Namespace) -> int:
    from mmlib.batch import kept

    if options.keep_days is not None:
        if options.keep_days < 1:  # what is younger may be in use, or half written
            print("Nothing was removed: --keep-days must be at least 1.", file=sys.stderr)
            return BAD
        try:
            print(kept.remove(options.keep_days))
        except OSError as error:
            print(f"Not all could be removed: {error}", file=sys.stderr)
            return 1
    print(kept.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
