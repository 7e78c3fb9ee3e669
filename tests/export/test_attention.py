"""TCJA networks in integers: attention's sums, products and sigmoid as the network computes them, spike for spike."""

import pytest
import torch
from torch import nn

from pipeline.compress.attention import TableAttention, TableGate
from pipeline.compress.bake import restore
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.rounding import FixedPoint
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store, describe
from pipeline.export.nir_graph import missing
from pipeline.export.program import NotExact
from pipeline.export.proof import prove
from pipeline.nets.tcja import SigmoidGate, Tcja
from pipeline.types import DataError
from tests.export.small import compressed, spikes

SHAPE, STEPS = (2, 16, 16), 5
SPEC = Tcja(
    timesteps=STEPS, channels=6, hidden=12, group=1, plain_blocks=1, attention_blocks=2, kernel=3, threshold=0.4,
    init_gain=2.0,
)  # fmt: skip


FORMATS = {"weights": QuantizeWeights(bits=6), "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=12)}


class Loud:
    """The spec with attention weights large enough that the gates differ, and statistics that let neurons fire."""

    def build(self, shape, classes, seed):
        net = SPEC.build(shape, classes, seed)
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Conv1d):
                module.weight.data *= 8
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.02, 0.1)
                module.bias.data.uniform_(0.0, 0.3)
        return net


@pytest.fixture(scope="module")
def model():
    return compressed(Loud(), spikes(SHAPE, steps=STEPS, batch=16, density=0.4))


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


def test_a_sigmoid_in_float_is_refused_by_name():
    model = compressed(Loud(), spikes(SHAPE, steps=STEPS, batch=2))
    model.net.attention2.gate = SigmoidGate()
    with pytest.raises(NotExact, match=r"attention2: its sigmoid .* table_attention"):
        model.program()


def test_a_saved_model_comes_back_with_its_tables(model):
    """What a study keeps is the state of the baked net; its config brings the tables back."""
    steps = {"attention": TableAttention(), "fold": FoldBatchNorm(), **FORMATS}
    again = restore(Loud().build(SHAPE, 3, seed=5), steps, model.net.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(again(model.x), model.net(model.x))
    assert isinstance(again.attention3.gate, TableGate)


def test_what_has_no_form_is_said(model):
    program = model.program()
    assert any("NIR has no attention" in line for line in missing(program))
    with pytest.raises(DataError, match="attention has no file format"):
        describe(program, Store())


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
