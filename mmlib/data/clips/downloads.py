"""Downloads that resume, and that give a file its name only when it is complete and has the expected content."""

import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from mmlib.data.cache import source_hash

_CHUNK = 1 << 20  # bytes


def download(url: str, path: Path, sha256: str = "", progress: bool = True) -> Path:
    """Fetch `url` to `path` and return `path`; an existing file stays.

    A broken transfer leaves `<path>.part`, from which the next call resumes where the server allows it.
    Raises OSError naming the address when it cannot be reached or ends early, a ValueError where the content does
    not have the expected hash.
    """
    if path.exists():
        _check(path, sha256, f"Delete {path} and run again.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if start and response.status != 206:  # the server sends the whole file again
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length is not None else None
            with (
                part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=path.name, total=total, initial=start, unit="B", unit_scale=True, disable=not progress
                ) as bar,
            ):
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                file.flush()
                os.fsync(file.fileno())
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # the part belongs to another file
            part.unlink()
        raise OSError(f"{url} could not be downloaded ({error}). Run again to resume.") from error
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{url} ended after {part.stat().st_size:,} of {total:,} bytes. Run again to resume from there.")
    try:
        _check(part, sha256, f"{url} was altered or damaged in transit. Run again.")
    except ValueError:
        part.unlink()
        raise
    shutil.move(part, path)
    return path


def _check(path: Path, sha256: str, advice: str) -> None:
    if sha256 and (found := source_hash(path)) != sha256:
        raise ValueError(f"{path.name} has SHA-256 {found[:12]}… and should have {sha256[:12]}…. {advice}")


def download_lfs(pointer_url: str, media_url: str, path: Path, progress: bool = True) -> Path:
    """A file in git LFS: its pointer, a few lines of text, gives the hash and size that the file itself must have.

    Raises OSError where the pointer cannot be read or is not one, otherwise as `download`."""
    try:
        with urllib.request.urlopen(pointer_url, timeout=60) as response:
            pointer = response.read(1024).decode("ascii", errors="replace")
    except (urllib.error.URLError, OSError) as error:
        raise OSError(f"{pointer_url} could not be read ({error}). Run again to resume.") from error
    digest = re.search(r"^oid sha256:([0-9a-f]{64})$", pointer, re.M)
    size = re.search(r"^size (\d+)$", pointer, re.M)
    if not digest or not size:
        raise OSError(f"{pointer_url} is not a git-LFS pointer: it begins with {pointer[:40]!r}.")
    part = path.with_name(path.name + ".part")
    if part.exists() and part.stat().st_size >= int(size[1]):
        part.unlink()  # it belongs to another file
    return download(media_url, path, digest[1], progress)


def download_lfs_files(files: Mapping[Path, tuple[str, str]], at_a_time: int = 8) -> None:
    """Many files of git LFS, path → (pointer's address, file's address), several at a time, under one progress bar."""
    todo = {path: urls for path, urls in files.items() if not path.exists()}
    with ThreadPoolExecutor(at_a_time) as pool:
        fetched = pool.map(lambda path: download_lfs(*todo[path], path, progress=False), todo)
        try:
            for _ in tqdm(fetched, initial=len(files) - len(todo), total=len(files), unit="file"):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file into `folder`, completely or not at all. Raises a ValueError where it is damaged or where a
    member would leave the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        inside = Path(temporary, "unpacked")
        inside.mkdir()
        try:
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    if not (inside / name).resolve().is_relative_to(inside.resolve()):
                        raise ValueError(f"{archive} is refused: its member {name!r} leads out of the folder.")
                packed.extractall(inside)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{archive} is damaged ({error}). Delete it and run again.") from error
        os.replace(inside, folder)
