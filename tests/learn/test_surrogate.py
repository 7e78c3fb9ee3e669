"""Surrogate-gradient training: it learns, repeats, works with compressed weights and ends trials by name."""

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeWeights
from pipeline.data.digits import Digits
from pipeline.data.encode import Direct
from pipeline.data.mnist import Mnist
from pipeline.learn.decode import RateDecode, accuracy
from pipeline.learn.surrogate import Surrogate
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.tcja import Tcja
from pipeline.types import Batch, Diverged, Saturated, Silent, Span, TrialEnded

NET = FeedForward(hidden=64)


@pytest.fixture(scope="module")
def digits():
    torch.set_num_threads(1)
    return Digits(timesteps=8, encoding=Direct()).load(0)


def train(learner, data, net=None, epochs=None, seed=0):
    net = net or NET.build(data.shape, data.classes, seed)
    history = []
    decode = learner.fit(net, data, lambda step, metrics: history.append((step, metrics)), seed, epochs)
    return net, decode, history


@pytest.mark.parametrize("loss", ["rate_cross_entropy", "step_cross_entropy", "vote_mse"])
def test_learns_real_digits_with_every_loss(digits, loss):
    net, decode, history = train(Surrogate(epochs=8, loss=loss, learning_rate=5e-3), digits)
    test = accuracy(net, decode, digits.batches("test", 500, seed=0))
    assert test > 0.9, test
    assert [step for step, _ in history] == list(range(1, 9))
    first, last = history[0][1], history[-1][1]
    assert last["loss"] < first["loss"]
    assert last["validation_error"] == pytest.approx(1 - last["validation_accuracy"])
    assert last["validation_accuracy"] == accuracy(net, decode, digits.batches("validation", 50, seed=0))
    assert 0 < last["firing_rate"] < 1
    assert last["train_accuracy"] > 0.9


def test_the_same_seed_gives_the_same_run_and_leaves_the_global_state(digits):
    state = torch.random.get_rng_state()
    learner = Surrogate(epochs=1)
    spec = replace(NET, dropout=0.2)
    runs = [train(learner, digits, spec.build((1, 8, 8), 10, 0), seed=seed) for seed in (0, 0, 1)]
    same, again, other = (dict(net.state_dict()) for net, _, _ in runs)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert runs[0][2] == runs[1][2]
    assert not torch.equal(same["fc1.weight"], other["fc1.weight"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_five_epochs_of_digits_take_a_moment(digits):
    train(Surrogate(epochs=1), digits)  # kernels compile once per machine
    start = time.process_time()
    train(Surrogate(epochs=5), digits)
    assert time.process_time() - start < 1.5


def test_zero_epochs_only_find_the_decoding(digits):
    net = NET.build(digits.shape, 10, 0)
    before = net.fc1.weight.detach().clone()
    _, decode, history = train(Surrogate(), digits, net, epochs=0)
    assert decode == RateDecode(10)
    assert history == []
    assert torch.equal(before, net.fc1.weight)


def test_epochs_given_to_fit_win(digits):
    assert len(train(Surrogate(epochs=9), digits, epochs=2)[2]) == 2


def test_masked_weights_stay_masked_and_still_learn(digits):
    class Mask(nn.Module):
        def __init__(self, keep):
            super().__init__()
            self.register_buffer("keep", keep)

        def forward(self, w):
            return w * self.keep

    net = NET.build(digits.shape, 10, 0)
    keep = torch.rand(64, 64, generator=torch.Generator().manual_seed(99)) < 0.5
    parametrize.register_parametrization(net.fc1, "weight", Mask(keep))
    net, decode, _ = train(Surrogate(epochs=5, learning_rate=5e-3), digits, net)
    assert (net.fc1.weight[~keep] == 0).all()
    assert accuracy(net, decode, digits.batches("test", 500, seed=0)) > 0.85


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weight_decay_acts_on_weights_and_not_on_neuron_constants(digits, optimizer):
    spec = replace(NET, learn_beta=True, learn_threshold=True)
    net = spec.build(digits.shape, 10, 0)
    groups = Surrogate(optimizer=optimizer, weight_decay=0.1)._build_optimizer(net).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.1), (4, 0.0)]


def test_cosine_and_warmup():
    learner = Surrogate(learning_rate=1.0, warmup_batches=4)
    assert [learner._rate_at(step, 100) for step in (0, 50, 100)] == pytest.approx([0.25, 0.5, 0])
    assert replace(learner, scheduler="constant")._rate_at(80, 100) == 1.0


def test_a_silent_net_ends_the_trial_after_a_few_batches(digits):
    net = NET.build(digits.shape, 10, 0)
    net.lif1.threshold.fill_(1e6)
    with pytest.raises(Silent, match=r"lif1 does not fire; .* lif1 0\.0000, lif2 0\.0000"):
        train(Surrogate(check_batches=2), digits, net)


def test_a_saturated_net_ends_the_trial(digits):
    net = NET.build(digits.shape, 10, 0)
    net.lif1.threshold.fill_(1e-6)
    with torch.no_grad():
        net.fc1.weight.fill_(1.0)
    with pytest.raises(Saturated, match=r"lif1 fires at 100% of all steps; .* lif1 1\.0000"):
        train(Surrogate(check_batches=2), digits, net)


def test_nan_ends_the_trial(digits):
    net = NET.build(digits.shape, 10, 0)
    with torch.no_grad():
        net.fc2.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="NaN or infinite"):
        train(Surrogate(), digits, net)


