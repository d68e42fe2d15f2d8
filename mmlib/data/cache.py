"""Where synthesised and prepared data is kept, and how it is written completely or not at all."""

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

for _name in ("MMLIB_CACHE", "MMLIB_SHARED_CACHE"):
    if os.environ.get(_name):  # a relative one would be another folder in every process that this one starts
        os.environ[_name] = os.path.abspath(os.environ[_name])


class InUse(OSError):
    """Another process is writing there; the message says which, and since when."""


class MissingData(FileNotFoundError):
    """Data that has to be prepared first; the message says how."""


def cache_directory() -> Path:
    """`$MMLIB_CACHE`, or `~/.cache/mmlib`."""
    return Path(os.environ.get("MMLIB_CACHE") or Path.home() / ".cache" / "mmlib")


def kept_at(name: str) -> Path:
    """Where to read this file or folder: in the cache, or in `$MMLIB_SHARED_CACHE` where only that has it: the cache of
    a class, say, which is read and never written to."""
    own, shared = cache_directory() / name, os.environ.get("MMLIB_SHARED_CACHE")
    return Path(shared, name) if shared and not own.exists() and Path(shared, name).exists() else own


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    os.chmod(name, 0o644)  # like other files: a group may read it
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as one uncompressed .npz, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read them back. Raises FileNotFoundError, or a ValueError that names a damaged file."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it and run again.") from error


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Call `make`, which puts `path` there, unless it is there. Of several processes that need it at once, one makes it
    and the others wait."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                make()


def this_process() -> dict[str, Any]:
    """What a file says about who owns what lies beside it: "process", "host", "since" (UTC)."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "since": now}


def owner_in_words(facts: Mapping[str, Any]) -> str:
    """What `this_process` said, to be read after a colon."""
    return f"process {facts.get('process')} on {facts.get('host')}, since {facts.get('since')}"


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Until the block ends, or the process, nobody else who asks may write to `path`. Raises InUse where somebody
    does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(path.with_name(f".{path.name}.lock")), path.with_name(f".{path.name}.owner")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            facts = json.loads(owner.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it has only just begun, or just ended
            facts = {}
        raise InUse(
            f"{path} is being written by another process: {owner_in_words(facts)}. Wait for it, or stop it."
        ) from None
    try:
        with atomic_path(owner) as temporary:
            temporary.write_text(json.dumps(this_process()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays under this name in the cache, made first where they are not there yet or are damaged. Where they
    cannot be kept, a line says so, and they are made all the same."""
    path, made, begun = cache_directory() / f"{name}.npz", {}, False

    def cannot_be_kept(error: OSError) -> None:
        print(f"{path} cannot be kept ({error}): it is made for this time only.")

    def make_and_keep() -> None:
        nonlocal begun
        begun = True
        made.update(make())
        try:
            save_arrays(path, made)
        except OSError as error:
            cannot_be_kept(error)

    kept = kept_at(path.name)
    if kept.exists():
        try:
            arrays = load_arrays(kept)
            used(kept)
            return arrays
        except ValueError as error:
            print(f"{set_aside(kept, error.__cause__)}: it is made again.")
        if path.exists():  # and cannot be read just now
            return make()
    try:
        make_once(path, make_and_keep)
    except OSError as error:
        if begun:  # then it is about what was to be made
            raise
        cannot_be_kept(error)
        return make()
    return made or load_arrays(path)


def used(path: Path) -> None:
    """The file's time becomes that of its last use, by which a cache is cleared, where that may be written."""
    with contextlib.suppress(OSError):
        path.touch()


def set_aside(path: Path, error: BaseException | None) -> str:
    """Rename a damaged file, so that nothing trips over it again and it can still be looked at; says what happened. One
    that merely cannot be read just now stays as it is, and so does one of a shared cache."""
    if isinstance(error, OSError):
        return f"{path} cannot be read ({error})"
    shared = os.environ.get("MMLIB_SHARED_CACHE")
    if shared and Path(shared) in path.parents:
        return f"{path} is damaged ({error})"
    place = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(OSError):
        path.replace(place)
    return f"{path} is damaged ({error}) and was renamed to {place.name}"


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The same arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def source_hash(*paths: Path) -> str:
    """SHA-256 of these files' contents, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
