"""The whole question on models in which the answer was planted; what is written, and that it resumes."""

import csv
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from analyses import cli
from analyses.layers import plan, two_models
from analyses.layers import run as layers
from analyses.layers.verdict import PRIMARY
from analyses.reports.layers import write_report
from analyses.run_folder import RunFolder
from analyses.workers import RayWorkers
from hooks.errors import InputError
from hooks.files import write_json
from hooks.load import load
from interp.ablation import mean_contributions
from interp.grafting import graft
from tests.analyses.layers.planted_items import items_of
from tests.interp.planted import planted

STEPS = (
    "asked:0",
    "asked:1",
    "dose",
    "ablation_last",
    "check",
    "probe:reasoning",
    "map",
    "thought",
    "fast and slow",
)
"""In their order, by the condition of their records."""

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
    center = probes["center_of_mass"]
    assert center["low"] <= center["estimate"] <= center["high"]
    assert center["estimate"] == pytest.approx(4, abs=0.5)
    assert center["n"] == probes["groups"]
    slow = results["fast_slow"]["knowledge"]
    assert slow["quantities"]["fast"]["estimate"] == 1.0
    assert slow["accuracy"]["fast"] == 1.0
    (knowledge, reasoning) = results["maps"]
    for found, at in ((knowledge, 1), (reasoning, 4)):
        recovery = np.array(found["recovery"])  # of the subject, y and "=", at every layer
        assert recovery[0, :at].min() > 0.9 > recovery[0, at:].max()
        assert recovery[-1, at:].min() > 0.9 > recovery[-1, :at].max()
    assert {s["covariate"] for s in results["items"]["balance"] if s["matched"]} == {"prompt_tokens"}


@pytest.fixture
def resumable(planted_run, tmp_path, monkeypatch):
    """A copy of a run that was not finished, of a model whose items can be asked again."""
    config, folder = planted_run(1, 4)
    shutil.copytree(folder, tmp_path / "r")
    (tmp_path / "r" / "results.json").unlink()
    monkeypatch.setattr(layers, "all_items", lambda **_: items_of(planted(knowledge=1, reasoning=4)))
    return config, tmp_path / "r"


def records_of(folder):
    return (folder / "records.jsonl").read_bytes().splitlines(keepends=True)


def test_a_run_that_is_cut_short_in_every_step_ends_with_the_same_bytes(resumable, planted_run, monkeypatch):
    """The last record of each is lost, and the run dies as its chunk is written; no other is made again."""
    config, folder = resumable
    _, finished = planted_run(1, 4)
    last = {json.loads(line)["condition"]: line for line in records_of(folder)}
    lost, missing = {last[step] for step in STEPS}, [*STEPS]
    (folder / "records.jsonl").write_bytes(b"".join(r for r in records_of(folder) if r not in lost))
    shutil.rmtree(folder / "means")
    add, averaged = RunFolder.add, []

    def dies(self, part, fields):
        add(self, part, fields)
        assert part[0][0] == missing.pop(0)
        raise KeyboardInterrupt

    def counted(lm, pairs, *, where):
        averaged.append(where)
        return mean_contributions(lm, pairs, where=where)

    monkeypatch.setattr(RunFolder, "add", dies)
    monkeypatch.setattr(plan, "mean_contributions", counted)
    while missing:
        with pytest.raises(KeyboardInterrupt):
            layers.run(config, folder)
        assert not (folder / "results.json").exists()
    layers.run(config, folder)
    for name in ("results.json", "layers.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    assert set(records_of(folder)) == set(records_of(finished))
    assert sorted(averaged) == ["last", "subject"]


@dataclass(frozen=True)
class NoTask:
    def compute(self, _lm, _on_tokens):
        return []


def test_a_run_on_two_nodes_ends_with_the_same_bytes(cluster, planted_run, tmp_path, monkeypatch):
    """Every step but the second model is a task for whoever is free."""
    address, _ = cluster
    config, folder = planted_run(1, 4)
    asked = []

    class Both(RayWorkers):
        def map(self, tasks, on_tokens):
            while len(self.actors) < 2:  # the second joins when it has loaded the model
                list(super().map([NoTask()], on_tokens))
            asked.extend(type(task).__name__ for task in tasks)
            return super().map(tasks, on_tokens)

    monkeypatch.setattr(layers, "RayWorkers", Both)
    monkeypatch.setattr(layers, "all_items", lambda **_: items_of(planted(knowledge=1, reasoning=4)))
    out = layers.run(config, tmp_path / "r", ray=address)
    assert set(asked) == {
        "Asking",
        "EqualKL",
        "Chunk",
        "Checked",
        "Probed",
        "TokenMap",
        "Thinking",
        "Compared",
    }
    for name in ("results.json", "layers.csv"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


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


def test_a_second_model_is_grafted(resumable, tmp_path, monkeypatch):
    """Two blocks differ, and nothing else: those two carry, and the report says which. Cut off among its
    grafts, it makes those alone that are not whole on disk."""
    config, folder = resumable
    tuned = load(config.model)
    for layer in (1, 4):
        tuned.model.model.layers[layer].mlp.down_proj.weight.data.mul_(-1)
    tuned.model.save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    config = replace(config, tuned=str(tmp_path / "tuned"))
    write_json(folder / "config.json", {"command": "layers", **asdict(config)})  # all else is there already
    grafted = []

    def counted(base, tuned, pairs, **how):
        grafted.append(len(pairs))
        return graft(base, tuned, pairs, **how)

    monkeypatch.setattr(two_models, "graft", counted)
    layers.run(config, folder)
    results = folder / "results.json"
    found = results_of(folder)["two_models"]
    assert [layer for layer, x in enumerate(found["change"]["blocks"]) if x > 0] == [1, 4]
    prefix = next(g for g in found["grafts"] if (g["into"], g["shape"]) == ("base", "prefix"))
    carried = [v["estimate"] for v in prefix["carried_kl"]]
    assert carried[0] == pytest.approx(0, abs=1e-4)
    assert carried[-1] == pytest.approx(1, abs=1e-4)
    assert "tuned into base" in (folder / "report.html").read_text()
    whole, n = results.read_bytes(), sum(grafted)
    records = records_of(folder)
    grafts = [place for place, line in enumerate(records) if b"graft:" in line]
    assert len(grafts) == n
    kept = 2 * config.chunk + 3  # three pairs are lost with the others of their chunk
    (folder / "records.jsonl").write_bytes(b"".join(records[: grafts[kept]]))
    results.unlink()
    layers.run(config, folder)
    assert results.read_bytes() == whole
    assert sum(grafted) == n + n - 2 * config.chunk


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
