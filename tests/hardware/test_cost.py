"""A three-layer network priced by hand, and what must hold for every network on every machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.hardware.accelerator import DATAFLOWS, Accelerator, Area, Arithmetic, Memory
from pipeline.hardware.cost import PARTS, cost
from pipeline.hardware.encoding import FORMATS, EncodingName
from pipeline.hardware.event import stored_map
from pipeline.hardware.expected import expected_load
from pipeline.hardware.frame import tile
from pipeline.hardware.workload import Activity, Geometry, LayerLoad
from tests.hardware.machines import MACHINES


def three_layers() -> tuple[LayerLoad, ...]:
    """4 inputs with counts -> 3 neurons -> 2 neurons -> 1 sum without neurons; 2 time steps."""
    first = LayerLoad(
        "fc1", "linear", Geometry(4, 3), 2, synapses=12, nonzero=6, neurons=3, weight_bits=8, state_bits=16,
        parameters=3, parameter_bits=24, input_bits=2,
        mean=Activity(events_in=5, spikes_out=3, synops=8, synops_event=15, synops_dense=24, updates=6),
    )  # fmt: skip
    second = LayerLoad(
        "fc2", "linear", Geometry(3, 2), 2, synapses=6, nonzero=6, neurons=2, weight_bits=4, state_bits=8,
        mean=Activity(events_in=3, spikes_out=1, synops=6, synops_event=6, synops_dense=12, updates=4),
    )  # fmt: skip
    third = LayerLoad(
        "fc3", "linear", Geometry(2, 1), 2, synapses=2, nonzero=1, neurons=0, weight_bits=4, state_bits=0,
        mean=Activity(events_in=1, synops=0.5, synops_event=1, synops_dense=4),
    )  # fmt: skip
    return first, second, third


def plain_machine(**changes: object) -> Accelerator:
    """1 pJ per bit read, 2 pJ per bit written, round numbers everywhere."""
    machine = Accelerator(
        "by hand",
        node_nm=45,
        clock_mhz=1,
        processing="event",
        arithmetic=Arithmetic(
            0.8, 3.2, 6.4, 102.4, 9.0, 99.0
        ),  # 0.1 pJ per bit added, 0.1 per bit x bit multiplied
        buffer=Memory(word_bits=8, read_pj=8.0, write_pj=16.0, bits_per_cycle=1000.0, leakage_uw=1.0),
        map_encoding="cp",
    )
    return replace(machine, **changes)  # type: ignore[arg-type]


def test_a_three_layer_network_priced_by_hand() -> None:
    price = cost(three_layers(), plain_machine())
    first, second, third = price.layers

    # Memory: 12 weights x 8 + 24 parameter bits + 3 x 16 state + input map 4 x 2 bits.
    assert first.memory == {"weights": 96, "metadata": 0, "parameters": 24, "state": 48, "buffers": 8}
    assert first.memory_bits == 176
    assert second.memory_bits == 6 * 4 + 2 * 8 + 3 * 1
    assert third.memory_bits == 2 * 4 + 2 * 1
    assert price.memory_bits == 176 + 43 + 10

    # Energy of the first layer: all 15 synapses behind the 5 events are read, the 8 that are not zero added.
    assert first.energy["buffer", "weights"] == pytest.approx(15 * 8 * 1)
    assert first.energy["buffer", "psums"] == pytest.approx(8 * 16 * (1 + 2))
    assert first.energy["buffer", "state"] == pytest.approx(6 * 16 * (1 + 2))
    assert first.energy["buffer", "parameters"] == pytest.approx(2 * 24 * 1)
    # A coordinate event: 2 bits of count, 2 bits of place among 4, and per step 3 bits for how many came (0 to 4).
    assert first.energy["buffer", "inputs"] == pytest.approx((5 * (2 + 2) + 2 * 3) * 1)
    # An output spike: its place among 3 neurons, 2 bits; per step 2 bits for how many came (0 to 3).
    assert first.energy["buffer", "outputs"] == pytest.approx((3 * 2 + 2 * 2) * 2)
    # Counts come in, so each operation is a product 8 x 2 bits and a sum of 16.
    assert first.energy["arithmetic", "synapses"] == pytest.approx(8 * (0.1 * 16 + 0.1 * 16))
    # An update: two additions and one multiplication, 16 bits wide.
    assert first.energy["arithmetic", "neurons"] == pytest.approx(6 * (2 * 1.6 + 0.1 * 16 * 16))
    # Spikes come into the second layer, so its 6 operations are additions, 8 bits wide, and no more.
    assert second.energy["arithmetic", "synapses"] == pytest.approx(6 * 0.8)
    # No neurons in the third: it adds into a 32-bit sum.
    assert third.energy["buffer", "psums"] == pytest.approx(0.5 * 32 * 3)
    assert ("arithmetic", "neurons") not in third.energy

    # Latency: one lane, one operation or update per cycle of 1 us; the memory is never in the way.
    assert [layer.latency_us for layer in price.layers] == pytest.approx([15 + 6, 6 + 4, 1])
    assert {layer.bound_by for layer in price.layers} == {"compute"}
    assert price.waited_us == pytest.approx({"compute": 32, "buffer": 0, "dram": 0})
    # Bits through the buffer, 1000 a cycle: 120 weights, 2 x 128 sums, 2 x 96 state, 48 parameters, 26 in, 10 out.
    assert first.busy_us["buffer"] == pytest.approx((120 + 256 + 192 + 48 + 26 + 10) / 1000)
    assert first.energy["leakage", "idle"] == pytest.approx(21 * 1.0)  # 1 uW for 21 us
    assert price.sparsity == pytest.approx(1 - 13 / 20)
    assert price.firing_rate == pytest.approx(4 / 10)


def test_run_lengths_by_hand() -> None:
    """6 of 12 weights are nonzero, runs of zeros before them 0 (four times), 2 and 4: the last needs padding."""
    first = replace(three_layers()[0], runs=((0, 4), (2, 1), (4, 1)))
    layer = cost([first], plain_machine(weight_encoding="rle", run_bits=2)).layers[0]
    # 2-bit fields say 0 to 3 zeros: the run of 4 takes one padding zero. 7 entries of 8 + 2 bits.
    assert (layer.memory["weights"], layer.memory["metadata"]) == (7 * 8, 7 * 2)
    # 8 effective operations; each nonzero weight is visited 8 / 6 times, with its share of the padding.
    assert layer.energy["buffer", "weights"] == pytest.approx(8 / 6 * 56)
    assert layer.energy["buffer", "metadata"] == pytest.approx(8 / 6 * 14)
    assert layer.parts["metadata"] == layer.energy["buffer", "metadata"]
    assert layer.energy["buffer", "psums"] == pytest.approx(8 * 16 * 3)


def test_a_map_of_weights_is_read_once_for_each_use_of_the_layer_where_zeros_are_worked_through() -> None:
    """1024 x 256 weights, 4 steps, no gating: a bit for each of 262,144 places, 4 times: 65,536 words of 16 bits.

    Per stored weight there were two bits at half density, and without a weight left as many as the whole map.
    """
    base = MACHINES["eyeriss_45nm"]
    machine = replace(base, weight_encoding="bitmask", gates_zero_inputs=False)
    assert machine.weight_pad is not None
    reads = 1024 * 256 * 4 / machine.weight_pad.word_bits * machine.weight_pad.read_pj
    filled = []
    for density in (1.0, 0.5, 0.0):
        load = expected_load("fc", "linear", Geometry(1024, 256), 4, density=density, weight_bits=8)
        (layer,) = cost([load], machine).layers
        filled.append(layer.energy["pads", "metadata"] - reads)
    assert filled == pytest.approx(
        [filled[0]] * 3
    )  # what is left is the map's way into the pads, of the same map


@settings(max_examples=200, deadline=None)
@given(
    dataflow=st.sampled_from(DATAFLOWS),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    side=st.integers(5, 40),
    kernel=st.sampled_from([1, 3, 5]),
    kibs=st.lists(st.just(0.0) | st.floats(0.05, 1.0) | st.floats(1.0, 1e3), min_size=2, max_size=2),
    weight_bits=st.sampled_from([0.0, 1e3, 1e6]),
)
def test_a_smaller_buffer_never_moves_less(
    dataflow: str, channels: tuple[int, int], side: int, kernel: int, kibs: list[float], weight_bits: float
) -> None:
    """Also one in which not even the smallest tile has room: that was cheaper than one in which it just had."""
    out = side - kernel + 1
    geometry = Geometry(*channels, (side, side), (out, out), (kernel, kernel))
    moved = []
    for kib in sorted(kibs):
        tiling = tile(geometry, dataflow, kib * 8192, weight_bits, 4.0, 24.0)  # type: ignore[arg-type]
        sums = 2 * tiling.psums * geometry.outputs * 24.0
        moved.append(tiling.weights * weight_bits + tiling.inputs * geometry.inputs * 4.0 + sums)
    assert moved[0] >= moved[1] * (1 - 1e-12)


def test_what_does_not_fit_goes_off_chip_or_says_so() -> None:
    load = three_layers()[0]
    small = Memory(
        8, 8.0, 16.0, capacity_kib=100 / 8192
    )  # 100 bits: 48 of state, 8 of map, 44 of 120 for weights
    priced = cost([load], plain_machine(buffer=small)).layers[0]
    assert not cost([load], plain_machine(buffer=small)).fits
    assert "does not fit" in priced.overflow

    dram = Memory(64, 6400.0, 6400.0)
    spilled = cost([load], plain_machine(buffer=small, dram=dram))
    assert spilled.fits
    assert "off-chip" in spilled.layers[0].overflow
    away = 1 - 44 / 120
    assert spilled.layers[0].energy["dram", "weights"] == pytest.approx(120 * away * 100)
    assert spilled.layers[0].energy["buffer", "weights"] == pytest.approx(120 * (1 - away) * 1)
    assert ("dram", "state") not in spilled.layers[0].energy  # used most per bit, so it stays on the chip


loads = st.builds(
    lambda channels, filters, size, density, seen, rate, bits, state, steps: expected_load(
        "conv",
        "conv",
        Geometry(channels, filters, (size, size), (size, size), (3, 3)),
        steps,
        density=density,
        input_density=seen,
        firing_rate=rate,
        padding=(1, 1),
        weight_bits=bits,
        state_bits=state,
    ),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(3, 20),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(2, 16),
    st.integers(4, 24),
    st.integers(1, 8),
)
encodings = st.sampled_from(["dense", "bitmask", "rle", "cp", "uop"])
machines = st.builds(
    lambda name, encoding: replace(MACHINES[name], weight_encoding=encoding),
    st.sampled_from(sorted(MACHINES)),
    encodings,
)
ALMOST = 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(loads, machines, st.integers(1, 8))
def test_more_bits_never_cost_less(load: LayerLoad, machine: Accelerator, more: int) -> None:
    wider = cost([replace(load, weight_bits=load.weight_bits + more)], machine)
    deeper = cost([replace(load, state_bits=load.state_bits + more)], machine)
    base = cost([load], machine)
    for other in (wider, deeper):
        assert base.memory_bits <= other.memory_bits * ALMOST
        assert base.energy_pj <= other.energy_pj * ALMOST


@settings(max_examples=60, deadline=None)
@given(loads, machines, st.floats(0, 1))
def test_more_spikes_never_cost_less(load: LayerLoad, machine: Accelerator, share: float) -> None:
    work = load.mean
    fewer = replace(
        work,
        events_in=work.events_in * share,
        spikes_out=work.spikes_out * share,
        synops=work.synops * share,
        synops_event=work.synops_event * share,
    )
    quiet, base = cost([replace(load, mean=fewer)], machine), cost([load], machine)
    assert quiet.energy_pj <= base.energy_pj * ALMOST
    assert quiet.latency_us <= base.latency_us * ALMOST


@settings(max_examples=60, deadline=None)
@given(loads, machines, st.floats(0.1, 1))
def test_more_nonzeros_never_cost_less(load: LayerLoad, machine: Accelerator, share: float) -> None:
    nonzero = int(load.nonzero * share)
    work = replace(load.mean, synops=load.mean.synops * nonzero / max(load.nonzero, 1))
    sparse, base = cost([replace(load, nonzero=nonzero, mean=work)], machine), cost([load], machine)
    assert sparse.memory_bits <= base.memory_bits * ALMOST
    assert sparse.energy_pj <= base.energy_pj * ALMOST


def test_what_does_not_fit_is_told_of_every_tensor_whose_home_is_the_buffer() -> None:
    """288 bits of weights, 8192 of parameters and a map of 32,768 in 1 KiB: 33,056 bits, 4.0 KiB too many."""
    load = expected_load(
        "conv", "conv", Geometry(2, 2, (128, 128), (126, 126), (3, 3)), 20, input_density=0.5, neurons=False,
        weight_bits=8, parameter_bits=8192,
    )  # fmt: skip
    price = cost([load], plain_machine(buffer=Memory(8, 8, 16, capacity_kib=1)))
    assert not price.fits
    assert price.layers[0].overflow == "4.0 KiB does not fit"


def test_weights_that_belong_in_the_dram_are_not_missed_on_the_chip() -> None:
    """Of 1600 bits of state and 8 x 78,400 of weights only the state has its home in the buffer, and it fits."""
    load = expected_load("fc", "linear", Geometry(784, 100), 20, weight_bits=8, state_bits=16)
    machine = replace(MACHINES["eyeriss_45nm"], state_home="buffer")
    assert cost([load], machine).layers[0].overflow == ""
    small = replace(machine, buffer=replace(machine.buffer, capacity_kib=0.1))
    assert cost([load], small).layers[0].overflow == "0.1 KiB lives off-chip"


def test_the_smallest_map_is_the_smallest_of_the_formats() -> None:
    """64 entries that all spike: dense takes 64 bits, and so is not free. One spike: a place of 6 bits, 2 offsets."""
    machine = plain_machine()

    def bits(encoding: EncodingName, spikes: float) -> float:
        return stored_map(replace(machine, map_encoding=encoding), 64, spikes, 1, 1).bits

    assert bits("smallest", 64.0) == bits("dense", 64.0) == 64
    assert bits("smallest", 1.0) == bits("uop", 1.0) == 8
    for spikes in (1.0, 10.0, 30.0, 64.0):
        assert bits("smallest", spikes) == min(bits(each, spikes) for each in FORMATS) > 0


@settings(max_examples=40, deadline=None)
@given(st.lists(loads, min_size=1, max_size=4), machines)
def test_a_network_is_the_sum_of_its_layers(layers: list[LayerLoad], machine: Accelerator) -> None:
    roomy = (
        replace(machine, buffer=replace(machine.buffer, capacity_kib=None))
        if machine.dram is None
        else machine
    )
    whole = cost(layers, roomy)
    alone = [cost([layer], roomy) for layer in layers]
    assert whole.memory_bits == pytest.approx(sum(price.memory_bits for price in alone))
    assert whole.energy_pj == pytest.approx(sum(price.energy_pj for price in alone))
    assert whole.latency_us == pytest.approx(sum(price.latency_us for price in alone))
    assert sum(whole.parts[part] for part in PARTS) == pytest.approx(whole.energy_pj)
    assert sum(whole.memory.values()) == pytest.approx(whole.memory_bits)
    assert sum(whole.waited_us.values()) == pytest.approx(whole.latency_us)
    assert all(whole.busy_us[part] <= whole.latency_us * 1.0001 for part in whole.busy_us)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_no_work_costs_no_dynamic_energy(name: str) -> None:
    idle = LayerLoad("idle", "linear", Geometry(0, 0), 1, synapses=0, nonzero=0, neurons=0)
    price = cost([idle], MACHINES[name])
    assert price.energy_pj - price.parts["leakage"] == 0
    assert price.memory_bits == 0


@pytest.mark.parametrize("name", sorted(n for n, m in MACHINES.items() if m.processing == "event"))
def test_a_silent_event_driven_layer_pays_for_its_neurons_only(name: str) -> None:
    load = expected_load("fc", "linear", Geometry(100, 10), 5, input_density=0.0)
    energy = cost([load], replace(MACHINES[name], map_encoding="bitmask")).layers[0].energy
    assert {what for _, what in energy} <= {"state", "neurons", "idle", "inputs", "outputs"}


def test_counts_are_multiplied_and_spikes_are_not() -> None:
    spikes, counts = (
        expected_load("fc", "linear", Geometry(10, 10), 1, weight_bits=8, state_bits=16, input_bits=bits)
        for bits in (1, 4)
    )
    machine = MACHINES["embedded_45nm"]
    extra = 100 * machine.arithmetic.multiply_pj(8, 4)
    added, multiplied = (
        cost([load], machine).layers[0].energy["arithmetic", "synapses"] for load in (spikes, counts)
    )
    assert multiplied - added == pytest.approx(extra)


def test_area_by_hand() -> None:
    """229 bits of SRAM at 0.5 um2, and two lanes: an adder of 32 bits (100 um2), a multiplier 8 x 2 (16 / 64 of 80)."""
    area = Area(0.5, add_int8_um2=25, add_int32_um2=100, multiply_int8_um2=80, multiply_int32_um2=1000)
    price = cost(three_layers(), plain_machine(pe_columns=2, area=area))
    # The widest lane of any layer: fc1 adds 16 bits and multiplies (50 + 20), fc3 adds 32 bits (100).
    assert price.area_mm2 == pytest.approx((229 * 0.5 + 2 * 100) * 1e-6)
    assert cost(three_layers(), plain_machine()).area_mm2 is None


def test_the_worst_case_is_priced_beside_the_mean() -> None:
    load = three_layers()[0]
    busy = replace(load, worst=replace(load.mean, synops=16, synops_event=30))
    price = cost([busy], plain_machine())
    assert price.energy_pj == cost([load], plain_machine()).energy_pj
    assert price.worst_energy_pj == pytest.approx(cost([busy.at_worst()], plain_machine()).energy_pj)
    assert price.worst_energy_pj > price.energy_pj


def test_a_constant_changed_changes_the_price() -> None:
    machine = MACHINES["embedded_45nm"]
    dearer = replace(machine, buffer=replace(machine.buffer, read_pj=machine.buffer.read_pj * 2))
    assert cost(three_layers(), dearer).energy_pj > cost(three_layers(), machine).energy_pj


def test_the_metric_of_lemaire_et_al_by_their_equations() -> None:
    """Fully connected, 100 -> 10 leaky neurons, 5 steps, 50 input spikes, 32-bit values."""
    load = expected_load("fc", "linear", Geometry(100, 10), 5, input_density=0.1)
    spikes, outputs, steps, add, multiply = 50, 10, 5, 0.1, 3.1

    def access(values: int) -> float:
        return 13.2 + 1.09e-5 * 32 * values

    energy = cost([load], MACHINES["lemaire_2022"]).layers[0].energy
    potentials = spikes * outputs + outputs * steps  # eq. 10 reads, eq. 15 writes
    moved = energy["buffer", "psums"] + energy["buffer", "state"]
    assert moved == pytest.approx(2 * potentials * access(10), rel=1e-3)
    assert energy["buffer", "weights"] == pytest.approx(spikes * outputs * access(1000), rel=1e-3)  # eq. 8
    assert energy["arithmetic", "synapses"] == pytest.approx(spikes * outputs * add)  # eq. 2.4
    assert energy["arithmetic", "neurons"] == pytest.approx(
        steps * outputs * (multiply + 2 * add)
    )  # 2.3, 2.4
    assert energy["arithmetic", "addresses"] == pytest.approx(spikes * outputs * add)  # eq. 17.2


@pytest.mark.parametrize("name", ["embedded_45nm", "eyeriss_45nm"])
def test_a_machine_may_skip_what_its_format_only_gates(name: str) -> None:
    load = expected_load("fc", "linear", Geometry(100, 50), 5, density=0.2, input_density=0.3, weight_bits=8)
    scans = replace(MACHINES[name], weight_encoding="bitmask")
    skipping = replace(scans, skips_zero_weights=True)
    assert cost([load], skipping).latency_us <= cost([load], scans).latency_us
    assert cost([load], skipping).memory_bits == cost([load], scans).memory_bits
    dense = replace(scans, weight_encoding="dense", skips_zero_weights=True)
    assert not dense.skips_weights  # there is nothing to skip by
    assert replace(scans, weight_encoding="rle").skips_weights
    assert not scans.skips_weights


def test_what_is_stationary_moves_least() -> None:
    """A convolution whose maps and sums exceed the buffer several times."""
    load = expected_load(
        "conv", "conv", Geometry(64, 128, (64, 64), (64, 64), (3, 3)), 8, input_density=0.1, padding=(1, 1),
        weight_bits=8, state_bits=8,
    )  # fmt: skip
    moved = {}
    for dataflow in DATAFLOWS:
        machine = replace(MACHINES["eyeriss_45nm"], dataflow=dataflow, time_batch=4)
        energy = cost([load], machine).layers[0].energy
        moved[dataflow] = {what: energy.get((where, what), 0.0) for where, what in energy if where == "dram"}
        moved[dataflow]["returns"] = energy.get(("buffer", "psums"), 0.0)
    least = {
        what: min(flow.get(what, 0.0) for flow in moved.values()) for what in ("weights", "inputs", "psums")
    }
    assert moved["weight_stationary"]["weights"] == least["weights"] < moved["row_stationary"]["weights"]
    assert moved["input_stationary"]["inputs"] == least["inputs"]
    assert moved["output_stationary"].get("psums", 0.0) == moved["row_stationary"].get("psums", 0.0) == 0
    assert (
        moved["output_stationary"]["returns"] < moved["row_stationary"]["returns"]
    )  # written once, never read back


def test_time_batching_saves_weight_traffic_and_needs_room() -> None:
    load = expected_load(
        "fc", "linear", Geometry(2048, 512), 20, weight_bits=8, state_bits=8, input_density=0.1
    )
    machine = MACHINES["eyeriss_45nm"]
    once = cost([load], machine).layers[0].energy["dram", "weights"]
    batched = cost([load], replace(machine, time_batch=4)).layers[0].energy["dram", "weights"]
    assert batched == pytest.approx(once / 4)
