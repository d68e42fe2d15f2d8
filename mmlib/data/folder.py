"""Your own data from a folder: a sub-folder for each class, in it files of one stem for each sample."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmlib.checks import check
from mmlib.data.dataset import MultimodalDataset, check_name
from mmlib.data.files import KINDS, Form, Reader
from mmlib.data.splits import PARTS

_LAYOUT = "expected a folder for each class, with files of one stem for each sample: cat/001.wav, cat/001.jpg"
_COLUMNS = ("stem", "class", "domain", "part")
Samples = dict[tuple[str, str], dict[str, Path]]  # (class, stem) → modality → file


def from_folder(
    folder: str | Path,
    table: str | Path | pd.DataFrame | None = None,
    *,
    sample_rate: int = 16000,
    seconds: float = 4.0,
    size: int = 64,
    frames: int = 8,
    colour: bool = True,
    skip_incomplete: bool = False,
    most_gigabytes: float = 4.0,
) -> MultimodalDataset:
    """A data set in memory from `<folder>/<class>/<stem>.<ending>`, one sample for each class and stem, sorted by them.

    The stem of a file ends at its first dot. Its modality is called by its kind ("image", "audio", "video", "array" for
    .npy), or by what stands between stem and ending: `001.flow.npy` is "flow", `001.left.jpg` is "left". Every sample
    needs all modalities that occur.

    * Sound becomes mono int16 (time,) at `sample_rate` in Hz: the first `seconds`, with silence after what is shorter.
    * Pictures become uint8 (3, size, size), also where they are grey: all of the picture scaled to the square, turned
      as the camera noted, without transparency; with `colour=False`, (1, size, size).
    * Videos become `frames` such pictures, evenly spread, (channels, frames, size, size). Their sound is not read: it
      is a modality where it is a file of its own.
    * Arrays stay as they are, floating-point or uint8, all of one shape; a matrix gets a channel, (1, height, width).

    The front end makes log-mel spectrograms of sound, and numbers from −1 to 1 of pictures: `Splits.of(data)`, then
    `preprocessed()`, and it trains.

    `table` (a CSV file in UTF-8 or a pandas DataFrame) has a row for each sample: `stem`, or `class/stem` in that
    column, or a column `class` beside it; `domain`, `part` ("train", "validation" or "test"), or both. Without domains,
    all samples are in the domain "all".

    Hidden files, unknown endings and what lies elsewhere are left out, and a line counts them; `skip_incomplete` does
    so with samples that lack a modality or have a file that cannot be read. Raises a ValueError that names the file or
    the sample and says what to do, also where signals, their copies in parts and the network inputs would together
    take more than `most_gigabytes` of memory (prepare such data on disk instead: `mmlib/README.md`), and an OSError
    where there is no such folder or table.
    """
    form = Form(sample_rate, seconds, size, frames, colour)
    folder = Path(folder)
    samples = _find(folder, None if isinstance(table, pd.DataFrame) else table)
    columns = {} if table is None else _read_table(table, list(samples))
    broken = _lacking(samples, skip_incomplete)
    readers = {name: form.reader(paths) for name, paths in _by_modality(samples).items()}
    _refuse_too_large(folder, readers, len(samples), most_gigabytes)
    arrays = _read(samples, readers, broken, skip_incomplete)
    if broken:
        print(f"{folder}: {len(broken)} of {len(samples)} samples are left out: {_few(broken.values())}.")
    kept = [row for row, sample in enumerate(samples) if sample not in broken]
    labels, classes = _numbered([label for label, _ in samples], kept)
    if empty := {*range(len(classes))} - {*labels.tolist()}:
        raise ValueError(f"{folder / classes[min(empty)]} has no complete sample: add files, or delete this folder.")
    domains, domain_names = _numbered(columns.get("domain", ["all"] * len(samples)), kept)
    parts = [PARTS.index(columns["part"][row]) for row in kept] if "part" in columns else None
    return MultimodalDataset(
        {name: torch.from_numpy(array[kept] if broken else array) for name, array in arrays.items()},
        labels,
        domains,
        classes,
        domain_names,
        {} if parts is None else {"part": torch.tensor(parts)},
        {name: reader.front_end for name, reader in readers.items() if reader.front_end is not None},
    )


def _numbered(names: Sequence[str], kept: Sequence[int]) -> tuple[Tensor, tuple[str, ...]]:
    """The numbers of the kept ones (N,) int64, counted in the order of all different names, and these."""
    different = sorted(set(names))
    return torch.tensor([different.index(names[row]) for row in kept]), tuple(different)


def _find(folder: Path, table: str | Path | None) -> Samples:
    """The files of each sample, in order. Raises ValueError or FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; {_LAYOUT}.")
    left_out: Counter[str] = Counter()
    classes, samples = [], {}
    for place in sorted(_entries(folder, left_out), key=_name):
        if place.is_dir():
            classes.append(place)
        elif table is None or not Path(table).exists() or not place.samefile(table):
            left_out["outside the classes' folders"] += 1
    if not classes:
        raise ValueError(f"{folder} has no sub-folders; {_LAYOUT}.")
    _refuse_look_alikes(f"{folder} has the classes", [_name(place) for place in classes])
    if len(classes) == 1:
        raise ValueError(f"{folder} has only one class, {classes[0].name}: there is nothing to tell apart.")
    for place in classes:
        found = _files_of_class(place, left_out)
        if not found:
            raise ValueError(
                f"{place} has no file with a known ending: put samples directly into it, or delete it. Known are "
                f"{' '.join(KINDS)}."
            )
        samples |= {(_name(place), stem): found[stem] for stem in sorted(found)}
    if left_out:
        print(f"{folder}: left out {', '.join(f'{count} {what}' for what, count in sorted(left_out.items()))}.")
    modalities = _by_modality(samples)
    _refuse_look_alikes(f"{folder} has the modalities", modalities)
    for name, (path, *_) in modalities.items():
        check_name(name, f"{path}: ")
    return {sample: {name: files[name] for name in modalities if name in files} for sample, files in samples.items()}


