"""Worker processes that start at once: forked from a process that has imported everything and done nothing yet.

Importing torch and the rest takes seconds per process, and twice as long where two do it on two cores. The nursery
is forked from the driver while that is still young: no thread, no database connection, no GPU in use, nothing that
must not be shared. Its own children, the workers, need milliseconds. It ends them when the driver is gone, however
the driver died.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

import optuna

from pipeline import interrupts
from pipeline.exits import NO_ROOM
from pipeline.study.attempt import no_room

log = logging.getLogger(__name__)

Task = Callable[..., None]
TICK_S = 0.05
MERCY_S = 10.0
"""How long a process may take to end itself before it is killed."""
WORDS = 4000
"""Bytes of a process's last words: a pipe takes them at once."""
INTERRUPTED = 130


class Nursery:
    """The parent of all workers. Only for Linux, where a process may be forked after its imports."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        """`prepare` runs in the nursery before the first worker is born: what it loads, all workers have."""
        self._pipe, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._pipe.close()
            code = 1
            try:
                code = _serve(theirs, prepare)
            finally:
                os._exit(code)
        theirs.close()
        self._ended: list[tuple[int, int]] = []
        self._words: dict[int, str] = {}

    def start(self, task: Task, *arguments: object) -> int:
        """Run `task(*arguments)` in a new process (both must be importable and picklable); its process number.

        Raises:
            ConnectionError: the nursery itself was killed.
        """
        try:
            self._pipe.send((task, arguments))
            while True:
                kind, *rest = self._pipe.recv()
                if kind == "started":
                    return int(rest[0])
                self._note(*rest)
        except (EOFError, OSError) as error:
            raise ConnectionError("the process that starts workers was killed") from error

    def _note(self, pid: int, code: int, words: str) -> None:
        self._ended.append((pid, code))
        if code != 0:
            self._words[pid] = words

    def ended(self) -> list[tuple[int, int]]:
        """(process, exit code) of all that ended since the last call: -signal where one was killed, `NO_ROOM` where
        it met a full disk or a database that takes nothing."""
        try:
            while self._pipe.poll():
                _, *rest = self._pipe.recv()
                self._note(*rest)
        except (EOFError, OSError) as error:
            raise ConnectionError("the process that starts workers was killed") from error
        ended, self._ended = self._ended, []
        return ended

    def last_words(self, pid: int) -> str:
        """Why a process ended that did not end well, as far as it could say so; told once."""
        return self._words.pop(pid, "")

    def close(self) -> None:
        """End the workers that are left, and the nursery."""
        self._pipe.close()
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            return

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(pipe: Connection, prepare: Callable[[], None]) -> int:
    """Fork what is asked for, tell what has ended, and leave when the driver closes the pipe or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver is told too, and closes the pipe
    children: dict[int, int] = {}
    try:
        prepare()
    except Exception as error:
        log.debug("not prepared: %s", error)  # the first trial says it by name
    try:
        while True:
            if pipe.poll(TICK_S):
                task, arguments = pipe.recv()
                heard, said = os.pipe()
                pid = os.fork()
                if pid == 0:
                    pipe.close()
                    _live(task, arguments, said)
                os.close(said)
                children[pid] = heard
                pipe.send(("started", pid))
            for ended in _collect(children):
                pipe.send(("ended", *ended))
    except (EOFError, OSError):
        pass
    _end(children)
    return 0


def _live(task: Task, arguments: tuple[object, ...], words: int) -> None:
    """A child's whole life; never returns. Its last words go into the pipe `words`."""
    code = 1
    try:
        interrupts.listen()
        task(*arguments)
        code = 0
    except KeyboardInterrupt:
        interrupts.heard()
        code = INTERRUPTED
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    except BaseException as error:
        cause = error.__cause__ or error
        said = f"{type(cause).__name__}: {cause}"
        print(f"worker {os.getpid()}: {type(error).__name__}: {said}", file=sys.stderr)
        os.write(words, said.partition("\n")[0].encode()[:WORDS])
        if isinstance(error, optuna.exceptions.StorageInternalError) or no_room(error):
            code = NO_ROOM
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _collect(children: dict[int, int]) -> list[tuple[int, int, str]]:
    """(process, exit code, last words) of those that have ended."""
    found = []
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        found.append((pid, os.waitstatus_to_exitcode(status), _heard(children.pop(pid))))
    return found


def _heard(pipe: int) -> str:
    os.set_blocking(pipe, False)  # a process that the dead one has left behind may hold the other end
    try:
        return os.read(pipe, WORDS).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(pipe)


def _end(children: dict[int, int]) -> None:
    """Ask, wait, and then kill."""
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + MERCY_S
    while children and time.monotonic() < deadline:
        _collect(children)
        time.sleep(TICK_S)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    while children:
        _collect(children)
