"""How a command ends: the exit codes that scripts can use, and one sentence instead of a traceback.

What a user can mend (a key, a file, a full disk) is said on standard error; what only we can mend keeps its traceback
and ends with 1.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence

import optuna

from pipeline import interrupts
from pipeline.config import ConfigError
from pipeline.types import DataError

OK, BAD_CONFIG, BAD_DATA, NO_RESULT, NO_ROOM, INTERRUPTED = 0, 2, 3, 4, 5, 130
UNFORESEEN = 1
UNREAD = 1
"""Whoever read the output has enough (``| head``): nothing is said, and the code is the one that rich ends with."""

MEANING = {
    OK: "there is a front",
    BAD_CONFIG: "the config is wrong",
    BAD_DATA: "data is missing or damaged",
    NO_RESULT: "no trial is feasible",
    NO_ROOM: "the output folder cannot be written",
    INTERRUPTED: "interrupted",
}


class GivenUp(Exception):
    """The budget is not met, and workers end as often as they begin; `no_room`: for want of a place to write."""

    def __init__(self, why: str, no_room: bool) -> None:
        super().__init__(why)
        self.no_room = no_room

    @property
    def code(self) -> int:
        """The exit code of the command."""
        return NO_ROOM if self.no_room else UNFORESEEN


Main = Callable[[Sequence[str] | None], int]


def spoken(command: Main) -> Callable[..., int]:
    """A `main(arguments=None)` whose foreseen errors are exit codes; what `command` answers itself stays as it is."""

    @functools.wraps(command)
    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except ConfigError as error:
            return _said(f"config error: {error}", BAD_CONFIG)
        except DataError as error:
            return _said(f"data error: {error}", BAD_DATA)
        except optuna.exceptions.StorageInternalError as error:
            return _said(refused(error), NO_ROOM)
        except GivenUp as error:
            return _said(f"{error}; finished trials are kept, and the same command resumes", error.code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
            return UNREAD
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise  # a library's own, not the disk's
            return _said(f"cannot be read or written: {error}", NO_ROOM)
        except KeyboardInterrupt:
            interrupts.heard()
            return _said("Interrupted.", INTERRUPTED)

    return main


def refused(error: optuna.exceptions.StorageInternalError) -> str:
    """Why a study database does not take or give something: the first line of its own words."""
    cause = str(error.__cause__ or error).strip().splitlines()[0]
    return f"the study database does not take this: {cause}"


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
