"""``python -m pipeline.claims``: what the papers claim, what was measured here, and whether it holds.

Reads records from ``docs/results/*.json`` (kept with the project) and ``outputs/claims/*.json`` (your own runs) and
prints one table for F1 to F9 (FSpiNN), T1 to T7 (tinySNN, Q-SpiNN) and H1 to H11 (quantization and pruning on DVS
Gesture). Nothing in the table is typed by hand: a claim without a record says ``not measured here``.

A file is one record, a list of records, or an object whose ``records`` is that list; other results may stand
beside them. Several records of one claim (other data, other sizes) are several lines:

    id        F1 ... F9, T1 ... T7, H1 ... H11
    measured  what the table says, one short line with units, computed by the command that measured
    value     the number the claim is judged by, in the unit of `CLAIMS`; left out or null: `holds` alone decides
    interval  [low, high], 95 % interval of `value`; or null
    data      data set, how many samples, which network; with `id` it is the record's identity
    seeds     the seeds that were used
    n         test samples per seed, or whatever `value` is a mean over
    holds     true, false, or null where this data cannot decide
    command   what reproduces the record from a clean checkout
    date      ISO date; of two records of the same id and data the newer counts
    note      a deviation from the paper that matters here (may be left out)
    extra     any JSON: kept, not shown (may be left out)

`value` is judged by the claim's rule; a record whose `holds` says otherwise is an error, never a line of the table.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from pipeline.exits import spoken
from pipeline.report.files import write_whole
from pipeline.statements import CLAIMS
from pipeline.types import require

FOLDERS = (Path(__file__).parent / "results", Path("docs/results"), Path("outputs/claims"))
"""Records as they are published (in an installed package beside this file, in a checkout under docs), and one's own."""
BEGIN = "<!-- claims: written by `python -m pipeline.claims --update README.md` -->"
END = "<!-- claims end -->"
WHOLE = Path("docs/claims.md")
"""The page with every record, beside the README that has one line per claim."""
NOT_MEASURED = "not measured here"
OK, BAD_RECORD = 0, 1


BY_ID = {claim.id: claim for claim in CLAIMS}
COLUMNS = ("id", "claim", "published", "measured", "data", "seeds", "holds")


class RecordError(ValueError):
    """A record that the schema or the claim's own rule refuses; names the file and the key."""


@dataclass(frozen=True)
class Record:
    """One measurement of one claim; the fields are the keys of the file (see the module)."""

    id: str
    measured: str
    data: str
    seeds: tuple[int, ...]
    n: int
    holds: bool | None
    command: str
    date: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""
    extra: object = None
    statement: str = ""
    published: str = ""

    def __post_init__(self) -> None:
        require(self.id in BY_ID, "id", f"be one of {', '.join(BY_ID)}", self.id)
        for name in ("measured", "data", "command"):
            text = getattr(self, name)
            require(isinstance(text, str) and bool(text.strip()), name, "be a text", text)
        require(self.holds in (True, False, None), "holds", "be true, false or null", self.holds)
        whole = isinstance(self.n, int) and not isinstance(self.n, bool) and self.n > 0
        require(whole, "n", "be a whole number above 0", self.n)
        require(all(isinstance(seed, int) for seed in self.seeds), "seeds", "be whole numbers", self.seeds)
        require(_is_date(self.date), "date", "be an ISO date (2026-11-21)", self.date)
        self._check_value()

    def _check_value(self) -> None:
        if self.value is None:
            require(self.interval is None, "interval", "come with a value", self.interval)
            return
        require(_finite(self.value), "value", "be a finite number", self.value)
        if self.interval is not None:
            pair = len(self.interval) == 2 and all(map(_finite, self.interval))
            require(
                pair and self.interval[0] <= self.interval[1], "interval", "be [low, high]", self.interval
            )
        claim = BY_ID[self.id]
        agrees = self.holds is None or self.holds == claim.judge(self.value)
        require(
            agrees, "holds", f"agree with the rule of {self.id} ({claim.rule}) for {self.value:g}", self.holds
        )

    @property
    def verdict(self) -> str:
        """``holds``, ``does not``, or ``undecided`` where this data cannot tell: the rule runs through the interval."""
        if self.interval is not None and self.value is not None:
            judged = {BY_ID[self.id].judge(each) for each in (*self.interval, self.value)}
            if len(judged) > 1:  # of a claim with two bounds both ends may lie outside, one on either side
                return "undecided"
        return {True: "holds", False: "does not", None: "undecided"}[self.holds]