def test_what_after_epoch_raises_ends_the_run(digits):
    class Enough(TrialEnded):
        pass

    def stop(step, metrics):
        raise Enough("enough")

    with pytest.raises(Enough):
        Surrogate().fit(NET.build(digits.shape, 10, 0), digits, stop, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("right_rate", 1.5),
        ("wrong_rate", 1.0),
        ("momentum", 1.0),
        ("clip", -1.0),
        ("warmup_batches", -1),
        ("label_smoothing", 1.0),
        ("check_batches", -1),
        ("loss", "hinge"),
        ("optimizer", "lion"),
        ("scheduler", "step"),
        ("device", "tpu"),
    ],
)
def test_values_out_of_range_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must .*, but got "):
        Surrogate(**{field: value})


def test_two_parts_of_a_training_have_the_learning_rates_of_the_whole(digits):
    """Four epochs, a warm-up over the first: rates of the last batch of each epoch, and other batches in each."""
    learner = Surrogate(epochs=4, warmup_batches=20)
    _, _, whole = train(learner, digits)
    net, parts = NET.build(digits.shape, digits.classes, 0), []
    for span in (Span(0, 4), Span(2, 4)):
        learner.fit(net, digits, lambda step, metrics: parts.append(metrics), 0, 2, span)
    assert [m["learning_rate"] for m in parts] == [m["learning_rate"] for _, m in whole]
    assert parts[:2] == [metrics for _, metrics in whole[:2]]  # until then it is the same training
    assert parts[2]["loss"] != whole[2][1]["loss"]  # the optimizer's moments start anew
    assert parts[3]["loss"] == pytest.approx(whole[3][1]["loss"], rel=0.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for(digits):
    with pytest.raises(ValueError, match=r"^device must be auto or cpu where there is no GPU"):
        train(Surrogate(device="cuda"), digits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [False, True])
def test_gpu_learns_as_the_cpu_does(digits, amp):
    net, _, history = train(Surrogate(epochs=5, learning_rate=5e-3, device="cuda", amp=amp), digits)
    _, _, on_cpu = train(Surrogate(epochs=5, learning_rate=5e-3, device="cpu"), digits)
    assert net.fc1.weight.device.type == "cpu"
    assert abs(history[-1][1]["validation_accuracy"] - on_cpu[-1][1]["validation_accuracy"]) < 0.04
    assert history[0][1]["loss"] == pytest.approx(on_cpu[0][1]["loss"], rel=0.1 if amp else 0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_takes_the_step_that_the_cpu_takes_through_masks_and_quantizers():
    """Convolutions, normalisation and attention, masks and learned ranges: loss and gradients of one batch."""
    spec = Tcja(timesteps=4, channels=8, hidden=16, plain_blocks=1, attention_blocks=1, dropout=0.0)
    x = (torch.rand(4, 6, 2, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    y, found = torch.arange(6), []
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        for device in ("cpu", "cuda"):
            net = spec.build((2, 16, 16), 11, 0)
            for step in (PruneWeights(0.5), QuantizeWeights(4, scheme="duq")):
                step.attach(net)
            net.to(device).train()
            loss, _ = Surrogate()._loss(net, Batch(x.to(device), y.to(device)), 11)
            loss.backward()
            found.append([loss.detach().cpu(), *(p.grad.cpu() for p in net.parameters())])
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    for expected, there in zip(*found, strict=True):
        torch.testing.assert_close(there, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize(
    "spec",
    [
        Tcja(
            timesteps=4, channels=8, hidden=16, plain_blocks=1, attention_blocks=1, dropout=0.0, threshold=0.5
        ),
        FeedForward(hidden=64, init_gain=2.0),
    ],
    ids=["tcja", "feedforward"],
)
def test_half_precision_takes_nearly_the_step_of_single_precision(spec, device):
    """What `amp` switches on, loss and gradients beside single precision on the CPU; there on the CPU's own half
    precision (the path of a GPU, though not its arithmetic) and, where there is one, on a GPU."""
    x = (torch.rand(4, 6, 2, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    y, steps = torch.arange(6), []
    for half in (False, True):
        net = spec.build((2, 16, 16), 11, 0)
        for step in (PruneWeights(0.2), QuantizeWeights(8, scheme="duq")):
            step.attach(net)
        place = device if half else "cpu"
        net.to(place).train()
        with torch.autocast(place, torch.bfloat16, enabled=half):
            loss, _ = Surrogate()._loss(net, Batch(x.to(place), y.to(place)), 11)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten().cpu() for parameter in net.parameters()])
        steps.append((loss.item(), gradient))
    (loss, gradient), (half_loss, half_gradient) = steps
    assert loss != pytest.approx(math.log(11), abs=1e-6)  # spikes reach the end
    assert half_loss == pytest.approx(loss, rel=0.05)
    assert torch.nn.functional.cosine_similarity(half_gradient, gradient, dim=0) > 0.9
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.slow
def test_mnist_with_2000_images_reaches_93_percent():
    root = os.environ.get("PIPELINE_DATA")
    if root is None or not Path(root).exists():
        pytest.skip("PIPELINE_DATA does not name a folder with MNIST")
    data = Mnist(timesteps=10, encoding=Direct(), root=root, limit=2000, validation=1000).load(0)
    net = FeedForward(hidden=512, dropout=0.5).build(data.shape, 10, 0)
    net, decode, _ = train(Surrogate(epochs=20, learning_rate=2e-3, label_smoothing=0.1), data, net)
    assert accuracy(net, decode, data.batches("test", 500, seed=0)) >= 0.93
