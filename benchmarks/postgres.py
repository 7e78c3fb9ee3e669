"""A PostgreSQL of its own in a temporary folder, for tests and for load: started, stopped, and gone afterwards.

    python benchmarks/postgres.py python benchmarks/bookkeeping.py --load 1 8 32 --trials 1000 --storage {url}

runs the command with {url} in place, and prints the server's own processor time for it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil


def program(name: str) -> str | None:
    """Where a PostgreSQL program is; Debian keeps the server's out of the path."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), *filter(None, [shutil.which(name)])]
    return str(found[-1]) if found else None


class Server:
    """A server on the loopback address; never run by root, which PostgreSQL refuses, but by nobody."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="snn-postgres-"))
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.run("initdb", "-D", self.folder / "data", "-U", "snn", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self.start()
        self.url = f"postgresql://snn@127.0.0.1:{self.port}/postgres"

    def run(self, name: str, *arguments: object) -> None:
        command = [str(program(name)), *map(str, arguments)]
        done = subprocess.run(
            command, user=self.user, cwd="/", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr}")

    def start(self) -> None:
        log = self.folder / "log"
        data = self.folder / "data"
        self.run("pg_ctl", "-D", data, "-l", log, "-w", "-t", "120", "-o", self.options, "start")

    def stop(self) -> None:
        """At once, as in a crash: clients are cut off, and the next start recovers from the log."""
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processor_s(self) -> float:
        """Processor time of the server and of the connections that have ended."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)


def main() -> int:
    server = Server()
    try:
        begin = server.processor_s()
        done = subprocess.run([word.replace("{url}", server.url) for word in sys.argv[1:]])
        print(f"PostgreSQL's processor time: {server.processor_s() - begin:.1f} s")
        return done.returncode
    finally:
        server.remove()


if __name__ == "__main__":
    raise SystemExit(main())
