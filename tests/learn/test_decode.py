"""Votes, labels and accuracy on numbers worked by hand."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from pipeline.learn.activity import Activity, watch
from pipeline.learn.decode import RateDecode, accuracy, votes
from pipeline.nets.neurons import Leaky
from pipeline.types import Batch, Saturated, Silent

# T = 2, B = 2, 2 classes of 2 neurons each.
SPIKES = torch.tensor([[[1, 0, 1, 1], [0, 1, 0, 0]], [[0, 0, 0, 1], [1, 1, 0, 0]]], dtype=torch.float32)


def test_votes_are_means_over_steps_and_groups():
    """Sample 0: class 0 has 1 spike in 4 places, class 1 has 3; sample 1: 3 and 0."""
    assert votes(SPIKES, 2).tolist() == [[0.25, 0.75], [0.75, 0.0]]
    assert RateDecode(2)(SPIKES).tolist() == [1, 0]


def test_ties_go_to_the_lower_class():
    assert RateDecode(3)(torch.zeros(4, 1, 3)).tolist() == [0]


def test_outputs_that_classes_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"classes must divide .* 3 and 4"):
        RateDecode(3)(SPIKES)
    with pytest.raises(ValueError, match=r"^classes must be at least 1"):
        RateDecode(0)


def test_saved_as_tensors_and_back():
    decode = RateDecode(7)
    assert RateDecode.from_tensors(load(save(decode.tensors()))) == decode


def test_accuracy_counts_samples_over_batches_of_any_size():
    batches = [Batch(SPIKES, torch.tensor([1, 1])), Batch(SPIKES[:, :1], torch.tensor([1]))]
    net = nn.Identity().train()
    assert accuracy(net, RateDecode(2), batches) == pytest.approx(2 / 3)
    assert net.training
    assert accuracy(net, RateDecode(2), []) == 0


def test_activity_counts_spikes_per_neuron_and_step():
    """beta 0, threshold 1: a neuron fires where its current is above 1; 3 of 8."""
    net = nn.Sequential(Leaky(0.0, reset_mechanism="none"))
    x = torch.tensor([[2.0, 0, 2, 0], [0, 2, 0, 0]]).view(2, 1, 4)
    with watch(net) as activity:
        net(x)
        net(x)
    net(x)  # no longer watched
    assert activity.rates() == {"0": 3 / 8}
    assert activity.rate() == 3 / 8
    activity.check()


def test_activity_names_silent_and_saturated_layers():
    spikes = {"lif1": torch.tensor(30), "lif2": torch.tensor(0)}
    with pytest.raises(Silent, match=r"^lif2 does not fire; .*lif1 0\.3000"):
        Activity(spikes, {"lif1": 100, "lif2": 100}).check()
    with pytest.raises(Saturated, match=r"^lif1 fires at 96% of all steps"):
        Activity({"lif1": torch.tensor(96)}, {"lif1": 100}).check()
