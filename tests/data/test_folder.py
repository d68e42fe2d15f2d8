import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_own_folder
from PIL import Image

from mmlib.data import MultimodalDataset, Splits, from_folder
from mmlib.data.clips.media import write_sound, write_video
from mmlib.data.transforms import LogMel
from mmlib.training import Run, TrainingConfig, train_run, train_runs

CLASSES, STEMS = ("cat", "dog"), ("1", "2", "3")
SAMPLES = [f"{label}/{stem}" for label in CLASSES for stem in STEMS]


def number(sample):
    """A value that tells a sample from all others."""
    return SAMPLES.index(sample) + 0.5


@pytest.fixture
def folder(tmp_path):
    """Two arrays for each of six samples: what an error needs."""
    for sample in SAMPLES:
        path = tmp_path / "own" / sample
        path.parent.mkdir(parents=True, exist_ok=True)
        for modality in ("left", "right"):
            np.save(f"{path}.{modality}.npy", np.full((4, 5), number(sample), np.float32))
    return tmp_path / "own"


def of(data):
    """Which samples these are."""
    return [SAMPLES[int(value)] for value in data.inputs["left"][:, 0, 0, 0]]


def test_arrays_are_read_in_the_order_of_classes_and_stems(folder, capsys):
    for path in folder.glob("dog/2.*"):
        path.rename(path.with_name(path.name.replace("2.", "1+.")))  # before 1.left.npy, by the names of the files
    data = from_folder(folder)
    assert of(data) == SAMPLES and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.class_names, data.domain_names) == (CLASSES, ("all",)) and not data.front_end
    assert data.input_shapes == {"left": (1, 4, 5), "right": (1, 4, 5)} and not capsys.readouterr().out
    assert data.inputs["left"].dtype == torch.float32 and not data.truth


