"""Readers of the official lists: the traps by small examples, counts and classes on the real files."""

import json
import os
import pickle
from collections import Counter

import pandas as pd
import pytest

from mmlib.data.clips import ave, cremad, epic_kitchens, hac, kinetics_sounds
from mmlib.data.clips.epic_kitchens import RefusedPickle, read_table
from mmlib.data.clips.stand_in import _write_table


def per_part(recipe, *columns):
    return Counter(tuple(clip.columns[name] for name in columns) for clip in recipe.clips)


class TestRealFiles:
    @pytest.fixture
    def splits(self, sources):
        return sources / "splits"

    def test_cremad(self, splits):
        recipe = cremad.recipe(splits / "cremad")
        assert per_part(recipe, "split") == {("train",): 6698, ("test",): 744}
        assert {clip.label for clip in recipe.clips} == set(cremad.CLASSES)
        names = (splits / "cremad" / "stat.csv").read_bytes().decode("utf-8-sig").split()
        assert tuple(names) == cremad.CLASSES, "the order of the file that begins with a byte order mark"
        actors, bad = cremad.known_traps(recipe.clips)
        assert actors.startswith("91 of 91 actors") and bad.startswith("5 clips are known as bad")

    def test_ave(self, splits):
        recipe = ave.recipe(splits / "ave")
        assert per_part(recipe, "split") == {("train",): 3339, ("validation",): 402, ("test",): 402}
        assert len({clip.key for clip in recipe.clips}) == 4143
        assert len({clip.columns["video"] for clip in recipe.clips}) == 4097
        assert {clip.label for clip in recipe.clips} == set(ave.CLASSES) and len(ave.CLASSES) == 28
        assert all(clip.columns["end"] - clip.columns["start"] >= 1 for clip in recipe.clips)
        twice, both = ave.known_traps(recipe.clips)
        assert twice.startswith("27 videos") and both.startswith("10 validation and 8 test videos")

    def test_kinetics_sounds(self, splits):
        recipe = kinetics_sounds.recipe(splits / "kinetics_sounds")
        assert per_part(recipe, "split") == {("train",): 14799, ("validation",): 1320, ("test",): 2597}
        assert {clip.label for clip in recipe.clips} == set(kinetics_sounds.CLASSES)
        assert len(kinetics_sounds.CLASSES) == 31

    def test_epic_kitchens(self, splits):
        recipe = epic_kitchens.recipe(splits / "epic_kitchens")
        assert per_part(recipe, "domain", "split") == {
            ("D1", "train"): 1543,
            ("D2", "train"): 2495,
            ("D3", "train"): 3897,
            ("D1", "test"): 435,
            ("D2", "test"): 750,
            ("D3", "test"): 974,
        }
        assert {clip.label for clip in recipe.clips} == set(epic_kitchens.CLASSES)
        people = {clip.columns["domain"]: clip.columns["video"][:3] for clip in recipe.clips}
        assert people == {"D1": "P08", "D2": "P01", "D3": "P22"}
        first = recipe.clips[0]
        assert (first.label, first.columns["start"], first.columns["first_frame"]) == ("open", 4.09, 245)

    def test_hac(self, splits):
        recipe = hac.recipe(splits / "hac")
        assert per_part(recipe, "domain", "split") == {
            ("human", "train"): 1111,
            ("human", "test"): 276,
            ("animal", "train"): 730,
            ("animal", "test"): 176,
            ("cartoon", "train"): 870,
            ("cartoon", "test"): 218,
        }
        assert "24 clips are both in a training and a test list" in hac.known_traps(recipe.clips)[0]


