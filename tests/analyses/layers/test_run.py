"""The whole question on models in which the answer was planted; what is written, and that it resumes."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses import cli
from analyses.layers import measures
from analyses.layers import run as layers
from analyses.layers.verdict import PRIMARY
from analyses.reports.layers import write_report
from hooks.errors import InputError
from hooks.load import load
from tests.analyses.layers.planted_items import items_of
from tests.interp.planted import planted

CAUSAL = ("block", "ablation_last", "patching_subject", "patching_last", "attribution")


def results_of(folder: Path):
    return json.loads((folder / "results.json").read_text())


def by_name(results):
    return {method["name"]: method for method in results["methods"]}


@pytest.mark.parametrize(("knowledge", "reasoning"), [(1, 4), (4, 1), (3, 3)])
def test_every_causal_method_finds_what_was_planted(planted_run, knowledge, reasoning):
    _, folder = planted_run(knowledge, reasoning)
    found = by_name(results_of(folder))
    verdict = {1: "deeper", -1: "shallower", 0: "not settled"}[int(np.sign(reasoning - knowledge))]
    for name in CAUSAL:
        method = found[name]
        for family, at in (("knowledge", knowledge), ("reasoning", reasoning)):
            curve = [v["estimate"] for v in method["families"][family]["curve"]]
            assert int(np.argmax(curve)) == at, (name, family)
            floor = method["families"][family]["floor"][at]["estimate"]
            assert curve[at] > 2 * abs(floor), (name, family)
        assert method["verdict"] == verdict, name
        apart = method["depth"]["difference"]["estimate"]  # noise in the curves pulls it to zero
        assert abs(apart) <= 1 if reasoning == knowledge else apart * (reasoning - knowledge) > 3, name
        if name == PRIMARY:
            assert apart == pytest.approx(reasoning - knowledge, abs=0.6)


def test_the_headline_answers_and_the_page_says_it(planted_run):
    _, folder = planted_run(1, 4)
    results = results_of(folder)
    assert "reasoning sits deeper than knowledge, by" in results["headline"]
    page = (folder / "report.html").read_text()
    assert "reasoning sits deeper than knowledge, by" in page
    assert "http://" not in page.split("</script>")[-1]
    assert "https://" not in page.split("</script>")[-1]
    _, same = planted_run(3, 3)
    assert results_of(same)["headline"].startswith("Not settled for")


def test_every_number_stands_in_the_tidy_table_with_its_floor(planted_run):
    config, folder = planted_run(1, 4)
    results = results_of(folder)
    with (folder / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    n_layers = results["model"]["n_layers"]
    assert len(rows) == len(results["methods"]) * 2 * n_layers
    row = next(r for r in rows if (r["method"], r["family"], r["layer"]) == ("block", "reasoning", "4"))
    told = by_name(results)["block"]["families"]["reasoning"]["curve"][4]
    assert (float(row["estimate"]), int(row["n"])) == (told["estimate"], told["n"])
    assert int(row["floor_n"]) == config.n_floor
    assert all(float(r["low"]) <= float(r["estimate"]) <= float(r["high"]) for r in rows)


def test_what_stands_beside_the_curves_is_there(planted_run):
    _, folder = planted_run(1, 4)
    results = results_of(folder)
    assert results["attribution"]["rank_correlation"] > 0.7
    assert (
        results["lens"]["knowledge"]["settled"]["estimate"]
        < results["lens"]["reasoning"]["settled"]["estimate"]
    )
    probes = results["probes"]["reasoning"]
    assert probes["answers"] == 10
    assert (
        probes["layers"][4]["selectivity"]["estimate"] > probes["layers"][3]["selectivity"]["estimate"] + 0.2
    )
    slow = results["fast_slow"]["knowledge"]
    assert slow["quantities"]["fast"]["estimate"] == 1.0
    assert slow["accuracy"]["fast"] == 1.0
    (knowledge, reasoning) = results["maps"]
    for found, at in ((knowledge, 1), (reasoning, 4)):
        recovery = np.array(found["recovery"])  # of the subject, y and "=", at every layer
        assert recovery[0, :at].min() > 0.9 > recovery[0, at:].max()
        assert recovery[-1, at:].min() > 0.9 > recovery[-1, :at].max()
    assert {s["covariate"] for s in results["items"]["balance"] if s["matched"]} == {"prompt_tokens"}


def test_a_run_that_was_cut_short_ends_with_the_same_bytes(planted_run, tmp_path, monkeypatch):
    config, folder = planted_run(1, 4)
    monkeypatch.setattr(layers, "all_items", lambda **_: items_of(planted(knowledge=1, reasoning=4)))
    done = []
    whole = measures.Chunk.compute

    def dies(self, lm, on_tokens):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(self.measure.name)
        return whole(self, lm, on_tokens)

    monkeypatch.setattr(measures.Chunk, "compute", dies)
    with pytest.raises(KeyboardInterrupt):
        layers.run(config, tmp_path / "r")
    assert not (tmp_path / "r" / "results.json").exists()
    again = []

    def counted(self, lm, on_tokens):
        again.append(self.measure.name)
        return whole(self, lm, on_tokens)

    monkeypatch.setattr(measures.Chunk, "compute", counted)
    layers.run(config, tmp_path / "r")
    assert (tmp_path / "r" / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    assert (tmp_path / "r" / "layers.csv").read_bytes() == (folder / "layers.csv").read_bytes()
    total = len(
        {r["condition"] for r in map(json.loads, (folder / "records.jsonl").read_text().splitlines())}
    )
    assert total > 10
    assert again[:1] != done[:1], "what was on disk was measured again"


def test_a_complete_run_is_not_run_again(planted_run, monkeypatch):
    config, folder = planted_run(1, 4)
    monkeypatch.setattr(layers, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert layers.run(config, folder) == folder


def test_too_few_items_give_a_report_and_no_verdict(planted_run, tmp_path, monkeypatch, capsys):
    config, _ = planted_run(1, 4)
    few = items_of(planted(knowledge=1, reasoning=4))
    few = [item for item in few if item.family == "knowledge"] + [i for i in few if i.family == "reasoning"][
        :29
    ]
    monkeypatch.setattr(layers, "all_items", lambda **_: few)
    arguments = ["layers", "--model", config.model, "--out", str(tmp_path / "r")]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "Not enough items" in said
    assert "reasoning: 29 of 29 survived" in said
    results = results_of(tmp_path / "r")
    assert "not_enough" in results
    assert results["methods"] == []
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Not enough items for a verdict" in page
    assert cli.main(arguments) == 2, "asked again, it says the same"


def test_two_models_of_different_shapes_are_refused_before_anything_is_measured(
    planted_run, folder, tmp_path
):
    config, _ = planted_run(1, 4)
    with pytest.raises(InputError, match="layers"):
        layers.run(replace(config, tuned=str(folder)), tmp_path / "r")
    assert not (tmp_path / "r" / "records.jsonl").exists()


def test_a_second_model_is_grafted(planted_run, tmp_path, monkeypatch):
    """Two blocks differ, and nothing else: those two carry, and the report says which."""
    config, _ = planted_run(1, 4)
    truth = planted(knowledge=1, reasoning=4)
    tuned = load(config.model)
    for layer in (1, 4):
        tuned.model.model.layers[layer].mlp.down_proj.weight.data.mul_(-1)
    tuned.model.save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    monkeypatch.setattr(layers, "all_items", lambda **_: items_of(truth))
    quick = replace(config, tuned=str(tmp_path / "tuned"), n_thoughts=0, n_items=30)
    found = results_of(layers.run(quick, tmp_path / "r"))["two_models"]
    assert [layer for layer, x in enumerate(found["change"]["blocks"]) if x > 0] == [1, 4]
    prefix = next(g for g in found["grafts"] if (g["into"], g["shape"]) == ("base", "prefix"))
    carried = [v["estimate"] for v in prefix["carried_kl"]]
    assert carried[0] == pytest.approx(0, abs=1e-4)
    assert carried[-1] == pytest.approx(1, abs=1e-4)
    assert "tuned into base" in (tmp_path / "r" / "report.html").read_text()


def test_what_a_model_or_a_file_wrote_is_escaped(planted_run, tmp_path):
    _, folder = planted_run(1, 4)
    shutil.copytree(folder, tmp_path / "r")
    results = results_of(tmp_path / "r")
    results["fast_slow"]["knowledge"]["example"]["thought"] = "<script>alert(1)</script>"
    results["items"]["examples"][0]["knowledge"]["prompt"] = "<img src=x onerror=alert(2)>"
    (tmp_path / "r" / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path / "r").read_text()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
