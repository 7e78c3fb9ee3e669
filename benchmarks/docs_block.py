"""What pages are made of that benchmarks write: a block between two markers, a table."""

from __future__ import annotations

from collections.abc import Sequence


def put(page: str, name: str, command: str, lines: Sequence[str]) -> str:
    """`page` with `lines` in its block `name`, which says by which `command` it is written.

    Raises:
        SystemExit: the page has no such block, or several.
    """
    begin, end = f"<!-- {name}: written by `{command}` -->", f"<!-- {name} end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page needs the lines\n{begin}\n{end}\nonce.")
    before, _, rest = page.partition(begin)
    return "\n".join([before + begin, *lines, end]) + rest.partition(end)[2]


def lined(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
