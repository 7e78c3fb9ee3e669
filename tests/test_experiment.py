"""One trial from data to price, on real digits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pipeline import checkpoint, config, experiment
from pipeline.clock import Clock
from pipeline.compress.bake import sparsity
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.data.poisson import Poisson
from pipeline.experiment import evaluate, measured, reload
from pipeline.hardware.counting import Counting
from pipeline.hardware.load import measure
from pipeline.job import build
from pipeline.learn.stdp import StdpRule
from pipeline.learn.surrogate import Surrogate
from pipeline.learn.unsupervised import Unsupervised
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.stdp import Stdp
from pipeline.types import EVALUATION_BATCH, Dataset, Silent, Split
from tests.export.small import Normalised


@pytest.fixture(scope="module")
def small():
    plain = config.plain(
        config.compose_job(
            ["+experiment=quickstart", "learner.epochs=2", "net.hidden=24", "data.timesteps=4"]
        )
    )
    return plain, config.build_experiment(
        config.override(
            plain, {"compression.quantize_weights.bits": 4, "compression.prune_weights.sparsity": 0.5}
        )
    )


def test_a_trial_gives_accuracy_and_price_and_reports_its_epochs(small):
    seen = []
    trained = evaluate(small[1], lambda step, metrics: seen.append(step))
    assert seen == [1, 2]
    assert trained.metrics["validation_accuracy"] > 0.3  # chance is 0.1
    # 64 x 24 + 24 x 10 weights, half of them gone, 4 bits each: at least that much is stored.
    assert trained.metrics["memory_bits"] >= (64 * 24 + 24 * 10) / 2 * 4
    assert trained.metrics["worst_energy_pj"] >= trained.metrics["energy_pj"] > 0
    layers = trained.detail["layers"]
    assert [layer["bits"] for layer in layers] == [4, 4]
    # Codes lie in [-8, 7]; at most 64 of them meet in one sum.
    assert all(2 <= layer["accumulator_bits"] <= 4 + 6 for layer in layers)


def test_the_same_seed_is_the_same_trial_and_another_is_not(small):
    first, again = (evaluate(small[1], lambda *_: None).metrics for _ in range(2))
    other = evaluate(replace(small[1], seed=5), lambda *_: None).metrics
    assert first == again
    assert first != other


def test_a_saved_model_answers_as_the_one_that_was_saved(small, tmp_path):
    trained = evaluate(small[1], lambda *_: None)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, trained.net, trained.decode, trained.widths, {})
    back = reload(small[1], checkpoint.Saved(path))
    data = small[1].data.load(0)
    one, _ = measured(trained.net, trained.decode, data, "test", trained.widths)
    two, _ = measured(back.net, back.decode, data, "test", back.widths)
    assert one == two


def test_prices_may_be_those_of_training_samples_as_they_are_stored(small):
    """Another 40 samples, other densities; the accuracy is the validation split's either way."""
    built = small[1]
    assert built.counting == Counting()
    counting = Counting("train", 40)
    found = evaluate(replace(built, counting=counting), lambda *_: None)
    usual = evaluate(built, lambda *_: None)
    assert found.metrics["validation_accuracy"] == usual.metrics["validation_accuracy"]
    assert found.metrics["memory_bits"] == usual.metrics["memory_bits"]
    assert found.metrics["energy_pj"] != usual.metrics["energy_pj"]
    data = built.data.load(0)
    few = measure(found.net, counting.of(data).batches("train", 7, seed=0), found.widths)
    assert experiment.priced(few, built.accelerator)[0]["energy_pj"] == pytest.approx(
        found.metrics["energy_pj"]
    )


def test_a_trained_network_that_compression_silences_has_a_name(small):
    """2 bits and 95 % zeros without fine-tuning: cheap, and it says the same of every sample."""
    settings = {"compression.quantize_weights.bits": 2, "compression.prune_weights.sparsity": 0.98}
    built = config.build_experiment(config.override(small[0], {**settings, "plan.scheme": "ptq"}))
    with pytest.raises(Silent, match=r"fc\d does not fire"):
        evaluate(built, lambda *_: None)
    unwatched = replace(built, learner=replace(built.learner, check_batches=0))
    assert evaluate(unwatched, lambda *_: None).metrics["validation_accuracy"] < 0.2


def test_the_floor_before_training_is_below_what_training_gives(small):
    floor = experiment.bound(small[1])
    metrics = evaluate(small[1], lambda *_: None).metrics
    assert all(floor[name] <= metrics[name] for name in floor)
    assert floor["memory_bits"] > 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_floor_counts_a_folded_bias_as_it_is_stored(small, when):
    """A normalisation folds into a bias of 16 bits a channel; counted as a float, a network that fits was refused.

    conv1 54 x 4 weights, 6 x 16 bias, 216 x 12 state, 64 map; fc1 540 x 4, 10 x 16, 10 x 12, 54; 8 + 8 bits of decay
    and threshold in both: 2984 + 2510.
    """
    steps = {
        "fold": FoldBatchNorm(when=when),
        "weights": QuantizeWeights(bits=4),
        "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=12),
    }
    machine = replace(small[1].accelerator, weight_encoding="dense")
    built = replace(small[1], net=Normalised(), compression=steps, accelerator=machine)
    assert experiment.bound(built)["memory_bits"] == 2984 + 2510


def test_params_of_a_job_reach_the_objects(small):
    here = build(small[0])
    built = here.experiment({"net.hidden": 17, "compression.quantize_weights.bits": 3})
    assert built.net.hidden == 17
    assert built.compression["quantize_weights"].bits == 3


