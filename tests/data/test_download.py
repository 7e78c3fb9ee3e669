import hashlib
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.data import download
from pipeline.data.download import fetch, hash_of
from pipeline.types import DataError

BODY = bytes(range(256)) * 4096  # 1 MiB


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.break_after, self.resumes = BODY, [], [], True

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `body`, honours Range, and breaks a connection after each number of bytes in `break_after`."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if self.path.endswith("missing"):
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.resumes else 0
        if asked and server.resumes and start >= len(server.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = server.body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def check(path):
    if hash_of(path, "md5") != hashlib.md5(BODY).hexdigest():
        raise DataError("has the wrong md5")


def test_a_file_is_fetched_once(server, tmp_path):
    target = tmp_path / "deep" / "file"
    for _ in range(2):
        assert fetch([server.address], target, check).read_bytes() == BODY
    assert len(server.ranges) == 1


def test_broken_connections_go_on_where_they_stopped(server, tmp_path):
    server.break_after = [300_000, 400_000]
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]


def test_a_download_killed_earlier_goes_on(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY
    assert server.ranges == ["bytes=1000-"]


def test_a_part_that_is_complete_needs_no_byte_more(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY)
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.resumes = False
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY


def test_the_next_address_is_tried_and_a_wrong_file_never_gets_the_name(server, tmp_path):
    good = server.address
    assert fetch([good + "missing", good], tmp_path / "file", check).read_bytes() == BODY
    server.body = BODY[:-1] + b"!"
    with pytest.raises(DataError, match=r"other could not be downloaded\. .*404.*wrong md5"):
        fetch([good + "missing", good], tmp_path / "other", check)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "other.part").exists()


def test_a_connection_that_always_breaks_is_an_error_that_keeps_the_part(server, tmp_path):
    server.break_after = [10] * download.TRIES
    with pytest.raises(DataError, match="the connection ended after 40 of 1048576 bytes"):
        fetch([server.address], tmp_path / "file", check)
    assert (tmp_path / "file.part").read_bytes() == BODY[:40]


def test_workers_that_ask_at_once_download_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch([server.address], tmp_path / "file", check), range(4)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert len(server.ranges) == 1
