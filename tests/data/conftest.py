"""A loopback server that can break connections, and a small gesture data set in the official layout."""

import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import download
from pipeline.data import events as event_data
from pipeline.data.recordings import GESTURE_CLASSES, GESTURE_FOLDERS, GESTURE_USERS

BODY = bytes(range(256)) * 4096  # 1 MiB


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.break_after, self.resumes = BODY, [], [], True
        self.status, self.files = 200, {}
        self.first = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `body`, honours Range, and breaks a connection after each number of bytes in `break_after`.

    `first`: what the first requests get instead, a status or raw bytes.
    """

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if self.path.endswith("missing"):
            self.send_error(404)
            return
        if server.first and (answer := server.first.pop(0)):
            if isinstance(answer, int):
                self.send_error(answer)
            else:
                self.wfile.write(answer)
            return
        content = server.files.get(self.path, server.body)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.resumes else 0
        if asked and server.resumes and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else server.status)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Downloads that break off are tried again at once."""
    monkeypatch.setattr(download, "PAUSE_S", 0.0)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def private_cache(tmp_path, monkeypatch):
    """The download and frame cache of one test; nothing is remembered from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    event_data._stored.cache_clear()
    return tmp_path / "cache" / "snn-pipeline"


def random_recording(seed: int, label: int, events: int = 120) -> np.ndarray:
    """[N, 4] int32 columns x, y, p, t (ms): events around a column that depends on the label."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(10 + 10 * label, 4, events), 0, 127)
    y, p = rng.integers(0, 128, events), rng.integers(0, 2, events)
    return np.stack([x, y, p, np.sort(rng.integers(0, 600, events))], axis=1).astype(np.int32)


@pytest.fixture
def gestures(tmp_path) -> Path:
    """All 29 users under one lighting, 11 gestures each, 120 events per recording."""
    root = tmp_path / "gestures"
    for split, folder in GESTURE_FOLDERS.items():
        for user in GESTURE_USERS[split]:
            place = root / folder / f"user{user:02d}_led"
            place.mkdir(parents=True)
            for label in range(GESTURE_CLASSES):
                np.save(place / f"{label}.npy", random_recording(100 * user + label, label))
    return root
