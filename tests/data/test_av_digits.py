import bz2
import gzip
import shutil
import zipfile

import numpy as np
import pytest
import torch

from mmlib.__main__ import main
from mmlib.data import MissingData, load
from mmlib.data.digits import av_digits


def test_real_data_has_the_published_counts_and_disjoint_sources(av_digits_prepared):
    splits = load("av_digits")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [4200, 900, 900]
    for domain in av_digits.DOMAINS:
        protocol = splits.leave_out(domain)
        assert len(protocol.target) == 2000 and len(protocol.train) == 2800
        source_speakers = set(torch.cat([part.truth["speaker"] for part in protocol[:3]]).tolist())
        assert not source_speakers & set(protocol.target.truth["speaker"].tolist())
    for name in ("handwriting", "recording"):
        for domain in range(3):
            parts = [
                set(part.truth[name][part.domains == domain].tolist())
                for part in (splits.train, splits.validation, splits.test)
            ]
            assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


@pytest.mark.parametrize(("degraded_in", "count", "share"), [("train", 600, 0.0), ("everywhere", 2000, 0.3)])
def test_an_unseen_domain_is_degraded_as_test_samples_are(degraded_in, count, share, av_digits_prepared):
    splits = load("av_digits", degraded_image=0.3, degradation="mismatch", degraded_in=degraded_in)
    protocol = splits.leave_out("U")
    assert len(protocol.target) == count
    for part, expected in ((protocol.train, 0.3), (protocol.target, share)):
        severity = part.truth.get("degraded_image", torch.zeros(1))  # a part without degraded samples has no such field
        assert float((severity > 0).float().mean()) == pytest.approx(expected, abs=1e-2)


def test_pairs_share_the_digit_of_the_real_files(av_digits_prepared, sources):
    import wave

    splits = load("av_digits")
    speakers = [name for pair in av_digits.SPEAKERS for name in pair]
    for row in range(0, len(splits.test), 97):
        recording = int(splits.test.truth["recording"][row])
        digit, speaker, index = recording // 300, speakers[recording // 50 % 6], recording % 50
        assert digit == splits.test.labels[row]
        with wave.open(str(sources / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")[:6400] / 32768
        clip = splits.test.inputs["audio"][row].numpy()
        start = (6400 - len(samples)) // 2
        assert np.allclose(clip[start : start + len(samples)], samples, atol=1e-6)


@pytest.fixture
def copied(sources, tmp_path, monkeypatch):
    """A copy of the sources, and an empty cache."""
    folder = tmp_path / "source"
    for name in ("mnist", "usps", "fsdd"):
        shutil.copytree(sources / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    return folder


def prepare(folder, capsys):
    code = main(["data", "av_digits", "--source", str(folder)])
    return code, capsys.readouterr().err


def test_another_container_of_the_same_data_passes(copied, capsys):
    packed = copied / "mnist" / "t10k-images-idx3-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    usps = copied / "usps" / "usps.bz2"
    usps.with_suffix("").write_bytes(bz2.decompress(usps.read_bytes()))
    usps.unlink()
    with zipfile.ZipFile(copied / "fsdd.zip", "w") as archive:
        for path in sorted((copied / "fsdd" / "recordings").iterdir()):
            archive.write(path, f"free-spoken-digit-dataset-master/recordings/{path.name}")
        archive.writestr("../../escape.wav", b"not extracted")
    shutil.rmtree(copied / "fsdd")
    assert prepare(copied, capsys) == (0, "")
    assert not list(copied.parent.parent.rglob("escape.wav"))


def _missing(folder):
    (folder / "fsdd" / "recordings" / "7_theo_31.wav").unlink()
    return r"1 of 3,000 recordings are missing .*first 7_theo_31\.wav"


def _truncated(folder):
    path = folder / "usps" / "usps.t.bz2"
    path.write_bytes(path.read_bytes()[:-1000])
    return r"usps\.t\.bz2 is truncated or damaged"


def _short_archive_of_whole_length(folder):
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-784]))
    return r"t10k-images.*truncated or damaged: 7,839,216 values where the header says 7,840,000"


def _altered(folder):
    path = folder / "fsdd" / "recordings" / "0_george_0.wav"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    return "fsdd_waveforms differs from the published data"


def _not_a_sound(folder):
    (folder / "fsdd" / "recordings" / "0_george_0.wav").write_bytes(b"hello")
    return r"0_george_0\.wav is truncated or damaged"


def _no_labels(folder):
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    return r"t10k-labels-idx1-ubyte \(or \.gz, \.bz2\) is missing"


@pytest.mark.parametrize(
    "fault", [_missing, _truncated, _short_archive_of_whole_length, _altered, _not_a_sound, _no_labels]
)
def test_a_fault_is_named_and_leaves_nothing_behind(copied, capsys, fault):
    import re

    expected = fault(copied)
    code, error = prepare(copied, capsys)
    assert code == 1 and re.search(expected, error), error
    assert not list((copied.parent / "cache").rglob("*"))


def test_unprepared_data_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    with pytest.raises(MissingData, match="python -m mmlib data av_digits --source DIR"):
        load("av_digits")


def test_an_unknown_data_set_lists_those_there_are(capsys):
    assert main(["data", "imagenet"]) == 2
    assert "one of: av_digits" in capsys.readouterr().err
