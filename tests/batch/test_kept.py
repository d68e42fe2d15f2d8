"""The cache command: what is there, and what is removed."""

import os
import time

import pytest

from mmlib.__main__ import main
from mmlib.training import Run, TrainingConfig, train_runs


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache with a file of each kind, all used 40 days ago."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    made_here = ["runs/1a.pt", "runs/1a.checkpoint.pt", "runs/1a.checkpoint-by-epoch.pt", "runs/.1a.pt.xy.part"]
    made_here += ["runs/2b.pt.damaged", "activations/3c.npy", "speech-4d.npz", "speed-me-2-2.11.0.json"]
    made_here += ["handwriting.npz"]
    stay = [
        "hac-report.csv",
        "av_digits.npz",
        "hac/video.npy",
        "hac/manifest.csv",
        "stand_in/hac/video.npy",
        "downloads/hac/part-1.zip",
    ]
    for name in (*made_here, *stay, "runs/.1a.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(10**6))
        os.utime(tmp_path / name, (time.time() - 40 * 24 * 3600,) * 2)
    return tmp_path, made_here, stay


def rows(said):
    return {line[:30].strip(): line[30:].split() for line in said.splitlines()}


def test_sizes_are_shown_by_kind_and_age(cached, capsys):
    folder, *_ = cached
    (folder / "runs" / "1a.pt").touch()
    assert main(["cache"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["trained runs"] == ["1", "1.0", "1.0", "0.0", "0.0"]
    assert found["checkpoints"] == ["2", "2.0", "0.0", "0.0", "2.0"]
    assert [found[kind][0] for kind in ("generated data", "prepared data")] == ["3", "4"]
    assert [found[kind][0] for kind in ("damaged or half written", "stand-ins and downloads")] == ["2", "2"]
    assert found["activations of frozen trunks"][0] == "1"


def test_what_nobody_used_is_removed_and_what_was_prepared_stays(cached, capsys):
    folder, made_here, stay = cached
    assert main(["cache", "--keep-days", "41"]) == 0 and "0 files, 0.0 MB, were not used" in capsys.readouterr().out
    (folder / made_here[0]).touch()
    assert main(["cache", "--keep-days", "39"]) == 0
    assert f"{len(made_here) - 1} files, {len(made_here) - 1}.0 MB, were not used" in capsys.readouterr().out
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {made_here[0], *stay, "runs/.1a.lock"}
    assert main(["cache", "--keep-days", "0"]) == 2


def test_a_run_that_is_loaded_is_used(tmp_path, toy_splits, monkeypatch, capsys):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    runs = [Run("erm", "there", seed, ("left", "right")) for seed in range(2)]
    config = TrainingConfig(epochs=1, device="cpu")
    train_runs(runs, toy_splits, config, jobs=1)
    for path in (tmp_path / "runs").iterdir():
        os.utime(path, (time.time() - 40 * 24 * 3600,) * 2)
    (loaded,) = train_runs(runs[:1], toy_splits, config, jobs=1)
    assert loaded.loaded and main(["cache", "--keep-days", "30"]) == 0
    again = train_runs(runs, toy_splits, config, jobs=1)
    assert [result.loaded for result in again] == [True, False]
    assert "1 files" in capsys.readouterr().out
