import errno
import hashlib
import io
import random
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.data import download
from pipeline.data.download import fetch, hash_of, unpack
from pipeline.types import DataError

BODY = bytes(range(256)) * 4096  # what the server of conftest.py holds


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


@pytest.mark.parametrize("left", [b"x" * 5000, BODY + b"x"])
def test_a_spoilt_part_of_an_earlier_run_is_fetched_anew(server, tmp_path, left):
    """Resumed, or answered with 416, it can only fail its check: once more, from the first byte."""
    (tmp_path / "file.part").write_bytes(left)
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY
    assert server.ranges == [f"bytes={len(left)}-", None]


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


def test_a_connection_that_breaks_often_but_brings_something_each_time_is_not_given_up(server, tmp_path):
    """Six connections break, more than TRIES, but never that many after the last gain."""
    chunk = download.CHUNK_BYTES
    server.break_after = [chunk, 0, 0] * 2
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY
    assert server.ranges == [None] + [f"bytes={chunk}-"] * 3 + [f"bytes={2 * chunk}-"] * 3


@pytest.mark.parametrize(
    "answer",
    [429, 408, 503, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nx"],
)
def test_what_passes_is_asked_for_again(server, tmp_path, answer):
    """Too many requests, a server that is busy, a line that is no HTTP, a chunk that breaks off."""
    server.first = [answer] * 3
    assert fetch([server.address], tmp_path / "file", check).read_bytes() == BODY
    assert len(server.ranges) == 4


def test_no_http_at_all_is_an_error_that_names_the_address(server, tmp_path):
    server.first = [b"SSH-2.0-OpenSSH\r\n"] * download.TRIES
    with pytest.raises(DataError, match=r"/file: the connection broke \(BadStatusLine"):
        fetch([server.address], tmp_path / "file", check)


def test_the_pauses_between_tries_double(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "PAUSE_S", 1.0)
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.first = [503, 503, 503]
    fetch([server.address], tmp_path / "file", check)
    assert pauses == [1, 2, 4]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_cache_and_the_server_is_asked_once(server, private_cache, monkeypatch):
    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(DataError, match=r"mnist cannot be written .*No space left.*set XDG_CACHE_HOME"):
        fetch([server.address], private_cache / "mnist" / "file", check)
    assert server.ranges == []


def test_a_full_disk_while_unpacking_names_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    archive = zip_of(tmp_path / "a", {"Train/0/x.bin": b"one"})
    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"home cannot be written .*No space left.*name another folder"):
        unpack(archive, tmp_path / "home" / "Train")
    assert not [path for path in (tmp_path / "home").iterdir() if path.suffix != ".lock"]


def test_workers_that_ask_at_once_download_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch([server.address], tmp_path / "file", check), range(4)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert len(server.ranges) == 1


def test_a_page_for_browsers_is_not_taken_for_the_file(server, tmp_path):
    server.status = 202  # what figshare's front door answers to scripts
    with pytest.raises(DataError, match="the server answered 202"):
        fetch([server.address], tmp_path / "file", check)
    assert not (tmp_path / "file").exists()


def tar_of(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def zip_of(path, files):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_archives_unpack_to_their_folder(tmp_path, pack):
    archive = pack(tmp_path / "a", {"Train/0/x.bin": b"one", "Train/1/y.bin": b"two"})
    target = unpack(archive, tmp_path / "home" / "Train")
    assert {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*.bin")} == {
        "0/x.bin": b"one",
        "1/y.bin": b"two",
    }
    assert unpack(tmp_path / "gone", target) == target  # there already: the archive is not asked for


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_an_archive_that_writes_outside_of_its_folder_is_refused(tmp_path, pack):
    archive = pack(tmp_path / "a", {"../../evil.txt": b"x"})
    with pytest.raises(DataError, match="is not trusted"):
        unpack(archive, tmp_path / "deep" / "home" / "Train")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_an_archive_cut_off_leaves_no_folder(tmp_path, pack):
    rng = random.Random(0)
    archive = pack(tmp_path / "a", {f"Train/{i}": rng.randbytes(5000) for i in range(20)})
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(DataError, match="a is cut off or damaged"):
        unpack(archive, tmp_path / "home" / "Train")
    assert not (tmp_path / "home" / "Train").exists()
