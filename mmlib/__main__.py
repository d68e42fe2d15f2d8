"""The command line: `python -m mmlib run` and `python -m mmlib data`."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mmlib", description="Run the notebooks; prepare data.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run notebooks and write an HTML page of what they found")
    run.add_argument("suite", nargs="?", default="quick", help="a file of notebooks/suites, without .yaml")
    run.add_argument("--only", nargs="+", default=[], metavar="NN", help="only these notebooks, e.g. 01 02")
    run.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="a notebook parameter")
    run.add_argument("--out", type=Path, default=Path("runs"), help="folder for results (default: runs)")
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default 1: each uses all cores)")
    run.add_argument("--timeout", type=int, default=1800, help="seconds that one cell may take")
    data = commands.add_parser("data", help="prepare a data set; NAME --help tells more", add_help=False)
    data.add_argument("name", nargs="?")
    data.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    return _run(options) if options.command == "run" else _data(options)


def _run(options: argparse.Namespace) -> int:
    from mmlib import batch
    from mmlib.parameters import BadParameter, parse_assignment

    try:
        overrides = dict(parse_assignment(text) for text in options.p)
        jobs = batch.plan(options.suite, options.only, overrides)
    except BadParameter as error:
        print(f"Nothing was run: {error}", file=sys.stderr)
        return 2
    results, page = batch.run(jobs, options.out, options.timeout, options.jobs)
    failed = [result for result in results if result.status != "finished"]
    for result in failed:
        print(f"{result.name}: {result.status}. {result.error}", file=sys.stderr)
    print(f"{len(results) - len(failed)} of {len(results)} notebooks finished. The page: {page.resolve()}")
    return 1 if failed else 0


def _data(options: argparse.Namespace) -> int:
    scripts = Path(__file__).resolve().parent.parent / "data_scripts"
    names = sorted(path.stem for path in scripts.glob("*.py"))
    if options.name not in names:
        print(f"usage: python -m mmlib data NAME [--help], NAME one of: {', '.join(names)}", file=sys.stderr)
        return 2
    specification = importlib.util.spec_from_file_location(f"data_{options.name}", scripts / f"{options.name}.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    try:
        script.main(options.rest)
    except (OSError, ValueError) as error:
        print(f"{options.name} was not prepared: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
