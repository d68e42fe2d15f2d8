"""From published files to a prepared cache: parallel, resumable, checked, with every clip accounted for by name."""

import hashlib
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mmlib.data.cache import atomic_path, owned
from mmlib.data.clips.media import CorruptClip
from mmlib.data.stored import folder_of, map_arrays, read_manifest

# Facts of a clip, as its decoding names them → columns of the report.
_FACTS = {
    "duration": "picture_seconds",
    "sound_seconds": "sound_seconds",
    "silence": "silence",
    "constant_picture": "constant_picture",
    "rotated": "rotated",
    "interlaced": "interlaced",
    "width": "width",
    "height": "height",
    "sound_track": "sound_track",
    "lost": "packets_lost",
    "offset": "offset",
}
_TRIED = 3  # clips that are decoded to estimate the time


class Incomplete(ValueError):
    """More clips are missing or corrupt than allowed; the message says how many and where they are listed."""


@dataclass(frozen=True)
class Clip:
    """One expected sample. `files` are what it is decoded from, by role; `columns` go into the manifest
    unchanged (split, domain, actor …)."""

    key: str
    label: str
    files: dict[str, Path]
    columns: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How clips become a prepared data set.

    `arrays`: modality → shape of one clip and dtype. `decode` makes them from a clip, with facts for the manifest; it
    raises CorruptClip or OSError, and is called from several threads. `parameters` are everything else that determines
    the result.
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
        """A hash that must be the same for a preparation to resume."""
        clips = [(clip.key, clip.label, sorted(clip.columns.items())) for clip in self.clips]
        return hashlib.sha256(repr((self.name, clips, self.arrays, self.parameters)).encode()).hexdigest()


def prepare(recipe: Recipe, jobs: int, allow_missing: int = 0) -> Path:
    """Decode every clip of the recipe into the cache; returns its folder.

    It resumes: what an earlier call decoded is checked, and not decoded again. The cache gets its name only when
    it is complete; until then it is `<name>.partial`. `<name>-report.csv` beside it lists every clip and its status.
    Raises Incomplete where more than `allow_missing` clips are missing or corrupt, OSError where the disk is too small,
    and InUse where another process is preparing this data set.
    """
    with owned(folder_of(recipe.name)):
        return _prepare(recipe, jobs, allow_missing)


def _prepare(recipe: Recipe, jobs: int, allow_missing: int) -> Path:
    final = folder_of(recipe.name)
    partial = final.with_name(f"{final.name}.partial")
    identity = recipe.identity()
    # A finished cache of the same recipe is resumed: clips that were missing may be there now. One of another recipe is
    # replaced when the new one is complete.
    again = not partial.exists() and (final / "prepared.json").exists()
    again = again and read_manifest(final)[0]["identity"] == identity
    if again:
        os.replace(final, partial)
    try:
        rows = _prepare_rows(recipe, partial, identity, jobs, allow_missing)
    except BaseException:
        if again:
            os.replace(partial, final)
        raise
    _report(rows, final)
    _publish(recipe, rows, partial, final, identity)
    return final


def _prepare_rows(recipe: Recipe, partial: Path, identity: str, jobs: int, allow_missing: int) -> list[dict]:
    """The manifest's rows, with every clip decoded that is there."""
    rows = [_row(clip) for clip in recipe.clips]
    _resume(recipe, partial, identity, rows)
    resumed = sum(row["status"] == "prepared" for row in rows)
    todo = [index for index, row in enumerate(rows) if row["status"] == ""]
    if sum(row["status"] == "missing" for row in rows) > allow_missing:
        _refuse(rows, folder_of(recipe.name), allow_missing)
    if resumed:
        print(f"{resumed} of {len(rows)} clips are already decoded.")
    if todo:
        _decode_all(recipe, partial, rows, todo, jobs)
    if sum(row["status"] != "prepared" for row in rows) > allow_missing:
        _refuse(rows, folder_of(recipe.name), allow_missing)
    return rows


def _row(clip: Clip) -> dict[str, object]:
    there = {path for path in clip.files.values() if path.exists() or path.with_name(f"{path.name}.tar").is_file()}
    gone = [str(path) for path in clip.files.values() if path not in there]
    missing = {"status": "missing", "reason": f"no {', '.join(gone)}"} if gone else {"status": "", "reason": ""}
    return {"key": clip.key, "label": clip.label, **clip.columns, **missing, "sha256": "", "crc32": 0}


