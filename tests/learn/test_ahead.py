"""Batches made in a second thread: the same ones, errors where they are due, no thread left behind."""

import threading
from contextlib import closing

import pytest
import torch

from pipeline.learn import surrogate
from pipeline.learn.ahead import ahead
from pipeline.types import Batch


def test_the_next_item_is_made_while_this_one_is_used():
    made, asked = [], threading.Event()

    def source():
        for number in range(3):
            made.append((number, threading.current_thread().name))
            if number == 1:
                asked.set()
            yield number

    before = threading.active_count()
    with closing(ahead(source())) as items:
        assert next(items) == 0
        assert asked.wait(10), "the second item is made though nobody has asked for it"
        assert list(items) == [1, 2]
    assert [number for number, _ in made] == [0, 1, 2]
    assert threading.current_thread().name not in {name for _, name in made}
    assert threading.active_count() == before


def test_an_error_comes_after_the_items_before_it_and_ends_the_thread():
    def source():
        yield "whole"
        raise OSError("the file is gone")

    before = threading.active_count()
    items = ahead(source())
    assert next(items) == "whole"
    with pytest.raises(OSError, match="the file is gone"):
        next(items)
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whoever_stops_early_leaves_no_thread(error):
    before, ended = threading.active_count(), []

    def source():
        try:
            yield from range(1000)
        finally:
            ended.append(True)

    def use():
        with closing(ahead(source())) as items:
            for item in items:
                if item == 3:
                    raise error

    with pytest.raises(error):
        use()
    assert threading.active_count() == before
    assert ended == [True]


def test_an_empty_source_is_empty():
    assert list(ahead([])) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_a_gpu_as_they_were_made():
    image = torch.rand(3, 1, 4, 4)
    made = [
        Batch(image.expand(5, *image.shape), torch.arange(3)),
        Batch(torch.rand(5, 3, 1, 4, 4), torch.arange(3)),
    ]
    found = list(surrogate._read(iter(made), torch.device("cuda")))
    assert found[0].x.stride(0) == 0, "a constant input stays one copy"
    for one, other in zip(made, found, strict=True):
        assert other.x.is_cuda
        assert other.y.is_cuda
        assert torch.equal(one.x, other.x.cpu())
        assert torch.equal(one.y, other.y.cpu())
