"""What all data scripts share: their options, and the way from `--download` or `--source` to a checked data set."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib

from mmlib.data.cache import cache_directory
from mmlib.data.clips.benchmark import Benchmark
from mmlib.data.clips.media import MOST_LOST
from mmlib.data.clips.preparation import prepare, verify


def arguments_of(name: str, about: str, arguments: Sequence[str], protocols: Sequence[str] = ()) -> argparse.Namespace:
    """The options that all data scripts share, and with `protocols` those of data prepared clip by clip; `--root`
    takes effect at once. Raises FileNotFoundError where `--source` is not a folder."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mmlib data {name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of prepared data, instead of $MMLIB_CACHE")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--download", action="store_true", help="download what has a public address, then prepare it")
    origin.add_argument("--source", type=Path, help="a folder with the published files")
    parser.add_argument("--verify", action="store_true", help="only check the prepared data, clip by clip")
    if protocols:
        cores = joblib.cpu_count()  # that this process may use
        parser.add_argument("--jobs", type=int, default=cores, help=f"clips at a time (default {cores}, the cores)")
        parser.add_argument("--allow-missing", type=int, default=0, metavar="N", help="continue without up to N clips")
        parser.add_argument(
            "--most-lost",
            type=float,
            default=MOST_LOST,
            metavar="SHARE",
            help=f"a clip is corrupt where more than this share of it cannot be decoded (default {MOST_LOST})",
        )
        parser.add_argument("--protocol", choices=protocols, default=protocols[0], help="report the parts of this one")
    options = parser.parse_args(arguments)
    if protocols and (options.jobs < 1 or options.allow_missing < 0):
        parser.error("--jobs must be at least 1 and --allow-missing at least 0")
    if protocols and not 0 <= options.most_lost <= 1:
        parser.error("--most-lost is a share, from 0 to 1")
    if options.source is not None and not options.source.is_dir():
        raise FileNotFoundError(f"--source {options.source} is not a folder.")
    if options.root is not None:
        os.environ["MMLIB_CACHE"] = str(options.root.resolve())
        print(f"Set MMLIB_CACHE={options.root.resolve()} wherever you read this data.")
    return options


def downloads_of(name: str) -> Path:
    """The folder of this data set's downloads."""
    return cache_directory() / "downloads" / name


def run_script(
    benchmark: Benchmark, about: str, arguments: Sequence[str], download: Callable[[Path], None] | None = None
) -> None:
    """What the data scripts of the papers' data sets do. `about` says where the files come from, `download` downloads
    what it can into a folder. Raises ValueError and OSError, which say what is missing or wrong."""
    name = benchmark.folder
    options = arguments_of(name, about, arguments, tuple(benchmark.protocols))
    source = options.source or downloads_of(name)
    if options.verify:
        verify(name)
    else:
        if options.download:
            if download is None:
                raise ValueError(f"{name} has no address that a script can download from.\n\n{about}")
            download(source)
        if not source.is_dir():
            raise FileNotFoundError(f"Say where the files are, --source DIR.\n\n{about}")
        recipe = benchmark.recipe(source, most_lost=options.most_lost)
        for trap in benchmark.known_traps(recipe.clips):
            print(f"Note: {trap}")
        prepare(recipe, options.jobs, options.allow_missing)
    splits = benchmark.load(options.protocol)
    counts = ", ".join(f"{len(getattr(splits, part)):,} {part}" for part in ("train", "validation", "test"))
    names = ", ".join(splits.train.modalities)
    print(f"{splits.about}: {counts}; {len(splits.train.class_names)} classes; modalities by default: {names}.")
