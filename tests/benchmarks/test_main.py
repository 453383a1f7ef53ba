"""A run is written as it goes; the same folder again runs what is missing, and belongs to one setting."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.result import Curve, Entry, Result, Table
from hooks.errors import InputError, RunError


@pytest.fixture
def model(tmp_path, llama):
    """The folder of a tiny model."""
    folder = tmp_path / "model"
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for the benchmarks, which take long: each notes that it was called."""
    made: list[str] = []

    def stand_in(name):
        def run(lm, *, quick):
            made.append(name)
            table = Table("<Title>", lm.name, (Entry("job", seconds=1.0, n=1), Entry("other", note="absent")))
            return Result((table,), (Curve("A curve", "x", "y", {"line": [(1.0, float(quick) + 1)]}),))

        return run

    monkeypatch.setattr("benchmarks.__main__.BENCHMARKS", {name: stand_in(name) for name in ("one", "two")})
    return made


def test_what_is_in_the_folder_is_not_run_again(tmp_path, model, calls, capsys):
    out = tmp_path / "bench"
    main(["two", "--model", model, "--out", str(out)])
    assert calls == ["two"]
    main(["--model", model, "--out", str(out)])
    assert calls == ["two", "one"]
    assert "two: already in" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["results"].keys() == {"one", "two"}


def test_the_page_holds_every_result_escaped_and_fetches_nothing(tmp_path, model, calls):
    main(["--model", model, "--out", str(tmp_path / "bench")])
    assert calls == ["one", "two"]
    page = (tmp_path / "bench" / "report.html").read_text()
    assert page.count("&lt;Title&gt;") == 2
    assert "<Title>" not in page
    assert "not run: absent" in page
    for fetched in ("<link", "<script src", "@import"):
        assert fetched not in page


def test_a_folder_of_another_setting_is_refused(tmp_path, model, calls):
    out = tmp_path / "bench"
    main(["one", "--model", model, "--out", str(out)])
    with pytest.raises(RunError, match="measured with quick False, and this would be True"):
        main(["two", "--model", model, "--out", str(out), "--quick"])
    assert calls == ["one"]


def test_an_unknown_name_is_refused_before_anything_runs(calls):
    with pytest.raises(InputError, match=r"No benchmark 'capure'\. There are one, two\."):
        main(["capure"])
    assert not calls
