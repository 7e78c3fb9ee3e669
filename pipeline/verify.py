"""``python -m pipeline.verify FOLDER``: is this export whole, unchanged, and does it still do what it did?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.exits import spoken
from pipeline.export.folder import STREAM, Export, first_difference, read
from pipeline.types import DataError

OK, BAD, USAGE = 0, 1, 2


def verify(folder: Path) -> Export:
    """Check an export in full: hashes, shapes, ranges, and every spike of the shipped vectors.

    Raises:
        DataError: what is wrong, in one sentence that names the file or the layer.
    """
    export = read(folder)
    difference = first_difference(export)
    if difference:
        raise DataError(difference)
    return export


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all is well; 1: it is not, and the message says what."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0].startswith("-"):
        print("usage: python -m pipeline.verify FOLDER", file=sys.stderr)
        return USAGE
    folder = Path(given[0])
    try:
        export = verify(folder)
    except DataError as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return BAD
    size = (folder / STREAM).stat().st_size
    count, steps = len(export.samples.codes), export.program.timesteps
    print(f"{folder}: {len(export.files)} files as their hashes say, {size} bytes of weights and parameters,")
    print(
        f"every spike of {len(export.samples.spikes)} layers over {steps} steps of {count} samples as shipped."
    )
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