def _finite(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _is_date(given: object) -> bool:
    try:
        date.fromisoformat(str(given))
    except ValueError:
        return False
    return isinstance(given, str)


def read(path: Path) -> list[Record]:
    """The records of one file; none of a file of other results (an object with neither ``id`` nor ``records``).

    Raises RecordError, naming the file and the key, for a record that the schema refuses.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error
    if isinstance(content, dict):
        content = [content] if "id" in content else content.get("records", [])
    if not isinstance(content, list):
        raise RecordError(f"{path}: records must be a list, but got {content!r}.")
    return [_record(entry, path) for entry in content]


def write(path: Path, records: Sequence[Record]) -> None:
    """Write records as `read` reads them; for the commands that measure."""
    kept = [
        {name: given for name, given in vars(record).items() if given not in ("", None)} for record in records
    ]
    for entry, record in zip(kept, records, strict=True):
        entry["holds"] = record.holds
    write_whole(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _record(entry: object, path: Path) -> Record:
    if not isinstance(entry, dict):
        raise RecordError(f"{path}: a record must be an object, but got {entry!r}.")
    known = set(Record.__dataclass_fields__)
    required = ("id", "measured", "data", "seeds", "n", "holds", "command", "date")
    missing, unknown = [key for key in required if key not in entry], sorted(set(entry) - known)
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(unknown)}"
        raise RecordError(f"{path}: record {entry.get('id', '?')} {problem}.")
    try:
        spread = entry.get("interval")
        given = {
            **entry,
            "seeds": tuple(entry["seeds"]),
            "interval": tuple(spread) if spread is not None else None,
        }
        return Record(**given)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: record {entry['id']}: {error}") from error


def gather(folders: Iterable[Path], refused: list[RecordError] | None = None) -> list[Record]:
    """All records of the folders' JSON files, one per (id, data): the newest; in the order of the claims.

    A file that the schema refuses raises RecordError; with a list `refused` it is put there and left out.
    """
    newest: dict[tuple[str, str], Record] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            records = read(path)
        except RecordError as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        for record in records:
            key = (record.id, record.data)
            if key not in newest or record.date >= newest[key].date:
                newest[key] = record
    order = {claim.id: i for i, claim in enumerate(CLAIMS)}
    return sorted(newest.values(), key=lambda record: (order[record.id], record.data))


def lines(records: Sequence[Record]) -> list[dict[str, str]]:
    """The table's lines, column -> text: every record of every claim, or one line that says it was not measured."""
    table = []
    for claim in CLAIMS:
        found = [record for record in records if record.id == claim.id]
        head = {"id": claim.id, "claim": claim.statement, "published": claim.published}
        if not found:
            table.append(head | {"measured": "", "data": "", "seeds": "", "holds": NOT_MEASURED})
        for record in found:
            table.append(
                head
                | {
                    "measured": record.measured
                    + _around(record)
                    + (f" ({record.note})" if record.note else ""),
                    "data": record.data,
                    "seeds": str(len(record.seeds)),
                    "holds": record.verdict,
                }
            )
    return table


def _around(record: Record) -> str:
    if record.interval is None:
        return ""
    low, high = record.interval
    return f", 95 % [{low:.3g}, {high:.3g}] {BY_ID[record.id].unit}"


def tally(records: Sequence[Record]) -> str:
    """``27 claims: 11 hold, 2 do not, 3 mixed or undecided, 11 not measured here`` (a claim holds on all its data)."""
    counts = {"hold": 0, "do not": 0, "mixed or undecided": 0, NOT_MEASURED: 0}
    for claim in CLAIMS:
        verdicts = {record.verdict for record in records if record.id == claim.id}
        if not verdicts:
            counts[NOT_MEASURED] += 1
        elif len(verdicts) > 1 or "undecided" in verdicts:
            counts["mixed or undecided"] += 1
        else:
            counts["hold" if verdicts == {"holds"} else "do not"] += 1
    return f"{len(CLAIMS)} claims: " + ", ".join(f"{count} {what}" for what, count in counts.items())


def markdown(records: Sequence[Record]) -> str:
    """The block of `WHOLE`, every record, markers included."""
    rows = [[line[name] for name in COLUMNS] for line in lines(records)]
    commands = dict.fromkeys(record.command for record in records)
    again = "\n\nMeasured by:\n\n```\n" + "\n".join(commands) + "\n```" if commands else ""
    return f"{BEGIN}\n{tally(records)}.\n\n{_grid(COLUMNS, rows)}{again}\n{END}\n"


def brief(records: Sequence[Record]) -> str:
    """The block of the README: one line per claim, the record that says most, and on how much data it holds."""
    rows = []
    for claim in CLAIMS:
        found = [record for record in records if record.id == claim.id]
        first = max(
            found,
            key=lambda record: (record.value is not None, len(record.seeds), record.n, _named_first(record)),
            default=None,
        )
        measured = f"{first.measured} ({_sized(first)})" if first else ""
        if first and len({record.verdict for record in found}) > 1:
            measured += f": {first.verdict}"
        rows.append([claim.id, claim.statement, claim.published, measured, verdict(found)])
    table = _grid(("id", "claim", "published", "measured", "holds"), rows)
    more = (
        f"Every record, with intervals, notes and the commands that measure: [{WHOLE}]({WHOLE.as_posix()})."
    )
    return f"{BEGIN}\n{tally(records)}. {more}\n\n{table}\n{END}\n"


def _named_first(record: Record) -> tuple[bool, int]:
    """The papers' own data before others, the larger network before the smaller."""
    sizes = [int(found.replace(",", "")) for found in re.findall(r"n = ([\d,]+)", record.data)]
    return record.data.startswith("mnist"), max(sizes, default=0)


def _sized(record: Record) -> str:
    seeds = f"; {len(record.seeds)} seed{'s' if len(record.seeds) > 1 else ''}" if record.seeds else ""
    return f"{record.data}{seeds}"


def verdict(records: Sequence[Record]) -> str:
    """``holds``, ``does not``, or on how many of the records: ``5 hold, 1 does not, 1 undecided``."""
    words = Counter(record.verdict for record in records)
    if len(words) < 2:
        return next(iter(words), NOT_MEASURED)
    plural = {"holds": "hold", "does not": "do not", "undecided": "undecided"}
    return ", ".join(
        f"{words[word]} {word if words[word] == 1 else many}" for word, many in plural.items() if words[word]
    )


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
    return head + "".join("\n| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def update(text: str, block: str) -> str:
    """`text` with the block between its markers replaced. Raises RecordError when the markers are not there once."""
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END) + r"\n?"
    if len(re.findall(pattern, text, re.DOTALL)) != 1:
        raise RecordError(f"the file needs the lines\n{BEGIN}\n{END}\nonce, where the table is to stand.")
    return re.sub(pattern, lambda _: block, text, flags=re.DOTALL)


def table(records: Sequence[Record]) -> Table:
    """The table for a terminal."""
    shown = Table(title=tally(records), title_justify="left", show_lines=False)
    for name in COLUMNS:
        shown.add_column(name, overflow="fold", no_wrap=name in ("id", "seeds"))
    tints = {"holds": "green", "does not": "red", "undecided": "yellow"}
    for line in lines(records):
        shown.add_row(*(line[name] for name in COLUMNS), style=tints.get(line["holds"]))
    return shown


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or its Markdown, or write it into a file.

    0: done. 1: a record is wrong; the table is printed without it, a file is not written at all.
    5: a file cannot be read or written.
    """
    asked = _parser().parse_args(arguments)
    refused: list[RecordError] = []
    try:
        records = gather(cast(Sequence[Path], asked.folders), refused)
        if asked.update and not refused:
            _update(asked.update, brief(records))
            whole = asked.update.parent / WHOLE
            if whole.exists():
                _update(whole, markdown(records))
            print(f"{asked.update}: {tally(records)}")
        elif not asked.update:
            _print(records, asked.form)
    except RecordError as error:
        refused.append(error)
    for problem in refused:
        print(problem, file=sys.stderr)
    return BAD_RECORD if refused else OK


def _update(path: Path, block: str) -> None:
    path.write_text(update(path.read_text(encoding="utf-8"), block), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.claims",
        description="What the papers claim, what was measured, and whether it holds.",
        epilog="examples: python -m pipeline.claims | python -m pipeline.claims --update README.md",
    )
    forms = parser.add_mutually_exclusive_group()
    for form, words in (
        ("markdown", "print the block of docs/claims.md"),
        ("json", "print the lines of the table as JSON"),
        ("rules", "print by which rule each claim is judged"),
    ):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=words)
    forms.add_argument(
        "--update",
        type=Path,
        metavar="FILE",
        help="write one line per claim between the markers of FILE, and all records into docs/claims.md beside it",
    )
    where = "folders with records (default: those of the package or of docs/results, and outputs/claims)"
    parser.add_argument(
        "--from", dest="folders", type=Path, nargs="+", default=FOLDERS, metavar="FOLDER", help=where
    )
    return parser


def _print(records: Sequence[Record], form: str | None) -> None:
    if form == "markdown":
        sys.stdout.write(markdown(records))
    elif form == "json":
        sys.stdout.write(json.dumps(lines(records), indent=2, ensure_ascii=False) + "\n")
    elif form == "rules":
        sys.stdout.writelines(f"{claim.id:4s}{claim.statement}: {claim.rule}\n" for claim in CLAIMS)
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table(records))


if __name__ == "__main__":
    raise SystemExit(main())
