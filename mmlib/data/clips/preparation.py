"""From published files to a prepared cache: parallel, resumable, checked, and with every clip accounted for by name."""

import argparse
import hashlib
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mmlib.data.cache import atomic_path, cache_directory
from mmlib.data.clips.media import CorruptClip
from mmlib.data.stored import folder_of, map_arrays, read_manifest

_TRIED = 3  # clips that are decoded to estimate the time


class Incomplete(ValueError):
    """Clips are missing or corrupt and were not allowed to be; the message says how many and where they are listed."""


@dataclass(frozen=True)
class Clip:
    """One expected sample. `files` are what it is decoded from, by role; `columns` go into the manifest as they are
    (split, domain, actor …)."""

    key: str
    label: str
    files: dict[str, Path]
    columns: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a data set is prepared.

    `arrays`: modality → shape of one clip and dtype. `decode` makes them from a clip, with facts for the manifest; it
    raises CorruptClip, and is called from several threads. `parameters` are everything that decides the result.
    """

    name: str
    clips: Sequence[Clip]
    arrays: dict[str, tuple[tuple[int, ...], str]]
    decode: Callable[[Clip], tuple[dict[str, np.ndarray], dict[str, float | int]]]
    parameters: dict[str, object]

    @property
    def bytes_per_clip(self) -> int:
        return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self.arrays.values())

    def identity(self) -> str:
        """What a preparation that goes on must agree with."""
        clips = [(clip.key, clip.label, sorted(clip.columns.items())) for clip in self.clips]
        return hashlib.sha256(repr((self.name, clips, self.arrays, self.parameters)).encode()).hexdigest()


def prepare(recipe: Recipe, jobs: int, allow_missing: int = 0) -> Path:
    """Decode every clip of the recipe into the cache; returns its folder.

    What an earlier call prepared before it was stopped is checked and kept. The cache appears under its name only when
    it is whole; until then it is `<name>.partial`. `<name>-report.csv` beside it lists every clip with its status.
    Raises Incomplete where more than `allow_missing` clips are missing or corrupt, OSError where the disk is too small.
    """
    final = folder_of(recipe.name)
    partial = final.with_name(f"{final.name}.partial")
    identity = recipe.identity()
    # A finished cache of the same recipe is taken up again: clips that were missing may be there now. One of another
    # recipe is replaced when the new one is whole.
    again = not partial.exists() and (final / "prepared.json").exists()
    again = again and read_manifest(final)[0]["identity"] == identity
    if again:
        os.replace(final, partial)
    try:
        rows = _prepare_rows(recipe, partial, identity, jobs, allow_missing, final)
    except BaseException:
        if again:
            os.replace(partial, final)
        raise
    _report(rows, final)
    _publish(recipe, rows, partial, final, identity)
    return final


def _prepare_rows(
    recipe: Recipe, partial: Path, identity: str, jobs: int, allow_missing: int, final: Path
) -> list[dict]:
    """The manifest's rows, with every clip decoded that is there."""
    rows = [_row(clip) for clip in recipe.clips]
    kept = _resume(recipe, partial, identity, rows)
    todo = [index for index, row in enumerate(rows) if row["status"] == ""]
    if sum(row["status"] == "missing" for row in rows) > allow_missing:
        _refuse(rows, final, allow_missing)
    if kept:
        print(f"{len(kept)} of {len(rows)} clips are prepared already.")
    if todo:
        _decode_all(recipe, partial, rows, todo, jobs)
    if sum(row["status"] != "prepared" for row in rows) > allow_missing:
        _refuse(rows, final, allow_missing)
    return rows


def _row(clip: Clip) -> dict[str, object]:
    gone = [str(path) for path in clip.files.values() if not _is_there(path)]
    missing = {"status": "missing", "reason": f"no {', '.join(gone)}"} if gone else {"status": "", "reason": ""}
    return {"key": clip.key, "label": clip.label, **clip.columns, **missing, "sha256": "", "crc32": 0}


def _is_there(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".tar").is_file()