class TestSmallLists:
    def test_line_ends_byte_order_marks_and_empty_lines_do_not_matter(self, tmp_path):
        path = tmp_path / "train.csv"
        path.write_bytes("1001_DFA_ANG_XX,ANG\r\n\r\n1002_IEO_SAD_LO,SAD\r\n".encode("utf-8-sig"))
        assert cremad.read_list(path) == [("1001_DFA_ANG_XX", "ANG"), ("1002_IEO_SAD_LO", "SAD")]

    @pytest.mark.parametrize("line", ["1001_DFA_ANG_XX,SAD", "1001_DFA_ANG_XX", "1001_DFA_JOY_XX,JOY"])
    def test_a_label_that_is_not_the_clips_is_named(self, tmp_path, line):
        (tmp_path / "train.csv").write_text(f"1001_DFA_ANG_XX,ANG\n{line}\n")
        with pytest.raises(ValueError, match=r"train\.csv(, line 2)?: '"):
            cremad.read_list(tmp_path / "train.csv")

    def test_a_clip_listed_twice_is_named(self, tmp_path):
        for part in ("train", "test"):
            (tmp_path / f"{part}.csv").write_text("1001_DFA_ANG_XX,ANG\n")
        with pytest.raises(ValueError, match="1 clips are listed twice, first 1001_DFA_ANG_XX"):
            cremad.recipe(tmp_path)

    def test_a_missing_list_says_where_it_is_published(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"train\.csv is missing below .* published at https://"):
            cremad.recipe(tmp_path)

    def test_ave_header_and_an_event_without_length(self, tmp_path):
        path = tmp_path / "trainSet.txt"
        path.write_text("Category&VideoID&Quality&StartTime&EndTime\nBark&abc&good&3&3\nCat&abc&good&0&10\n")
        assert ave.read_list(path) == [("abc", "Bark", 3.0, 4.0), ("abc", "Cat", 0.0, 10.0)]
        path.write_text("Bark&abc&good&3&5\nBark&abc&good&5\n")
        with pytest.raises(ValueError, match="line 2: 'Bark&abc&good&5' is not"):
            ave.read_list(path)
        path.write_text("Barking&abc&good&3&5\n")
        with pytest.raises(ValueError, match="'Barking' is not a class"):
            ave.read_list(path)

    def test_kinetics_lists_and_json_must_agree(self, tmp_path):
        (tmp_path / "my_train.txt").write_bytes(b"abcdefghijk_000001_000011,10,2\r\n")
        (tmp_path / "my_test.txt").write_bytes(b"bbcdefghijk_7,10,0\r\n")
        parts = kinetics_sounds.read_lists(tmp_path)
        assert parts["abcdefghijk_000001_000011"] == ("train", "bowling"), "the json file may be missing"
        database = {
            "abcdefghijk_000001_000011": {"subset": "training", "label": "bowling"},
            "bbcdefghijk_7": {"subset": "testing", "label": "singing"},
        }
        content = {"labels": kinetics_sounds.CLASSES, "database": database}
        (tmp_path / "KS_train_val.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="disagree about 1 clips, first bbcdefghijk_7"):
            kinetics_sounds.read_lists(tmp_path)
        (tmp_path / "KS_train_val.json").write_text(json.dumps(content | {"labels": ["singing"]}))
        with pytest.raises(ValueError, match="other classes than the variant of 31"):
            kinetics_sounds.read_lists(tmp_path)

    def test_both_ways_to_name_a_kinetics_clip_are_found(self, tmp_path):
        (tmp_path / "my_train.txt").write_text("abcdefghijk_000007_000017,10,2\n")
        (tmp_path / "my_test.txt").write_text("bbcdefghijk_7,10,0\n")
        for name in ("abcdefghijk_000007_000017", "bbcdefghijk_000007_000017"):
            (tmp_path / f"{name}.mp4").touch()
        assert all(clip.files["clip"].exists() for clip in kinetics_sounds.recipe(tmp_path).clips)

    def test_clips_are_found_whatever_their_ending_and_once(self, tmp_path):
        """Downloaders leave the container in which a clip was offered."""
        (tmp_path / "my_train.txt").write_text("abcdefghijk_000007_000017,10,2\n")
        (tmp_path / "my_test.txt").write_text("bbcdefghijk_7,10,0\n")
        for part, file in ave.FILES.items():
            (tmp_path / file).write_text(f"Bark&{part}-video&good&0&2\n")
        (tmp_path / "train.csv").write_text("1001_DFA_ANG_XX,ANG\n")
        (tmp_path / "test.csv").write_text("")
        for name in (
            *("abcdefghijk_000007_000017.webm", "bbcdefghijk_7.MP4", "train-video.mkv", "validation-video.avi"),
            *("test-video.MP4", "VideoFlash/1001_DFA_ANG_XX.mp4", "unlisted.mp4", "more/unlisted.webm"),
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        for reader in (kinetics_sounds, ave, cremad):
            assert all(path.is_file() for clip in reader.recipe(tmp_path).clips for path in clip.files.values())
        (tmp_path / "more" / "abcdefghijk_7.mp4").touch()
        with pytest.raises(
            ValueError, match=r"000017\.webm and .*more/abcdefghijk_7\.mp4 are both the clip abcdefghijk"
        ):
            kinetics_sounds.recipe(tmp_path)

    def test_hac_labels_out_of_range_are_named(self, tmp_path):
        (tmp_path / "list.csv").write_text("a.mp4,6\r\nb.mp4,7\r\n")
        with pytest.raises(ValueError, match=r"line 2: 'b\.mp4,7' is not of the form"):
            hac.read_list(tmp_path / "list.csv")


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestPickles:
    ROWS = (
        (7, "P08", "P08_01", "open door", "00:00:04.09", "00:01:05.84", 245, 350, "open", 2),
        (8, "P08", "P08_01", "cut it", "01:00:00.50", "01:00:01.00", 400, 500, "cut", 5),
    )
    NAMES = ("uid", "participant_id", "video_id", "narration", *epic_kitchens.COLUMNS[2:6], "verb", "verb_class")

    @pytest.fixture
    def table(self, tmp_path):
        _write_table(tmp_path / "D1_train.pkl", pd.DataFrame(list(self.ROWS), columns=list(self.NAMES)))
        return tmp_path / "D1_train.pkl"

    def test_a_table_is_read_back(self, table):
        found = read_table(table)
        assert found["video_id"].tolist() == ["P08_01", "P08_01"] and found["verb_class"].tolist() == [2, 5]
        assert [epic_kitchens._seconds(stamp) for stamp in found["stop_timestamp"]] == [65.84, 3601.0]

    def test_a_malicious_file_is_refused_and_nothing_of_it_runs(self, tmp_path):
        for content in (Evil(tmp_path / "ran"), {"frame": [Evil(tmp_path / "ran")]}):
            path = tmp_path / "evil.pkl"
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(RefusedPickle, match=r"evil\.pkl is refused: it asks for (posix|nt)\.system"):
                read_table(path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("wanted", ["builtins eval", "numpy load", "pandas.io.pickle read_pickle", "os system"])
    def test_whatever_is_not_on_the_list_is_refused(self, tmp_path, wanted):
        path = tmp_path / "evil.pkl"
        path.write_bytes(b"c" + wanted.replace(" ", "\n").encode() + b"\n(S'1'\ntR.")
        with pytest.raises(RefusedPickle, match="it asks for " + wanted.replace(" ", r"\.")):
            read_table(path)

    def test_a_damaged_or_different_file_is_named(self, table, tmp_path):
        (tmp_path / "cut.pkl").write_bytes(table.read_bytes()[:200])
        (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
        for name in ("cut.pkl", "list.pkl"):
            with pytest.raises(ValueError, match=f"{name} is damaged or not a list of MM-SADA"):
                read_table(tmp_path / name)

    def test_an_unknown_verb_is_named(self, tmp_path):
        rows = [(*self.ROWS[0][:-1], 8)]
        _write_table(tmp_path / "x.pkl", pd.DataFrame(rows, columns=list(self.NAMES)))
        with pytest.raises(ValueError, match=r"verb_class 8 is not in 0 … 7"):
            read_table(tmp_path / "x.pkl")