def _entries(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """What lies in a folder and is not hidden. Raises a ValueError for a link that leads nowhere."""
    for place in folder.iterdir():
        if place.name.startswith("."):
            left_out["hidden"] += 1
        elif not place.exists():
            raise ValueError(f"{place} is a link to nothing: bring back what it points to, or delete it.")
        else:
            yield place


def _files_of_class(folder: Path, left_out: Counter[str]) -> dict[str, dict[str, Path]]:
    """Stem → modality → file."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(_entries(folder, left_out), key=_name):
        kind = KINDS.get(path.suffix.lower())
        if kind is None or not path.is_file():
            left_out[f"ending in {path.suffix or 'nothing'}" if path.is_file() else "within a class and no file"] += 1
            continue
        stem, _, named = _name(path)[: -len(path.suffix)].partition(".")
        if named and not named.isidentifier():
            raise ValueError(
                f"{path}: the stem ends at the first dot, and {named!r} cannot be the name of a modality. Take the "
                "dots out of the stem."
            )
        modality = named or kind
        if modality in found[stem]:
            raise ValueError(
                f"{found[stem][modality]} and {path} are both the {modality} of sample {stem}: keep one, or name them "
                f"by what stands before the ending, as in {stem}.left{path.suffix}."
            )
        found[stem][modality] = path
    _refuse_look_alikes(f"{folder} has the stems", found)
    return found


def _name(path: Path) -> str:
    """A file's name in one spelling: systems differ in how they compose an é."""
    return unicodedata.normalize("NFC", path.name)


def _refuse_look_alikes(where: str, names: Iterable[str]) -> None:
    """Raise a ValueError for names that are the same on systems that do not tell upper from lower case."""
    known: dict[str, str] = {}
    for name in names:
        if (key := name.casefold()) in known:
            raise ValueError(f"{where} {known[key]!r} and {name!r}, the same but for case or accents: rename one.")
        known[key] = name


def _by_modality(samples: Samples) -> dict[str, list[Path]]:
    """Modality → its files, both in order."""
    found = defaultdict(list)
    for files in samples.values():
        for name, path in files.items():
            found[name].append(path)
    return {name: found[name] for name in sorted(found)}


def _few(what: Collection[str]) -> str:
    """The first three, and how many more there are."""
    first, rest = [*what][:3], [*what][3:]
    return "; ".join(first) + (f"; and {len(rest)} more" if rest else "")


def _lacking(samples: Samples, allowed: bool) -> dict[tuple[str, str], str]:
    """Samples without all modalities → what they lack. Raises a ValueError unless they are allowed."""
    counts = {name: len(paths) for name, paths in _by_modality(samples).items()}
    lacking = {
        sample: f"{'/'.join(sample)} has no {' and no '.join(name for name in counts if name not in files)}"
        for sample, files in samples.items()
        if len(files) < len(counts)
    }
    if lacking and not allowed:
        there = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise ValueError(
            f"{len(lacking)} of {len(samples)} samples lack a modality: {_few(lacking.values())}. There is {there}. "
            "Add the files, remove a modality that is not meant, or leave such samples out: skip_incomplete=True."
        )
    return lacking


def _read_table(table: str | Path | pd.DataFrame, samples: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The table's columns "domain" and "part", as far as it has them, in the order of the samples."""
    where = "The table" if isinstance(table, pd.DataFrame) else str(table)
    rows = _rows(table, where)
    known = {"/".join(sample): sample for sample in samples}
    by_stem = defaultdict(list)
    for sample in samples:
        by_stem[sample[1]].append(sample)
    names = rows["stem"] if "class" not in rows else rows["class"] + "/" + rows["stem"]
    found = {name: [known[name]] if name in known else by_stem[name] for name in dict.fromkeys(names)}
    for what, remedy, wrong in (
        ("not in the folder", "leave them out of the table; stems are text: 001, not 1", lambda name: not found[name]),
        ("in several classes", "write class/stem", lambda name: len(found[name]) > 1),
    ):
        if faulty := list(filter(wrong, found)):
            raise ValueError(f"{where}: {len(faulty)} of its stems are {what}, {_few([*map(repr, faulty)])}: {remedy}.")
    counts = Counter(found[name][0] for name in names)
    if twice := ["/".join(sample) for sample, count in counts.items() if count > 1]:
        raise ValueError(f"{where}: {len(twice)} samples have several rows, {_few(twice)}: keep one of each.")
    if missing := ["/".join(sample) for sample in samples if sample not in counts]:
        raise ValueError(f"{where}: {len(missing)} samples have no row, {_few(missing)}: add one for each.")
    rows.index = ["/".join(found[name][0]) for name in names]
    columns = {name: rows.loc[list(known), name].tolist() for name in ("domain", "part") if name in rows}
    for name, values in columns.items():
        if "" in values:
            raise ValueError(f"{where}: {list(known)[values.index('')]} has no {name}: fill in each row.")
    _refuse_look_alikes(f"{where} has the domains", dict.fromkeys(columns.get("domain", ())))
    for part in columns.get("part", ()):
        check({"a part": part}, {"a part": PARTS}, where)
    return columns


def _rows(table: str | Path | pd.DataFrame, where: str) -> pd.DataFrame:
    """The table as text in one spelling, with the columns that it must have and no others."""
    if not isinstance(table, pd.DataFrame):
        if not Path(table).is_file():
            raise FileNotFoundError(f"{table} is missing: expected a table with the columns stem and domain.")
        try:
            table = pd.read_csv(table, dtype=str, keep_default_na=False)
        except ValueError as error:  # also of its encoding
            raise ValueError(f"{table} is not a CSV file in UTF-8: {error}. Save the table as one.") from error
    unknown = [str(name) for name in table.columns if name not in _COLUMNS]
    if unknown or "stem" not in table or not {"domain", "part"} & {*table.columns} or not table.columns.is_unique:
        raise ValueError(
            f"{where} has the columns {', '.join(map(str, table.columns))}; expected stem, one of domain and part or "
            "both, and class if need be, separated by commas in a file. Rename or remove the others."
        )
    text = table.astype(object).fillna("").astype(str)
    return text.apply(lambda column: column.str.strip().str.normalize("NFC"))


def _refuse_too_large(folder: Path, readers: Mapping[str, Reader], count: int, most: float) -> None:
    """Raises a ValueError where that takes more than `most` GB of memory: before anything is read."""
    needed = {name: count * reader.bytes_per_sample / 1e9 for name, reader in readers.items()}
    if sum(needed.values()) > most:
        each = ", ".join(f"{name} {size:.3g}" for name, size in needed.items())
        raise ValueError(
            f"{folder}: {count} samples would take {sum(needed.values()):.3g} GB of memory ({each}), more than "
            f"most_gigabytes={most:g}. Take fewer frames, seconds or pixels, or a lower sample_rate; or allow more."
        )


def _read(
    samples: Samples, readers: Mapping[str, Reader], broken: dict[tuple[str, str], str], skip: bool
) -> dict[str, np.ndarray]:
    """Modality → array (N, …), read in threads: decoders do not hold Python's lock. Samples with a file that cannot be
    read are added to the broken ones, or a ValueError is raised."""
    arrays = {name: np.zeros((len(samples), *reader.shape), reader.dtype) for name, reader in readers.items()}

    def fill(row: int) -> str:
        """Why that failed, or ""."""
        try:
            for name, path in files[row].items():
                arrays[name][row] = readers[name].read(path)
        except ValueError as error:
            return str(error)
        return ""

    files = list(samples.values())
    todo = [row for row, sample in enumerate(samples) if sample not in broken]
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        try:
            said = tqdm(pool.map(fill, todo), desc="from_folder", total=len(todo), unit="sample", delay=1)
            for row, why in zip(todo, said, strict=True):
                if why and not skip:
                    raise ValueError(f"{why} Repair the file, or leave such samples out: skip_incomplete=True.")
                if why:
                    broken[list(samples)[row]] = why.removesuffix(".")
        finally:
            pool.shutdown(cancel_futures=True)
    return arrays
