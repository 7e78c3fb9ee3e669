"""The tables of docs/speed.md, cluster.md and cost-model.md, from docs/results; measures nothing.

    python benchmarks/speed_docs.py

Each benchmark writes outputs/benchmarks/NAME.json; copy one to docs/results/benchmarks to show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs_block import lined, put

from pipeline.report.files import write_whole

COMMAND = "python benchmarks/speed_docs.py"
RESULTS, PAGE = Path("docs/results/benchmarks"), Path("docs/speed.md")


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def stdp() -> list[str]:
    """A line per network and direction: images/s of three, and what they are beside each other."""
    rows = []
    for n, row in read("stdp")["neurons"].items():
        same, shown = row["same_counts"]
        for what in ("training", "inference"):
            rows.append(
                [
                    f"{int(n):,}", what, f"{row[f'{what}_images_per_s']:,.0f}",
                    f"{row[f'{what}_ratio_to_batch_1']:,.0f}", f"{row[f'{what}_ratio_to_batch_32']:,.0f}",
                    f"{100 * row[f'{what}_share_of_byte_limit']:.0f} %",
                    f"{row['epoch_s']:.0f} s" if what == "training" else "",
                    f"{same} of {shown}" if what == "training" else "",
                ]
            )  # fmt: skip
    heads = (
        "neurons", "", "images/s", "times BindsNET, one by one", "times BindsNET, 32 at once", "of the byte limit",
        "MNIST epoch", "same spike counts",
    )  # fmt: skip
    return lined(heads, rows)


def bptt() -> list[str]:
    """A line per network: milliseconds of a training step."""
    rows = [
        [
            net["net"], f"{net['ms']['ours']:.1f}",
            f"{net['faster_than']['snntorch']:.2f}", f"{net['faster_than']['spikingjelly']:.2f}",
            f"{100 * net['compression_adds']:+.1f} %", f"{100 * net['learned_adds']:+.1f} %",
            f"{100 * net['gemm_limit_share']:.0f} %",
        ]
        for net in read("bptt")["nets"]
    ]  # fmt: skip
    heads = (
        "network", "ms a step", "times snnTorch's loop", "times SpikingJelly", "masks and 4-bit weights add",
        "masks and learned 4-bit ranges add", "of the matrix-product limit",
    )  # fmt: skip
    return lined(heads, rows)


def integers() -> list[str]:
    """A line per network: images/s of the integer engine and of torch."""
    rows = [
        [
            row["net"], f"{row['torch_images_per_s']:,.0f}", f"{row['integer_images_per_s']:,.0f}",
            f"{row['ratio']:.1f}", f"{row['ratio_from_codes']:.1f}", "yes" if row["same_spikes"] else "no",
        ]
        for row in read("integer")
    ]  # fmt: skip
    heads = (
        "network",
        "torch, images/s",
        "integers, images/s",
        "times",
        "times, handed integers",
        "same spikes",
    )
    return lined(heads, rows)


def around() -> list[str]:
    """What a trial costs beside its training."""
    kept, free, cost = read("bookkeeping-sqlite")["results"][0], read("noop"), read("cost")
    loads = read("bookkeeping-load-random-postgresql")["results"]
    shares, prices = cost["measure_share"].values(), cost["price_ms"].values()
    events = read("events")
    framed, stored = events["framing"], events["nmnist"]
    rows = [
        ["records of a trial (Optuna and MLflow, SQLite)", f"{kept['sum_ms']:.0f} ms", "benchmarks/bookkeeping.py"],
        [
            "trials/s of empty trials on PostgreSQL, " + " / ".join(str(load["workers"]) for load in loads)
            + " workers",
            " / ".join(f"{load['trials_per_s']:.0f}" for load in loads),
            "benchmarks/postgres.py",
        ],
        [
            "reading a batch, of a training step: digits / event frames / the same, changed at random",
            " / ".join(f"{share:.1%}" for share in read("bptt")["loading_share"].values()),
            "benchmarks/bptt.py",
        ],
        [
            "events to frames, millions/s (times tonic): by count / by time / denoised",
            " / ".join(f"{row['events_per_s'] / 1e6:.0f} ({row['ratio']:.0f})" for row in framed.values()),
            "benchmarks/events.py",
        ],
        [
            f"{stored['recordings']:,} recordings of N-MNIST to stored frames; opened again",
            f"{stored['build_s']:.1f} s, {stored['megabytes']:.0f} MB; {stored['open_s']:.2f} s",
            "benchmarks/events.py",
        ],
        [
            "a trial on a cached float model, beside one that trains it",
            f"{read('train_once')['ratio']:.0f} times as fast",
            "benchmarks/train_once.py",
        ],
        ["free workers over batches that wait", f"{free['ratio']:.2f} times", "benchmarks/noop.py"],
        [
            "counting what a network does, of a pass over the data",
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %",
            "benchmarks/cost.py",
        ],
        ["pricing it on a machine", f"{min(prices):.1f} to {max(prices):.1f} ms", "benchmarks/cost.py"],
    ]  # fmt: skip
    return lined(("what", "measured", "command"), rows)


def load() -> list[str]:
    """Trials per second of one PostgreSQL server, a line per kind of worker and their number."""
    kinds = {
        "ours, random": "random", "ours, TPE": "tpe", "Optuna's own loop and storage, random": "plain-random",
    }  # fmt: skip
    rows = [
        [
            kind, str(found["workers"]), f"{found['trials_per_s']:.0f}", f"{found['worker_cpu_ms']:.1f} ms",
            f"{found['trials']} of {found['budget']}",
        ]
        for kind, name in kinds.items()
        for found in read(f"bookkeeping-load-{name}-postgresql")["results"]
    ]  # fmt: skip
    return lined(
        ("suggestions", "workers", "trials/s", "processor time per trial in the workers", "trials done"), rows
    )


def sizing() -> list[str]:
    """What a million trials of a minute by a thousand workers ask for, from what one trial was measured to."""
    trials, workers, length_s, links = 1e6, 1000, 60.0, 125e6
    found = read("bookkeeping-memory-sqlite")["results"][-1]
    claims = max(row["trials_per_s"] for row in read("bookkeeping-load-random-postgresql")["results"])
    stored, kept = found["stored_bytes"], found["kept_bytes_a_trial"]
    read_s, again_us = found["read_ms_a_trial"] / 1e3, 1e3 * found["look_again_ms"] / found["trials"]
    per_s = workers / length_s
    looked = per_s * 2 * workers * stored
    rows = [
        ["trials begun and ended", f"{per_s:.0f}/s of {claims:.0f}/s on two cores"],
        ["heartbeats", f"{workers:,} / 15 s = {workers / 15:.0f} writes/s"],
        [
            "connections",
            "one per worker, two while it beats: PgBouncer (session mode) in front, or `max_connections=2500`",
        ],
        ["database", f"1e6 x {stored / 1e3:.1f} KB = {trials * stored / 1e9:.1f} GB and indices"],
        [
            "a worker's memory",
            f"1e6 x {kept / 1e3:.1f} KB = {trials * kept / 1e9:.1f} GB; read in {trials * read_s:.0f} s when it starts",
        ],
        [
            "a worker's look",
            f"what 1,000 others did in a minute, {workers * read_s:.1f} s, and {trials * again_us / 1e6:.1f} s to pass "
            "a million by",
        ],
        [
            "**all looks together**",
            f"{per_s:.0f}/s x 2,000 trials x {stored / 1e3:.1f} KB = **{looked / 1e6:.0f} MB/s, "
            f"{looked / links:.0%} of a gigabit link: this breaks first**",
        ],
    ]
    return lined(("", ""), rows)


CLUSTER = Path("docs/cluster.md")


def published() -> list[str]:
    """The model's energies beside the published ones."""
    records = json.loads((RESULTS.parent / "hardware_claims.json").read_text(encoding="utf-8"))
    found = next(record["extra"] for record in records if "rank_correlation" in record["extra"])
    return [
        f"rank correlation {found['rank_correlation']:.3f}, median error {100 * found['median_relative_error']:.1f} % "
        f"after one global scale of {found['scale']:.2f}."
    ]


BLOCKS: dict[str, tuple[Path, Callable[[], list[str]]]] = {
    "stdp": (PAGE, stdp), "bptt": (PAGE, bptt), "integers": (PAGE, integers), "around": (PAGE, around),
    "load": (CLUSTER, load), "sizing": (CLUSTER, sizing),
    "published": (Path("docs/cost-model.md"), published),
}  # fmt: skip


def main() -> None:
    for name, (path, lines) in BLOCKS.items():
        write_whole(path, put(path.read_text(encoding="utf-8"), name, COMMAND, lines()))
        print("\n".join([name, *lines(), ""]))


if __name__ == "__main__":
    main()
