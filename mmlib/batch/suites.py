"""Suites: named sets of runs, `notebooks/suites/*.yaml`. A run is a notebook with parameters; a list is a grid's axis.

about: one line for `--list`
inherits: another suite; its entries are used where this one has none of its own; parameters are merged
notebooks: all, or a list of numbers; `- "07": {epochs: 20}` gives one of them parameters of its own
parameters: {seeds: 3, first_seed: [0, 3, 6]}
limits: {cell: 1800, run: 7200, start: 300}        seconds
budget: ...                            see `classroom`
"""

import hashlib
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from mmlib.batch.given import check_against_notebook, declared_in, read_yaml
from mmlib.data import CLIPS, DIGITS, content_of, module_of
from mmlib.notebook.parameters import BadParameter
from mmlib.source_code import code_hash, imported_by

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
# What, besides the kit's own code, affects numbers: a run made with other versions is not the same run.
_DECISIVE = ("torch", "torchaudio", "torchvision", "numpy", "scipy", "scikit-learn", "espeakng-loader", "av", "pandas")
_ENTRIES = {"about": str, "inherits": str, "notebooks": (list, str), "parameters": dict, "limits": dict, "budget": dict}


@dataclass(frozen=True)
class Job:
    """One notebook with the parameters to run it with: those that differ from its defaults."""

    notebook: Path
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's folder: the notebook's name, and a short hash where parameters differ from the defaults."""
        if not self.parameters:
            return self.notebook.stem
        return f"{self.notebook.stem}-{hashlib.sha256(_canonical(self.parameters).encode()).hexdigest()[:8]}"

    @cached_property
    def effective(self) -> dict[str, Any]:
        """All parameters, defaults included."""
        return {name: default for name, (_, default) in declared_in(self.notebook).items()} | self.parameters

    @property
    def configuration(self) -> str:
        """Equal for runs that differ only in their seeds."""
        return f"{self.notebook.stem} {_canonical(but_seeds(self.parameters))}"

    @property
    def data(self) -> tuple[str, bool]:
        """The data set this run reads, and whether it can run without it."""
        name = self.effective.get("dataset") or self.effective.get("benchmark", "")
        wanted = self.effective.get("data", "real")
        return ("" if wanted == "stand-in" else name), wanted == "auto"

    @property
    def methods(self) -> list[str]:
        """The methods that this run names, if it names any; those in files by the file's whole path."""
        rivals = self.effective.get("rivals")  # a switch in other notebooks
        named = [self.effective.get("method", ""), *(rivals.split(",") if isinstance(rivals, str) else ())]
        named = [one.strip() for one in named if one.strip()]
        return [str(self.notebook.parent / one) if one.endswith(".py") else one for one in named]

    def identity(self) -> str:
        """What a finished run must agree with to be kept: the notebook, the code that it and its data can reach,
        parameters, data, environment. Raises MissingData where the data is not there."""
        name, dispensable = self.data
        content = self.notebook.read_bytes()
        cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
        modules = {module for cell in cells for module in imported_by("".join(cell["source"]))}
        facts = [
            self.parameters,
            content_of(name, dispensable),
            code_hash(modules | ({module_of(name)} if name in (*DIGITS, *CLIPS) else set())),
            torch.cuda.is_available() if self.effective.get("device", "auto") == "auto" else None,
            platform.python_version(),
            *(Path(method).read_text() for method in self.methods if method.endswith(".py")),
            *_versions(),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode() + content).hexdigest()


def but_seeds(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that runs which are pooled, as more seeds of one configuration, have in common."""
    return {name: value for name, value in parameters.items() if name != "first_seed"}


@cache
def _versions() -> tuple[str, ...]:
    return tuple(version(name) for name in _DECISIVE)


def _canonical(parameters: Mapping[str, Any]) -> str:
    """The same text for the same parameters, whatever their order."""
    return json.dumps(parameters, sort_keys=True)


@dataclass(frozen=True)
class Suite:
    """What a suite's file says, inherited entries included."""

    name: str
    folder: Path  # of the notebooks
    about: str = ""
    notebooks: list[Any] | str = "all"
    parameters: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)

    def jobs(self, only: Sequence[str], overrides: Mapping[str, Any]) -> list[Job]:
        """Its runs, every parameter of every one checked against its notebook. `overrides` take precedence over the
        suite's parameters; `only` are notebook numbers. Raises BadParameter."""
        chosen = _notebooks(self.folder) if self.notebooks == "all" else []
        entries: list[tuple[Path, dict[str, Any]]] = [(notebook, {}) for notebook in chosen]
        for entry in [] if self.notebooks == "all" else self.notebooks:
            prefix, own = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            if isinstance(entry, dict) and (len(entry) != 1 or not isinstance(own, dict)):
                raise BadParameter(f"{self.name}: {entry!r} is not of the form number: {{name: value}}.")
            entries += [(notebook, own) for notebook in _matching(self.folder, prefix)]
        here = {notebook for notebook, _ in entries}
        wanted = here if not only else set()
        for prefix in only:
            if not (found := here.intersection(_matching(self.folder, prefix))):
                raise BadParameter(f"The suite {self.name!r} has no notebook {prefix}.")
            wanted |= found
        jobs: dict[str, Job] = {}
        for notebook, own in entries:
            if notebook in wanted:
                for parameters in _grid({**self.parameters, **own, **overrides}):
                    job = make_job(notebook, parameters)
                    jobs[job.name] = job
        if not jobs:
            none = f"{self.folder} holds none named like 01_name.ipynb"
            what = none if self.notebooks == "all" else "its list is empty"
            raise BadParameter(f"The suite {self.name!r} has no notebook to run: {what}.")
        _refuse_shared_seeds(jobs.values())
        return list(jobs.values())


