"""A float model is trained once; whoever needs it again gets the same tensors and the same history."""

import multiprocessing
import time

import pytest
import torch
from torch import nn

from pipeline import checkpoint
from pipeline.learn.decode import RateDecode
from pipeline.pretrained import Pretrained
from pipeline.types import STORED


class Trainer:
    def __init__(self, net):
        self.net, self.calls = net, 0

    def __call__(self, report):
        self.calls += 1
        with torch.no_grad():
            self.net.weight.fill_(0.5)
        report(1, {"loss": 0.25})
        return RateDecode(3)


def net():
    return nn.Linear(2, 3, bias=False)


def test_the_second_time_nothing_is_trained(tmp_path):
    seen = []
    first, again = net(), net()
    Pretrained(tmp_path, "a" * 64)(first, Trainer(first), lambda step, m: seen.append((step, dict(m))))
    trainer = Trainer(again)
    decode = Pretrained(tmp_path, "a" * 64)(again, trainer, lambda step, m: seen.append((step, dict(m))))
    assert trainer.calls == 0
    assert torch.equal(again.weight, first.weight)
    assert decode == RateDecode(3)
    assert seen == [(1, {"loss": 0.25}), (1, {"loss": 0.25, STORED: 1.0})]


def test_another_key_trains_its_own(tmp_path):
    for key in ("a" * 64, "b" * 64):
        model = net()
        trainer = Trainer(model)
        Pretrained(tmp_path, key)(model, trainer, lambda step, m: None)
        assert trainer.calls == 1


def test_a_damaged_file_is_said_and_trained_again(tmp_path, caplog):
    model = net()
    cache = Pretrained(tmp_path, "a" * 64)
    cache(model, Trainer(model), lambda step, m: None)
    cache.path.write_bytes(cache.path.read_bytes()[:20])
    trainer = Trainer(model)
    cache(model, trainer, lambda step, m: None)
    assert trainer.calls == 1
    assert "trained again" in caplog.text


@pytest.mark.parametrize("change", ["shape", "missing", "more"])
def test_a_model_of_another_network_leaves_nothing_in_the_one_that_is_trained_again(tmp_path, caplog, change):
    """Its first layer would fit: it must not be where training starts."""

    def two(last):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), *last)

    one, other = [nn.Linear(3, 3)], {"shape": [nn.Linear(3, 4)], "missing": [], "more": [nn.Linear(3, 3)] * 2}
    written, model = two(other[change]), two(one)
    with torch.no_grad():
        written[0].weight.fill_(7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cache, started = Pretrained(tmp_path, "a" * 64), []

    def fit(report):
        started.append(all(torch.equal(t, before[name]) for name, t in model.state_dict().items()))
        return RateDecode(3)

    checkpoint.save(cache.path, written, RateDecode(3), {}, {"history": []})
    cache(model, fit, lambda step, m: None)
    assert started == [True]
    assert "trained again" in caplog.text


def test_a_stopped_training_leaves_no_model(tmp_path):
    model = net()

    def stop(step, metrics):
        raise KeyboardInterrupt

    cache = Pretrained(tmp_path, "a" * 64)
    with pytest.raises(KeyboardInterrupt):
        cache(model, Trainer(model), stop)
    assert not cache.path.exists()


def worker(folder, begin, answers):
    """Needs the model as soon as all workers are there; training takes half a second and is written down."""
    model = net()

    def fit(report):
        with (folder / "trained").open("a") as file:
            file.write("once\n")
        time.sleep(0.5)
        return Trainer(model)(report)

    begin.wait(60)
    Pretrained(folder, "a" * 64)(model, fit, lambda step, metrics: None)
    answers.put(float(model.weight.sum()))


def test_four_workers_that_need_it_at_once_train_it_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    begin, answers = spawn.Barrier(4), spawn.Queue()
    workers = [spawn.Process(target=worker, args=(tmp_path, begin, answers)) for _ in range(4)]
    for each in workers:
        each.start()
    assert [answers.get(timeout=60) for _ in workers] == [3.0] * 4  # 6 weights of 0.5
    for each in workers:
        each.join(30)
    assert (tmp_path / "trained").read_text() == "once\n"