class TestMedia:
    def test_sound_is_resampled_cut_and_filled_with_silence(self, tmp_path):
        time = np.arange(24000) / 48000
        tone = (12000 * np.sin(2 * np.pi * 500 * time)).astype(np.int16)
        for label, sound in (("a", tone), ("b", tone[:4800])):
            write_sound(tmp_path / label / "1.wav", sound, 48000)
        data = from_folder(tmp_path, sample_rate=8000, seconds=0.25)
        long, short = data.inputs["audio"].numpy().astype(int)
        assert data.inputs["audio"].dtype == torch.int16 and data.inputs["audio"].shape == (2, 2000)
        assert np.abs(np.fft.rfft(long)).argmax() * 8000 / 2000 == 500 and np.abs(long).max() > 11000
        assert np.abs(short[:780]).max() > 11000 and not short[820:].any()
        assert data.input_shapes == {"audio": (1, 40, (2000 - 256) // 128 + 1)}
        expected = LogMel(8000)(data.inputs["audio"] / 32768)
        assert torch.allclose(data.whole().inputs["audio"], expected)

    def test_pictures_fill_the_square_as_their_camera_held_them(self, tmp_path):
        picture = np.zeros((20, 30, 3), np.uint8)
        picture[:10, :, 0] = 250  # red above
        turned = Image.Exif()
        turned[274] = 6  # a quarter clockwise: red on the right
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
        Image.fromarray(picture).save(tmp_path / "a" / "1.PNG")
        Image.fromarray(picture).save(tmp_path / "b" / "1.jpeg", exif=turned, quality=95)
        data = from_folder(tmp_path, size=8)
        upright, quarter = data.inputs["image"].int()
        assert data.inputs["image"].dtype == torch.uint8 and upright.shape == (3, 8, 8)
        assert upright[0, :3].min() > 240 and upright[0, 5:].max() < 10 and upright[1:].max() < 10
        assert quarter[0, :, 5:].min() > 240 and quarter[0, :, :3].max() < 10
        assert data.whole().inputs["image"].min() == -1
        grey = from_folder(tmp_path, size=8, colour=False).inputs["image"]
        assert grey.shape == (2, 1, 8, 8) and 70 < grey[0, 0, 0, 0] < 80

    def test_frames_of_a_video_are_spread_evenly_or_repeated(self, tmp_path):
        for label, count in (("a", 16), ("b", 2)):
            frames = np.repeat(np.arange(count, dtype=np.uint8) * 12, 32 * 48 * 3).reshape(count, 32, 48, 3)
            write_video(tmp_path / label / "1.mp4", frames, 10)
        data = from_folder(tmp_path, size=8, frames=4)
        assert data.inputs["video"].shape == (2, 3, 4, 8, 8)
        shown = (data.inputs["video"].float().mean((1, 3, 4)) / 12).round()
        assert shown.tolist() == [[2, 6, 10, 14], [0, 0, 1, 1]]
        assert data.whole().inputs["video"].max() < 0.5
        grey = from_folder(tmp_path, size=8, frames=4, colour=False).inputs["video"]
        assert grey.shape == (2, 1, 4, 8, 8) and torch.equal((grey.float().mean((1, 3, 4)) / 12).round(), shown)

    def test_all_kinds_together_train_at_once_and_are_kept(self, tmp_path, capsys):
        write_own_folder(tmp_path)
        for place in sorted(tmp_path.glob("*/*.wav")):
            draw = np.random.default_rng(int(place.stem))
            np.save(place.with_suffix(".radar.npy"), draw.normal(size=(2, 6, 5)).astype(np.float16))
            write_video(place.with_suffix(".mp4"), draw.integers(0, 255, (3, 16, 16, 3), np.uint8), 10)
        dials = {"sample_rate": 8000, "seconds": 0.5, "size": 8, "frames": 2}
        data = from_folder(tmp_path, tmp_path / "domains.csv", **dials)
        assert data.modalities == ("audio", "image", "radar", "video") and data.domain_names == ("day", "night")
        assert data.inputs["radar"].dtype == torch.float16
        raw = Splits.of(data)
        assert raw.sample_rates == {"audio": 8000} and raw.train.inputs["audio"].dtype == torch.int16
        assert [len(part) for part in (raw.train, raw.validation, raw.test)] == [8, 4, 4]
        run = Run("multi-loss", "night", 0, data.modalities)
        with pytest.raises(ValueError, match=r"raw signals: train on `splits\.preprocessed\(\)`"):
            train_run(run, raw, TrainingConfig(epochs=1))
        config = TrainingConfig(epochs=6, learning_rate=1e-2, device="cpu")
        (trained,) = train_runs([run], raw.preprocessed(), config)
        assert trained.scores["target image accuracy"] == 1 and trained.scores["target audio accuracy"] == 1
        again = from_folder(tmp_path, tmp_path / "domains.csv", **dials)
        assert again.fingerprint() == data.fingerprint()
        assert train_runs([run], Splits.of(again).preprocessed(), config)[0].loaded


class TestTable:
    def check(self, data):
        assert data.domain_names == ("day", "night") and of(data) == SAMPLES
        assert data.domains.tolist() == [0, 1, 0, 1, 0, 1]

    def test_names_samples_in_any_order_by_class_and_stem(self, folder, tmp_path):
        rows = [f" {sample}, {('day', 'night')[place % 2]} ,train" for place, sample in enumerate(SAMPLES)]
        path = tmp_path / "where.csv"
        path.write_bytes("\r\n".join(["stem,domain,part", *reversed(rows)]).encode("utf-8-sig"))
        data = from_folder(folder, path)
        self.check(data)
        assert data.truth["part"].tolist() == [0] * 6
        split = [sample.split("/") for sample in SAMPLES]
        columns = {
            "class": [one for one, _ in split],
            "stem": [one for _, one in split],
            "domain": ["day", "night"] * 3,
        }
        self.check(from_folder(folder, pd.DataFrame(columns)))

    def test_stems_alone_are_enough_where_no_two_classes_share_one(self, folder, tmp_path):
        for path in sorted((folder / "dog").iterdir()):
            path.rename(path.with_name(f"0{path.name}"))
        path = tmp_path / "where.csv"
        path.write_text("stem,domain\n03,night\n02,day\n01,night\n3,day\n2,night\n1,day\n")
        self.check(from_folder(folder, path))
        self.check(from_folder(folder, pd.read_csv(path, dtype=str)))

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"stem": SAMPLES}, "has the columns stem; expected stem, one of domain and part"),
            ({"name": SAMPLES, "domain": ["x"] * 6}, "has the columns name, domain"),
            ({"stem": SAMPLES, "domain": ["x"] * 6, "speaker": range(6)}, "columns stem, domain, speaker.*remove"),
            ({"stem": SAMPLES[1:], "domain": ["x"] * 5}, "1 samples have no row, cat/1: add one"),
            ({"stem": [*SAMPLES, "cat/1", "dog/3"], "domain": ["x"] * 8}, "2 samples have several rows, cat/1; dog/3"),
            ({"stem": [*SAMPLES, "cat/4", "cow/1"], "domain": ["x"] * 8}, "2 .* not in the folder, 'cat/4'; 'cow/1'"),
            ({"stem": [1, 2, 3], "domain": ["x"] * 3}, "3 of its stems are in several classes.*write class/stem"),
            ({"stem": ["01"], "domain": ["x"]}, "'01': leave them out of the table; stems are text: 001, not 1"),
            ({"stem": SAMPLES, "domain": ["x", "x", None, "x", "x", "x"]}, "cat/3 has no domain: fill in each row"),
            ({"stem": SAMPLES, "domain": [*["Day"] * 5, "day"]}, "domains 'Day' and 'day', the same but for case"),
            (
                {"stem": SAMPLES, "part": [*["train"] * 5, "val"]},
                "a part must be one of train, validation, test, not 'val'",
            ),
        ],
    )
    def test_is_refused_with_what_is_wrong(self, folder, columns, message):
        with pytest.raises(ValueError, match=f"^The table.*{message}"):
            from_folder(folder, pd.DataFrame(columns))

    def test_that_is_none_is_named(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"where\.csv is missing"):
            from_folder(folder, tmp_path / "where.csv")
        (tmp_path / "where.csv").write_bytes("stem,domain\ncat/1,größer".encode("latin-1"))
        with pytest.raises(ValueError, match=r"where\.csv is not a CSV file in UTF-8"):
            from_folder(folder, tmp_path / "where.csv")
        (tmp_path / "where.csv").write_text("stem;domain\ncat/1;day\n")
        with pytest.raises(
            ValueError, match=r"where\.csv has the columns stem;domain; expected .* separated by commas"
        ):
            from_folder(folder, tmp_path / "where.csv")


