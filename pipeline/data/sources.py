"""Where unpacked recordings are: a folder of the user's, else an archive of the user's, else a download."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipeline.data.download import cache_folder, cache_written, fetch, hash_of, unpack
from pipeline.data.recordings import SIMULATED
from pipeline.types import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One official archive: its file name, where it can be had, its md5, and the folder it unpacks to."""

    name: str
    addresses: tuple[str, ...]
    md5: str
    folder: str

    def check(self, path: Path) -> None:
        """Raise DataError unless the file can be read and has the official md5."""
        try:
            found = hash_of(path, "md5")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
        if found != self.md5:
            raise DataError(
                f"{path} is not the official {self.name}: its md5 is {found} instead of {self.md5}."
            )


def search(root: str | None, names: Iterable[str], needed: Sequence[str], sample: str) -> Path | None:
    """The first of root/NAME with recordings in all `needed` folders and no mark of a simulation, else the first with
    these folders; None where no NAME has any of them.

    Raises DataError for a root that is no folder or cannot be read, where there are only simulated recordings or some
    of the needed folders, and, naming the right one, for a root just inside of or above recordings: gigabytes would be
    downloaded that are there.
    sample: pattern of a recording's path below a needed folder, which may have a name that others use too.
    """
    if root is None:
        return None
    try:
        return _search(root, Path(root).expanduser(), names, needed, sample)
    except OSError as error:
        raise DataError(f"data.root = {root} (or $PIPELINE_DATA) cannot be read: {error}.") from error


def _search(root: str, top: Path, names: Iterable[str], needed: Sequence[str], sample: str) -> Path | None:
    if not top.is_dir():
        raise DataError(f"data.root = {root} (or $PIPELINE_DATA) is not a folder.")
    partial: list[str] = []
    empty: Path | None = None
    simulated: Path | None = None
    for home in (top / name for name in names):
        missing = [folder for folder in needed if not (home / folder).is_dir()]
        if not missing and (home / SIMULATED).exists():
            simulated = simulated or home
        elif not missing and all(_has(home / folder, sample) for folder in needed):
            return home
        elif not missing:
            empty = empty or home
        elif len(missing) < len(needed):
            there = " and ".join(folder for folder in needed if folder not in missing)
            partial.append(f"{home} has {there}, but no folder {' and '.join(missing)}")
    if empty is not None:  # who reads it says what is not there or may not be read
        return empty
    if simulated is not None:
        raise DataError(
            f"{simulated} holds simulated recordings, as its {SIMULATED} says: data=synthetic_gesture "
            f"data.root={simulated} reads them (data.simulation as that file says)."
        )
    if partial:
        raise DataError(f"the recordings are incomplete: {'; '.join(partial)}.")
    if (meant := _inside(top.resolve(), needed, sample) or _above(top, needed, sample)) is not None:
        rule = f"data.root (or $PIPELINE_DATA) must be the folder that holds {' and '.join(needed)}"
        raise DataError(f"{rule}, but got {root}: set it to {meant}.")
    return None


def _has(folder: Path, sample: str) -> bool:
    try:
        return any(folder.glob(sample))
    except OSError:  # it may not be read: who needs it says so
        return False


def _inside(top: Path, needed: Sequence[str], sample: str) -> Path | None:
    """The folder that holds the needed folder in which `top` lies, or which it is."""
    for here in (top, *top.parents[:2]):
        if here.name in needed and any(here.glob(sample)):
            return here.parent
    return None


def _above(top: Path, needed: Sequence[str], sample: str) -> Path | None:
    """The folder one or two levels below `top` that holds all needed folders; no simulation, which looks the same."""
    for pattern in ("*", "*/*"):
        for found in sorted(top.glob(f"{pattern}/{needed[0]}")):
            home = found.parent
            whole = all((home / folder).is_dir() for folder in needed)
            if whole and not (home / SIMULATED).exists() and any(found.glob(sample)):
                return home
    return None


def obtain(name: str, root: str | None, archives: Sequence[Archive], layout: str) -> Path:
    """The folder in the download cache with every archive unpacked; what is missing is fetched and checked.

    An archive that lies in `root` or already in the cache is checked and unpacked instead of downloaded, and stays:
    only what was fetched here is removed. Raises DataError saying what to put where.
    """
    home = cache_folder() / name
    try:
        for archive in archives:
            if not (home / archive.folder).is_dir():
                with cache_written(home):
                    home.mkdir(parents=True, exist_ok=True)
                    with FileLock(home / f"{archive.folder}.archive.lock"):  # one worker unpacks and removes
                        _obtain(archive, root, home)
    except DataError as error:
        looked = f"{root} and {home}" if root else str(home)
        archive_names = " and ".join(archive.name for archive in archives)
        raise DataError(
            f"{name} is neither on this machine nor could it be downloaded. Searched: {looked}. Put the unpacked "
            f"recordings ({layout}) or the archives {archive_names} into one folder and set data.root or "
            f"$PIPELINE_DATA to it. {error}"
        ) from error
    return home


def _obtain(archive: Archive, root: str | None, home: Path) -> None:
    if (home / archive.folder).is_dir():  # another worker was faster
        return
    places = [Path(root).expanduser() / archive.name] if root else []
    for found in (*places, home / archive.name):
        if found.is_file():
            try:
                archive.check(found)
            except DataError as error:
                raise DataError(
                    f"{error} Delete {found} to have it downloaded, or put the official one there."
                ) from error
            unpack(found, home / archive.folder)
            logger.info("%s is unpacked and no longer needed.", found)
            return
    fetched = fetch(archive.addresses, home / archive.name, archive.check)
    unpack(fetched, home / archive.folder)
    fetched.unlink(missing_ok=True)
