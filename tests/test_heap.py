"""What trainings free is kept until they end: counted in pages that the system has to hand out."""

import subprocess
import sys

import pytest

from pipeline import heap

PROGRAM = """
import resource
import torch
from pipeline import heap

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        maps = torch.ones(12_000_000)  # 48 MB
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

pages()
around = [pages()]
with heap.held():
    for _ in range(8):  # an aligned block fits into a freed one of its size only where there is room around it
        pages()
    inside, full = pages(), resident()
left = resident()
around.append(pages())
print(inside, *around, full, left)
"""


def run(**environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()


@pytest.mark.skipif(heap._library() is None, reason="not the GNU C library, or its thresholds are chosen")
def test_maps_are_used_again_while_a_training_runs_and_given_back_when_it_ends():
    inside, before, after, full, left = map(int, run())
    assert inside < before / 10
    assert inside < after / 10
    assert left < full, "pages held by the process"


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")]
)
def test_thresholds_that_a_user_chose_stay(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert heap._library() is None
    with heap.held():
        pass


def test_a_training_that_fails_gives_back_too(monkeypatch):
    told = []

    class Library:
        def mallopt(self, option, size):
            told.append((option, size))

        def malloc_trim(self, pad):
            told.append(pad)

    monkeypatch.setattr(heap, "_library", Library)
    with pytest.raises(KeyboardInterrupt), heap.held():
        raise KeyboardInterrupt
    assert told == [(-1, 2**31 - 1), (-3, 2**30), (-1, 2**26), (-3, 2**25), 0]


def test_of_two_inside_one_another_the_outer_one_gives_back(monkeypatch):
    told = []

    class Library:
        def mallopt(self, option, size):
            told.append(size)

        def malloc_trim(self, pad):
            told.append("trim")

    monkeypatch.setattr(heap, "_library", Library)

    @heap.held()
    def measured():
        return len(told)

    with heap.held():
        assert measured() == 2
        assert measured() == 2, "nothing more was said"
    assert told == [2**31 - 1, 2**30, 2**26, 2**25, "trim"]
