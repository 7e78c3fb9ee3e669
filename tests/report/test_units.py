"""A metric is shown in the unit that suits it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.units import NOTHING, axis, duration, label, show


@pytest.mark.parametrize(
    ("metric", "number", "shown"),
    [
        ("memory_bits", 12 * 1024 * 8, "12 KiB"),
        ("memory_bits", 5.0, "5 bit"),
        ("energy_pj", 1.2e6, "1.2 µJ"),
        ("energy_pj", 0.0, "0 pJ"),
        ("latency_us", 0.25, "250 ns"),
        ("validation_accuracy", 0.9731, "97.3%"),
        ("validation_error", 0.031, "3.1%"),
        ("loss", 0.51234, "0.512"),
        ("energy_pj", math.nan, NOTHING),
        ("energy_pj", None, NOTHING),
        ("memory_bits", math.inf, NOTHING),
    ],
)
def test_a_number_is_shown_with_the_unit_that_suits_it(metric: str, number: float | None, shown: str) -> None:
    assert show(metric, number) == shown


def test_an_unknown_metric_is_read_off_its_name() -> None:
    assert label("leak_energy_pj") == "leak energy"
    assert label("energy_pj") == "energy per inference"
    assert label("test_accuracy_mean") == "test accuracy, mean over seeds"
    assert show("energy_pj_interval", 1200.0) == "1.2 nJ"


def test_an_axis_is_log_when_a_cost_spans_much_and_never_for_shares() -> None:
    assert axis("energy_pj", [1e3, 1e6]).log
    assert not axis("energy_pj", [1e3, 2e3]).log
    assert not axis("energy_pj", [0.0, 1e6]).log  # a zero has no place on a log axis
    assert not axis("validation_accuracy", [0.01, 0.99]).log
    assert axis("memory_bits", [8 * 1024 * 4, 8 * 1024 * 9]).title == "memory (KiB)"
    assert axis("energy_pj", []).title == "energy per inference (pJ)"


@given(
    st.floats(min_value=1e-9, max_value=1e18),
    st.sampled_from(["memory_bits", "energy_pj", "latency_us", "loss"]),
)
def test_what_is_shown_reads_back_within_half_a_percent(number: float, metric: str) -> None:
    from pipeline.report.units import scales

    text, _, unit = show(metric, number).partition(" ")
    factor = next(factor for factor, sign in scales(metric) if sign == unit)
    assert float(text.replace(",", "")) * factor == pytest.approx(number, rel=0.006)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 second"),
        (40, "40 seconds"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (3600, "60 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_a_forecast_is_no_finer_than_it_can_be(seconds, said):
    assert duration(seconds) == said