def test_learning_on_a_device_has_a_price_of_its_own():
    words = ["+experiment=fspinn_mnist", "data=digits", "data/encoding=poisson", "data.timesteps=40"]
    words += ["net.neurons=12", "learner.label_samples=200", "learner.check_samples=50", "learner.epochs=1"]
    learns = config.build_experiment(config.plain(config.compose_job(words)))
    metrics = evaluate(learns, lambda *_: None).metrics
    # Presented alike, and weights and traces read, changed and written on top.
    assert metrics["energy_training_pj"] > metrics["energy_pj"] > 0
    assert (
        metrics["dense_energy_training_pj"] > metrics["energy_training_pj"]
    )  # whole columns, not what changes
    # Memory both ways. Matrices: 64 x 12 of the inputs, 12 x 12 of direct inhibition, 8 bits each.
    bits = learns.compression["quantize_weights"].bits
    assert metrics["dense_memory_bits"] == (64 * 12 + 12 * 12) * bits
    assert metrics["memory_bits"] < metrics["dense_memory_bits"]
    assert metrics["worst_energy_pj"] > metrics["energy_pj"]


def test_events_and_dense_spikes_are_priced_alike():
    """An STDP network is shown a split as events: the same answers and the same load as its spikes spread out."""
    bunch = load_digits()
    x = torch.from_numpy((bunch.images * 15).astype(np.uint8)).unsqueeze(1)
    y = torch.from_numpy(bunch.target.astype(np.int64))
    splits = [Split(x[a:b], y[a:b]) for a, b in ((0, 300), (300, 900), (900, 1000))]
    data = Dataset(
        "digits", 10, (1, 8, 8), 60, *splits, encode=Poisson(60, max_rate_hz=200.0), digest="digits"
    )
    net = Stdp(neurons=40, inhibition="direct", w_input_mv=4.0, theta_plus_mv=1.5).build(data.shape, 10, 0)
    rule = StdpRule(presynaptic=False, window_ms=20.0, norm=16.0, eta_post=0.03)
    decode = Unsupervised(rule=rule, chunk=100).fit(net, data, lambda step, metrics: None, seed=0)
    metrics, loads = experiment.measured(net, decode, data, "validation", {})
    right = experiment._Right(decode)
    batches = data.batches("validation", EVALUATION_BATCH, seed=0)
    dense = measure(net, batches, {}, observe=right)
    assert metrics["validation_accuracy"] == right.count / 600 > 0.3
    assert loads == dense


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_an_stdp_trial_with_a_checkpoint_survives_all_its_parts(tmp_path, schedule):
    """Pretraining and both halves of cumulative tuning share `learner.checkpoint`; cut in any, it goes on there."""
    words = ["+experiment=fspinn_mnist", "data=digits", "data/encoding=poisson", "data.timesteps=40"]
    words += ["data.encoding.max_rate_hz=200", "net.neurons=20", "net.w_input_mv=4", "net.theta_plus_mv=1.5"]
    words += ["learner.epochs=1", "learner.rule.norm=16", "plan.scheme=cumulative", "plan.epochs=3"]
    words += ["learner.chunk=100", "learner.save_chunks=1", f"compression.prune_weights.schedule={schedule}"]
    steps = {"compression.quantize_weights.bits": 4, "compression.prune_weights.sparsity": 0.5}
    plain = config.override(config.plain(config.compose_job(words)), steps)
    alone = evaluate(config.build_experiment(plain), lambda *_: None)
    assert sparsity(alone.net) == pytest.approx(0.5, abs=0.2)
    kept = config.build_experiment(config.override(plain, {"learner.checkpoint": str(tmp_path)}))

    def cut(after):
        seen = []

        def report(step, _metrics):
            seen.append(step)
            if len(seen) == after:
                raise KeyboardInterrupt

        return report, seen

    for _ in range(3):  # each time one report further: it goes on where it was
        with pytest.raises(KeyboardInterrupt):
            evaluate(kept, cut(1)[0])
    report, seen = cut(0)
    resumed = evaluate(kept, report)
    assert len(seen) == 5, "of 8: two of each of four epochs"
    assert resumed.metrics == alone.metrics
    other = config.build_experiment(
        config.override(
            plain, {"learner.checkpoint": str(tmp_path), "compression.prune_weights.sparsity": 0.2}
        )
    )
    assert sparsity(evaluate(other, lambda *_: None).net) < sparsity(alone.net) - 0.1, "its masks are its own"


def test_what_follows_a_training_hears_how_far_it_is_within_epochs():
    """One epoch of 20 batches, in sixteenths: a gradual mask that ends at three quarters has a quarter to recover."""
    data = config.build_experiment(config.plain(config.compose_job(["+experiment=quickstart"]))).data.load(0)
    few = replace(data, train=Split(data.train.x[:200], data.train.y[:200]))
    heard, told = [], []
    clock = Clock(lambda step, _: told.append(step))
    net = FeedForward(hidden=16).build(data.shape, 10, 0)
    Surrogate(epochs=1, batch_size=10, check_batches=0).fit(net, few, clock.report, 0)
    Surrogate(batch_size=10, check_batches=0).fit(net, few, clock.then(heard.append, 1), 1, 1)
    assert heard == [i / 16 for i in range(1, 17)]
    assert told == [1, 2]
    heard.clear()
    Surrogate(batch_size=100, check_batches=0).fit(net, few, clock.then(heard.append, 2), 1, 2)
    assert heard == [0.25, 0.5, 0.75, 1.0]
    assert told == [1, 2, 3, 4]
