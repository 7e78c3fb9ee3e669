"""An interrupt that a finaliser swallowed comes again."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import time
from pipeline import interrupts
class Deaf:
    def __del__(self):
        print("deaf", flush=True)
        time.sleep(1.5)
interrupts.listen()
try:
    del_me = Deaf()
    del del_me
    time.sleep(60)
except KeyboardInterrupt:
    interrupts.heard()
    time.sleep(2.5)
    print("heard once", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lost_in_a_finaliser_is_raised_again_and_only_until_heard(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    time.sleep(0.2)
    begin = time.monotonic()
    os.kill(process.pid, number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert out == "heard once\n"
    assert "KeyboardInterrupt" in error, "the first one was ignored in the finaliser"
    assert time.monotonic() - begin > 4