def test_what_is_left_out_is_counted(folder, capsys):
    for name in (
        ".DS_Store",
        ".git/x",
        "where.csv",
        "notes.txt",
        "cat/.1.npy",
        "cat/1.txt",
        "dog/2.txt",
        "dog/more/1.npy",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("stem,domain\n" + "".join(f"{sample},here\n" for sample in SAMPLES))
    assert of(from_folder(folder, folder / "where.csv")) == SAMPLES
    said = capsys.readouterr().out
    assert said.endswith("2 ending in .txt, 3 hidden, 1 outside the classes' folders, 1 within a class and no file.\n")


def refuse(folder, message, error=ValueError, **dials):
    with pytest.raises(error, match=message):
        from_folder(folder, **dials)


class TestLayout:
    def test_no_folder_and_no_classes(self, folder, tmp_path):
        refuse(tmp_path / "gone", "gone is no folder; expected a folder for each class", FileNotFoundError)
        refuse(folder / "cat", r"cat has no sub-folders; expected .* cat/001\.wav")

    def test_one_class_and_an_empty_one(self, folder):
        (folder / "eel" / "deeper").mkdir(parents=True)
        refuse(folder, r"eel has no file with a known ending: .* Known are \.jpg .*\.npy")
        for name in ("dog", "eel"):
            (folder / name).rename(folder.parent / name)
        refuse(folder, "only one class, cat")

    def test_names_that_only_case_tells_apart(self, folder):
        (folder / "Dog").mkdir()
        if len(list(folder.iterdir())) == 2:
            pytest.skip("this disk does not tell upper from lower case")
        refuse(folder, "classes 'Dog' and 'dog', the same but for case or accents: rename one")
        (folder / "Dog").rmdir()
        np.save(folder / "dog" / "x.npy", np.ones(3))
        np.save(folder / "dog" / "X.left.npy", np.ones(3))
        refuse(folder, r"dog has the stems 'X' and 'x'")
        (folder / "dog" / "x.npy").unlink()
        (folder / "dog" / "X.left.npy").rename(folder / "dog" / "1.Left.npy")
        refuse(folder, r"has the modalities 'Left' and 'left'")

    def test_names_in_other_alphabets_and_spellings(self, folder):
        composed, apart = (unicodedata.normalize(form, "hélas") for form in ("NFC", "NFD"))
        (folder / "dog").rename(folder / "狗")
        (folder / "cat").rename(folder / "éa")
        (folder / "éa" / "1.left.npy").rename(folder / "éa" / f"{composed}.left.npy")
        (folder / "éa" / "1.right.npy").rename(folder / "éa" / f"{apart}.right.npy")
        samples = [f"éa/{apart}", "éa/2", "éa/3", "狗/1", "狗/2", "狗/3"]
        data = from_folder(folder, pd.DataFrame({"stem": samples, "domain": ["è", *"abcde"]}))
        assert data.class_names == ("éa", "狗") and of(data) == ["cat/2", "cat/3", "cat/1", *SAMPLES[3:]]
        assert data.domain_names == (*"abcde", "è") and data.domains.tolist() == [0, 1, 5, 2, 3, 4]

    def test_a_link_to_nothing(self, folder):
        path = folder / "cat" / "1.left.npy"
        path.unlink()
        path.symlink_to(folder / "gone.npy")
        refuse(folder, r"1\.left\.npy is a link to nothing: bring back")

    def test_two_files_for_one_modality(self, folder):
        for ending in ("wav", "flac"):
            (folder / "cat" / f"1.{ending}").touch()
        refuse(folder, r"1\.flac and .*1\.wav are both the audio of sample 1: keep one, or .* 1\.left\.wav")

    def test_two_kinds_for_one_modality(self, folder):
        (folder / "dog" / "3.left.npy").rename(folder / "dog" / "3.left.wav")
        refuse(folder, r"3\.left\.wav and .*1\.left\.npy are of one modality and of different kinds: rename one")

    @pytest.mark.parametrize(
        ("name", "message"), [("v1.0.npy", "ends at the first dot, and '0' cannot"), ("1.gap.npy", "called 'gap'")]
    )
    def test_what_no_modality_can_be_called(self, folder, name, message):
        np.save(folder / "cat" / name, np.ones(3))
        refuse(folder, f"{name}: .*{message}")


class TestIncomplete:
    def test_a_missing_modality_is_refused_or_counted(self, folder, capsys):
        for name in ("cat/1.left.npy", "cat/2.left.npy", "cat/3.right.npy", "dog/1.left.npy"):
            (folder / name).unlink()
        lack = "cat/1 has no left; cat/2 has no left; cat/3 has no right; and 1 more"
        refuse(
            folder, f"4 of 6 samples lack a modality: {lack}. There is left for 3, right for 5.*skip_incomplete=True"
        )
        (folder / "cat" / "9.left.npy").write_bytes((folder / "dog" / "2.left.npy").read_bytes())
        (folder / "cat" / "9.right.npy").write_bytes((folder / "dog" / "2.right.npy").read_bytes())
        stems = [*SAMPLES, "cat/9"]
        domains = pd.DataFrame({"stem": stems, "domain": [*"abcdefg"], "part": [*["train"] * 6, "test"]})
        data = from_folder(folder, domains, skip_incomplete=True)
        assert of(data) == ["dog/2", "dog/2", "dog/3"] and data.domain_names == (*"abcdefg",)
        assert data.domains.tolist() == [6, 4, 5] and data.truth["part"].tolist() == [2, 0, 0]
        assert f"4 of 7 samples are left out: {lack}." in capsys.readouterr().out

    def test_a_class_of_which_nothing_remains_is_refused(self, folder):
        for stem in STEMS:
            (folder / "cat" / f"{stem}.left.npy").unlink()
        refuse(folder, "cat has no complete sample", skip_incomplete=True)

    @pytest.mark.parametrize(
        ("ending", "message"),
        [
            ("jpg", "cannot be read as a picture: .*cannot identify"),
            ("wav", "cannot be decoded"),
            ("mp4", "cannot be decoded"),
            ("npy", "cannot be read as an array of numbers"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_named_or_counted(self, tmp_path, capsys, ending, message):
        write_own_folder(tmp_path, 2)
        for place in sorted(tmp_path.glob("*/*.wav")):
            np.save(place.with_suffix(".npy"), np.ones((2, 3), np.uint8))
            write_video(place.with_suffix(".mp4"), np.zeros((2, 16, 16, 3), np.uint8), 10)
        bad = tmp_path / "cat" / f"000.{ending}"
        bad.write_bytes(b"")
        refuse(tmp_path, rf"000\.{ending} {message}.* Repair the file, or .*skip_incomplete=True", seconds=0.5)
        data = from_folder(tmp_path, seconds=0.5, skip_incomplete=True)
        assert data.labels.tolist() == [0, 1, 1] and f"1 of 4 samples are left out: {bad} " in capsys.readouterr().out

    def test_a_truncated_picture_and_one_of_more_than_8_bits(self, tmp_path):
        write_own_folder(tmp_path, 1)
        whole = (tmp_path / "cat" / "000.jpg").read_bytes()
        (tmp_path / "cat" / "000.jpg").write_bytes(whole[: len(whole) // 2])
        refuse(tmp_path, r"000\.jpg cannot be read as a picture: .*truncated")
        (tmp_path / "cat" / "000.jpg").unlink()
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "cat" / "000.png")
        refuse(tmp_path, r"000\.png .* more than 8 bits; save them as \.npy")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.ones((4, 6), np.float32), r"3\.left\.npy has shape \(4, 6\) of float32, .*1\.left\.npy has \(4, 5\)"),
            (np.ones((4, 5)), "of float64.* must agree. Cut, pad or convert"),
            (np.full((4, 5), np.nan, np.float32), r"3\.left\.npy has NaN, infinite values or values beyond"),
            (np.full((4, 5), -1e30, np.float32), "values beyond"),
            (np.array([[{}]], object), r"3\.left\.npy cannot be read as an array of numbers"),
        ],
    )
    def test_an_array_that_does_not_fit(self, folder, array, message):
        np.save(folder / "dog" / "3.left.npy", array, allow_pickle=True)
        refuse(folder, message)

    @pytest.mark.parametrize(
        ("array", "message"),
        [(np.ones(3, int), "holds int64; expected"), (np.float32(1), "expected at least one axis")],
    )
    def test_arrays_that_cannot_be_inputs(self, folder, array, message):
        for path in folder.glob("*/*.left.npy"):
            np.save(path, array)
        refuse(folder, rf"1\.left\.npy.*{message}")


def test_what_would_not_fit_into_memory_is_not_read(tmp_path):
    """Signal, its copy in a part, and the input with four bytes a value."""
    write_own_folder(tmp_path, 2)
    for path in tmp_path.glob("*/*.wav"):
        path.write_bytes(b"nothing that could be read")
    image, sound = 4 * 3 * 1024**2 * (2 + 4) / 1e9, 4 * (2 * 2 * 60 * 8000 + 4 * 40 * 3749) / 1e9
    refuse(
        tmp_path,
        f"4 samples would take {image + sound:.3g} GB of memory .audio {sound:.3g}, image {image:.3g}., more than "
        "most_gigabytes=0.05. Take fewer",
        size=1024,
        seconds=60,
        sample_rate=8000,
        most_gigabytes=0.05,
    )


@pytest.mark.parametrize("dial", [{"sample_rate": 100}, {"seconds": 0}, {"size": 2.5}, {"frames": 0}, {"colour": 1}])
def test_a_wrong_dial_is_named(folder, dial):
    refuse(folder, f"{next(iter(dial))} must be", **dial)


class TestSplitsOf:
    def test_follows_the_parts_of_the_table(self, folder):
        parts = ["test", "validation", "train", "train", "train", "test"]
        splits = Splits.of(from_folder(folder, pd.DataFrame({"stem": SAMPLES, "part": parts})))
        assert [of(part) for part in (splits.train, splits.validation, splits.test)] == [
            ["cat/3", "dog/1", "dog/2"],
            ["cat/2"],
            ["cat/1", "dog/3"],
        ]

    def test_draws_them_otherwise(self, toy):
        one, again, other = (Splits.of(toy, (0.5, 0.3, 0.2), seed) for seed in (0, 0, 1))
        assert [len(part) for part in (one.train, one.validation, one.test)] == [120, 72, 48]
        assert one.train.fingerprint() == again.train.fingerprint() != other.train.fingerprint()

    def test_names_an_empty_part_and_wrong_fractions(self, folder, toy):
        with pytest.raises(ValueError, match="fractions must be three"):
            Splits.of(toy, (0.5, 0.5))
        with pytest.raises(ValueError, match="test part is empty: 2 samples are too few"):
            Splits.of(MultimodalDataset.from_arrays({"x": np.ones((2, 1))}, [0, 0]))
        parts = pd.DataFrame({"stem": SAMPLES, "part": [*["train"] * 5, "test"]})
        with pytest.raises(ValueError, match=r"validation part is empty: .* or none is named so"):
            Splits.of(from_folder(folder, parts))
