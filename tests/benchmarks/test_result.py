"""Ratios, aims and the round trip through JSON."""

import json

import pytest

from benchmarks.result import Aim, Curve, Entry, Result, Table, as_text, entries_of
from benchmarks.timing import Timing


@pytest.fixture
def table():
    timings = {"bare": Timing((2.0, 1.0, 3.0), 2**20), "ours": Timing((5.0, 4.0, 6.0))}
    return Table("Title", "setting", entries_of(timings, {"theirs": "not installed"}), (Aim("a", 2.5, 3.0),))


def test_a_ratio_is_of_medians_over_the_first_job(table):
    bare, ours, theirs = table.entries
    assert (table.ratio(bare), table.ratio(ours), table.ratio(theirs)) == (1.0, 2.5, None)


def test_an_aim_is_met_on_its_side_of_the_bound():
    assert Aim("a", 1.02, 1.03).met
    assert not Aim("a", 1.04, 1.03).met
    assert Aim("a", 8.1, 8.0, at_most=False).met
    assert not Aim("a", 7.9, 8.0, at_most=False).met
    assert str(Aim("a over b", 7.9, 8.0, at_most=False)) == "a over b: 7.9, aim at least 8: MISSED"


def test_a_job_that_did_not_run_is_in_the_text_with_its_reason(table):
    assert "not run: not installed" in as_text(Result(tables=(table,)))


def test_a_result_comes_back_from_json_as_it_was(table):
    curve = Curve("c", "x", "y", {"line": [[1.0, 2.0]]})
    result = Result((table,), (curve,), {"fact": 1.5})
    assert Result.from_json(json.loads(json.dumps(result.as_json()))) == result


def test_the_fastest_and_the_slowest_run_stand_beside_the_median():
    (entry,) = entries_of({"job": Timing((2.0, 1.0, 3.0))})
    assert entry == Entry("job", seconds=2.0, n=3, low=1.0, high=3.0)
