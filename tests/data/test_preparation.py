"""From published files to batches, on stand-ins in every official layout and on three real clips of CREMA-D."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.__main__ import main
from mmlib.data import CLIPS, MissingData, load, reader
from mmlib.data.cache import InUse, owned
from mmlib.data.clips import cremad, epic_kitchens, media, preparation, script, stand_in
from mmlib.data.clips.media import CorruptClip
from mmlib.data.clips.preparation import Clip, Incomplete, Recipe, prepare, verify
from mmlib.data.stored import StoredRows, folder_of, open_prepared
from mmlib.notebook.claims import environment
from mmlib.published.reproduction import comparison
from mmlib.training import Run, TrainingConfig, estimate, score_table, train_runs


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", CLIPS)
def test_every_benchmark_goes_from_its_published_layout_to_a_table(name, tmp_path, root, capsys):
    """Download skipped: prepare → verify → read → train two epochs → table, by the commands a user types."""
    stand_in.write(name, tmp_path / "source")
    command = ["data", name, "--root", str(root), "--jobs", "2"]
    assert main([*command, "--source", str(tmp_path / "source")]) == 0
    assert main([*command, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "STAND-IN of synthetic clips, NOT" in said and "0 missing, 0 corrupt" in said and "unchanged" in said
    splits = load(name, size=16)
    manifest = open_prepared(name).manifest
    assert len(manifest) == len(splits.train) + len(splits.test) + (
        0 if name in ("hac", "epic_kitchens") else len(splits.validation)
    )
    assert {"key", "label", "status", "sha256", "crc32", "duration", "split"} <= set(manifest)
    assert manifest["sha256"].str.len().eq(64).all()
    target = splits.train.domain_names[-1] if len(splits.train.domain_names) > 1 else ""
    runs = [Run("multi-loss", target, seed, splits.train.modalities) for seed in (0, 1)]
    trained = train_runs(runs, splits, TrainingConfig(epochs=2, batch_size=16, device="cpu"), jobs=1)
    scores = 100 * score_table(trained)["target accuracy"]
    table = comparison({"multi-loss": estimate(scores)}, {"multi-loss": 90.0}, splits)
    assert "STAND-IN, no result, %" in table and table["measured − paper"].tolist() == ["—"]
    assert trained[0].history.rows[1]["train fused loss"] < trained[0].history.rows[0]["train fused loss"]


class TestRealClips:
    def test_three_clips_of_cremad_go_through_the_whole_preparation(self, sources, tmp_path, root):
        for part in ("train", "test"):
            shutil.copy(sources / "splits" / "cremad" / f"{part}.csv", tmp_path)
        shutil.copytree(sources / "cremad" / "VideoFlash", tmp_path / "VideoFlash")
        with pytest.raises(Incomplete, match=r"7439 of 7442 clips are missing or corrupt, 0 are allowed"):
            prepare(cremad.recipe(tmp_path), 2)
        prepare(cremad.recipe(tmp_path), 2, allow_missing=7439)
        verify("cremad")
        prepared = open_prepared("cremad")
        rows = prepared.manifest.set_index("key")
        assert prepared.missing == 7439 and sorted(rows["label"]) == ["ANG", "HAP", "SAD"]
        anger = rows.loc["1001_DFA_ANG_XX"]
        assert (anger["frames"], anger["sample_rate"], anger["actor"]) == (67, 44100, 1001)
        assert abs(anger["duration"] - 2.2) < 0.05
        assert anger["sha256"] == "10dc3fd1f2bc8203657431598bd7dc9312462008f93d08fda786043ae6a8d2f4"
        waveform = prepared.arrays["audio"][0].float()
        heard = round(2.27265 * 22050)  # the sound track's length; then it begins again
        assert torch.equal(waveform[heard:], waveform[: len(waveform) - heard]) and waveform.std() > 300
        frames = prepared.arrays["image"][0]
        assert frames.shape == (3, 256, 340, 3) and 60 < frames.float().mean() < 130
        moved = (frames[0].float() - frames[1].float()).abs().mean()
        assert 0.5 < moved < 20, "three different frames of one face"
        with pytest.raises(ValueError, match="the training part is empty; 7439 clips missing"):
            load("cremad", protocol="actors")

    def test_a_shortened_clip_and_a_pointer_are_called_corrupt_by_name(self, sources, tmp_path, root):
        (tmp_path / "VideoFlash").mkdir()
        for emotion in ("ANG", "HAP", "SAD"):
            clip = f"1001_DFA_{emotion}_XX"
            content = (sources / "cremad" / "VideoFlash" / f"{clip}.flv").read_bytes()
            content = content[:20000] if emotion == "HAP" else content
            content = b"version https://git-lfs.github.com/spec/v1\n" if emotion == "SAD" else content
            (tmp_path / "VideoFlash" / f"{clip}.flv").write_bytes(content)
            (tmp_path / "train.csv").open("a").write(f"{clip},{emotion}\n")
        (tmp_path / "test.csv").write_text("")
        with pytest.raises(Incomplete, match="2 of 3 clips are missing or corrupt"):
            prepare(cremad.recipe(tmp_path), 1, allow_missing=1)
        report = pd.read_csv(root / "cremad-report.csv").set_index("key")
        assert report["status"].to_dict() == {
            "1001_DFA_ANG_XX": "prepared",
            "1001_DFA_HAP_XX": "corrupt",
            "1001_DFA_SAD_XX": "corrupt",
        }
        assert report["picture_seconds"]["1001_DFA_ANG_XX"] == 2.235 and report["packets_lost"].fillna(0).max() == 0
        assert "truncated?" in report["reason"]["1001_DFA_HAP_XX"]
        assert "is a git-LFS pointer" in report["reason"]["1001_DFA_SAD_XX"]


def toy(tmp_path, count=12, decoded=None, bad=(), facts=lambda number: {}):
    """A recipe whose clips are little files; `decoded` collects what was decoded."""
    clips = []
    for number in range(count):
        path = tmp_path / "files" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]))
        clips.append(Clip(f"clip {number}", "ab"[number % 2], {"file": path}, {"split": "train"}))

    def decode(clip):
        number = int(clip.key.split()[1])
        if number in bad:
            raise CorruptClip(f"{clip.key} is broken")
        if decoded is not None:
            decoded.append(number)
        return {"audio": np.full(5, number, np.int16)}, {"frames": number, **facts(number)}

    return Recipe("toy", clips, {"audio": ((5,), "int16")}, decode, {"stand_in": False})


def test_segments_of_epic_kitchens_cut_apart(tmp_path, root):
    """A video per segment, named by frames or by times, in place of the pictures of whole videos."""
    columns = ["uid", "narration", *epic_kitchens.COLUMNS[1:]]
    frames = stand_in._pictures(0, np.random.default_rng(0))
    for place, (domain, person) in enumerate(zip(epic_kitchens.DOMAINS, ("P08", "P01", "P22"), strict=True)):
        for part in ("train", "test"):
            row = (place, "open it", f"{person}_01", "00:01:04.09", "00:01:05.84", 3845, 3950, 2)
            stand_in._write_table(tmp_path / f"{domain}_{part}.pkl", pd.DataFrame([row], columns=columns))
            between = "3845_3950" if part == "train" else "64.09_65.84"
            name = f"{domain}_{person}_01_{between}_2"
            for kind, file in (("video", name), ("flow", f"{name}_flow_x"), ("flow", f"{name}_flow_y")):
                media.write_video(tmp_path / "clips" / kind / part / domain / f"{file}.mp4", frames, 8)
            media.write_sound(
                tmp_path / "clips" / "audio" / part / domain / f"{name}.wav", np.ones(8000, np.int16), 16000
            )
    (tmp_path / stand_in.STAND_IN).touch()
    prepare(epic_kitchens.recipe(tmp_path), 1)
    manifest = open_prepared("epic_kitchens").manifest
    assert manifest["label"].tolist() == ["open"] * 6 and manifest["frames"].tolist() == [12] * 6
    assert open_prepared("epic_kitchens").arrays["flow"].shape == (6, 12, 32, 42, 2)
    wrong = tmp_path / "clips" / "video" / "train" / "D1" / "D1_P08_01_3845_3950_2.mp4"
    wrong.rename(wrong.with_stem("D1_P08_01_3845_3950_5"))
    with pytest.raises(ValueError, match=r"3950_5\.mp4 is named as of class 5; the list says 2 \(open\)"):
        epic_kitchens.recipe(tmp_path)
    wrong.with_stem("D1_P08_01_3845_3950_5").unlink()
    gone = epic_kitchens.recipe(tmp_path).clips[0].files["video"]
    assert not gone.exists() and gone.parts[-4:] == ("video", "train", "D1", "D1_P08_01_3845_3950_2.mp4")


class TestPreparation:
    def test_rows_lie_where_the_manifest_says(self, tmp_path, root):
        prepare(toy(tmp_path), 3)
        prepared = open_prepared("toy")
        assert prepared.arrays["audio"][:][:, 0].tolist() == list(range(12)) == prepared.manifest["frames"].tolist()
        assert not folder_of("toy.partial").exists()

    def test_what_is_decoded_is_not_decoded_again(self, tmp_path, root):
        prepare(toy(tmp_path), 2)
        decoded = []
        prepare(toy(tmp_path, decoded=decoded), 2)
        assert decoded == []

    def test_only_what_was_missing_is_decoded_later(self, tmp_path, root):
        recipe = toy(tmp_path)
        away = tmp_path / "files" / "4.bin"
        content = away.read_bytes()
        away.unlink()
        with pytest.raises(Incomplete, match=r"1 of 12 .* first clip 4: no .*4\.bin\. .*--allow-missing 1"):
            prepare(recipe, 2)
        assert not folder_of("toy").exists() and pd.read_csv(root / "toy-report.csv")["status"].tolist()[4] == "missing"
        prepare(recipe, 2, allow_missing=1)
        assert open_prepared("toy").missing == 1 and len(open_prepared("toy").manifest) == 11
        away.write_bytes(content)
        decoded = []
        prepare(toy(tmp_path, decoded=decoded), 2)
        assert decoded == [4] and open_prepared("toy").missing == 0

    def test_a_refused_run_leaves_a_finished_cache_as_it_was(self, tmp_path, root):
        (tmp_path / "files").mkdir()
        recipe = toy(tmp_path, bad=(3,))
        prepare(recipe, 2, allow_missing=1)
        with pytest.raises(Incomplete):
            prepare(recipe, 2)
        assert len(open_prepared("toy").manifest) == 11
        verify("toy")

    def test_corrupt_clips_are_all_listed_and_the_rest_is_kept(self, tmp_path, root):
        with pytest.raises(Incomplete, match=r"2 of 12 .* first clip 5: clip 5 is broken"):
            prepare(toy(tmp_path, bad=(5, 9)), 2, allow_missing=1)
        report = pd.read_csv(root / "toy-report.csv")
        assert report["key"][report["status"] == "corrupt"].tolist() == ["clip 5", "clip 9"]
        decoded = []
        prepare(toy(tmp_path, decoded=decoded), 2)
        assert sorted(decoded) == [5, 9], "repaired: everything else was kept"

    def test_a_file_that_cannot_be_read_is_not_the_end_of_the_others(self, tmp_path, root):
        def refuse(number):
            if number == 4:
                raise PermissionError("not yours")
            return {}

        prepare(toy(tmp_path, facts=refuse), 2, allow_missing=1)
        report = pd.read_csv(root / "toy-report.csv")
        assert report["reason"].dropna().tolist() == ["clip 4 cannot be read: not yours"]

    def test_the_losses_allowed_are_part_of_what_was_prepared(self, tmp_path):
        (tmp_path / "train.csv").write_text("1001_DFA_ANG_XX,ANG\n")
        (tmp_path / "test.csv").write_text("")
        assert cremad.recipe(tmp_path).identity() != cremad.recipe(tmp_path, most_lost=0.2).identity()

    def test_what_is_silently_poor_is_reported(self, tmp_path, root, capsys):
        facts = {
            2: {"duration": 61.0},
            3: {"silence": 0.9, "constant_picture": True},
            4: {"rotated": 90, "lost": 2, "offset": -1.5},
        }
        plain = {"duration": 2.5, "silence": 0.0, "constant_picture": False, "rotated": 0, "lost": 0, "offset": 0.0}
        prepare(toy(tmp_path, facts=lambda number: plain | facts.get(number, {})), 2)
        report = pd.read_csv(root / "toy-report.csv")
        assert report.index[report["length_outlier"]].tolist() == [2] and report["picture_seconds"][2] == 61
        assert report["constant_picture"].sum() == 1 and report["packets_lost"].sum() == 2
        said = capsys.readouterr().out
        for what in ("1 silent for more", "1 with a constant", "1 more than twice", "1 turned", "1 with packets lost"):
            assert what in said
        assert "1 with sound that begins" in said

    def test_other_parameters_begin_anew(self, tmp_path, root):
        with pytest.raises(Incomplete):
            prepare(toy(tmp_path, bad=(5,)), 2)
        decoded = []
        prepare(toy(tmp_path, count=13, decoded=decoded), 2)
        assert len(decoded) == 13

    def test_bytes_that_were_lost_are_decoded_again(self, tmp_path, root):
        with pytest.raises(Incomplete):
            prepare(toy(tmp_path, bad=(5,)), 2)
        array = np.load(root / "toy.partial" / "audio.npy", mmap_mode="r+")
        array[7] = 0  # a machine that lost power before these pages were written
        array.flush()
        (root / "toy.partial" / "journal.jsonl").open("a").write('[5, {"status": "prep')
        decoded = []
        prepare(toy(tmp_path, decoded=decoded), 2)
        assert sorted(decoded) == [5, 7]

    def test_verify_names_what_was_altered(self, tmp_path, root):
        prepare(toy(tmp_path), 2)
        array = np.load(root / "toy" / "audio.npy", mmap_mode="r+")
        array[3, 2] += 1
        array.flush()
        with pytest.raises(ValueError, match="clip 3 differs from what was prepared"):
            verify("toy")

    def test_a_damaged_cache_is_named(self, tmp_path, root):
        prepare(toy(tmp_path), 2)
        whole = (root / "toy" / "audio.npy").read_bytes()
        (root / "toy" / "audio.npy").write_bytes(whole[:100])
        with pytest.raises(ValueError, match=r"audio\.npy is damaged"):
            open_prepared("toy")
        (root / "toy" / "manifest.csv").write_text("key,label\n")
        with pytest.raises(ValueError, match=r"toy is damaged .* Delete it and prepare"):
            open_prepared("toy")

    def test_a_full_disk_is_reported_before_anything_is_written(self, tmp_path, root, monkeypatch):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage._replace(free=50))
        with pytest.raises(OSError, match="Use another --root"):
            prepare(toy(tmp_path), 2)
        assert not folder_of("toy.partial").exists()

    def test_of_two_at_once_the_second_says_who_is_first_and_touches_nothing(self, tmp_path, root):
        with owned(folder_of("toy")):
            before = sorted(root.iterdir())
            who = rf"process {os.getpid()} on {platform.node()}, since 20"
            for count in (12, 13):  # with the same settings, and with others
                with pytest.raises(InUse, match=f"toy is being written by another process: {who}"):
                    prepare(toy(tmp_path, count), 1)
            assert sorted(root.iterdir()) == before
        prepare(toy(tmp_path), 1)
        assert open_prepared("toy").missing == 0 and not list(root.glob(".*.owner"))

    def test_a_killed_preparation_resumes(self, tmp_path, root, capsys):
        stand_in.write("ave", tmp_path / "source")
        arguments = ["data", "ave", "--source", str(tmp_path / "source"), "--jobs", "1"]
        command = [sys.executable, "-m", "mmlib", *arguments]
        journal = root / "ave.partial" / "journal.jsonl"
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 20):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not folder_of("ave").exists(), "killed before its end"
        done = journal.read_bytes().count(b"\n")
        assert main(arguments) == 0
        kept = int(capsys.readouterr().out.split(" of 140 clips are already decoded")[0].split()[-1])
        assert done - 1 <= kept <= done and open_prepared("ave").missing == 0
        verify("ave")


class TestCommand:
    def test_says_how_to_get_data_that_is_not_there(self, root, capsys):
        with pytest.raises(MissingData, match=r"cremad is not prepared .*`python -m mmlib data cremad --source DIR`"):
            load("cremad")
        assert main(["data", "ave"]) == 1
        assert "drive.google.com" in capsys.readouterr().err
        assert main(["data", "ave", "--download"]) == 1
        assert "has no address that a script can download from" in capsys.readouterr().err

    def test_bad_options_are_named(self, root, tmp_path, capsys):
        assert main(["data", "hac", "--source", str(tmp_path / "nowhere")]) == 1
        assert "nowhere is not a folder" in capsys.readouterr().err
        for arguments in (
            ["--jobs", "0"],
            ["--most-lost", "2"],
            ["--protocol", "best"],
            ["--download", "--source", "x"],
        ):
            with pytest.raises(SystemExit) as ended:
                main(["data", "hac", *arguments])
            assert ended.value.code == 2
        assert main(["data", "hac", "--verify"]) == 1
        assert "hac is not prepared" in capsys.readouterr().err

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
    def test_as_many_clips_at_a_time_as_cores_are_granted(self, monkeypatch):
        monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, sorted(allowed)[:1])
            options = script.arguments_of("hac", "about", [], ("papers",))
            assert options.jobs == 1 == int(environment()["cpu cores"])
        finally:
            os.sched_setaffinity(0, allowed)


class TestReading:
    @pytest.fixture
    def splits(self, cache):
        return stand_in.load_or_stand_in("cremad", "stand-in", frames=2)

    def test_nothing_is_read_before_a_batch_asks(self, splits):
        for part in (splits.train, splits.train.subset([0, 2]), splits.train.select_modalities("audio")):
            assert all(isinstance(values, StoredRows) for values in part.inputs.values())
        batch = next(splits.train.batches(4))
        assert batch.inputs["audio"].shape[:2] == (4, 1) and batch.inputs["image"].shape == (4, 3, 2, 28, 28)
        raw = next(splits.train.batches(4, stored=True))
        assert raw.inputs["image"].dtype == torch.uint8 and raw.inputs["audio"].dtype == torch.int16

    def test_what_was_prepared_when_clips_were_read_otherwise_is_refused(self, tmp_path, root):
        stand_in.write("cremad", tmp_path / "source")
        assert main(["data", "cremad", "--source", str(tmp_path / "source")]) == 0
        path = root / "cremad" / "prepared.json"
        about = json.loads(path.read_text())
        del about["parameters"]["read"]
        path.write_text(json.dumps(about))
        assert load("cremad", frames=2).is_stand_in  # whose clips are plain, however they are read
        about["parameters"]["stand_in"] = False
        path.write_text(json.dumps(about))
        with pytest.raises(MissingData, match=r"read otherwise.*Prepare it again: `python -m mmlib data cremad"):
            load("cremad", frames=2)

    def test_an_epoch_reads_nothing_but_the_memory_map(self, splits, monkeypatch):
        def refuse(*arguments, **options):
            raise AssertionError("a file was opened")

        for place in ("builtins.open", "io.open", "os.open", "av.open", "numpy.load"):
            monkeypatch.setattr(place, refuse)
        generator = torch.Generator().manual_seed(0)
        seen = [batch.indices for batch in splits.train.batches(16, generator)]
        assert sorted(torch.cat(seen).tolist()) == list(range(len(splits.train)))

    def test_rows_are_those_of_the_clips_asked_for(self, splits):
        some = splits.train.subset([5, 1, 3])
        whole = splits.train.whole()
        assert torch.equal(some.whole().inputs["audio"], whole.inputs["audio"][[5, 1, 3]])
        assert torch.equal(some.labels, splits.train.labels[[5, 1, 3]])
        assert some.fingerprint() != splits.train.subset([5, 1, 2]).fingerprint()

    def test_protocols_of_cremad(self, cache):
        held_out = stand_in.load_or_stand_in("cremad", "stand-in", protocol="ogm-val")
        selected_on_test = stand_in.load_or_stand_in("cremad", "stand-in", protocol="ogm")
        assert len(held_out.train) + len(held_out.validation) == len(selected_on_test.train)
        assert len(held_out.validation) == 6 and sorted(held_out.validation.labels.tolist()) == list(range(6))
        assert selected_on_test.validation.fingerprint() == selected_on_test.test.fingerprint()
        actors = open_prepared("stand_in/cremad").manifest["actor"].to_numpy()
        tested = []
        for fold in range(cremad.BENCHMARK.folds):
            splits = stand_in.load_or_stand_in("cremad", "stand-in", protocol="actors", fold=fold)
            people = [
                set(actors[part.inputs["audio"].rows.numpy()])
                for part in (splits.train, splits.validation, splits.test)
            ]
            assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
            tested += people[2]
        assert sorted(tested) == sorted(set(actors)), "every actor is tested once"

    def test_an_unseen_domain_is_tested_on_the_parts_its_papers_test(self, cache):
        hac = stand_in.load_or_stand_in("hac", "stand-in")
        epic = stand_in.load_or_stand_in("epic_kitchens", "stand-in")
        assert len(hac.leave_out("cartoon").target) == 7 * 4 and len(epic.leave_out("D3").target) == 8 * 1
        assert len(hac.leave_out("cartoon").train) == 2 * 7 * 3
        held_out = stand_in.load_or_stand_in("hac", "stand-in", protocol="held-out")
        assert len(held_out.leave_out("cartoon").target) == 7 * 4, "what is held out is tested, too"

    @pytest.mark.parametrize("name", CLIPS)
    def test_every_benchmark_takes_the_same_dials(self, name, cache):
        for modality in reader(name).BENCHMARK.frames:
            splits = stand_in.load_or_stand_in(name, "stand-in", frames=2, modalities=[modality])
            assert splits.train.modalities == (modality,) == tuple(splits.augmentations) and not splits.sample_rates
            assert splits.train.input_shapes[modality][1:] == (2, 28, 28)

    def test_clips_known_to_be_bad_are_left_out_on_request(self, splits):
        key = open_prepared("stand_in/cremad").manifest["key"][0]
        benchmark = replace(cremad.BENCHMARK, known_bad=(key, "not there"))
        there, without = (
            benchmark.load("ogm", folder="stand_in/cremad", without_known_bad=wanted) for wanted in (False, True)
        )
        assert len(without.train) == len(there.train) - 1 and len(without.test) == len(there.test)
        assert without.about.endswith("1 known to be bad left out") and "known to be bad" not in there.about
        assert torch.equal(without.train.labels, there.train.labels[1:])

    def test_a_stand_in_is_never_silent(self, splits):
        assert splits.is_stand_in and splits.about.startswith("STAND-IN of synthetic clips, NOT CREMA-D")
        with pytest.raises(MissingData):
            stand_in.load_or_stand_in("cremad", "real")
        with pytest.raises(ValueError, match="which must be one of auto, real, stand-in, not 'best'"):
            stand_in.load_or_stand_in("cremad", "best")

    @pytest.mark.parametrize(
        ("dials", "message"),
        [
            ({"protocol": "best"}, "protocol must be one of ogm-val, ogm, actors"),
            ({"frames": 4}, "frames must be one of 1, 2, 3, not 4"),
            ({"fold": 5}, "fold must be one of 0, 1, 2, 3, 4, not 5"),
            ({"modalities": ("audio", "flow")}, "a modality must be one of audio, image, not 'flow'"),
        ],
    )
    def test_wrong_dials_are_named(self, dials, message):
        with pytest.raises(ValueError, match=message):
            cremad.load(**dials)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_batches_agree_on_the_gpu(self, splits):
        """Sound as amplitudes: where nothing is heard, its logarithm is that of rounding errors."""
        there, here = (data.whole().inputs for data in (splits.train.resident(torch.device("cuda")), splits.train))
        for name, values in there.items():
            assert values.is_cuda
            pair = values.cpu(), here[name]
            assert torch.allclose(*(map(torch.exp, pair) if name == "audio" else pair), atol=1e-3)
