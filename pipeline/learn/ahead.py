"""The next item of an iterator, made in a second thread while the current one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
_END = object()


def ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, one of them made in advance; an error is raised where its item is due.

    Worth it where whoever uses the items leaves a processor core free, as work on a GPU does; where all cores train,
    it only moves work about. The thread ends with the iterator, when it is exhausted or closed (`contextlib.closing`);
    closing waits for the one item that is in the making.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, source, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, source, _END)
            yield cast(Item, item)
