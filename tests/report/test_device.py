"""The table of members in integers: what was proven, what differs, what has no integer form."""

from pipeline.report.device import device_html, stresses
from pipeline.report.worth import worth_html, worth_table
from pipeline.types import Row


def member(number, reason="", **metrics):
    found = {"validation_accuracy": 0.9 - number / 100, **metrics}
    return Row(number, "complete", {}, found, on_front=True, reason=reason)


PROVEN = {"integer_exact": 1.0, "integer_samples": 10_000.0, "integer_accuracy": 0.912}
STRESS = {
    "robust_drop_0.1": 0.875,
    "robust_drop_0.1_deviation": 0.012,
    "robust_flip_0.0001": 0.9,
    "robust_samples": 9.0,
}


def test_columns_come_by_kind_and_rate_and_deviations_beside_them():
    row = member(0, **PROVEN, **STRESS, **{"robust_noise_0.05": 0.5, "robust_noise_0.01": 0.6})
    assert stresses([row]) == [
        "robust_drop_0.1",
        "robust_noise_0.01",
        "robust_noise_0.05",
        "robust_flip_0.0001",
    ]
    page = device_html([row], {"knee": 0})
    assert 'all <span class="quiet">10,000 samples</span>' in page
    assert '87.5 <span class="quiet">±1.2</span>' in page
    assert "◆ knee" in page
    assert "<td>90.0</td>" in page, "a stress without spread stands alone"


def test_the_register_of_the_sums_is_said():
    def said(bits, needed, wraps):
        register = {"integer_accumulator_bits": bits, "integer_accumulator_bits_needed": needed}
        return device_html([member(0, **PROVEN, **register, integer_accumulator_wraps=wraps)], {})

    assert "10,000 samples, sums of 15 bits in 32</span>" in said(32.0, 15.0, 0.0)
    assert "10,000 samples, sums that saturate at 12 of 15 bits</span>" in said(12.0, 15.0, 0.0)
    assert "10,000 samples, sums that wrap at 12 of 15 bits</span>" in said(12.0, 15.0, 1.0)


def test_what_differs_and_what_has_no_integer_form_is_said():
    rows = [member(0, **PROVEN), member(1, "it differs at <b>", integer_exact=0.0), member(2)]
    page = device_html(rows, {})
    assert "<strong>differ</strong> it differs at &lt;b&gt;" in page
    assert "no exact integer form" in page
    assert "python -m pipeline.export FOLDER --member 2" in page
    assert device_html([member(2)], {}) == ""
    assert "lif1.beta is float32" in device_html(
        [member(2, "no exact integer form: lif1.beta is float32")], {}
    )


def test_a_baseline_of_which_seeds_ended_early_says_so_on_the_terminal_and_on_the_page():
    lines = [
        {"name": "float SNN, as small", "test_accuracy": 0.9, "seeds": 2, "runs": 3},
        {"name": "random pruning", "ended": "stopped:silent: lif3 does not fire.", "seeds": 0, "runs": 3},
        {"name": "quantized ANN", "test_accuracy": 0.9, "seeds": 3, "runs": 3},
    ]
    assert list(worth_table(lines).columns[0].cells) == [
        "float SNN, as small, 2 of 3 seeds",
        "random pruning, stopped:silent",
        "quantized ANN",
    ]
    assert "float SNN, as small, 2 of 3 seeds" in worth_html(lines)


def test_baselines_stand_below_their_member_and_say_why_one_is_missing():
    lines = [
        {"name": "trial 3", "validation_accuracy": 0.9, "memory_bits": 8192.0},
        {"name": "float SNN, as small", "ended": "stopped: <silent>"},
    ]
    page = worth_html(lines)
    assert '<span class="mark">trial 3</span>' in page
    assert "stopped: &lt;silent&gt;" in page
    assert "1 KiB" in page
    assert worth_table(lines).row_count == 2
    over = worth_html(
        [
            {
                "name": "a",
                "test_accuracy": 0.9,
                "test_accuracy_interval": 0.02,
                "memory_bits_interval": 0.0,
                "memory_bits": 8192.0,
            }
        ]
    )
    assert "±" in over
    assert over.count("±") == 1, "an interval of 0 is not shown"
    assert worth_html([]) == ""
