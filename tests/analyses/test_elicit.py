"""Keys side by side on a tiny model: what is written, how replies vote, and gains that were planted."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.configs import ElicitConfig
from analyses.elicit import replies, run
from analyses.elicit.decodings import Forced, FormatCorrected, Greedy, voted
from analyses.elicit.decodings import Path as ReplyPath
from analyses.elicit.key import Key, Suffix
from analyses.elicit.keys import KEYS
from analyses.elicit.margins import margins
from analyses.elicit.table import Opened, table
from analyses.tasks import Problem
from hooks import load
from hooks.edits import Add
from hooks.errors import InputError
from hooks.generate import Completion
from hooks.positions import generated
from hooks.rows import Row
from hooks.sites import Site
from saes import TopKSAE, save_dictionary
from saes.activity import latent_activity
from saes.autoencoder import Origin

SINGLE = ["plain", "direct", "cot", "few-shot", "format-corrected", "forced", "cot-decoding"]
SINGLE += ["self-consistency", "vector", "feature", "tuned"]
COMBINED = ["direct+vector", "cot+vector", "cot+self-consistency"]


@pytest.fixture(scope="session")
def dictionary(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random dictionary, with the statistics of its latents."""
    lm, site = load(str(folder)), Site(1, "resid_post")
    sae = TopKSAE(
        lm.d_model, 24, 6, seed=1, origin=Origin(model=lm.name, fingerprint=lm.fingerprint, site=site)
    )
    rows = [Row(tuple(range(5, 30)), 3)]
    path = tmp_path_factory.mktemp("dictionaries") / "random"
    save_dictionary(sae, path)
    latent_activity(lm, rows, sae).save(path)
    return str(path)


@pytest.fixture(scope="session")
def config(folder: Path, dictionary: str) -> ElicitConfig:
    return ElicitConfig(
        model=str(folder),
        tuned=str(folder),
        dictionary=dictionary,
        tasks=("word-problems", "gym:chain_sum"),
        n_rung=4,
        n_fit=5,
        n_select=3,
        n_confirm=3,
        n_shots=2,
        beginnings=("To", "First"),
        k=3,
        n_samples=3,
        doses=(0.2,),
        n_latents=2,
        strengths=(1.0,),
        n_random=2,
        n_random_problems=2,
        max_new_tokens=4,
        chunk=3,
    )