def _resume(recipe: Recipe, partial: Path, identity: str, rows: list[dict]) -> set[int]:
    """The clips whose bytes are in the partial cache as its journal says; their rows are filled in."""
    mark = partial / "identity"
    if not mark.exists() or mark.read_text() != identity:
        if partial.exists():
            print(f"{partial} was begun with other settings or clips; it is begun anew.")
            shutil.rmtree(partial)
        _need_space(partial.parent, recipe.bytes_per_clip * len(rows))
        partial.mkdir(parents=True)
        for name, (shape, kind) in recipe.arrays.items():
            np.lib.format.open_memmap(partial / f"{name}.npy", "w+", np.dtype(kind), (len(rows), *shape)).flush()
        mark.write_text(identity)
        return set()
    arrays = [np.load(partial / f"{name}.npy", mmap_mode="r") for name in recipe.arrays]
    kept = set()
    journal = partial / "journal.jsonl"
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            index, facts = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if zlib.crc32(b"".join(array[index].tobytes() for array in arrays)) == facts["crc32"]:
            rows[index] |= facts
            kept.add(index)
    return kept


def _need_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"Disk: {needed / 1e9:.2f} GB needed, {free / 1e9:.0f} GB free in {folder}.")
    if needed > free:
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed. Name another --root.")


