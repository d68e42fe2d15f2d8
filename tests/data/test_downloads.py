import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmlib.data.clips.downloads import download, download_lfs, download_lfs_files, unpack

CONTENT = bytes(range(256)) * 4000
HASH = hashlib.sha256(CONTENT).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{HASH}\nsize {len(CONTENT)}\n"


class _Server(BaseHTTPRequestHandler):
    ranges = True
    cut_after = None
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        if self.path == "/pointer":
            self.send_response(200)
            self.end_headers()
            return self.wfile.write(POINTER.encode())
        if self.path != "/file":
            return self.send_error(404)
        start = 0
        wanted = self.headers.get("Range")
        type(self).requests.append(wanted)
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (_Server,), {"requests": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield handler, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def test_a_broken_download_resumes_where_it_stopped(server, tmp_path):
    handler, address = server
    handler.cut_after = 300_000
    with pytest.raises(OSError, match=r"ended after 300,000 of 1,024,000 bytes\. Run again"):
        download(f"{address}/file", tmp_path / "f")
    assert not (tmp_path / "f").exists()
    handler.cut_after = None
    assert download(f"{address}/file", tmp_path / "f").read_bytes() == CONTENT
    assert handler.requests == [None, "bytes=300000-"]
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]
    download(f"{address}/file", tmp_path / "f")
    assert len(handler.requests) == 2, "a complete file is not fetched again"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    handler, address = server
    handler.ranges = False
    (tmp_path / "f.part").write_bytes(CONTENT[:5000])
    assert download(f"{address}/file", tmp_path / "f").read_bytes() == CONTENT


def test_an_address_that_does_not_answer_is_named(server, tmp_path):
    _, address = server
    with pytest.raises(OSError, match=r"/nothing could not be downloaded \(HTTP Error 404"):
        download(f"{address}/nothing", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_a_wrong_hash_is_refused_and_not_kept(server, tmp_path):
    _, address = server
    with pytest.raises(ValueError, match=r"f\.part has SHA-256 .* and should have 000000000000….*Run again"):
        download(f"{address}/file", tmp_path / "f", "0" * 64)
    assert not list(tmp_path.iterdir())
    download(f"{address}/file", tmp_path / "f", HASH)
    (tmp_path / "f").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"Delete .*f and run again"):
        download(f"{address}/file", tmp_path / "f", HASH)


def test_files_of_git_lfs_are_what_their_pointers_say(server, tmp_path):
    handler, address = server
    paths = [tmp_path / "clips" / f"{number}.flv" for number in range(3)]
    download_lfs_files({path: (f"{address}/pointer", f"{address}/file") for path in paths}, at_a_time=2)
    assert all(path.read_bytes() == CONTENT for path in paths)
    requests = len(handler.requests)
    download_lfs_files({path: (f"{address}/pointer", f"{address}/file") for path in paths})
    assert len(handler.requests) == requests, "what is there is not asked for again"


def test_an_altered_file_or_a_missing_pointer_is_named(server, tmp_path, monkeypatch):
    _, address = server
    with pytest.raises(OSError, match=r"/file is not a git-LFS pointer: it begins with"):
        download_lfs(f"{address}/file", f"{address}/file", tmp_path / "f")
    monkeypatch.setattr("test_downloads.POINTER", POINTER.replace(HASH[:8], "00000000"))
    with pytest.raises(ValueError, match="altered or damaged in transit"):
        download_lfs(f"{address}/pointer", f"{address}/file", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_archives_are_unpacked_whole_or_not_at_all(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("human/videos/a.mp4", "x")
    unpack(tmp_path / "good.zip", tmp_path / "out")
    assert (tmp_path / "out" / "human" / "videos" / "a.mp4").read_text() == "x"
    (tmp_path / "cut.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"cut\.zip is damaged"):
        unpack(tmp_path / "cut.zip", tmp_path / "other")
    for name in ("../outside", "/absolute", "a/../../outside"):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(ValueError, match=r"evil\.zip is refused: its member .* leads out of the folder"):
            unpack(tmp_path / "evil.zip", tmp_path / "other")
    assert not (tmp_path / "other").exists() and not (tmp_path.parent / "outside").exists()
