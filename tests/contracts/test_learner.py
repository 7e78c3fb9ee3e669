"""What every gradient learner owes the trial that calls it. A new one is one more row in LEARNERS."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.data.digits import Digits
from pipeline.data.encode import Direct
from pipeline.learn.decode import RateDecode
from pipeline.learn.surrogate import Surrogate
from pipeline.nets.feedforward import FeedForward
from pipeline.types import Dataset, Learner, Metrics

LEARNERS: dict[str, Learner] = {
    "rate cross-entropy": Surrogate(epochs=2),
    "step cross-entropy": Surrogate(
        epochs=2, loss="step_cross_entropy", optimizer="adamw", weight_decay=0.01
    ),
    "vote error, sgd": Surrogate(epochs=2, loss="vote_mse", optimizer="sgd", learning_rate=0.5, clip=1.0),
}
WANTED = {"loss", "train_accuracy", "validation_accuracy", "validation_error", "firing_rate"}


@pytest.fixture(scope="module")
def data() -> Dataset:
    torch.set_num_threads(1)
    return Digits(timesteps=4, encoding=Direct()).load(0)


def fresh(data: Dataset) -> nn.Module:
    return FeedForward(hidden=24).build(data.shape, data.classes, 0)


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())
class TestEveryLearner:
    def test_it_reports_every_epoch(self, learner: Learner, data: Dataset) -> None:
        history: list[tuple[int, Metrics]] = []
        learner.fit(fresh(data), data, lambda step, metrics: history.append((step, metrics)), seed=0)
        assert [step for step, _ in history] == [1, 2]
        for _, metrics in history:
            assert set(metrics) >= WANTED
            assert all(isinstance(value, float) for value in metrics.values())
            assert metrics["validation_accuracy"] + metrics["validation_error"] == pytest.approx(1)

    def test_its_decoding_gives_labels_and_travels_as_tensors(self, learner: Learner, data: Dataset) -> None:
        net = fresh(data)
        decode = learner.fit(net, data, lambda *_: None, seed=0)
        labels = decode(net(next(data.batches("validation", 30, 0)).x))
        assert labels.shape == (30,)
        assert labels.dtype == torch.int64
        assert isinstance(decode, RateDecode)
        assert RateDecode.from_tensors(decode.tensors()) == decode

    def test_zero_epochs_change_nothing(self, learner: Learner, data: Dataset) -> None:
        net, called = fresh(data), []
        learner.fit(net, data, lambda step, _: called.append(step), seed=0, epochs=0)
        before = fresh(data).state_dict()
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert called == []

    def test_the_test_split_is_not_read(self, learner: Learner, data: Dataset) -> None:
        class Guarded(Dataset):
            def split(self, name):  # type: ignore[no-untyped-def]
                assert name != "test"
                return super().split(name)

        fields = {name: getattr(data, name) for name in data.__dataclass_fields__}
        learner.fit(fresh(data), Guarded(**fields), lambda *_: None, seed=0)

    def test_the_same_seed_repeats(self, learner: Learner, data: Dataset) -> None:
        nets = [fresh(data), fresh(data)]
        for net in nets:
            learner.fit(net, data, lambda *_: None, seed=3)
        first, second = (net.state_dict() for net in nets)
        assert all(torch.equal(first[name], second[name]) for name in first)
