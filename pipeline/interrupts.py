"""Ctrl-C and a scheduler's SIGTERM end a run cleanly, and cannot get lost.

Python drops an exception that is raised inside a finaliser or a callback from C, and there are many of those in
torch, numba and SQLAlchemy. An interrupt is therefore raised again every two seconds until someone has heard it.
"""

from __future__ import annotations

import signal
from types import FrameType

AGAIN_S = 2.0


def listen() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt in the main thread until `heard` is called."""
    signal.signal(signal.SIGALRM, _raise)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _insist)


def heard() -> None:
    """The interrupt has arrived where it is handled."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _insist(number: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    _raise(number, frame)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
