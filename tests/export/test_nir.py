"""The NIR graph there and back: the same program through `nir`, the same spikes through snnTorch's own importer."""

import contextlib
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from pipeline.export.__main__ import _others
from pipeline.export.folder import vectors
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store
from pipeline.export.nir_graph import Imported, file_bytes, graph, missing, program_of, writable
from pipeline.nets.neurons import Leaky
from tests.export.small import FLAT, MAP, Row, attending, compressed, convolutional, currents, flat, spikes
from tests.export.test_stdp import lowered, network

SIDE = (2, 8, 8)

nir = pytest.importorskip("nir", reason="the export extra is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
MODELS = {
    "zero": lambda: flat(reset="zero"),
    "subtract": lambda: flat(reset="subtract", bias=True),
    "same step": lambda: flat(reset="subtract", reset_delay=False, neurons={"rounding": "truncation"}),
    "undecayed": lambda: flat(x=spikes(FLAT), beta=1.0, neurons={"beta": 32, "membrane": 32, "threshold": 8}),
    "conv": lambda: convolutional(reset="zero", bias=True, padding="valid", kernel=2),
    "even kernel": lambda: convolutional(x=spikes(MAP), kernel=2, weights={"granularity": "per_channel"}),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def read(program, tmp_path):
    path = tmp_path / "model.nir"
    path.write_bytes(file_bytes(program))
    return nir.read(path)


def test_read_back_by_nir_it_is_the_same_program(model, tmp_path):
    program = model.program()
    back = program_of(read(program, tmp_path))
    codes = Engine(program).codes(model.x)
    ours, theirs = Engine(program).trace(codes), Engine(back).trace(codes)
    for name, each in ours.items():
        np.testing.assert_array_equal(each, theirs[name])
    for old, new in zip(program.stages, back.stages, strict=True):
        assert old.synapses.weight.bits == new.synapses.weight.bits
        assert old.neurons.beta.form == new.neurons.beta.form


def test_read_back_by_snntorch_it_spikes_alike(model, tmp_path):
    program = model.program()
    net = Imported(read(program, tmp_path))
    want = Engine(program).run(model.x)
    assert want.mean() > 0.02
    for sample in range(6):
        x = model.x[:, sample]
        x = x if program.stages[0].synapses.kind == "conv" else x.flatten(1)
        assert torch.equal(net(x).detach().flatten(1), want[:, sample])


def by_snntorch(program, x, samples, tmp_path):
    """Output spikes [T, samples, N] of plain snnTorch, not one line of ours."""
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        net = import_from_nir(read(program, tmp_path)).float()
    found = []
    for sample in range(samples):
        for module in net.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        state, out = None, []
        for step in x[:, sample]:
            step = step if program.stages[0].synapses.kind == "conv" else step.flatten()[None]
            spiked, state = net(step, state)
            out.append(spiked.flatten())
        found.append(torch.stack(out).detach().float())
    return torch.stack(found, 1)


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_an_importer_that_knows_no_metadata_spikes_alike_after_resets_to_zero_alone(reset, delay, tmp_path):
    """The table of docs/export.md; no membrane format, pools as OR."""
    fields = {"reset": reset, "reset_delay": delay, "beta": 1.0, "neurons": {"beta": 32, "membrane": 32}}
    model = convolutional(**fields, padding="valid", kernel=2)
    want = Engine(model.program()).run(model.x)[:, :8]
    assert want.mean() > 0.02
    found = by_snntorch(model.program(), model.x, 8, tmp_path)
    assert torch.equal(found, want) == (reset == "zero")


def test_an_importer_that_knows_no_metadata_misses_a_coarse_membrane(tmp_path):
    model = convolutional(reset="zero", padding="valid", kernel=2, neurons={"beta": 4, "membrane": 5})
    want = Engine(model.program()).run(model.x)[:, :8]
    assert want.mean() > 0.02
    assert not torch.equal(by_snntorch(model.program(), model.x, 8, tmp_path), want)


def test_the_page_shows_the_list_as_it_is_said():
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    shown = {line.removeprefix("    NIR: ") for line in page.splitlines() if line.startswith("    NIR: ")}
    layers = missing(convolutional(reset="subtract").program())
    attention, unsupervised = missing(attending().program()), missing(lowered(network()))
    graded = missing(pooled(AVERAGE, MAXIMUM).program())
    refused = [
        line for each in ({"groups": 2}, {"kernel_size": (1, 3)}) for line in missing(filtered(**each))
    ]
    assert shown <= {*layers, *attention, *unsupervised, *graded, *refused}
    assert sum("no graph" in line for line in {*graded, *refused} & shown) == 3
    assert {*unsupervised} <= shown
    assert "attention2: NIR has no attention: no graph is written." in shown
    assert shown & {*layers}
    assert not writable(attending().program())
    assert not writable(lowered(network()))


def test_what_nir_lacks_is_said_before():
    said = missing(convolutional(reset="subtract").program())
    assert sum("cannot" in line or "resets to a value" in line for line in said) == 3
    assert sum("real numbers" in line for line in said) == 3
    assert sum("no maximum pooling" in line for line in said) == 2
    quiet = flat(reset="zero", beta=1.0, neurons={"beta": 32, "membrane": 32})
    assert missing(quiet.program()) == []


def filtered(**changes):
    """One convolution of 3 x 3 with `changes`, its neurons, and a fully connected layer."""
    convolution = partial(nn.Conv2d, 2, 4, **{"kernel_size": 3, **changes})
    return compressed(Row(("conv1", convolution), SPIKING), spikes(SIDE)).program()


def pooled(*pools, x=None):
    return compressed(Row(*pools), spikes(SIDE) if x is None else x)


SPIKING = ("lif1", partial(Leaky, 0.5, 0.3))
AVERAGE, MAXIMUM = ("average1", partial(nn.AvgPool2d, 2)), ("maximum1", partial(nn.MaxPool2d, 2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 2}, "without groups (2)"),
        ({"kernel_size": (1, 3)}, "not 1 x 3"),
        ({"kernel_size": (3, 1), "padding": "same"}, "not 3 x 1"),
    ],
)
def test_a_convolution_that_nir_refuses_costs_the_graph_and_not_the_export(changes, words):
    program = filtered(**changes)
    said = [line for line in missing(program) if line.endswith("no graph is written.")]
    assert len(said) == 1
    assert words in said[0]
    assert file_bytes(program) is None
    engine = Engine(program)
    files, notes = _others(program, Store(), vectors(engine, engine.codes(spikes(SIDE)), 1))
    assert "runner.c" in files
    assert "model.nir" not in files
    assert notes == ["no model.nir: see what NIR lacks, above"]


