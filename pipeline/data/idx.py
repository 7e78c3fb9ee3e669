"""Reading the idx format of MNIST, plain or gzip, from files that may be damaged.

Format (http://yann.lecun.com/exdb/mnist): two zero bytes, a type code (8: uint8), the number of dimensions,
each dimension as a big-endian uint32, then the values in row-major order.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np

from pipeline.types import DataError

UINT8 = 8
REMEDY = "Delete it and put a fresh copy there."


def read_idx(path: Path, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """The uint8 array of `path` (gzip or plain), which must have `shape` and, unpacked, this sha256.

    Raises DataError that names the file: not gzip or broken off (gzip), wrong magic number, wrong dimensions,
    too short or too long, or other content.
    """
    data = _unpacked(path)
    if len(data) < 4:
        raise DataError(f"{path} is cut off: {len(data)} bytes hold no idx header. {REMEDY}")
    zeros, code, dims = struct.unpack_from(">HBB", data)
    if zeros != 0 or code != UINT8 or dims != len(shape):
        magic, wanted = data[:4].hex(), f"0000{UINT8:02x}{len(shape):02x}"
        raise DataError(
            f"{path} has the magic number {magic}, but an idx file of this kind has {wanted}. {REMEDY}"
        )
    head = 4 + 4 * dims
    if len(data) < head:
        raise DataError(f"{path} is cut off within its header, after {len(data)} bytes. {REMEDY}")
    found = struct.unpack_from(f">{dims}I", data, 4)
    if found != shape:
        raise DataError(f"{path} holds {_times(found)} values, but must hold {_times(shape)}. {REMEDY}")
    expected = head + int(np.prod(shape))
    if len(data) != expected:
        problem = "cut off" if len(data) < expected else "too long"
        raise DataError(f"{path} is {problem}: {len(data)} bytes unpacked instead of {expected}. {REMEDY}")
    if (digest := hashlib.sha256(data).hexdigest()) != sha256:
        problem = f"unpacked, its sha256 begins {digest[:16]} instead of {sha256[:16]}"
        raise DataError(f"{path} is not the official file: {problem}. {REMEDY}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _unpacked(path: Path) -> bytes:
    """The file's bytes, unpacked where they begin like gzip, whatever the name ends with."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise DataError(f"{path} is cut off: the gzip stream does not end. {REMEDY}") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}. {REMEDY}") from error


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