def _resume(recipe: Recipe, partial: Path, identity: str, rows: list[dict]) -> None:
    """Fill in the rows of the clips whose bytes match the journal of the partial cache; without one, create it."""
    mark = partial / "identity"
    if not mark.exists() or mark.read_text() != identity:
        if partial.exists():
            print(f"{partial} was begun with other settings or clips; starting again.")
            shutil.rmtree(partial)
        _need_space(partial.parent, recipe.bytes_per_clip * len(rows))
        partial.mkdir(parents=True)
        for name, (shape, kind) in recipe.arrays.items():
            np.lib.format.open_memmap(partial / f"{name}.npy", "w+", np.dtype(kind), (len(rows), *shape)).flush()
        mark.write_text(identity)
        return
    arrays = [np.load(partial / f"{name}.npy", mmap_mode="r") for name in recipe.arrays]
    journal = partial / "journal.jsonl"
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            index, facts = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if zlib.crc32(b"".join(array[index].tobytes() for array in arrays)) == facts["crc32"]:
            rows[index] |= facts


def _need_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"Disk: {needed / 1e9:.2f} GB needed, {free / 1e9:.0f} GB free in {folder}.")
    if needed > free:
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed. Use another --root.")


def _decode_all(recipe: Recipe, partial: Path, rows: list[dict], todo: list[int], jobs: int) -> None:
    """Decode these clips in threads (FFmpeg does not hold Python's lock); each is recorded in the journal once its
    bytes are written, and freed."""
    files = {name: (partial / f"{name}.npy").open("r+b", buffering=0) for name in recipe.arrays}
    starts = {name: np.load(partial / f"{name}.npy", mmap_mode="r").offset for name in recipe.arrays}
    writing = threading.Lock()

    def one(index: int) -> dict[str, object]:
        clip = recipe.clips[index]
        try:
            arrays, facts = recipe.decode(clip)
        except CorruptClip as error:
            return {"status": "corrupt", "reason": str(error)}
        except OSError as error:  # it went away, or may not be read
            return {"status": "corrupt", "reason": f"{clip.key} cannot be read: {error}"}
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

            def record(index: int, facts: dict[str, object]) -> None:
                rows[index] |= facts
                if facts["status"] == "prepared":
                    journal.write(json.dumps([index, facts]) + "\n")
                    journal.flush()

            tried = todo[:: max(1, len(todo) // _TRIED)][:_TRIED]
            started = time.perf_counter()
            for index in tried:
                record(index, one(index))
            seconds = (time.perf_counter() - started) / len(tried) * len(todo) / jobs
            print(f"Time: about {_duration(seconds)} for {len(todo)} clips, {jobs} at a time.")
            left = set(todo) - set(tried)
            with ThreadPoolExecutor(jobs) as pool:
                running = {pool.submit(one, index): index for index in sorted(left)}
                done = as_completed(running)
                try:
                    for future in tqdm(done, initial=len(tried), total=len(todo), desc=recipe.name, unit="clip"):
                        record(running[future], future.result())
                finally:
                    pool.shutdown(cancel_futures=True)
    finally:
        for file in files.values():
            file.close()


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _refuse(rows: list[dict], final: Path, allowed: int) -> None:
    report = _report(rows, final)
    bad = [row for row in rows if row["status"] in ("missing", "corrupt")]
    why = bad[0]["reason"].removesuffix(".")
    raise Incomplete(
        f"{len(bad)} of {len(rows)} clips are missing or corrupt, {allowed} are allowed; first {bad[0]['key']}: {why}. "
        f"All are in {report}. Get them, or continue without them: --allow-missing {len(bad)}"
    )


def _report(rows: list[dict], final: Path) -> Path:
    """Write one row per expected clip with its status and whatever about it is poor, and print the counts."""
    report = final.with_name(f"{final.name}-report.csv")
    table = pd.DataFrame(rows)
    table = table.reindex(columns=["key", "label", "status", "reason", *_FACTS]).rename(columns=_FACTS)
    length = pd.to_numeric(table["picture_seconds"])
    usual = length.median()
    table["length_outlier"] = (length > 2 * usual) | (length < usual / 2)
    with atomic_path(report) as temporary:
        table.replace({"status": {"": "not reached"}}).to_csv(temporary, index=False)
    counts = table["status"].value_counts()
    words = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("prepared", "missing", "corrupt"))
    print(f"{len(table)} clips expected: {words}.")
    poor = {
        "silent for more than half of the time": pd.to_numeric(table["silence"]) > 0.5,
        "with a constant picture": table["constant_picture"].eq(True),
        "more than twice or less than half as long as usual": table["length_outlier"],
        "turned by their container": pd.to_numeric(table["rotated"]) > 0,
        "with packets lost": pd.to_numeric(table["packets_lost"]) > 0,
        "with sound that begins more than 0.1 s before or after the pictures": pd.to_numeric(table["offset"]).abs()
        > 0.1,
    }
    if found := [f"{mask.sum()} {what}" for what, mask in poor.items() if mask.any()]:
        print(f"Worth a look, in {report}: {'; '.join(found)}.")
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
    """Compare every clip in the cache with its checksum. Raises FileNotFoundError where there is
    no cache, and a ValueError that names the first clip that differs."""
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
    print(f"{about['prepared']} of {about['clips']} clips of {name} are there and unchanged in {folder}.")
