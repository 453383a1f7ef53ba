"""A dictionary from text to card, on a tiny model: what is written, that it resumes, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analyses.configs import SaeTrainConfig
from analyses.dictionaries import corpus, train
from analyses.dictionaries.corpus import held_out, rows_of
from analyses.progress import progress
from analyses.run_folder import RunFolder
from analyses.workers import LocalWorker
from hooks import load
from hooks.errors import InputError
from hooks.rows import Row
from saes import ActivationShards, TopKSAE, load_dictionary
from saes.activity import Activity


def read(folder: Path):
    return json.loads((folder / "results.json").read_text())


def test_a_run_leaves_a_dictionary_of_each_layer_with_its_card(trained, train_config, folder):
    lm = load(str(folder))
    for layer in (0, 1):
        place = trained / "dictionaries" / f"blocks.{layer}.hook_resid_post"
        sae = load_dictionary(place, lm)
        assert isinstance(sae, TopKSAE)
        assert (sae.d_sae, sae.k, sae.origin.fingerprint) == (64, 4, lm.fingerprint)
        activity = Activity.load(place, 64)
        assert activity.n_tokens > 500
        assert "held-out tokens" in (place / "README.md").read_text()
    told = read(trained)
    assert [d["site"] for d in told["dictionaries"]] == [
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]
    for found in told["dictionaries"]:
        assert found["curve"][-1]["vectors"] == train_config.vectors
        costs = found["quality"]["reconstructions"]
        assert costs["mean"]["fvu"] == pytest.approx(1.0, abs=1e-4)
        assert costs["dictionary"]["fvu"] < costs["mean"]["fvu"]
        for cost in costs.values():
            assert cost["increase_nats"]["low"] <= cost["increase_nats"]["estimate"]
    assert "nats" in told["headline"]
    assert "hook_resid_post" in (trained / "report.html").read_text()


def test_half_precision_halves_the_file_and_reads_as_float32(trained):
    place = trained / "dictionaries" / "blocks.1.hook_resid_post"
    narrow = load_dictionary(place)
    wide = load_dictionary(trained / "training" / "blocks.1.hook_resid_post")
    assert narrow.W_dec.dtype == torch.float32
    assert (place / "sae_weights.safetensors").stat().st_size < 0.6 * (
        trained / "training" / "blocks.1.hook_resid_post" / "sae_weights.safetensors"
    ).stat().st_size
    torch.testing.assert_close(narrow.W_dec, wide.W_dec, atol=1e-3, rtol=1e-3)
    from sae_lens import SAE

    theirs = SAE.load_from_disk(str(place), device="cpu")
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(x), narrow(x), atol=1e-4, rtol=1e-4)


def test_no_row_is_on_both_sides_and_no_first_token_is_in_the_shards(trained):
    told = read(trained)
    kept = ActivationShards.open(trained / "activations")
    rest = ActivationShards.open(trained / "held_out")
    assert kept.positions == "(all - first(1))"
    assert len(kept) == told["distinct_vectors"]
    assert 0 < len(rest) < len(kept)


def test_a_run_killed_in_its_text_or_training_ends_with_the_same_bytes(
    trained, train_config, tmp_path, monkeypatch
):
    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        calls = []

        def stops(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        real = corpus.generate
        patch.setattr(corpus, "generate", stops)
        with pytest.raises(KeyboardInterrupt):
            train.run(train_config, out)
    lines = (out / "records.jsonl").read_text().splitlines()
    assert len(lines) == 32
    with monkeypatch.context() as patch:
        patch.setattr(train, "quality", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train.run(train_config, out)
    train.run(train_config, out)
    assert (out / "results.json").read_bytes() == (trained / "results.json").read_bytes()
    for name in ("sae_weights.safetensors", "cfg.json", "latents.safetensors"):
        place = Path("dictionaries") / "blocks.1.hook_resid_post" / name
        assert (out / place).read_bytes() == (trained / place).read_bytes()


def test_a_recipe_that_cannot_be_is_refused_before_any_text_is_made(train_config, tmp_path):
    with pytest.raises(InputError, match=r"k is in 1\.\.64"):
        train.run(replace(train_config, k=65), tmp_path / "r")
    assert not (tmp_path / "r" / "records.jsonl").exists()


# Text


@pytest.fixture
def gathered(folder, tmp_path):
    lm = load(str(folder))

    def of(source: str, **options):
        options = {"context": 16, "max_new_tokens": 8, "chunk": 4, "seed": 0, **options}
        config = SaeTrainConfig(model=str(folder))
        with RunFolder.open(tmp_path / "text", "sae-train", config) as run, progress() as start:
            return rows_of(source, lm, run=run, workers=LocalWorker(lm), stage=start("text", 1), **options)

    return of


def test_documents_are_cut_and_begin_as_the_tokenizer_begins_them(gathered, tmp_path, folder):
    lm = load(str(folder))
    (tmp_path / "a.txt").write_text("the inn " * 20)
    (tmp_path / "b.jsonl").write_text('{"text": "an inn that is a thing"}\n')
    (tmp_path / "c.bin").write_text("no text")
    rows = gathered(str(tmp_path))
    texts = [lm.tokenizer.decode(row.tokens) for row in rows]
    assert "".join(texts[:-2]) in "the inn " * 20
    assert all(8 <= len(row.tokens) <= 16 for row in rows)
    assert "thing" in "".join(texts)
    assert not any("no text" in text for text in texts)


def test_of_a_run_of_one_token_at_the_beginning_one_is_kept(gathered, tmp_path, folder):
    lm = load(str(folder))
    (tmp_path / "a.txt").write_text("!" * 40)
    (tmp_path / "b.txt").write_text("!!!! the inn has a thing, an ant!!")
    (row,) = gathered(str(tmp_path), context=64)
    assert lm.tokenizer.decode(row.tokens) == "! the inn has a thing, an ant!!"


def test_conversations_are_the_models_own_and_differ(gathered):
    rows = gathered("own:4", context=64)
    assert len(set(rows)) == len(rows)


def test_problems_come_with_their_solutions(gathered, folder):
    lm = load(str(folder))
    (row, *_) = gathered("word-problems:2", context=2000)
    text = lm.tokenizer.decode(row.tokens)
    assert "<|im_start|>user" in text
    assert "<|im_start|>assistant" in text


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda _: "nowhere.txt", "There is no text"),
        (lambda path: _written(path, "x.csv", "a,b"), "is no .txt, .md or .jsonl"),
        (
            lambda path: _written(path, "x.jsonl", '{"prompt": "a"}'),
            "no text in a field 'text'; it has prompt",
        ),
        (lambda path: _written(path, "x.txt", ""), "holds no text of 8 tokens"),
        (lambda _: "own:no", "own:300 would work"),
        (lambda path: str(_empty(path)), "holds no .txt, .md or .jsonl file"),
    ],
)
def test_what_is_no_text_is_refused(gathered, tmp_path, make, told):
    with pytest.raises(InputError, match=told):
        gathered(make(tmp_path))


def _written(path: Path, name: str, text: str) -> str:
    (path / name).write_text(text)
    return str(path / name)


def _empty(path: Path) -> Path:
    (path / "empty").mkdir()
    return path / "empty"


def test_too_few_rows_to_hold_one_out_are_refused():
    with pytest.raises(InputError, match="too few"):
        held_out([Row((5,), 1)])


def test_the_same_row_always_falls_on_the_same_side():
    rows = [Row((n, n + 1, n + 2), 3) for n in range(400)]
    kept, rest = held_out(rows)
    assert 5 < len(rest) < 40
    assert held_out(rows[::-1])[1] == rest[::-1]
    assert not set(kept) & set(rest)


def test_text_is_not_lost_when_the_run_folder_is_copied(trained, train_config, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    made = train.run(train_config, tmp_path / "copy")
    assert (made / "results.json").read_bytes() == (trained / "results.json").read_bytes()
