"""Clips as they really come: cut by stream copy, spliced, turned, with late, longer, damaged or changing sound."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from mmlib.data.clips import media
from mmlib.data.clips.frames import Decoder
from mmlib.data.clips.media import CorruptClip, every_second, middle_window, read_media

RATE = 16000
OPEN = {"x265-params": "log-level=none:open-gop=1:keyint=40:min-keyint=40:scenecut=0:bframes=4:b-adapt=0"}
av.logging.set_level(None)


def tone(seconds, rate=RATE):
    return (12000 * np.sin(2 * np.pi * 500 * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def numbered(count=100, height=48, width=64, first=0):
    """Frames with their number in them: eight columns, white where a bit is set."""
    bits = (np.arange(first, first + count)[:, None] >> np.arange(8)) & 1
    return (255 * bits.astype(np.uint8)).repeat(width // 8, 1)[:, None, :, None].repeat(height, 1).repeat(3, 3)


def numbers(frames):
    """Which frames these are (count, height, width, channels)."""
    columns = np.array_split(np.asarray(frames).mean((1, 3)), 8, axis=1)
    return sum((column.mean(1) > 128).astype(int) << bit for bit, column in enumerate(columns)).tolist()


def encode(
    path, frames=(), rate=25, codec="libx264", options=None, sounds=(), late=0.0, interval=1, sound_codec="aac", **about
):
    """Pictures, each shown for `interval` times 1/`rate` s, and sounds, of which the first begins `late` seconds after
    the pictures. `about` are properties of the video stream."""
    with av.open(str(path), "w") as file:
        if len(frames):
            video = file.add_stream(codec, rate=rate, options={"g": "50", **(options or {})})
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            for name, value in about.items():
                if name == "rotation":
                    video.set_display_rotation(*value)
                else:
                    setattr(video.codec_context, name, value)
        tracks = [file.add_stream(sound_codec, rate=RATE, layout="mono") for _ in sounds]
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number * interval, Fraction(1, rate)
            file.mux(video.encode(frame))
        if len(frames):
            file.mux(video.encode())
        for track, samples in zip(tracks, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(late * RATE), Fraction(1, RATE)
            file.mux(track.encode(frame))
            file.mux(track.encode())
    return path


def copied(path, to, start=0.0, keep=lambda number, packet: True):
    """The packets that are to be kept, unchanged, in another file, with all time stamps earlier by `start` seconds."""
    with av.open(str(path)) as source, av.open(str(to), "w") as file:
        streams = {stream.index: file.add_stream_from_template(stream) for stream in source.streams}
        for number, packet in enumerate(source.demux()):
            if packet.size and keep(number, packet):
                earlier = round(start / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts - earlier
                packet.dts = None if packet.dts is None else packet.dts - earlier
                packet.stream = streams[packet.stream_index]
                file.mux(packet)
    return to


def decoded(path):
    """What another program shows that decodes everything."""
    with av.open(str(path)) as file:
        return numbers([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def loud_from(waveform):
    """Seconds until sound begins."""
    return (np.abs(waveform.astype(int)) > 1000).argmax() / RATE


def times_of_all(kept):
    """A choice that takes the first frame and keeps the times of all."""

    def choose(times):
        kept[:] = times.round(2).tolist()
        return np.array([0])

    return choose


@pytest.fixture
def decoding(monkeypatch):
    """The packets that were handed to a decoder."""
    packets, decode = [], Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, packet: packets.append(packet) or decode(self, packet))
    return packets


class TestPicturesThatAreNotShown:
    @pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
    def test_before_a_cut_by_stream_copy(self, tmp_path, codec, decoding):
        options = OPEN if codec == "libx265" else {"bf": "2"}
        encode(tmp_path / "whole.mp4", numbered(), codec=codec, options=options)
        cut = copied(tmp_path / "whole.mp4", tmp_path / "cut.mp4", start=1.0)
        with av.open(str(cut)) as file:
            assert sum(packet.is_discard for packet in file.demux()) > 2
        found = read_media(cut, choose=middle_window(15, 2))
        assert len(decoded(cut)) == found.facts["frames"] == 75 and found.facts["duration"] == 3.0
        assert numbers(found.frames) == list(range(25 + 22, 25 + 52, 2)), "the middle of the 75 that are shown"
        decoding.clear()
        assert numbers(read_media(cut, choose=every_second(0, 9, 1)).frames) == [25]
        assert len(decoding) < 40, "nothing after it"

    def test_leading_pictures_whose_references_were_cut_away(self, tmp_path):
        encode(tmp_path / "whole.mkv", numbered(), codec="libx265", options=OPEN)
        with av.open(str(tmp_path / "whole.mkv")) as file:
            _, second, *_ = [number for number, packet in enumerate(file.demux()) if packet.is_keyframe]
        cut = copied(tmp_path / "whole.mkv", tmp_path / "cut.mkv", keep=lambda number, packet: number >= second)
        there = decoded(cut)
        found = read_media(cut, choose=middle_window(9, 3))
        assert found.facts["frames"] == len(there) < 100 - second
        first = (len(there) - 27) // 2
        assert numbers(found.frames) == there[first : first + 27 : 3]

    def test_alternate_references_of_vp8(self, tmp_path):
        encode(tmp_path / "whole.webm", numbered(20), codec="libvpx")
        with av.open(str(tmp_path / "whole.webm")) as source, av.open(str(tmp_path / "hidden.webm"), "w") as file:
            stream = file.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux()):
                if packet.size:
                    content = bytearray(bytes(packet))
                    content[0] &= 0xFF - 0x10 if number in (3, 9) else 0xFF  # the flag that says to show it
                    hidden = av.Packet(bytes(content))
                    hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
                    hidden.is_keyframe, hidden.stream = packet.is_keyframe, stream
                    file.mux(hidden)
        found = read_media(tmp_path / "hidden.webm", choose=lambda times: np.array([5, 12, len(times) - 1]))
        assert numbers(found.frames) == [6, 14, 19] and found.facts["frames"] == 18


class TestKeyFrames:
    @pytest.mark.parametrize(
        ("ending", "codec", "options"),
        [
            ("mp4", "libx264", {"bf": "3", "g": "20", "x264-params": "open-gop=1"}),
            ("mp4", "libx265", OPEN | {"g": "20"}),
            ("ts", "mpeg2video", {"bf": "2", "g": "20"}),
            ("webm", "libvpx-vp9", {"g": "20", "cpu-used": "8"}),
        ],
    )
    def test_only_what_leads_to_the_frames_wanted_is_decoded_and_they_are_the_same(
        self, tmp_path, decoding, ending, codec, options
    ):
        moving = np.random.default_rng(0).integers(0, 255, (1, 48, 160, 3)).astype(np.uint8)
        moving = np.concatenate([moving[:, :, number : number + 64] for number in range(96)])
        path = encode(tmp_path / f"clip.{ending}", moving, codec=codec, options=options)
        every = read_media(path, choose=lambda times: np.arange(len(times))).frames
        for wanted in ([95], [70, 71, 3], [39, 41]):
            decoding.clear()
            found = read_media(path, choose=lambda times, wanted=wanted: np.array(wanted))
            assert np.array_equal(found.frames, every[wanted]) and found.facts["lost"] == 0
            assert len(decoding) < 70

    def test_a_stream_that_is_renewed_bit_by_bit_is_decoded_from_its_beginning(self, tmp_path):
        """Its key frames say where one may begin, not that the picture is whole there."""
        moving = np.random.default_rng(0).integers(0, 255, (1, 48, 160, 3)).astype(np.uint8)
        moving = np.concatenate([moving[:, :, number : number + 64] for number in range(60)])
        path = encode(tmp_path / "clip.mp4", moving, options={"x264-params": "intra-refresh=1:keyint=20", "bf": "0"})
        every = read_media(path, choose=lambda times: np.arange(len(times))).frames
        for wanted in (21, 23, 42):
            found = read_media(path, choose=lambda times, wanted=wanted: np.array([wanted]))
            assert np.array_equal(found.frames[0], every[wanted])

    def test_a_stretch_of_a_clip_takes_its_sound_from_there(self, tmp_path):
        path = encode(tmp_path / "clip.mp4", numbered(60), rate=10, sounds=[np.concatenate([tone(3) * 0, tone(3)])])
        found = read_media(path, RATE, every_second(2, 5, 3), start=2.0, stop=5.0)
        assert numbers(found.frames) == [20, 30, 40] and abs(loud_from(found.waveform) - 1) < 0.07


class TestLength:
    @pytest.mark.parametrize("ending", ["mp4", "mkv", "flv", "avi", "ts"])
    def test_sound_may_be_longer_than_pictures(self, tmp_path, ending):
        path = encode(tmp_path / f"clip.{ending}", numbered(10), rate=2, sounds=[tone(8)])
        found = read_media(path, RATE, every_second(0, 10, 4))
        assert found.facts["duration"] == 5.0 and abs(found.facts["sound_seconds"] - 8) < 0.15

    @pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
    def test_a_slide_show_and_a_frozen_end_are_no_early_ends(self, tmp_path, ending):
        path = encode(tmp_path / f"slides.{ending}", numbered(5), interval=50)  # one in two seconds
        assert numbers(read_media(path, choose=every_second(0, 10, 5)).frames) == [0, 1, 2, 3, 4]
        path = encode(tmp_path / f"frozen.{ending}", numbered(25), sounds=[tone(4)])
        assert read_media(path, RATE, every_second(0, 10, 4)).facts["frames"] == 25

    def test_the_last_picture_of_a_slide_show_may_have_no_length(self, tmp_path):
        path = encode(tmp_path / "slides.flv", numbered(5), interval=50, codec="flv")
        head, _, rest = path.read_bytes().partition(b"duration\0")
        path.write_bytes(head + b"duration\0" + struct.pack(">d", 10.0) + rest[8:])  # FFmpeg writes 8.04 s
        assert read_media(path, choose=every_second(0, 10, 5)).facts["frames"] == 5

    @pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
    def test_a_file_that_was_cut_off_is_named(self, tmp_path, ending):
        options = {"movflags": "faststart"} if ending == "mp4" else {}
        noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3)).astype(np.uint8)
        path = tmp_path / f"whole.{ending}"
        with av.open(str(path), "w", options=options) as file:
            video = file.add_stream("flv" if ending == "flv" else "mpeg4", rate=10)
            video.height, video.width = 48, 64
            for pixels in noise:
                file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(video.encode())
        (tmp_path / f"cut.{ending}").write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
        assert read_media(path, choose=every_second(0, 9, 2)).facts["frames"] == 50
        with pytest.raises(CorruptClip, match=rf"cut\.{ending} .*truncated"):
            read_media(tmp_path / f"cut.{ending}", choose=every_second(0, 9, 2))

    def test_a_sound_file_that_was_cut_off_is_named(self, tmp_path):
        media.write_sound(tmp_path / "whole.wav", tone(8), RATE)
        (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[: 44 + 4 * RATE])
        with pytest.raises(CorruptClip, match=r"cut\.wav says that it lasts 8\.0 s and ends after 2\.0 s"):
            read_media(tmp_path / "cut.wav", RATE)
        assert len(read_media(tmp_path / "cut.wav", RATE, start=0.5, stop=1.5).waveform) == RATE, "that part is whole"

    def test_a_sound_file_whose_header_was_written_before_its_length_was_known(self, tmp_path):
        media.write_sound(tmp_path / "piped.wav", tone(2), RATE)
        content = bytearray((tmp_path / "piped.wav").read_bytes())
        content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
        (tmp_path / "piped.wav").write_bytes(content)
        assert len(read_media(tmp_path / "piped.wav", RATE).waveform) == 2 * RATE


class TestOneClock:
    @pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
    def test_silence_comes_before_sound_that_begins_late(self, tmp_path, ending):
        path = encode(tmp_path / f"late.{ending}", numbered(50), rate=10, sounds=[tone(3)], late=1.98)
        found = read_media(path, RATE, every_second(0, 9, 5))
        assert abs(loud_from(found.waveform) - 1.98) < 0.1 and abs(found.facts["offset"] - 1.98) < 0.1
        assert abs(found.facts["sound_seconds"] - 4.98) < 0.15 and 0.3 < found.facts["silence"] < 0.45
        event = read_media(path, RATE, every_second(1, 3, 2), start=1.0, stop=3.0)
        assert len(event.waveform) == 2 * RATE and abs(loud_from(event.waveform) - 0.98) < 0.1

    def test_pictures_that_begin_late_are_looked_up_by_the_clocks_time(self, tmp_path):
        path = encode(tmp_path / "late.mkv", numbered(40), rate=10, sounds=[tone(6)], late=-2.0)
        times = []
        found = read_media(path, RATE, times_of_all(times))
        assert times[0] == pytest.approx(2, abs=0.05) and found.facts["offset"] == pytest.approx(-2, abs=0.05)
        assert loud_from(found.waveform) < 0.1 and abs(found.facts["sound_seconds"] - 6) < 0.15

    def test_a_hole_is_filled_with_silence(self, tmp_path):
        path = encode(tmp_path / "whole.mkv", numbered(20), rate=5, sounds=[tone(4)])
        kept = copied(
            path,
            tmp_path / "hole.mkv",
            keep=lambda n, packet: not (packet.pts and packet.stream_index and 1000 <= packet.pts < 2000),
        )
        found = read_media(kept, RATE, every_second(0, 9, 2)).waveform
        assert abs(len(found) / RATE - 4) < 0.15 and np.abs(found[int(1.2 * RATE) : int(1.8 * RATE)]).max() < 10
        assert np.abs(found[int(2.2 * RATE) : int(2.8 * RATE)]).max() > 5000


class TestChangesInMidStream:
    def test_rate_and_channels_of_sound(self, tmp_path):
        parts = []
        for rate, layout in ((44100, "stereo"), (22050, "mono")):
            with av.open(str(tmp_path / f"{rate}.aac"), "w", format="adts") as file:
                track = file.add_stream("aac", rate=rate, layout=layout)
                samples = np.repeat(tone(1, rate), 2 if layout == "stereo" else 1)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
                frame.sample_rate = rate
                file.mux(track.encode(frame))
                file.mux(track.encode())
            parts.append((tmp_path / f"{rate}.aac").read_bytes())
        (tmp_path / "both.aac").write_bytes(b"".join(parts))
        found = read_media(tmp_path / "both.aac", RATE).waveform
        assert abs(len(found) / RATE - 2) < 0.2
        for second in (found[RATE // 4 : 3 * RATE // 4], found[5 * RATE // 4 : 7 * RATE // 4]):
            assert abs(np.abs(np.fft.rfft(second)).argmax() * RATE / len(second) - 500) < 5

    def test_the_size_of_pictures_where_a_stream_was_spliced(self, tmp_path):
        first = encode(tmp_path / "a.ts", numbered(20), rate=10, sounds=[tone(2)])
        second = encode(tmp_path / "b.ts", numbered(20, 96, 96, first=20), rate=10, sounds=[tone(2)])
        (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
        for size in ((24, 32), None):
            found = read_media(tmp_path / "both.ts", RATE, lambda times: np.arange(len(times)), size)
            assert numbers(found.frames) == list(range(40)) and found.frames.shape[1:3] == (size or (48, 64))
        times = []
        read_media(tmp_path / "both.ts", choose=times_of_all(times))
        assert len(times) == 40 and times == sorted(times) and 3.8 < times[-1] < 4.3, (
            "the second goes on after the first"
        )


def quarters():
    """A picture whose quarters are dark, grey, light and white, clockwise from the upper left."""
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48], picture[:24, 48:], picture[24:, 48:], picture[24:, :48] = 20, 90, 160, 230
    return picture


def corners(picture):
    """The levels of its quarters, clockwise from the upper left, from 0 to 3."""
    height, width = (side // 2 for side in picture.shape[:2])
    parts = picture[:height, :width], picture[:height, width:], picture[height:, width:], picture[height:, :width]
    return [round((part.mean() - 20) / 70) for part in parts]


class TestShape:
    @pytest.mark.parametrize(
        ("rotation", "expected", "degrees"),
        [
            ((0,), [0, 1, 2, 3], 0),
            ((-90,), [3, 0, 1, 2], 90),
            ((90,), [1, 2, 3, 0], 270),
            ((180,), [2, 3, 0, 1], 180),
            ((0, True), [1, 0, 3, 2], None),
            ((90, True), [2, 1, 0, 3], None),
        ],
    )
    def test_pictures_are_turned_as_players_turn_them(self, tmp_path, rotation, expected, degrees):
        path = encode(tmp_path / "turned.mp4", quarters()[None].repeat(3, 0), codec="mpeg4", rotation=rotation)
        found = read_media(path, choose=every_second(0, 9, 1))
        assert corners(found.frames[0]) == expected
        assert found.frames.shape[1:3] == ((96, 48) if rotation[0] % 180 else (48, 96))
        assert degrees is None or found.facts["rotated"] == degrees
        scaled = read_media(path, choose=every_second(0, 9, 1), size=(32, 42)).frames
        assert scaled.shape[1:3] == (32, 42) and corners(scaled[0]) == expected

    def test_pixels_are_made_square_and_the_size_is_filled(self, tmp_path):
        path = encode(
            tmp_path / "wide.mp4", quarters()[None].repeat(3, 0), codec="mpeg4", sample_aspect_ratio=Fraction(4, 3)
        )
        found = read_media(path, choose=every_second(0, 9, 1))
        assert found.frames.shape[1:3] == (48, 128) and (found.facts["width"], found.facts["height"]) == (128, 48)
        assert read_media(path, choose=every_second(0, 9, 1), size=(32, 42)).frames.shape[1:3] == (32, 42)

    def test_interlaced_pictures_are_reported_and_stay_as_coded(self, tmp_path):
        fields = quarters()[None].repeat(6, 0)
        fields[:, ::2] = 128
        path = encode(
            tmp_path / "fields.ts", fields, codec="mpeg2video", options={"flags": "+ildct+ilme", "top": "1", "b": "2M"}
        )
        found = read_media(path, choose=every_second(0, 9, 1))
        assert found.facts["interlaced"] is True and abs(int(found.frames[0, 20:28:2].mean()) - 128) < 6


class TestLosses:
    def damaged(self, path, to, numbers, kind):
        """The file with the content of these packets of a stream overwritten."""
        content = bytearray(path.read_bytes())
        with av.open(str(path)) as file:
            packets = [packet for packet in file.demux(**{kind: 0}) if packet.size]
            for number in numbers:
                content[packets[number].pos : packets[number].pos + packets[number].size] = (
                    b"\xff" * packets[number].size
                )
        to.write_bytes(content)
        return to

    def test_one_packet_of_sound(self, tmp_path):
        path = encode(tmp_path / "whole.mp4", numbered(50), rate=10, sounds=[tone(5)])
        one = self.damaged(path, tmp_path / "one.mp4", [30], "audio")
        found = read_media(one, RATE, every_second(0, 9, 2))
        assert found.facts["lost"] == 1 and abs(len(found.waveform) / RATE - 5) < 0.25
        with pytest.raises(CorruptClip, match=r"one\.mp4: 1 of \d+ packets cannot be decoded"):
            read_media(one, RATE, every_second(0, 9, 2), most_lost=0.001)
        many = self.damaged(path, tmp_path / "many.mp4", range(10, 40), "audio")
        with pytest.raises(CorruptClip, match="30 of"):
            read_media(many, RATE, every_second(0, 9, 2))

    def test_pictures_that_cannot_be_decoded_are_not_among_those_chosen(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3)).astype(np.uint8)
        path = encode(tmp_path / "whole.mp4", noise, rate=10, codec="libvpx-vp9", options={"g": "1"})
        damaged = self.damaged(path, tmp_path / "one.mp4", [10], "video")
        found = read_media(damaged, choose=lambda times: np.arange(len(times)), most_lost=0.1)
        assert found.facts["lost"] == 1 and found.facts["frames"] == len(found.frames) == 39


def test_a_stream_that_nothing_decodes_is_named(tmp_path):
    path = encode(tmp_path / "clip.mp4", numbered(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"qqqq").replace(b"avcC", b"qqqC"))
    with pytest.raises(CorruptClip, match=r"clip\.mp4: nothing is known that decodes its video stream"):
        read_media(path, choose=every_second(0, 9, 1))


class TestTracks:
    def test_the_default_track_is_taken(self, tmp_path):
        quiet = tone(2) // 100
        path = encode(tmp_path / "two.mkv", numbered(10), rate=5, sounds=[quiet, tone(2)])
        with av.open(str(path)) as source, av.open(str(tmp_path / "marked.mkv"), "w") as file:
            streams = {stream.index: file.add_stream_from_template(stream) for stream in source.streams}
            streams[1].disposition, streams[2].disposition = 0, av.stream.Disposition.default
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    file.mux(packet)
        found = read_media(tmp_path / "marked.mkv", RATE, every_second(0, 9, 1))
        assert np.abs(found.waveform).max() > 5000 and found.facts["sound_track"] == "2 of 2"


def test_text_that_is_no_utf_8_does_not_matter(tmp_path):
    path = encode(tmp_path / "clip.mp4", numbered(3))
    assert path.read_bytes().count(b"Lavf") == 1
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xe9\xe8\xff\xfe"))
    assert numbers(read_media(path, choose=every_second(0, 9, 1)).frames) == [0]


@pytest.mark.parametrize("ending", ["mp4", "flv", "ts", "mkv"])
def test_random_damage_is_a_corrupt_clip_or_none(tmp_path, ending):
    whole = encode(tmp_path / f"whole.{ending}", numbered(20), rate=10, sounds=[tone(2)]).read_bytes()
    generator = np.random.default_rng(0)
    outcomes = set()
    for trial in range(8):
        content = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, len(content), generator.integers(1, 40))
        content[places] = generator.integers(0, 256, len(places))
        path = tmp_path / f"damaged {trial}.{ending}"
        path.write_bytes(content)
        try:
            read_media(path, RATE, every_second(0, 9, 3), (24, 32))
            outcomes.add("read")
        except CorruptClip as error:
            assert path.name in str(error)
            outcomes.add("corrupt")
    assert outcomes