def _decode_all(recipe: Recipe, partial: Path, rows: list[dict], todo: list[int], jobs: int) -> None:
    """Decode these clips in threads (FFmpeg does not hold Python's lock), a few at a time, so that memory does not
    depend on their number; each is journalled once its bytes are written."""
    files = {name: (partial / f"{name}.npy").open("r+b", buffering=0) for name in recipe.arrays}
    starts, writing = {}, threading.Lock()
    for name, file in files.items():
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        reader(file)
        starts[name] = file.tell()

    def one(index: int) -> dict[str, object]:
        clip = recipe.clips[index]
        try:
            arrays, facts = recipe.decode(clip)
        except CorruptClip as error:
            return {"status": "corrupt", "reason": str(error)}
        checksum = 0
        for name, (shape, kind) in recipe.arrays.items():
            array = np.ascontiguousarray(arrays[name], kind)
            if array.shape != shape:
                raise ValueError(f"{recipe.name}: {name} of {clip.key} has shape {array.shape}; expected {shape}.")
            with writing:
                files[name].seek(starts[name] + index * array.nbytes)
                files[name].write(array.data)
            checksum = zlib.crc32(array, checksum)
        return {"status": "prepared", "reason": "", **facts, "crc32": checksum}

    try:
        with (partial / "journal.jsonl").open("a", encoding="utf-8") as journal:

            def keep(index: int, facts: dict[str, object]) -> None:
                rows[index] |= facts
                if facts["status"] == "prepared":
                    journal.write(json.dumps([index, facts]) + "\n")
                    journal.flush()

            tried = todo[:: max(1, len(todo) // _TRIED)][:_TRIED]
            started = time.perf_counter()
            for index in tried:
                keep(index, one(index))
            seconds = (time.perf_counter() - started) / len(tried) * len(todo) / jobs
            print(f"Time: about {_spoken(seconds)} for {len(todo)} clips, {jobs} at a time.")
            left = [index for index in todo if index not in set(tried)]
            done = _in_threads(one, left, jobs)
            for index, facts in tqdm(done, initial=len(tried), total=len(todo), desc=recipe.name, unit="clip"):
                keep(index, facts)
    finally:
        for file in files.values():
            file.close()


def _in_threads(one: Callable[[int], dict], indices: list[int], jobs: int) -> Iterator[tuple[int, dict]]:
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future, int] = {}
        try:
            for index in indices:
                running[pool.submit(one, index)] = index
                if len(running) >= 2 * jobs:
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    yield from ((running.pop(future), future.result()) for future in finished)
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                yield from ((running.pop(future), future.result()) for future in finished)
        finally:
            pool.shutdown(cancel_futures=True)


def _spoken(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _refuse(rows: list[dict], final: Path, allowed: int) -> None:
    report = _report(rows, final)
    bad = [row for row in rows if row["status"] in ("missing", "corrupt")]
    raise Incomplete(
        f"{len(bad)} of {len(rows)} clips are missing or corrupt, {allowed} are allowed; first {bad[0]['key']}: "
        f"{bad[0]['reason']}. All are listed in {report}. Get them, or go on without them: --allow-missing {len(bad)}"
    )


def _report(rows: list[dict], final: Path) -> Path:
    """One row per expected clip with its status; also printed as counts."""
    report = final.with_name(f"{final.name}-report.csv")
    table = pd.DataFrame(rows)[["key", "label", "status", "reason"]]
    with atomic_path(report) as temporary:
        table.replace({"status": {"": "not reached"}}).to_csv(temporary, index=False)
    counts = table["status"].value_counts()
    words = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("prepared", "missing", "corrupt"))
    print(f"{len(table)} clips expected: {words}.")
    return report


def _publish(recipe: Recipe, rows: list[dict], partial: Path, final: Path, identity: str) -> None:
    manifest = pd.DataFrame(rows)
    content = hashlib.sha256(repr((identity, manifest[["status", "crc32"]].to_numpy().tolist())).encode()).hexdigest()
    about = {
        "name": recipe.name,
        "identity": identity,
        "content": content,
        "clips": len(rows),
        "prepared": int((manifest["status"] == "prepared").sum()),
        "arrays": {name: list(shape) for name, (shape, _) in recipe.arrays.items()},
        "parameters": recipe.parameters,
    }
    for name in recipe.arrays:
        with (partial / f"{name}.npy").open("r+b") as file:
            os.fsync(file.fileno())
    with atomic_path(partial / "manifest.csv") as temporary:
        manifest.to_csv(temporary, index=False)
    with atomic_path(partial / "prepared.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)


def verify(name: str) -> None:
    """Compare every prepared clip's bytes with its checksum. Raises a ValueError that names the first that differs."""
    folder = folder_of(name)
    if not (folder / "prepared.json").exists():
        raise FileNotFoundError(f"{folder} does not exist: {name} is not prepared.")
    about, manifest = read_manifest(folder)
    arrays = map_arrays(folder, about)
    there = manifest[manifest["status"] == "prepared"]
    for index, row in tqdm(there.iterrows(), total=len(there), desc="verify", unit="clip"):
        if zlib.crc32(b"".join(array[index].numpy().tobytes() for array in arrays.values())) != row["crc32"]:
            raise ValueError(
                f"{folder}: {row['key']} differs from what was prepared. Delete the folder, prepare again."
            )
    print(f"{about['prepared']} of {about['clips']} clips of {name} are there and unaltered in {folder}.")


def arguments_of(
    name: str, about: str, arguments: Sequence[str], protocols: Sequence[str] = (), parallel: bool = True
) -> argparse.Namespace:
    """The options that all data scripts share; `--root` is in force from here on."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mmlib data {name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="where prepared data is kept, instead of $MMLIB_CACHE")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--download", action="store_true", help="fetch what has a public address, then prepare it")
    origin.add_argument("--source", type=Path, help="a folder with the published files")
    parser.add_argument("--verify", action="store_true", help="only check what is prepared, clip by clip")
    if parallel:
        cores = os.cpu_count() or 1
        parser.add_argument("--jobs", type=int, default=cores, help=f"clips at a time (default {cores}, the cores)")
        parser.add_argument("--allow-missing", type=int, default=0, metavar="N", help="go on without up to N clips")
    if protocols:
        parser.add_argument("--protocol", choices=protocols, default=protocols[0], help="whose parts to report")
    options = parser.parse_args(arguments)
    if parallel and (options.jobs < 1 or options.allow_missing < 0):
        parser.error("--jobs must be at least 1 and --allow-missing at least 0")
    if options.source is not None and not options.source.is_dir():
        raise FileNotFoundError(f"--source {options.source} is not a folder.")
    if options.root is not None:
        os.environ["MMLIB_CACHE"] = str(options.root.resolve())
        print(f"Set MMLIB_CACHE={options.root.resolve()} wherever this data is to be read.")
    return options


def downloads_of(name: str) -> Path:
    """Where downloads of this data set are kept."""
    return cache_directory() / "downloads" / name


def run_script(
    name: str, reader: ModuleType, about: str, arguments: Sequence[str], download: Callable[[Path], None] | None
) -> None:
    """What the data scripts of the papers' data sets do. `reader` is the data set's module (`recipe`, `known_traps`,
    `load`, `PROTOCOLS`), `about` says where the files come from, `download` fetches what can be fetched."""
    options = arguments_of(name, about, arguments, reader.PROTOCOLS)
    source = options.source or downloads_of(name)
    if options.verify:
        verify(name)
    else:
        if options.download:
            if download is None:
                raise ValueError(f"{name} has no address to download from by a script.\n\n{about}")
            download(source)
        if not source.is_dir():
            raise FileNotFoundError(f"Say where the files are, --source DIR.\n\n{about}")
        recipe = reader.recipe(source)
        for trap in reader.known_traps(recipe.clips):
            print(f"Note: {trap}")
        prepare(recipe, options.jobs, options.allow_missing)
    splits = reader.load(options.protocol)
    counts = ", ".join(f"{len(getattr(splits, part)):,} {part}" for part in ("train", "validation", "test"))
    names = ", ".join(splits.train.modalities)
    print(f"{splits.about}: {counts}; {len(splits.train.class_names)} classes; modalities by default: {names}.")
