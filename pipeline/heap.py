"""Freed memory kept for the next step of a network, instead of given back to the system and asked for again.

Like `pipeline.types`, this module knows no room.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _MAP = -1, -3
"""mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (malloc.h of the GNU C library)."""
_HELD = {_TRIM: 2**31 - 1, _MAP: 2**30}
"""Bytes: blocks up to 1 GiB come from the heap, of which up to 2 GiB stay although they are free."""
_USUAL = {_TRIM: 2**26, _MAP: 2**25}
"""Where the library's own thresholds end up once large blocks have been freed (its DEFAULT_MMAP_THRESHOLD_MAX)."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "glibc.malloc")
_lock, _inside = threading.Lock(), 0


@contextmanager
def held() -> Iterator[None]:
    """While a network is trained and measured, what its steps free stays with the process; then it goes back.

    Every step makes and frees the same maps. Those of more than 32 MB, and what lies free above 64 MB, the GNU C
    library gives back each time, and the system hands them out again page by page, each of them cleared
    (tests/test_heap.py counts them). Other C libraries, and thresholds chosen in the environment (MALLOC_...,
    GLIBC_TUNABLES), are left alone. May be nested, and decorates functions, too. Concerns the whole process, and no
    value that it computes.
    """
    library = _library()
    if library is None:
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)


def _count(library: ctypes.CDLL, change: int) -> None:
    """The first to come in sets the thresholds, the last to leave sets them back and gives back what is free."""
    global _inside
    with _lock:
        before, _inside = _inside, _inside + change
        if before == 0 or _inside == 0:
            for option, size in (_HELD if _inside else _USUAL).items():
                library.mallopt(option, size)
        if _inside == 0:
            library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """The GNU C library, where it may be told."""
    chosen = " ".join([*os.environ, os.environ.get("GLIBC_TUNABLES", "")])
    if any(name in chosen for name in _CHOSEN):
        return None
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim")) else None
