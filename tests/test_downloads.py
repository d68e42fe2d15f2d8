import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmlib.data.downloads import download

CONTENT = bytes(range(256)) * 4000


class _Server(BaseHTTPRequestHandler):
    ranges = True
    cut_after = None
    requests: list = []  # noqa: RUF012

    def do_GET(self):
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
    threading.Thread(target=running.serve_forever, daemon=True).start()
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
