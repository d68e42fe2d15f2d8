"""`jupyter execute`, three times at once, as a class does it: in a folder that cannot be written, from another one,
with a cache of their own beside a shared one that cannot be written either."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

KERNELS, RUNS = 3, 5
TRAINED = f"""from mmlib.data import load
from mmlib.training import Run, TrainingConfig, train_runs

splits = load("spoken_digits", samples_per_class=5).preprocessed()
runs = [Run("erm", "", seed, splits.train.modalities) for seed in range({RUNS})]
config = TrainingConfig(1, device="cpu")"""
TOGETHER = f"""import json, os, time
from pathlib import Path

cache = Path(os.environ["MMLIB_CACHE"])
(cache / f"{{os.getpid()}}.ready").touch()
while len(list(cache.glob("*.ready"))) < {KERNELS}:
    time.sleep(0.05)
said = {{"folder": os.getcwd(), "loaded": [run.loaded for run in train_runs(runs, splits, config, jobs=1)]}}
(cache / f"{{os.getpid()}}.said").write_text(json.dumps(said))"""


@pytest.fixture(scope="module")
def read_only(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder with a notebook, and the tests' cache with the first of its runs: neither can be written, not even by
    root."""
    exec(f"{TRAINED}\ntrain_runs(runs[:1], splits, config, jobs=1)", {})
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(source) for source in (TRAINED, TOGETHER)]
    written, mounted = tmp_path_factory.mktemp("written"), {}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), written / "n.ipynb")
    try:
        for name, source in {"folder": written, "shared": cache}.items():
            place = tmp_path_factory.mktemp(name)
            command = ["mount", "--bind", "-o", "ro", str(source), str(place)]
            if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
                pytest.skip(f"nothing can be mounted read-only here: {done.stderr.strip()}")
            mounted[name] = place
            with pytest.raises(OSError, match="Read-only"):
                (place / "x").touch()
        yield mounted
    finally:
        for place in mounted.values():
            subprocess.run(["umount", str(place)], check=True)


def test_kernels_share_a_cache_beside_a_read_only_one(read_only, tmp_path):
    """What the shared cache has is loaded; of the rest each kernel trains a part, nothing is trained twice."""
    (own := tmp_path / "own").mkdir()
    caches = {"MMLIB_CACHE": str(own), "MMLIB_SHARED_CACHE": str(read_only["shared"])}
    command = [sys.executable, "-m", "jupyter", "execute", "--timeout=240", str(read_only["folder"] / "n.ipynb")]
    options = {"env": os.environ | caches | {"OMP_NUM_THREADS": "1"}, "cwd": tmp_path, "text": True}
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, **options) for _ in range(KERNELS)]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert not process.returncode, errors
    said = [json.loads(path.read_text()) for path in own.glob("*.said")]
    assert [one["folder"] for one in said] == [str(read_only["folder"])] * KERNELS
    assert all(one["loaded"][0] for one in said)
    assert sum(not loaded for one in said for loaded in one["loaded"]) == RUNS - 1
    assert len(list((own / "runs").glob("*.pt"))) == RUNS - 1
    assert not list(own.glob("speech*")), "read where the class has it"
