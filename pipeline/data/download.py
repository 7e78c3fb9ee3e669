"""Fetching a file once: resumable, checked before it gets its name, with a progress bar; and unpacking it.

The bytes gather in ``NAME.part`` beside the target; only a file that passed its check is renamed to the
target, so a target that exists is whole. A lock file lets several workers ask for the same file at once.
What the disk refuses is said of the cache folder: an OSError would be taken for one of the output folder.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

from pipeline.data.progress import bar
from pipeline.types import DataError

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
TRIES = 4
"""Attempts per address without a chunk gained; a broken connection goes on from where it stopped."""
PAUSE_S = 1.0
"""Pause after the first of these attempts; it doubles with each."""
BUSY = (408, 429)
"""Answers below 500 of a server that wants to be asked again."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What the own disk says; asking the server again changes nothing."""


def cache_folder() -> Path:
    """Where downloads and built caches go: $XDG_CACHE_HOME or ~/.cache, then snn-pipeline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn-pipeline"


@contextmanager
def cache_written(folder: Path) -> Iterator[None]:
    """What the system refuses inside becomes a DataError that names the folder of the cache, or of the user's."""
    try:
        yield
    except OSError as error:
        ours = folder.is_relative_to(cache_folder())
        remedy = "set XDG_CACHE_HOME to another place" if ours else "name another folder"
        raise DataError(f"{folder} cannot be written ({error}): free space or {remedy}.") from error


def hash_of(path: Path, algorithm: str) -> str:
    """Hex digest of a file, read in chunks. `algorithm` as hashlib names it (md5, sha256)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def fetch(addresses: Sequence[str], target: Path, check: Callable[[Path], None]) -> Path:
    """Download the first address that answers to `target`, unless it is there; returns `target`.

    `check(path)` raises DataError for a file that is not what it should be: the part is then deleted and the
    next address tried. Raises DataError naming every address and what it answered.
    """
    if target.exists():
        return target
    with cache_written(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            return target if target.exists() else _fetch(addresses, target, check)


def _fetch(addresses: Sequence[str], target: Path, check: Callable[[Path], None]) -> Path:
    part = target.with_name(target.name + ".part")
    failures = []
    for address in addresses:
        try:
            _gathered(address, part, check)
        except DataError as error:
            part.unlink(missing_ok=True)
            failures.append(f"{address}: {error}")
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            failures.append(f"{address}: {error}")
        else:
            return part.replace(target)
    raise DataError(f"{target} could not be downloaded. " + " ".join(failures))


def _gathered(address: str, part: Path, check: Callable[[Path], None]) -> None:
    """Fill `part` and check it; one that an earlier run began, and that fails, is fetched once more from its start:
    what was wrong may be the bytes that were there."""
    begun = _size(part) > 0
    _gather(address, part)
    try:
        check(part)
    except DataError:
        if not begun:
            raise
        part.unlink(missing_ok=True)
        _gather(address, part)
        check(part)


def _gather(address: str, part: Path) -> None:
    """Fill `part` from `address`, resuming after broken connections; OSError after TRIES that gained nothing."""
    failed, reached = 0, _size(part)
    while True:
        try:
            _stream(address, part)
            return
        except OSError as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            if code == 416:  # nothing is left to send: the part was complete already
                return
            if error.errno in NO_ROOM or (code is not None and code < 500 and code not in BUSY):
                raise
            gained = _size(part) - reached >= CHUNK_BYTES
            failed = 1 if gained else failed + 1
            if failed == TRIES:
                raise
        reached = max(reached, _size(part))
        time.sleep(PAUSE_S * 2 ** (failed - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _stream(address: str, part: Path) -> None:
    """One connection: append what the server still has; OSError when it ends early or speaks no HTTP."""
    try:
        _append(address, part)
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke ({error!r})") from error


def _append(address: str, part: Path) -> None:
    have = _size(part)
    request = urllib.request.Request(address, headers={"User-Agent": "snn-pipeline"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        if answer.status not in (200, 206):  # a page that wants a browser, not the file
            raise OSError(f"the server answered {answer.status} {answer.reason}")
        resumed = answer.status == 206
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with (
            part.open("ab" if resumed else "wb") as file,
            bar(f"download {part.stem}", total, have, in_bytes=True) as advance,
        ):
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
                have += len(chunk)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a .tar.gz or .zip so that `target` is its folder of that name (else all of it).

    Does nothing where `target` exists; returns `target`. Only plain files below the archive's own root are
    written, and the folder gets its name when it is complete.
    Raises DataError for an archive that is damaged or that names a file outside of its root.
    """
    if target.is_dir():
        return target
    with cache_written(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _unpack(archive, target)
    return target


def _unpack(archive: Path, target: Path) -> None:
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        entries = _zip_entries if zipfile.is_zipfile(archive) else _tar_entries
        with bar(f"unpack {archive.name}", None) as advance:
            for name, file in entries(archive):
                _write_inside(temporary, name, file, archive)
                advance(1)
        inner = temporary / target.name
        (inner if inner.is_dir() else temporary).rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive} is cut off or damaged: {error}") from error
    finally:  # also the gigabytes that a full disk stopped
        shutil.rmtree(temporary, ignore_errors=True)


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if member.isreg() and (file := tar.extractfile(member)) is not None:
                yield member.name, file


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not info.is_dir():
                with packed.open(info) as file:
                    yield info.filename, file


def _write_inside(folder: Path, name: str, file: IO[bytes], archive: Path) -> None:
    destination = (folder / name).resolve()
    if not destination.is_relative_to(folder.resolve()):
        raise DataError(f"{archive} is not trusted: it wants to write {name}, outside of its folder.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("wb") as out:
        shutil.copyfileobj(file, out)
