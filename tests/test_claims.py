"""The table of claims is generated from records, and records cannot say what their numbers do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import claims
from pipeline.claims import BEGIN, END, NOT_MEASURED, RecordError
from pipeline.statements import CLAIMS, Claim

GOOD: dict[str, object] = {
    "id": "F1",
    "measured": "0.4 pp (86.1 % direct, 86.5 % inhibitory layer)",
    "value": 0.4,
    "interval": [-0.2, 1.0],
    "data": "MNIST, 60,000 train, 10,000 test, n = 400",
    "seeds": [0, 1, 2],
    "n": 10000,
    "holds": True,
    "command": "python -m pipeline.run +experiment=fspinn_inhibition",
    "date": "2026-11-21",
}
ROOT = Path(__file__).parent.parent


def keep(folder: Path, name: str, *records: dict[str, object]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records[0] if len(records) == 1 else list(records)))
    return path


def test_every_claim_of_the_three_papers_has_a_line() -> None:
    wanted = (
        [f"F{i}" for i in range(1, 10)] + [f"T{i}" for i in range(1, 8)] + [f"H{i}" for i in range(1, 12)]
    )
    assert [line["id"] for line in claims.lines([])] == wanted
    assert {line["holds"] for line in claims.lines([])} == {NOT_MEASURED}


def test_a_record_becomes_a_line(tmp_path: Path) -> None:
    keep(tmp_path, "one", GOOD)
    (record,) = claims.gather([tmp_path])
    line = claims.lines([record])[0]
    assert line["holds"] == "holds"
    assert line["seeds"] == "3"
    assert line["measured"] == "0.4 pp (86.1 % direct, 86.5 % inhibitory layer), 95 % [-0.2, 1] pp lost"


def test_records_on_other_data_are_lines_of_their_own_and_the_newer_of_the_same_counts(
    tmp_path: Path,
) -> None:
    kept, fresh = tmp_path / "kept", tmp_path / "fresh"
    kept.mkdir()
    fresh.mkdir()
    keep(kept, "a", GOOD, {**GOOD, "data": "Fashion-MNIST", "value": 2.0, "holds": False})
    keep(fresh, "b", {**GOOD, "measured": "0.3 pp", "value": 0.3, "date": "2026-11-22", "interval": None})
    found = claims.gather([kept, fresh, tmp_path / "nowhere"])
    assert [(record.data, record.holds) for record in found] == [
        ("Fashion-MNIST", False),
        (GOOD["data"], True),
    ]
    assert found[1].measured == "0.3 pp"
    assert "0 hold, 0 do not, 1 mixed or undecided, 26 not measured here" in claims.tally(found)
    assert [r.measured for r in claims.gather([fresh, kept])] == [
        r.measured for r in found
    ]  # whatever the order


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "F10"}, "id must be one of F1"),
        ({"value": 1.4}, "holds must agree with the rule of F1 \\(at most 1 pp lost\\) for 1.4"),
        ({"holds": False}, "holds must agree"),
        ({"holds": "yes"}, "holds must be true, false or null"),
        ({"value": None}, "interval must come with a value"),
        ({"value": "0.4"}, "value must be a finite number"),
        ({"interval": [1.0, 0.0]}, "interval must be \\[low, high\\]"),
        ({"n": 0}, "n must be a whole number"),
        ({"seeds": ["one"]}, "seeds must be whole numbers"),
        ({"date": "yesterday"}, "date must be an ISO date"),
        ({"measured": " "}, "measured must be a text"),
        ({"mesured": "x"}, "unknown keys mesured"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused_by_name(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = keep(tmp_path, "bad", {**GOOD, **change})
    with pytest.raises(RecordError, match=words) as refused:
        claims.read(path)
    assert str(path) in str(refused.value)
    assert claims.main(["--from", str(tmp_path)]) == claims.BAD_RECORD


def test_one_bad_file_hides_no_other_but_is_never_written_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, "good", GOOD)
    bad = keep(tmp_path, "bad", {**GOOD, "holds": False})
    assert claims.main(["--from", str(tmp_path), "--json"]) == claims.BAD_RECORD
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["holds"] == "holds"
    assert str(bad) in said.err
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert claims.main(["--from", str(tmp_path), "--update", str(readme)]) == claims.BAD_RECORD
    assert readme.read_text() == f"{BEGIN}\n{END}\n"


def test_what_a_command_writes_is_what_is_read(tmp_path: Path) -> None:
    (record,) = claims.read(keep(tmp_path, "one", GOOD))
    undecided = replace(record, holds=None, value=None, interval=None, extra={"raw": [1, 2]})
    claims.write(tmp_path / "new" / "two.json", [record, undecided])
    assert claims.read(tmp_path / "new" / "two.json") == [record, undecided]


def test_other_results_may_stand_beside_records(tmp_path: Path) -> None:
    assert claims.read(keep(tmp_path, "raw", {"table": [[1.0]]})) == []
    assert len(claims.read(keep(tmp_path, "both", {"table": [[1.0]], "records": [GOOD]}))) == 1
    with pytest.raises(RecordError, match="records must be a list"):
        claims.read(keep(tmp_path, "wrong", {"records": "none"}))


def test_missing_keys_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="lacks data, date"):
        claims.read(keep(tmp_path, "short", {k: v for k, v in GOOD.items() if k not in ("data", "date")}))
    (tmp_path / "torn.json").write_text('{"id": "F1"')
    with pytest.raises(RecordError, match=r"torn\.json"):
        claims.read(tmp_path / "torn.json")
    with pytest.raises(RecordError, match="must be an object"):
        claims.read(keep(tmp_path, "list", [1]))  # type: ignore[arg-type]


@given(st.sampled_from(CLAIMS), st.floats(-100, 100))
def test_a_value_is_judged_as_its_rule_says(claim: Claim, value: float) -> None:
    inside = claim.low <= value <= claim.high
    on_the_bound = value in (claim.low, claim.high)
    assert claim.judge(value) == (inside and not (claim.strict and on_the_bound))
    assert claim.unit in claim.rule


def test_the_block_is_written_between_the_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    keep(tmp_path, "one", {**GOOD, "measured": "a | b"})
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nstale\n{END}\n\nrest\n")
    for _ in range(2):  # the second time changes nothing
        assert claims.main(["--from", str(tmp_path), "--update", str(readme)]) == claims.OK
        text = readme.read_text()
        assert text.startswith(f"# Title\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nrest\n")
        assert "a \\| b" in text
        assert "stale" not in text
    readme.write_text("# no markers\n")
    assert claims.main(["--from", str(tmp_path), "--update", str(readme)]) == claims.BAD_RECORD
    assert readme.read_text() == "# no markers\n"


def test_the_command_prints_table_markdown_json_and_rules(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keep(tmp_path, "one", GOOD)
    for option in ([], ["--markdown"], ["--json"], ["--rules"]):
        assert claims.main(["--from", str(tmp_path), *option]) == claims.OK
        assert "H11" in capsys.readouterr().out


def test_the_records_of_this_project_are_valid_and_the_readme_shows_them() -> None:
    """The README's block is what the command writes from the records that are kept with the project."""
    records = claims.gather([ROOT / "docs/results"])
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if BEGIN not in text:
        pytest.skip("the README has no block of claims")
    whole = (ROOT / claims.WHOLE).read_text(encoding="utf-8")
    how = "run: python -m pipeline.claims --from docs/results --update README.md"
    assert claims.brief(records) in text, how
    assert claims.markdown(records) in whole, how


