"""What the cache holds, by kind and by how long ago it was used, and how to clear it: it grows with every change of the
code, after which runs are other runs."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mmlib.data.cache import cache_directory

# Kind → whether a file belongs to it, by its path in the cache; the first that fits. All but the last two may be
# removed: the kit makes them again where they are needed.
_KINDS: dict[str, Callable[[Path], bool]] = {
    "damaged or half written": lambda path: path.suffix == ".damaged" or path.match(".*.part"),
    "checkpoints": lambda path: path.match("runs/*.checkpoint*.pt"),
    "trained runs": lambda path: path.match("runs/*.pt"),
    "activations of frozen trunks": lambda path: path.match("activations/*.npy"),
    "generated data": lambda path: any(map(path.match, ("handwriting.npz", "speech-*.npz", "speed-*.json"))),
    "stand-ins and downloads": lambda path: path.parts[0] in ("stand_in", "downloads"),
    "prepared data": lambda path: True,
}
_STAY = ("stand-ins and downloads", "prepared data")
_AGES = (7, 30)  # days
_DAY = 24 * 3600


def table() -> str:
    """Files and megabytes of each kind, and how much of that was used in the last week, the last month, and before."""
    rows = {kind: [0, 0, *[0] * (len(_AGES) + 1)] for kind in _KINDS}
    for kind, _, size, days in _files():
        rows[kind][0] += 1
        rows[kind][1] += size
        rows[kind][2 + sum(days >= age for age in _AGES)] += size
    head = ("MB, by last use", "files", "all", *(f"< {age} days" for age in _AGES), "older")
    lines = [f"{cache_directory()}", _line(*head)]
    for kind, (count, *sizes) in rows.items():
        lines.append(_line(kind, str(count), *(f"{size / 1e6:.1f}" for size in sizes)))
    return "\n".join(lines)


def remove(keep_days: int) -> str:
    """Remove what the kit makes again by itself and nobody has used for this many days; says how much that was. Raises
    an OSError for a file that cannot be removed."""
    count = total = 0
    for kind, path, size, days in list(_files()):
        if kind not in _STAY and days >= keep_days:
            path.unlink(missing_ok=True)
            count, total = count + 1, total + size
    return f"{count} files, {total / 1e6:.1f} MB, were not used for {keep_days} days and were removed."


def _files() -> Iterator[tuple[str, Path, int, float]]:
    """Kind, path, bytes, and days since its last use of each file but locks, which others may hold."""
    root, now = cache_directory(), time.time()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            place, facts = path.relative_to(root), path.stat()
            kind = next(kind for kind, fits in _KINDS.items() if fits(place))
            yield kind, path, facts.st_size, (now - facts.st_mtime) / _DAY


def _line(first: str, *others: str) -> str:
    return f"{first:30}" + "".join(f"{other:>12}" for other in others)