def test_whatever_else_nir_refuses_costs_the_graph_and_not_the_export(monkeypatch):
    """Its checks change from release to release."""

    def refuse(*_args, **_keys):
        raise ValueError("type mismatch: conv1 -> lif1")

    monkeypatch.setattr(nir, "NIRGraph", refuse)
    model = flat()
    engine = Engine(model.program())
    files, notes = _others(engine.program, Store(), vectors(engine, engine.codes(model.x), 1))
    assert "runner.c" in files
    assert notes == ["no model.nir: type mismatch: conv1 -> lif1"]


@pytest.mark.parametrize(
    ("pools", "x"),
    [
        ([AVERAGE, MAXIMUM], spikes(SIDE)),  # quarters
        ([MAXIMUM], 0.5 * spikes(SIDE)),  # one size, which is not 1
        ([MAXIMUM], spikes(SIDE) - spikes(SIDE, seed=5)),  # of either sign
        ([MAXIMUM], currents(SIDE)),
    ],
)
def test_a_maximum_of_anything_but_spikes_has_no_graph(pools, x):
    """As an average and an OR it would give 1 where the maximum is 1/4 or 1/2, and 0 where -1 and 1 cancel."""
    program = pooled(*pools, x=x).program()
    assert "maximum1: a maximum of graded inputs has no NIR form: no graph is written." in missing(program)
    assert file_bytes(program) is None


def test_a_maximum_of_an_average_of_spikes_in_a_later_stage_has_no_graph():
    program = pooled(("conv1", partial(nn.Conv2d, 2, 4, 3, padding=1)), SPIKING, AVERAGE, MAXIMUM).program()
    assert not writable(program)


def test_maxima_of_spikes_one_after_the_other_and_before_an_average_keep_their_graph(tmp_path):
    second = ("maximum2", partial(nn.MaxPool2d, 2))
    model = pooled(MAXIMUM, second, AVERAGE)
    net, want = Imported(read(model.program(), tmp_path)), Engine(model.program()).run(model.x)
    for sample in range(4):
        assert torch.equal(net(model.x[:, sample]).detach().flatten(1), want[:, sample])


def test_widths_are_in_the_metadata():
    nodes = graph(flat(weights={"bits": 5}).program()).nodes
    assert nodes["fc1"].metadata["weight_bits"] == 5
    assert nodes["lif1"].metadata["mem_bits"] == 12
