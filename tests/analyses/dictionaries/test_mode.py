"""The mode experiment on a tiny model: what is written, its verdict, and a mode feature that was planted."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses import answers
from analyses.dictionaries import mode
from analyses.steps import at_equal_length, shows_step
from hooks.errors import InputError, VectorError


def read(folder: Path):
    return json.loads((folder / "results.json").read_text())


CONDITIONS = [
    *("direct", "direct+feature", "direct+dense", "cot", "cot+feature", "cot+suppressed"),
    *("override", "override+feature"),
]


def test_every_condition_of_the_experiment_is_there_with_its_n(moded, mode_config):
    told = read(moded)
    assert list(told["conditions"]) == CONDITIONS
    for name, row in told["conditions"].items():
        assert row["n"] == mode_config.n_confirm
        assert row["steps"]["low"] <= row["steps"]["estimate"] <= row["steps"]["high"]
        assert ("accuracy_difference" in row) == ("+" in name)
    assert len(told["random"]["latents"]) == mode_config.n_random
    assert told["random"]["n"] == mode_config.n_random_problems
    tried = {row["latent"] for row in told["select"]["table"]}
    assert told["edit"]["latent"] in tried
    assert not tried & set(told["random"]["latents"])
    assert (moded / "report.html").read_text().count("latent") > 10


def test_what_ranked_and_chose_did_not_score(moded):
    records = [json.loads(line) for line in (moded / "records.jsonl").read_text().splitlines()]
    chose = {r["item"] for r in records if r["condition"].startswith("latent:")}
    scored = {r["item"] for r in records if r["condition"] in ("direct+feature", "cot+suppressed")}
    assert chose
    assert scored
    assert not chose & scored


def test_the_feature_is_written_at_one_token_and_suppression_at_all(moded):
    records = [json.loads(line) for line in (moded / "records.jsonl").read_text().splitlines()]
    for r in records:
        if r["condition"].startswith(("latent:", "random:")) or r["condition"].endswith(
            ("+feature", "+dense")
        ):
            assert r["written"] == 1
        elif r["condition"] == "cot+suppressed":
            assert r["written"] == r["tokens"]
        else:
            assert r["written"] == 0


def test_the_verdict_follows_from_the_two_intervals(moded):
    told = read(moded)
    contrasts = told["contrasts"]
    both = contrasts["raised_over_random"]["low"] > 0 and contrasts["suppressed"]["high"] < 0
    assert told["is_mode_feature"] == both
    assert ("No mode feature" in told["headline"]) == (not both)
    for raised, suppressed, expected in ((1, 1, True), (1, 0, False), (0, 1, False)):
        changed = {**told, "is_mode_feature": bool(raised and suppressed)}
        assert mode.headline(changed).startswith("A mode feature") == expected


def test_a_run_killed_anywhere_ends_with_the_same_bytes(moded, mode_config, tmp_path, kills):
    out = tmp_path / "cut"
    assert kills(lambda: mode.run(mode_config, out), answers, "generate", at=2) > 3
    assert (out / "results.json").read_bytes() == (moded / "results.json").read_bytes()


def test_problems_that_are_not_there_are_refused(mode_config, tmp_path):
    with pytest.raises(InputError, match=r"--n-confirm of 2 to \d+"):
        mode.run(replace(mode_config, n_confirm=2000), tmp_path / "a")
    with pytest.raises(InputError, match="are the first of n_confirm"):
        mode.run(replace(mode_config, n_random_problems=7), tmp_path / "b")


def test_a_dictionary_of_another_model_is_refused(mode_config, tmp_path, model_of, tokenizer_with):
    other = tmp_path / "other"
    model_of("llama", seed=9).save_pretrained(other)
    tokenizer_with().save_pretrained(other)
    with pytest.raises(VectorError, match="this model is"):
        mode.run(replace(mode_config, model=str(other)), tmp_path / "r")


# Steps


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 7",
        "so 12*3",
        "$4 x 3",
        "10 divided by 2",
        "half of 8 = 4",
        "24 / (2 + 1)",
        "5 minus 2",
        "7−2",
    ],
)
def test_an_equation_is_a_step(text):
    assert shows_step(text)


@pytest.mark.parametrize(
    "text", ["42", "The answer is 42.", "He has 3 cats and 4 dogs.", "", "x = y", "$1,000"]
)
def test_a_bare_answer_is_none(text):
    assert not shows_step(text)


def test_equal_length_compares_like_with_like():
    """Accuracy depends on length alone: the raw difference is large, that at equal length is none. 20 times;
    intervals of 95% that miss five times or more have a chance of 0.3%."""
    missed, estimates = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        short, long = rng.integers(5, 40, 400).astype(float), rng.integers(20, 80, 400).astype(float)
        right, other = rng.random(400) < short / 80, rng.random(400) < long / 80
        assert right.mean() - other.mean() < -0.2
        found, share = at_equal_length(right, short, other, long, n_resamples=200)
        assert 0.2 < share < 1
        estimates.append(found.estimate)
        missed += not found.low < 0 < found.high
    assert missed < 5
    assert abs(np.mean(estimates)) < 0.04
    nothing, share = at_equal_length(right, short, other, long + 1000)
    assert nothing is None
    assert share == 0


def test_equal_length_of_the_same_is_zero_and_sees_a_difference():
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 50, 200).astype(float)
    right = rng.random(200) < 0.5
    found, share = at_equal_length(right, tokens, right, tokens, n_resamples=100)
    assert (found.estimate, share) == (0.0, 1.0)
    better, _ = at_equal_length(np.ones(200, bool), tokens, right, tokens, n_resamples=100)
    assert better.low > 0.3


def test_random_latents_write_as_much_as_the_chosen_one(moded, mode_config, folder):
    from hooks import load
    from saes import load_dictionary

    sae = load_dictionary(mode_config.dictionary, load(str(folder)))
    told = read(moded)
    norm = sae.W_dec.norm(dim=-1)
    latent, value = told["edit"]["latent"], told["edit"]["value"]
    for other in told["random"]["latents"]:
        scaled = value * float(norm[latent] / norm[other])
        torch.testing.assert_close(scaled * norm[other], value * norm[latent])
    counts = Counter(told["random"]["latents"])
    assert max(counts.values()) == 1
