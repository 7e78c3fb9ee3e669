import pytest
import torch

from pipeline.data.digits import Digits
from pipeline.data.encode import Direct


def spec(**changes):
    return Digits(**{"timesteps": 4, "encoding": Direct()} | changes)


def rows(split):
    return {bytes(x.flatten().tolist()) + bytes([y]) for x, y in zip(split.x, split.y, strict=True)}


def test_sizes_shapes_and_scale():
    data = spec().load(0)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [1079, 359, 359]
    assert data.train.x.shape[1:] == data.shape == (1, 8, 8)
    assert data.train.x.dtype == torch.uint8
    assert data.train.x.max() == 255
    assert data.test.y.bincount().min() >= 34


def test_every_sample_is_in_exactly_one_split():
    data = spec().load(0)
    whole = [rows(s) for s in (data.train, data.validation, data.test)]
    assert sum(map(len, whole)) == len(set.union(*whole)) == 1797  # scikit-learn's digits hold no duplicates


def test_the_test_split_never_moves():
    reference = spec().load(0)
    for other in (spec(split_seed=7).load(0), spec(split_seed=None).load(3), spec(validation=100).load(0)):
        assert torch.equal(reference.test.x, other.test.x)
        assert other.digest != reference.digest


def test_a_trials_seed_matters_only_when_asked():
    assert spec().load(0).digest == spec().load(1).digest
    assert spec(split_seed=None).load(0).digest != spec(split_seed=None).load(1).digest


def test_batches_are_encoded():
    batch = next(spec().load(0).batches("train", 16, seed=0))
    assert batch.x.shape == (4, 16, 1, 8, 8)
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype == torch.int64


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"^timesteps must be in \[1, 1000\]"):
        spec(timesteps=0)
    with pytest.raises(ValueError, match=r"^validation must leave training samples"):
        spec(validation=0.9)
    with pytest.raises(ValueError, match=r"^test must be a fraction"):
        spec(test=2.5)