def names(folder: Path = NOTEBOOKS) -> list[str]:
    """The names of the available suites."""
    return sorted(path.stem for path in (folder / "suites").glob("*.yaml"))


def read(name: str, folder: Path = NOTEBOOKS, heirs: tuple[str, ...] = ()) -> Suite:
    """The suite of this name. Raises BadParameter where there is none, or its file is invalid."""
    if name in heirs:
        raise BadParameter(f"Suites inherit in a cycle: {' → '.join([*heirs, name])}.")
    if not folder.is_dir():
        raise BadParameter(f"{folder} is not a folder of notebooks.")
    path = folder / "suites" / f"{name}.yaml"
    if name not in names(folder):
        raise BadParameter(f"There is no suite {name!r}; there are: {', '.join(names(folder)) or 'none'}.")
    try:
        content = read_yaml(path.read_text(encoding="utf-8")) or {}
        unknown = dict(content).keys() - _ENTRIES
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise BadParameter(f"{path} is not YAML of names and values: {error}") from error
    if unknown:
        raise BadParameter(f"{path} has unknown entries: {', '.join(sorted(map(str, unknown)))}.")
    for entry, value in content.items():
        if not isinstance(value, _ENTRIES[entry]):
            raise BadParameter(f"{path}: {entry} cannot be {value!r}.")
    for limit, seconds in content.get("limits", {}).items():
        if limit not in ("cell", "run", "start") or type(seconds) is not int or seconds < 1:
            raise BadParameter(f"{path}: limits are seconds for `cell`, `run` and `start`, not {limit}: {seconds!r}.")
    if "inherits" in content:
        above = read(content.pop("inherits"), folder, (*heirs, name))
        inherited = {entry: getattr(above, entry) for entry in ("about", "notebooks", "limits", "budget")}
        content = inherited | content | {"parameters": above.parameters | content.get("parameters", {})}
    return Suite(name, folder, **content)


def _notebooks(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def _matching(folder: Path, prefix: Any) -> list[Path]:
    found = [notebook for notebook in _notebooks(folder) if notebook.name.startswith(str(prefix).zfill(2))]
    if not found:
        there = ", ".join(notebook.name[:2] for notebook in _notebooks(folder)) or "none"
        raise BadParameter(f"No notebook's name starts with {str(prefix)!r}; there are: {there}.")
    return found


def _grid(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    if empty := [name for name, value in parameters.items() if value == []]:
        raise BadParameter(f"{', '.join(empty)}: an empty list is no value, and leaves nothing to run.")
    axes = [value if isinstance(value, list) else [value] for value in parameters.values()]
    return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*axes)]


def make_job(notebook: Path, values: Mapping[str, Any]) -> Job:
    """The run of a notebook with these parameters, checked. Raises BadParameter."""
    typed = check_against_notebook(notebook, values)
    defaults = declared_in(notebook)
    return Job(notebook, {name: value for name, value in typed.items() if value != defaults[name][1]})


def _refuse_shared_seeds(jobs: Sequence[Job]) -> None:
    """Runs that are pooled, as more seeds of one configuration, must not share any."""
    seen: dict[tuple[str, int], Job] = {}
    for job in jobs:
        first, count = job.effective.get("first_seed", 0), job.effective.get("seeds", 1)
        for seed in range(first, first + count):
            if (job.configuration, seed) in seen:
                raise BadParameter(
                    f"Two runs of {job.notebook.stem} share seed {seed}: with seeds={count}, values of first_seed must "
                    f"be at least {count} apart."
                )
            seen[job.configuration, seed] = job
