"""A thinking run on a tiny model: what is written, what is refused, and the same bytes after any kill."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.answers import Record, RunFolder
from analyses.replay import read_config
from analyses.reports.thinking import highlight, render
from analyses.thinking.headline import headline
from analyses.thinking.missing import triples_of
from analyses.thinking.run import run
from hooks.errors import InputError
from interp import AskedPair, SteeringVector
from interp.pairs import pairs_hash
from interp.thinking import marked
from tests.conftest import TEMPLATE

PLAIN = TEMPLATE.replace("{% if enable_thinking is defined %}", "{% if false %}").replace(
    "enable_thinking", "something"
)


def read(folder: Path):
    return json.loads((folder / "results.json").read_text())


def records(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def switchless(tmp_path_factory, model_of, tokenizer_with) -> Path:
    """A model whose chat template cannot turn thinking on."""
    path = tmp_path_factory.mktemp("models") / "switchless"
    model_of("llama").save_pretrained(path)
    tokenizer_with(template=PLAIN).save_pretrained(path)
    return path


def test_every_part_is_there_with_its_n(thought, thinking_config):
    told = read(thought)
    for mode in ("off", "on"):
        assert told["on_off"]["modes"][mode]["n"] == 6
        assert set(told["on_off"]["modes"][mode]["markers"]) == {
            *("hedge", "restart", "verification", "backtracking")
        }
    assert [(row["budget"], row["extensions"], row["n"]) for row in told["budgets"]["table"]] == [
        (4, 0, 3), (4, 1, 3), (6, 0, 3), (6, 1, 3),
    ]  # fmt: skip
    assert told["gains"]["n"] + sum(told["gains"]["left_out"].values()) == thinking_config.n_gains
    missing = told["missing"]
    assert [row["layer"] for row in missing["layers"]] == [0, 2]
    assert missing["n"]["confirm"]["triples"] == 16
    assert len(missing["asking"][0]["random"]) == thinking_config.n_random
    assert missing["short_thoughts"]["n"] == thinking_config.n_asked
    page = (thought / "report.html").read_text()
    assert told["headline"][:40] in page
    assert read_config(thought) == ("thinking", thinking_config)


def test_the_layer_is_chosen_on_other_templates_than_those_that_score(thought, thinking_config):
    triples = triples_of(thinking_config)
    assert not {t.group for t in triples.fit} & {t.group for t in triples.confirm}
    assert not {t.complete for t in triples.fit} & {t.complete for t in triples.confirm}
    vector = SteeringVector.load(thought / "vectors" / "missing.safetensors")
    assert vector.n_pairs == 16
    pairs = [AskedPair(t.missing, t.irrelevant) for t in triples.fit]
    assert vector.pairs_hash == pairs_hash(pairs)
    told = read(thought)["missing"]
    assert vector.reliability[told["layer"]].auroc == max(of.auroc for of in vector.reliability.values())
    assert told["reliability"]["left_out"] == vector.reliability[told["layer"]].left_out


def test_q_is_adjusted_over_the_layers(thought):
    rows = read(thought)["missing"]["layers"]
    p = np.array([row["p"] for row in rows])
    low, high = p.min(), p.max()
    assert sorted(row["q"] for row in rows) == pytest.approx(sorted([min(2 * low, high), high]))


def test_a_run_killed_anywhere_ends_with_the_same_bytes(thought, thinking_config, tmp_path, kills):
    out = tmp_path / "cut"
    assert kills(lambda: run(thinking_config, out), RunFolder, "add", at=5, most=30) >= 3
    assert (out / "results.json").read_bytes() == (thought / "results.json").read_bytes()


def test_a_template_without_thinking_is_refused_before_a_folder_is_made(
    thinking_config, switchless, tmp_path
):
    config, out = replace(thinking_config, model=str(switchless)), tmp_path / "r"
    with pytest.raises(InputError, match=r"has no `enable_thinking`.*--switch prompt.*--switch tags"):
        run(config, out)
    assert not out.exists()


@pytest.mark.parametrize("switch", ["prompt", "tags"])
def test_the_other_switches_need_no_template(thinking_config, switchless, tmp_path, switch):
    config = replace(
        thinking_config,
        model=str(switchless),
        switch=switch,
        n_problems=2,
        n_budget=2,
        n_gains=0,
        extensions=0,
        n_confirm_triples=0,
    )
    told = read(run(config, tmp_path / switch))
    assert told["missing"] is None
    assert "why" in told["gains"]
    assert "not settled" in told["headline"]
    assert (tmp_path / switch / "report.html").exists()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"n_problems": 1}, "answer 2 problems or more"),
        ({"n_budget": 7}, "n_budget=7"),
        ({"budgets": (0.01,)}, "of one token or more"),
        ({"budgets": ()}, "of one token or more"),
        ({"n_asked": 17}, "n_asked=17 of 16"),
        ({"n_fit_triples": 3}, "a probe needs 5"),
        ({"doses": ()}, "a dose or more"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_before_a_folder_is_made(
    thinking_config, tmp_path, changed, match
):
    with pytest.raises(InputError, match=match):
        run(replace(thinking_config, **changed), tmp_path / "r")
    assert not (tmp_path / "r").exists()


# The page and the headline


def test_what_a_model_wrote_is_shown_as_text_with_its_markers(thought):
    hostile = "<script>alert(1)</script> Wait, <b>maybe</b>"
    told = read(thought)
    told["model"]["name"] = told["headline"] = told["missing"]["short_thoughts"]["example"]["missing"] = (
        hostile
    )
    for example in told["on_off"]["examples"]:
        example["problem"] = hostile
        example["said"]["on"]["text"] = hostile
    page = render(told, json.loads((thought / "environment.json").read_text()))
    assert "<script>alert" not in page
    assert '<ins title="backtracking">Wait</ins>, &lt;b&gt;<ins title="hedge">maybe</ins>&lt;/b&gt;' in page


def test_marked_words_are_the_text_again():
    text = "I'm not\nsure. Hold on & that’s wrong"
    shown = str(highlight(text).unescape())
    assert (
        shown.replace("</ins>", "")
        .replace('<ins title="hedge">', "")
        .replace('<ins title="backtracking">', "")
        == text
    )
    assert [text[a:b] for a, b, _ in marked(text)] == ["not\nsure", "Hold on", "that’s wrong"]


def test_the_headline_claims_what_its_intervals_allow(thought):
    told = read(thought)
    assert headline(told).startswith("Accuracy is 0% with thinking and 0% without")
    assert "not settled" in headline(told)
    on = told["on_off"]["modes"]["on"]
    assert f"{on['truncated']['estimate']:.0%} of the responses with thinking were cut off" in headline(told)
    on["truncated"]["estimate"] = 0.05
    assert "cut off" not in headline(told)
    change = told["on_off"]["differences"]
    change["accuracy"] = {"estimate": 0.2, "low": 0.1, "high": 0.3}
    assert headline(told).startswith("Accuracy is")  # McNemar's p is not there yet
    change["mcnemar"]["p"] = 0.01
    assert "Thinking raises accuracy" in headline(told)
    change["accuracy"] = {"estimate": -0.2, "low": -0.3, "high": -0.1}
    assert "Thinking lowers accuracy" in headline(told)
    row = told["missing"]["asking"][0]
    row["beyond_random"], row["p"] = {"estimate": 1.0, "low": 0.5, "high": 1.5}, 0.25
    assert "is not shown to make the model likelier to ask" in headline(told)
    row["p"] = 0.04
    assert "its direction makes the model likelier to ask" in headline(told)