@pytest.fixture(scope="session")
def elicited(config: ElicitConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    return run.run(config, tmp_path_factory.mktemp("runs") / "elicit")


def read(folder: Path):
    return json.loads((folder / "results.json").read_text())


def records(folder: Path):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_every_key_is_tried_on_every_family_with_its_n(elicited, config):
    told = read(elicited)
    found = list(told["tables"])
    assert found[0] == "all families"
    assert [name.partition("@")[0] for name in found[1:]] == list(config.tasks)
    for family, of in told["tables"].items():
        n = config.n_confirm * (2 if family == "all families" else 1)
        assert list(of["keys"]) == SINGLE + COMBINED
        assert all(row["n"] == n and row["accuracy"]["n"] == n for row in of["keys"].values())
        assert of["keys"]["format-corrected"]["gain"] is None
        assert of["keys"]["cot-decoding"]["paths"] == config.k
        assert of["keys"]["self-consistency"]["paths"] == config.n_samples
    assert set(told["controls"]) == {"vector", "feature"}
    assert all(len(c["random"]) == config.n_random and c["n"] == 4 for c in told["controls"].values())
    assert set(told["rungs"]) == set(config.tasks)
    page = (elicited / "report.html").read_text()
    assert all(name in page for name in SINGLE + COMBINED)


def test_what_made_and_chose_keys_did_not_score(elicited):
    by_condition: dict[str, set[str]] = {}
    for record in records(elicited):
        by_condition.setdefault(record["condition"], set()).add(record["item"])
    scored = by_condition["plain"]
    for name, items in by_condition.items():
        if name == "rung" or (
            name.startswith(("forced:", "vector:1", "feature:")) and ":random:" not in name
        ):
            assert not items & scored, name
    for name in SINGLE + COMBINED:
        assert by_condition[name] == scored


def test_the_tuned_model_that_is_the_same_solves_the_same(elicited):
    for of in read(elicited)["tables"].values():
        assert of["opened"]["tuned"] == of["opened"]["plain"]
        assert of["keys"]["tuned"]["tokens"] == of["keys"]["plain"]["tokens"]


def test_a_run_killed_anywhere_ends_with_the_same_bytes(elicited, config, tmp_path, kills):
    out = tmp_path / "cut"
    assert kills(lambda: run.run(config, out), replies.Replies, "compute", at=12) > 3
    assert (out / "results.json").read_bytes() == (elicited / "results.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": ("plain", "hypnosis")}, "no key 'hypnosis'.*cot-decoding"),
        ({"keys": ("plain", "feature"), "dictionary": None}, "needs --dictionary"),
        ({"keys": ("tuned",), "tuned": None}, "needs --tuned"),
        ({"tasks": ("gym:chain_summ",)}, "chain_sum"),
        ({"n_confirm": 0}, "--n-confirm of 1 to"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is_written(config, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        run.run(replace(config, **change), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "name", ["cot+direct", "cot-decoding+self-consistency", "tuned+vector", "vector+feature"]
)
def test_keys_that_set_the_same_part_are_not_combined(config, tmp_path, name):
    with pytest.raises(InputError, match=r"both set the|edits were made for the base"):
        run.run(replace(config, keys=("plain", name), find_rung=False), tmp_path / "r")


def test_two_keys_at_once_are_both_at_work():
    edit = Add(Site(0, "resid_post"), torch.ones(4), 1.0, generated)
    both = Key("cot", "a", prompt=Suffix("Think.")) + Key("vector", "b", edits=(edit,))
    three = both + Key("forced", "c", decoding=Forced("To"))
    assert three.name == "cot+vector+forced"
    assert three.prompt == Suffix("Think.")
    assert three.edits == (edit,)
    assert three.decoding == Forced("To")


def test_all_keys_can_be_made_of_the_table_of_keys():
    assert list(KEYS) == SINGLE


# Replies


def path(stated: str | None, correct: bool = False, weight: float = 1.0, tokens: int = 10) -> ReplyPath:
    return ReplyPath("", tokens, stated, correct, False, weight)


def test_votes_are_weighed_by_answer_and_paths_without_one_have_none():
    paths = [path("3", weight=0.5), path(None, weight=9.0), path("4", True, 0.3), path("4", True, 0.4)]
    assert voted(paths) == paths[3]
    assert voted(paths[:3]) == paths[0]
    assert voted([paths[1]]) == paths[1]
    assert voted([]) is None


def problem(answer: str = "18") -> Problem:
    return Problem("p", "How many?", answer, "here")


@pytest.mark.parametrize(
    ("said", "goes_on", "expected"),
    [
        ("The answer is 18.", " 18.", (True, True, True)),
        ("So 3 * 6 = 18", " 18.", (False, True, True)),
        ("First, 3 eggs and 6 hens", " 18.\nThe answer is 5.", (False, False, True)),
        ("So 3 * 6 = 18", " 12.", (False, True, False)),
        ("I see.", " 12.", (False, False, False)),
    ],
)
def test_the_three_readings_of_one_reply(said, goes_on, expected):
    def made(text: str) -> Completion:
        return Completion(text, (1, 2, 3), 5, "stop", None, None, 0.0)

    reply = FormatCorrected()._read(problem(), made(said), made(goes_on))
    assert tuple(reply.readings.values()) == expected
    assert reply.paths[0].tokens == 6


def test_the_forced_ending_is_what_the_model_says_after_it(folder):
    from analyses.elicit.decodings import Asked
    from hooks.chat import prompt_row
    from hooks.generate import generate_rows

    lm, tokens = load(str(folder)), 5
    asked = Asked([problem()], ["How many eggs?"], (), tokens, None, 0, lambda _: None)
    greedy = Greedy().replies(lm, asked)[0].paths[0]
    seen = []

    class Spy(FormatCorrected):
        def _read(self, problem, one, more):
            seen.append((one, more))
            return super()._read(problem, one, more)

    Spy().replies(lm, asked)
    one, more = seen[0]
    assert one.text == greedy.text
    ending = lm.tokenizer("\nThe answer is", add_special_tokens=False).input_ids
    said = one.tokens[:-1] if one.finish == "stop" else one.tokens
    start = prompt_row(lm.tokenizer, "How many eggs?").tokens
    alone = generate_rows(lm, [Row((*start, *said, *ending), len(start))], max_new_tokens=16)[0]
    assert more.tokens == alone.tokens


def test_at_a_budget_only_paths_that_are_paid_for_vote():
    of = Opened(
        ((path("4", True), path("3"), path("3")), (path("3"), path("4", True), path("4", True))),
        np.array([False, True]),
        np.zeros(2),
        None,
    )
    assert of.within(30).tolist() == [False, True]
    assert of.within(29).tolist() == [True, False]
    assert of.within(9).tolist() == [False, False]
    assert of.first(1).tolist() == [True, False]


# The table


def opened(right: Sequence[int], *, tokens: int = 10) -> Opened:
    paths = tuple((path("4", bool(x), tokens=tokens),) for x in right)
    return Opened(paths, np.array(right, dtype=bool), np.full(len(right), 5.0), None)


def made_table(**columns: Sequence[int]):
    of = {name: opened(right) for name, right in columns.items()}
    ids = [f"p{i}" for i in range(len(next(iter(columns.values()))))]
    return table(of, ids, reference="plain", tuned="tuned" if "tuned" in columns else None, budget=20, seed=0)


def test_planted_gains_shares_and_single_keys_come_out():
    told = made_table(
        plain=[1] * 20 + [0] * 60 + [0] * 20,
        half=[1] * 20 + [1] * 30 + [0] * 50,
        odd=[0] * 99 + [1],
        tuned=[1] * 20 + [1] * 60 + [0] * 20,
    )
    keys = told["keys"]
    assert keys["half"]["gain"]["estimate"] == pytest.approx(0.3)
    assert keys["half"]["gain"]["low"] > 0.2
    assert keys["half"]["p_holm"] < 1e-6
    assert keys["half"]["gap_share"]["estimate"] == pytest.approx(0.5)
    assert 0.3 < keys["half"]["gap_share"]["low"] < 0.5 < keys["half"]["gap_share"]["high"] < 0.7
    assert keys["odd"]["only"] == ["p99"]
    assert keys["half"]["only"] == []
    assert len(told["none"]) == 19
    assert told["gap"]["estimate"] == pytest.approx(0.6)
    assert told["opened"]["odd"].endswith("01")


def test_without_a_gap_there_is_no_share():
    told = made_table(plain=[1, 0] * 20, key=[1, 1] * 20, tuned=[0, 1] * 20)
    assert told["keys"]["key"]["gap_share"] is None


def test_a_key_is_held_against_the_votes_that_its_tokens_buy():
    votes = Opened(
        tuple((path("3"), path("4", True), path("4", True), path("4", True)) for _ in range(10)),
        np.ones(10, bool), np.zeros(10), None,
    )  # fmt: skip
    of = {"plain": opened([0] * 10), "dear": opened([1] * 10, tokens=40), "self-consistency": votes}
    told = table(of, [str(i) for i in range(10)], reference="plain", tuned=None, budget=20, seed=0)["keys"]
    assert told["plain"]["against_votes"]["samples"] == 1
    assert told["plain"]["against_votes"]["estimate"] == 0.0
    assert told["dear"]["against_votes"]["samples"] == 4
    assert told["dear"]["against_votes"]["estimate"] == 0.0
    assert told["dear"]["within_budget"]["estimate"] == 0.0
    assert told["self-consistency"]["against_votes"] is None


def test_the_headline_names_gains_only_where_they_hold():
    planted = {"plain": [1] * 20 + [0] * 60, "strong": [1] * 60 + [0] * 20, "weak": [1] * 21 + [0] * 59}
    told = {
        "model": {"name": "m"},
        "reference": "plain",
        "tables": {"here": made_table(**planted)},
    }
    assert "Gains that hold over all keys together: strong." in run.headline(told)
    told["tables"] = {"here": made_table(plain=planted["plain"], weak=planted["weak"])}
    assert "No key's gain holds" in run.headline(told)


# Margins


def decoded(correct: Sequence[int], delta: Sequence[float], logprob: Sequence[float]) -> list[ReplyPath]:
    return [
        replace(path(str(place), bool(c), d), mean_logprob=p, mean_margin=0.5)
        for place, (c, d, p) in enumerate(zip(correct, delta, logprob, strict=True))
    ]


def test_a_planted_margin_tells_right_paths_and_a_planted_logprob_does_not():
    rng = np.random.default_rng(0)
    replies = []
    for _ in range(40):
        right = rng.random(6) < 0.4
        delta = np.where(right, rng.uniform(0.5, 1, 6), rng.uniform(0, 0.5, 6))
        replies.append(decoded(right, delta, rng.normal(size=6)))
    told = margins(replies)
    assert told["paths"] == 240
    assert told["pooled"]["delta"]["estimate"] == 1.0
    assert told["within"]["delta"]["estimate"] == 1.0
    assert told["pooled"]["margin"]["estimate"] == 0.5
    for name in ("logprob", "random"):
        assert told["pooled"][name]["low"] < 0.5 < told["pooled"][name]["high"]
    assert told["chosen"]["largest delta"]["estimate"] == told["chosen"]["any path"]["estimate"]
    assert told["chosen"]["greedy"]["estimate"] == np.mean([of[0].correct for of in replies])


def test_a_score_that_only_tells_problems_apart_does_not_within_them():
    easy = [decoded([1, 1, 0], [0.9] * 3, [0.0] * 3) for _ in range(20)]
    hard = [decoded([0, 0, 1], [0.1] * 3, [0.0] * 3) for _ in range(20)]
    told = margins(easy + hard)
    assert told["pooled"]["delta"]["estimate"] == pytest.approx(2 / 3)
    assert told["within"]["delta"]["estimate"] == 0.5
    assert told["mixed"] == 40


def test_where_no_path_is_right_there_is_no_auroc():
    told = margins([decoded([0, 0], [0.2, 0.1], [0.0, 0.0])] * 3)
    assert told["pooled"]["delta"] is None
    assert told["within"]["delta"] is None
    assert told["chosen"]["any path"]["estimate"] == 0.0
