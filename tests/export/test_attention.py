"""TCJA networks in integers: attention's sums, products and sigmoid as the network computes them, spike for spike."""

import numpy as np
import pytest
import torch

from pipeline.compress.attention import TableAttention, TableGate
from pipeline.compress.bake import restore
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.rounding import FixedPoint
from pipeline.export.folder import vectors, write
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store
from pipeline.export.nir_graph import missing
from pipeline.export.pooling import pooling
from pipeline.export.program import Attention, NotExact, Pool, attention_reach
from pipeline.export.proof import prove
from pipeline.nets.tcja import SigmoidGate
from pipeline.verify import verify
from tests.export import reference
from tests.export.small import ATTENDED as SHAPE
from tests.export.small import FLAT, STEPS, Loud, attending, compressed, flat, spikes

FORMATS = {"weights": QuantizeWeights(bits=6), "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=12)}


@pytest.fixture(scope="module")
def model():
    return attending()


def test_every_spike_of_every_layer_is_equal(model):
    proof = prove(model.net, Engine(model.program()), model.decode, model.batches())
    assert proof.holds, str(proof)
    assert proof.spikes > 5000
    assert proof.guaranteed


def test_the_gates_do_differ(model):
    """Otherwise the attention would be a constant, and its equality worth nothing."""
    seen = []
    handle = model.net.attention2.gate.register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        model.net(model.x)
    handle.remove()
    assert len(torch.unique(seen[0])) > 10
    assert seen[0].min() < 0.4
    assert seen[0].max() > 0.6


def attention(rng, steps, shape, taps, bits=6, exponent=4, operand=(6, -512, 511)):
    """An attention of random weights behind a map of `shape`, exponents and operands as told."""
    time, channel = (
        reference.fixed(rng.integers(-(1 << bits) + 1, 1 << bits, (n, n, taps)), exponent, bits + 1)
        for n in (steps, shape[0])
    )
    table = np.sort(rng.integers(0, 256, 64))
    return Attention(
        "attention", "attention", (1, 1), (1, 1), shape, shape, 8, time=time, channel=channel,
        mean=(shape[1] * shape[2]).bit_length() - 1, operand=operand, entry_exponent=3, first_entry=-29, table=table,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "shape", "taps", "numbers"),
    [
        (4, (3, 4, 8), 4, {}),
        (5, (8, 2, 2), 3, {}),
        (1, (1, 1, 1), 1, {}),
        (3, (2, 1, 2), 6, {}),  # more taps than steps and channels
        (6, (5, 32, 32), 2, {"exponent": -3}),  # sums moved to the left, counts beyond a byte
        (6, (16, 4, 4), 4, {"exponent": 2, "operand": (0, -8, 7)}),
        (3, (2, 512, 256), 3, {"bits": 15, "exponent": 14}),  # sums beyond 32 bits
    ],
)
@pytest.mark.parametrize("kind", [None, "max", "sum"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_gates_are_those_of_whole_arrays(steps, shape, taps, numbers, kind, density):
    """Also where a pool comes between the gates and what they weigh."""
    rng = np.random.default_rng(steps)
    made = attention(rng, steps, shape, taps, **numbers)
    channels, rows, columns = shape
    x = (rng.random((3, steps, rows, columns, channels)) < density).astype(np.uint8)
    pools, wanted = [made], reference.gated(made, x)
    if kind is not None and min(rows, columns) > 1:
        pools.append(Pool("pool", kind, (2, 2), (2, 2), shape, (channels, rows // 2, columns // 2)))
        windows = wanted.reshape(3, steps, rows // 2, 2, columns // 2, 2, channels)
        wanted = windows.max((3, 5)) if kind == "max" else windows.sum((3, 5))
    before = x.copy()
    found = pooling(pools)(x.reshape(3, steps, -1))
    np.testing.assert_array_equal(found, wanted.reshape(3, steps, -1))
    np.testing.assert_array_equal(x, before)
    assert density != 0.2 or rows * columns == 1 or len(np.unique(wanted)) > 2


def test_wide_sums_are_taken_in_64_bits():
    """Else the last case above would prove nothing about them."""
    rng = np.random.default_rng(0)
    assert attention_reach(attention(rng, 3, (2, 512, 256), 3, bits=15, exponent=14)) >= 1 << 31
    assert attention_reach(attention(rng, 4, (3, 4, 8), 4)) < 1 << 31


def test_a_sigmoid_in_float_is_refused_by_name():
    model = compressed(Loud(), spikes(SHAPE, steps=STEPS, batch=2))
    model.net.attention2.gate = SigmoidGate()
    with pytest.raises(NotExact, match=r"attention2: its sigmoid .* table_attention"):
        model.program()


def test_weights_wider_than_the_gates_are_no_error_of_the_data():
    """They were lowered, and the engine refused them: a finalist of the front ended its study."""
    with pytest.raises(NotExact, match=r"attention2\.time\.weight has 17 bits, .* hold 16: .*bits=16"):
        attending({"bits": 17}).program()


def test_what_the_engine_refuses_has_no_integer_form():
    with pytest.raises(NotExact, match=r"timesteps must be in \[1, 1000\], but got 1001"):
        flat(x=spikes(FLAT, steps=1001, batch=2)).program()


def test_a_saved_model_comes_back_with_its_tables(model):
    """What a study keeps is the state of the baked net; its config brings the tables back."""
    steps = {"attention": TableAttention(), "fold": FoldBatchNorm(), **FORMATS}
    again = restore(Loud().build(SHAPE, 3, seed=5), steps, model.net.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(again(model.x), model.net(model.x))
    assert isinstance(again.attention3.gate, TableGate)


@pytest.mark.parametrize("encoding", ["dense", "smallest"])
def test_a_written_network_comes_back(model, encoding, tmp_path):
    program = model.program()
    engine = Engine(program)
    write(tmp_path / "m", program, Store(encoding), vectors(engine, engine.codes(model.x)), {}, {})
    back = verify(tmp_path / "m").program
    for old, new in zip(program.stages, back.stages, strict=True):
        for mine, read in zip(old.pools, new.pools, strict=True):
            if mine.kind == "attention":
                assert mine.table.tolist() == read.table.tolist()
                assert mine.channel.codes.tolist() == read.channel.codes.tolist()
                assert (mine.mean, mine.operand) == (read.mean, read.operand)
    assert torch.equal(Engine(back).run(model.x), engine.run(model.x))


def test_what_has_no_form_is_said(model):
    program = model.program()
    assert any("NIR has no attention" in line for line in missing(program))


def test_the_table_by_hand():
    """a b = 0.5 x 1 is entry 8 of 1/16 each: sigmoid(0.5) = 0.6225, 159.35 of 256, so 159; -8 and below: 0.09, so 0."""
    gate = TableGate(FixedPoint(3, 6), entry_bits=8, gate_bits=8)
    out = gate(torch.tensor([0.5, -4.0, 7.0, 0.0]), torch.tensor([1.0, 4.0, 7.0, 3.0]))
    assert (out * 256).tolist() == [159.0, 0.0, 255.0, 128.0]


def test_the_gates_gradient_is_the_sigmoids():
    gate = TableGate(FixedPoint(3, 6), entry_bits=8, gate_bits=8)
    a, b = torch.tensor([0.5], requires_grad=True), torch.tensor([1.0])
    gate(a, b).backward()
    s = torch.sigmoid(torch.tensor(0.5))
    assert a.grad.item() == pytest.approx(float(s * (1 - s)), abs=1e-6)


def test_bad_formats_are_refused():
    with pytest.raises(ValueError, match="fraction_bits must with integer_bits give at most 12 bits"):
        TableAttention(integer_bits=6, fraction_bits=8)
    with pytest.raises(ValueError, match="gate_bits must"):
        TableAttention(gate_bits=12)
