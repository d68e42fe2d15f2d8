import tarfile

import numpy as np
import pytest

from mmlib.data.clips import media
from mmlib.data.clips.benchmark import Format
from mmlib.data.clips.media import CorruptClip, Pictures, every_second, middle_window, picture_bytes, read_media

RATE = 16000


def grey_ramp(count=20):
    """Frame number n is all n · 12: every frame says which it is."""
    return np.repeat(np.arange(count, dtype=np.uint8) * 12, 32 * 48 * 3).reshape(count, 32, 48, 3)


def tone(frequency=500, seconds=2.0, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (12000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)


def pitch(waveform, rate):
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * rate / len(waveform)


@pytest.fixture(params=[".flv", ".mp4", ".avi"])
def clip(request, tmp_path):
    path = tmp_path / f"clip{request.param}"
    media.write_video(path, grey_ramp(), 10, tone(), RATE)
    return path


def shown(frames):
    return (frames.mean((1, 2, 3)) / 12).round().astype(int).tolist()


def test_every_format_gives_the_frames_and_the_sound_that_were_written(clip):
    result = read_media(clip, RATE, lambda times: np.array([0, 7, 19, 7]))
    assert shown(result.frames) == [0, 7, 19, 7] and result.frames.shape == (4, 32, 48, 3)
    assert result.facts["frames"] == 20 and result.facts["sample_rate"] == RATE
    assert abs(len(result.waveform) / RATE - 2) < 0.15
    assert abs(pitch(result.waveform[4000:28000], RATE) - 500) < 2


def test_sound_is_resampled_without_a_change_of_pitch(clip):
    waveform = read_media(clip, 22050).waveform
    assert abs(len(waveform) / 22050 - 2) < 0.15 and abs(pitch(waveform[4000:40000], 22050) - 500) < 2


def test_a_stretch_of_sound_begins_and_ends_where_it_should(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    silence = np.zeros(RATE * 30, np.int16)
    silence[20 * RATE : 21 * RATE] = tone(seconds=1)
    media.write_sound(path, silence, RATE)
    decoded, decode = [], media.Decoder.__call__
    monkeypatch.setattr(media.Decoder, "__call__", lambda self, packet: decoded.append(packet) or decode(self, packet))
    found = read_media(path, RATE, start=19.5, stop=21.5).waveform
    assert len(found) == 2 * RATE and sum(packet.duration for packet in decoded) < 4 * RATE, "not what is before it"
    loud = np.abs(found.astype(int)) > 100
    assert abs(loud.argmax() / RATE - 0.5) < 0.01 and abs((len(loud) - loud[::-1].argmax()) / RATE - 1.5) < 0.01


def test_grey_frames_have_one_channel_and_are_scaled(clip):
    frames = read_media(clip, choose=lambda times: np.array([5]), size=(16, 20), pixels="gray").frames
    assert frames.shape == (1, 16, 20, 1) and shown(frames) == [5]


def test_frames_of_every_second_are_spread_over_the_clip():
    times = np.arange(0, 6.5, 0.1)
    assert times[every_second(0, np.inf, 7)(times)].round(1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert times[every_second(0, np.inf, 3)(times)].round(1).tolist() == [0, 3, 6]
    assert times[every_second(2, 4, 4)(times)].round(1).tolist() == [2, 3, 2, 3], "gone through again"
    assert times[every_second(9, 10, 2)(times)].round(1).tolist() == [6.4, 6.4], "beyond the end: the last frame"


def test_windows_lie_in_the_middle_and_start_again_in_short_clips():
    assert middle_window(4, 2)(np.zeros(20)).tolist() == [6, 8, 10, 12]
    assert middle_window(4, 2)(np.zeros(5)).tolist() == [0, 2, 4, 1]


def test_sound_is_cut_or_repeated():
    form = Format((1, 1), seconds=2, sample_rate=3)
    assert form.sound(np.array([1, 2, 3, 4])).tolist() == [1, 2, 3, 4, 1, 2]
    assert form.sound(np.arange(9)).tolist() == [0, 1, 2, 3, 4, 5]


class TestBadFiles:
    def test_truncated(self, tmp_path):
        media.write_video(tmp_path / "whole.mp4", grey_ramp(), 10, tone(), RATE)
        (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:2000])
        with pytest.raises(CorruptClip, match=r"cut\.mp4 cannot be decoded"):
            read_media(tmp_path / "cut.mp4", RATE)

    def test_shorter_than_it_says(self, tmp_path):
        media.write_video(tmp_path / "whole.avi", np.concatenate([grey_ramp()] * 3), 10)
        content = (tmp_path / "whole.avi").read_bytes()
        (tmp_path / "cut.avi").write_bytes(content[: len(content) // 3])
        with pytest.raises(CorruptClip, match=r"cut\.avi says that it lasts"):
            read_media(tmp_path / "cut.avi", choose=every_second(0, 9, 3))

    def test_a_pointer_in_the_place_of_the_clip(self, tmp_path):
        (tmp_path / "a.flv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        with pytest.raises(CorruptClip, match="is a git-LFS pointer and not the clip"):
            read_media(tmp_path / "a.flv", RATE)

    def test_no_sound_or_no_pictures(self, tmp_path):
        media.write_video(tmp_path / "silent.mp4", grey_ramp(), 10)
        media.write_sound(tmp_path / "blind.wav", tone(), RATE)
        with pytest.raises(CorruptClip, match=r"silent\.mp4 has no audio stream"):
            read_media(tmp_path / "silent.mp4", RATE)
        with pytest.raises(CorruptClip, match=r"blind\.wav has no video stream"):
            read_media(tmp_path / "blind.wav", choose=every_second(0, 9, 3))
        with pytest.raises(CorruptClip, match=r"no sound from 5\.00 s on"):
            read_media(tmp_path / "blind.wav", RATE, start=5, stop=6)

    def test_a_picture_that_is_none(self):
        with pytest.raises(CorruptClip, match=r"x\.jpg cannot be decoded as a JPEG"):
            media.read_picture(b"nothing", "x.jpg")


class TestPictures:
    @pytest.fixture(params=["folder", "archive"])
    def pictures(self, request, tmp_path):
        folder = tmp_path / "P01_01"
        (folder / "u").mkdir(parents=True)
        for number in (1, 2):
            (folder / "u" / f"frame_{number}.jpg").write_bytes(picture_bytes(grey_ramp(4)[number]))
        if request.param == "archive":
            with tarfile.open(tmp_path / "packed.tar", "w") as archive:
                archive.add(folder, "./")
            folder = tmp_path / "packed"
        return Pictures(folder)

    def test_are_read_by_name(self, pictures):
        for number in (1, 2):
            picture = media.read_picture(pictures.read(f"u/frame_{number}.jpg"), "x", (8, 10))
            assert picture.shape == (8, 10, 3) and abs(picture.mean() - 12 * number) < 2

    def test_a_missing_one_is_named(self, pictures):
        with pytest.raises(CorruptClip, match=r"frame_3\.jpg"):
            pictures.read("u/frame_3.jpg")

    def test_a_missing_folder_and_a_damaged_archive_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"P09_09 \(a folder of frames\) or P09_09\.tar is missing"):
            Pictures(tmp_path / "P09_09")
        (tmp_path / "P01_02.tar").write_bytes(b"no archive at all" * 100)
        with pytest.raises(CorruptClip, match=r"P01_02\.tar cannot be read"):
            Pictures(tmp_path / "P01_02")
