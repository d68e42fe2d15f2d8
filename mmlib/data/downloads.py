"""Downloads that resume, and that put a file under its name only when it is complete."""

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from tqdm.auto import tqdm

_CHUNK = 1 << 20  # bytes


def download(url: str, path: Path) -> Path:
    """Fetch `url` to `path`; an existing file is kept.

    A broken transfer leaves `<path>.part`, from which the next call goes on where the server allows it.
    Raises OSError naming the address when it cannot be reached or ends early.
    """
    if path.exists():
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
                tqdm(desc=path.name, total=total, initial=start, unit="B", unit_scale=True) as progress,
            ):
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    progress.update(len(chunk))
                file.flush()
                os.fsync(file.fileno())
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # the part is not of this file
            part.unlink()
        raise OSError(f"{url} could not be downloaded ({error}). Run again to go on.") from error
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{url} ended after {part.stat().st_size:,} of {total:,} bytes. Run again to go on from there.")
    shutil.move(part, path)
    return path