@pytest.mark.parametrize(
    ("interval", "verdict"), [([0.1, 0.7], "holds"), ([0.1, 1.2], "undecided"), (None, "holds")]
)
def test_a_rule_that_runs_through_the_interval_is_not_decided(
    tmp_path: Path, interval: list[float] | None, verdict: str
) -> None:
    """F1: at most 1 point lost. 0.4 with an interval up to 0.7 holds, with one up to 1.2 this data cannot tell."""
    keep(tmp_path, "one", {**GOOD, "interval": interval})
    assert claims.gather([tmp_path])[0].verdict == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((1.4, 1.6), "holds"), ((1.0, 2.2), "undecided"), ((1.4, 2.2), "undecided")],
)
def test_a_rule_of_two_bounds_is_not_decided_by_an_interval_around_both(
    interval: tuple[float, float], verdict: str
) -> None:
    """H4: between 1.2 and 1.8. Neither end of 1 to 2.2 is inside, and the value between them is."""
    judged = claims.Record("H4", "1.5x", "d", (0,), 10, True, "c", "2026-01-01", value=1.5, interval=interval)
    assert judged.verdict == verdict


def test_the_readme_shows_the_papers_own_data_and_the_largest_network_first(tmp_path: Path) -> None:
    for name, data in (("a", "mnist, n = 400"), ("b", "mnist, n = 4,900"), ("c", "fashion_mnist, n = 4,900")):
        keep(tmp_path, name, {**GOOD, "data": data})
    line = next(
        line for line in claims.brief(claims.gather([tmp_path])).splitlines() if line.startswith("| F1")
    )
    assert "(mnist, n = 4,900; 3 seeds)" in line
