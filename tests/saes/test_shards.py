"""Shards hold what a capture holds, whatever happens as they are written; a reader gives each once."""

import errno
import gc
import json
import multiprocessing
import os
import random
import runpy
import signal
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from hooks import Add, inject
from hooks.capture import run_to, stream
from hooks.chat import special_ids
from hooks.errors import EmptySelectionError, InputError, RunError, ShardError, SiteNotFoundError
from hooks.load import adopt
from hooks.positions import everything, first, mask, response, think
from hooks.rows import Row, pad_left
from hooks.sites import Site
from saes import shards as module
from saes.shards import ActivationShards, write_shards

SITES = [Site(1, "resid_post"), Site(0, "mlp_out")]
POST, MLP = SITES
NAMES = ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"]
WORDS = ["the", "inn", "thing", "an", "a", "in", "that"]


def corpus(n=30, seed=0):
    """Texts of 1 to 9 words, every fifth with special tokens in it."""
    draws = random.Random(seed)
    for number in range(n):
        text = "".join(draws.choice(WORDS) for _ in range(draws.randint(1, 9)))
        yield f"<bos>{text}<|im_end|>" if number % 5 == 0 else text


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows of 8 rows, so that a few rows are several."""
    monkeypatch.setattr(module, "WINDOW", 8)


def write(lm, folder, texts=None, **options):
    options = {"tokens_per_shard": 40, "max_tokens": 64, **options}
    return write_shards(lm, corpus() if texts is None else texts, SITES, folder, **options)


def content(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != ".lock"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(files)}


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    """A folder that nothing interrupted. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", 8)
        return write(llama, tmp_path_factory.mktemp("whole"))


def all_of(shards, site):
    return torch.cat([shards.read(n, site=site) for n in range(len(shards.tokens))])


def captured(lm, texts, site, *, keep=lambda _token, _position: True):
    """The activations of every text run alone, as rows of numbers."""
    found = []
    for text in texts:
        ids = lm.tokenizer(text).input_ids
        row = pad_left([Row(tuple(ids), len(ids))], [0], pad_id=0, device=lm.device)
        acts = run_to(lm, row, [site])[site][0]
        found += [acts[p] for p, token in enumerate(ids) if keep(token, p)]
    return torch.stack(found)


def assert_same_vectors(left, right, **tolerance):
    """The same rows in any order."""
    assert left.shape == right.shape
    distance = torch.cdist(left.double(), right.double())
    nearest = distance.argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(right))), "not one to one"
    torch.testing.assert_close(left, right[nearest], **tolerance)


# --- what is written


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_shards_hold_what_a_capture_of_each_text_holds(tiny, tmp_path, family):
    """Of every token that stands for text; long rows run in pieces, short ones together."""
    lm = tiny(family)
    shards = write(lm, tmp_path / "s", max_tokens=12)
    special = special_ids(lm.tokenizer)
    ordinary = sum(t not in special for text in corpus() for t in lm.tokenizer(text).input_ids)
    assert len(shards) == ordinary
    assert shards.tokens[:-1] == (40,) * (len(shards.tokens) - 1)
    assert 0 < shards.tokens[-1] <= 40
    assert shards.rows == 30
    for site in SITES:
        expected = captured(lm, corpus(), site, keep=lambda t, _p: t not in special)
        distance = torch.cdist(all_of(shards, site).double(), expected.double())
        assert distance.min(1).values.max() < 1e-3
        assert distance.min(0).values.max() < 1e-3


def test_all_sites_of_a_shard_are_of_the_same_tokens_in_the_same_order(llama, whole):
    """The order of the stream: what one site holds at a place, the other holds of the same token."""
    expected = {site: [] for site in SITES}
    rows = [Row(tuple(ids), len(ids)) for ids in (llama.tokenizer(t).input_ids for t in corpus())]
    special = torch.tensor(sorted(special_ids(llama.tokenizer)))
    for batch, acts in stream(llama, rows, SITES, max_tokens=64, window=8):
        chosen = batch.attention_mask.bool() & ~torch.isin(batch.input_ids, special)
        for site in SITES:
            expected[site].append(acts[site][chosen])
    for site in SITES:
        assert torch.equal(all_of(whole, site), torch.cat(expected[site]))


def test_special_tokens_are_kept_when_asked_for_and_positions_choose_among_the_others(llama, tmp_path):
    every = write(llama, tmp_path / "every", keep_special=True)
    assert len(every) == sum(len(llama.tokenizer(text).input_ids) for text in corpus())
    start = write(llama, tmp_path / "start", positions=first(2))
    special = special_ids(llama.tokenizer)
    expected = captured(llama, corpus(), POST, keep=lambda t, p: p < 2 and t not in special)
    assert len(start) == len(expected)
    rows = [Row((7, 8, 9, 10), 2), Row((11, 12, 13), 1)]
    given = write(llama, tmp_path / "rows", rows, positions=response)
    assert len(given) == 4


def test_the_index_says_what_is_there(llama, whole):
    index = json.loads((whole.folder / "index.json").read_text())
    assert index["format"] == "unlatch.activation-shards.1"
    assert index["sites"] == NAMES
    assert index["fingerprint"] == llama.fingerprint
    assert (index["dtype"], index["d_model"], index["tokens_per_shard"]) == ("float32", 32, 40)
    assert [s["tokens"] for s in index["shards"]] == list(whole.tokens)
    assert index["complete"] is True
    assert sorted(f.name for f in whole.folder.iterdir() if f.name != ".lock") == [*NAMES, "index.json"]


def test_half_precision_takes_half_the_space_and_an_overflow_is_refused(llama, tmp_path):
    half = write(llama, tmp_path / "half", dtype=torch.bfloat16)
    assert half.read(0, site=POST).dtype == torch.bfloat16
    full = write(llama, tmp_path / "full")
    assert torch.equal(all_of(half, POST), all_of(full, POST).bfloat16())
    batch = next(half.batches(8, site=POST))
    assert batch.dtype == torch.float32
    big = Add(POST, torch.full((32,), 1e6), positions=everything)
    with inject(llama, [big]), pytest.raises(InputError, match="Edits are open on this model"):
        write(llama, tmp_path / "edited")


def test_an_activation_that_does_not_fit_the_dtype_is_refused(model_of, tokenizer_with, tmp_path):
    model = model_of("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    lm = adopt(model, tokenizer_with())
    with pytest.raises(
        InputError, match=r"at blocks.1.hook_resid_post is not finite in torch.float16; the la"
    ):
        write(lm, tmp_path / "s", dtype=torch.float16)


# --- interrupted


def test_a_run_that_is_stopped_before_any_write_ends_with_the_same_bytes(llama, whole, tmp_path, monkeypatch):
    """Killed before and after every file is put in its place: the index, and each shard of each site."""
    replace, calls, texts = Path.replace, [], list(corpus())

    class Killed(BaseException):
        pass

    def run(folder, at):
        calls.clear()

        def counted(self, target):
            calls.append(target)
            if len(calls) == (at + 1) // 2:
                if at % 2:
                    raise Killed
                replace(self, target)
                raise Killed
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", counted)
        write(llama, folder, texts)

    run(tmp_path / "counted", 10**9)
    writes = len(calls)
    assert writes == 2 + 3 * len(whole.tokens), "holder, first index, and two sites and an index a shard"
    assert content(tmp_path / "counted") == content(whole.folder)
    for at in range(1, 2 * writes + 1, 3):
        folder = tmp_path / str(at)
        with pytest.raises(Killed):
            run(folder, at)
        monkeypatch.undo()
        monkeypatch.setattr(module, "WINDOW", 8)
        write(llama, folder, texts)
        assert content(folder) == content(whole.folder), f"stopped at write {at}"


def test_what_is_in_the_shards_is_not_run_again(llama, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_json", stop_after(4))
    with pytest.raises(KeyboardInterrupt):
        write(llama, tmp_path / "s")
    monkeypatch.undo()
    monkeypatch.setattr(module, "WINDOW", 8)
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert len(index["shards"]) == 3
    seen, all_seen = [], []
    write(llama, tmp_path / "s", on_tokens=seen.append)
    write(llama, tmp_path / "t", on_tokens=all_seen.append)
    assert sum(all_seen) - sum(seen) >= 120 - 64, "only the batch under way is run again"
    assert content(tmp_path / "s") == content(whole.folder)
    ran = []
    assert len(write(llama, tmp_path / "s", iter(()), on_tokens=ran.append)) == len(whole)
    assert ran == [], "a folder that is complete is not written again"


def stop_after(n):
    """A `write_json` that is interrupted before its n-th call ends."""
    left = [n]

    def write_json(path, value):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(path, value)

    original = module.write_json
    return write_json


SCRIPT = """
from hooks import load
from hooks.sites import Site
from saes import shards
shards.WINDOW = 8
sites = [Site(1, "resid_post"), Site(0, "mlp_out")]
shards.write_shards(load(model), texts, sites, folder, tokens_per_shard=40, max_tokens=64)
"""


@pytest.mark.slow
def test_kill_dash_nine_at_random_moments_ends_with_the_same_bytes(llama, tmp_path):
    """A signal that the process cannot see, twice in each of three folders, at moments drawn at random."""
    llama.model.save_pretrained(tmp_path / "model")
    llama.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "script.py").write_text(SCRIPT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hooks", "saes.shards"])
    draws, texts = random.Random(0), list(corpus(60))

    def start(folder):
        given = {"model": str(tmp_path / "model"), "texts": texts, "folder": str(folder)}
        process = context.Process(target=runpy.run_path, args=(str(tmp_path / "script.py"), given))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    expected = content(tmp_path / "whole")
    n_shards = len([name for name in expected if name.startswith(NAMES[0])])
    for number in range(3):
        folder = tmp_path / str(number)
        for until in sorted(draws.sample(range(n_shards), 2)):
            process = start(folder)
            while process.is_alive() and len(list(folder.glob(f"{NAMES[0]}/*"))) <= until:
                time.sleep(0.0005)
            time.sleep(draws.uniform(0, 0.003))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode in (-signal.SIGKILL, 0)
        process = start(folder)
        process.join()
        assert process.exitcode == 0
        assert content(folder) == expected


def test_a_full_disk_loses_nothing_that_was_written(llama, whole, tmp_path, monkeypatch):
    fsync, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"The disk is full: .*000001.safetensors could not be written"):
        write(llama, tmp_path / "s")
    assert len(ActivationShards.open(tmp_path / "s", incomplete=True)) == 40
    write(llama, tmp_path / "s")
    assert content(tmp_path / "s") == content(whole.folder)


# --- refused


@pytest.fixture
def half(llama, tmp_path, monkeypatch):
    """A folder whose writing was stopped after four shards, in the third window of rows."""
    folder = tmp_path / "half"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", stop_after(5))
        with pytest.raises(KeyboardInterrupt):
            write(llama, folder)
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": first(2)}, r"positions is all there and first\(2\) here"),
        ({"tokens_per_shard": 41}, "tokens_per_shard is 40 there and 41 here"),
        ({"dtype": torch.bfloat16}, "dtype is float32 there and bfloat16 here"),
        ({"keep_special": True}, "keep_special is False there and True here"),
        ({"max_tokens": 63}, "max_tokens is 64 there and 63 here"),
    ],
)
def test_a_folder_of_other_settings_is_not_continued(llama, half, options, said):
    before = content(half)
    with pytest.raises(ShardError, match=f"holds shards of tiny-llama with other settings: .*{said}"):
        write(llama, half, **options)
    assert content(half) == before


def test_a_folder_of_another_model_or_other_sites_is_not_continued(llama, half, model_of, tokenizer_with):
    before = content(half)
    other = adopt(model_of("llama", seed=1), tokenizer_with())
    with pytest.raises(ShardError, match=f"fingerprint is {llama.fingerprint} there and"):
        write(other, half)
    with pytest.raises(ShardError, match=r"sites is .* there and .*resid_pre.* here"):
        write_shards(llama, corpus(), [Site(0, "resid_pre")], half, tokens_per_shard=40, max_tokens=64)
    assert content(half) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda texts: ["another", *texts[1:]],
        lambda texts: texts[:-15] + texts[-14:],
        lambda texts: [*texts[:20], "another", *texts[21:]],
        lambda texts: texts[:4],
        lambda texts: texts[:16],
        lambda texts: texts[:20],
        lambda _texts: [],
    ],
)
def test_other_rows_are_not_taken_for_the_ones_that_were_done(llama, half, change):
    index = json.loads((half / "index.json").read_text())
    assert index["rows"] == 16
    assert index["further"]
    before = content(half)
    with pytest.raises(
        ShardError, match=r"The rows that .* was written from are not those that are given now: 16"
    ):
        write(llama, half, change(list(corpus())))
    assert content(half) == before


def test_a_folder_of_something_else_is_left_alone(llama, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ShardError, match="is not empty and holds no shards"):
        write(llama, tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"x"}
    with pytest.raises(ShardError, match=r"holds no index.json"):
        ActivationShards.open(tmp_path)


def test_a_folder_that_is_not_done_is_not_taken_for_one_that_is(half):
    with pytest.raises(ShardError, match="is incomplete: 4 shards, 16 rows done"):
        ActivationShards.open(half)
    assert len(ActivationShards.open(half, incomplete=True)) == 160


def test_what_cannot_be_written_is_refused_before_anything_is(llama, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(SiteNotFoundError):
        write_shards(llama, corpus(), [Site(9, "mlp_out")], folder)
    with pytest.raises(InputError, match="was given no site"):
        write_shards(llama, corpus(), [], folder)
    with pytest.raises(InputError, match="differs by the number of a row"):
        write(llama, folder, positions=mask(torch.ones(2, 2, dtype=torch.bool)))
    with pytest.raises(InputError, match="They are in float64, float32, float16, bfloat16"):
        write(llama, folder, dtype=torch.int8)
    with pytest.raises(InputError, match="tokens_per_shard=0 and max_tokens=64"):
        write(llama, folder, tokens_per_shard=0)
    with pytest.raises(InputError, match="was given one text"):
        write(llama, folder, "a text")
    assert not folder.exists()
    with pytest.raises(EmptySelectionError, match="think matches no token of 2 rows that stands for text"):
        write(llama, folder, ["inn", ""], positions=think)


# --- damaged


@pytest.fixture
def copy(llama, tmp_path):
    return write(llama, tmp_path / "copy").folder


@pytest.mark.parametrize("place", [3, 100, -1])
def test_a_byte_that_changed_is_named_with_its_shard(copy, place):
    file = copy / NAMES[1] / "000002.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    shards = ActivationShards.open(copy)
    for read in (
        lambda: list(shards.batches(16, site=POST)), lambda: shards.read(2, site=POST), shards.verify
    ):  # fmt: skip
        with pytest.raises(ShardError, match=rf"{NAMES[1]}.000002.safetensors is damaged: its sha256 is"):
            read()
    assert len(list(shards.batches(16, site=MLP))) == -(-len(shards) // 16), "the other site is sound"


def test_a_shard_that_is_missing_or_cut_off_is_named(llama, copy):
    (copy / NAMES[0] / "000001.safetensors").unlink()
    file = copy / NAMES[1] / "000000.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    said = r"mlp_out.000001.safetensors is missing"
    with pytest.raises(
        ShardError, match=rf"resid_post.000000.safetensors was cut off at 500 bytes; .*{said}"
    ):
        ActivationShards.open(copy)
    with pytest.raises(ShardError, match=said):
        write(llama, copy)


def test_a_shard_that_goes_missing_while_it_is_read_is_named(copy):
    shards = ActivationShards.open(copy)
    (copy / NAMES[0] / "000001.safetensors").unlink()
    with pytest.raises(ShardError, match=r"000001.safetensors is missing"):
        shards.read(1, site=MLP)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"float32"', '"save"'), (NAMES[0], "../up"), ("unlatch.activation-shards.1", "other"), ("{", "[")],
)
def test_an_index_that_is_damaged_is_refused(copy, old, new):
    file = copy / "index.json"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ShardError, match=r"index.json is (damaged|not of the format)"):
        ActivationShards.open(copy)


# --- read


@pytest.mark.parametrize(
    ("size", "mix", "block"), [(7, 16, 4), (16, 50, 8), (30, 12, 5), (1000, 20, 3), (1, 1, 1)]
)
def test_an_epoch_gives_every_vector_once_shuffled(whole, monkeypatch, size, mix, block):
    monkeypatch.setattr(module, "BLOCK", block)
    batches = list(whole.batches(size, site=POST, mix=mix))
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert 0 < len(batches[-1]) <= size
    found, stored = torch.cat(batches), all_of(whole, POST)
    order = sorted(found.tolist()) == sorted(stored.tolist())
    assert order, "a vector is missing, or given twice"
    assert not torch.equal(found, stored)


def test_epochs_follow_one_another_and_differ(whole):
    n = len(whole)
    found = torch.cat(list(whole.batches(16, site=POST, epochs=3, mix=64)))
    endless = torch.cat(list(islice(whole.batches(16, site=POST, epochs=None, mix=64), -(-3 * n // 16))))
    assert torch.equal(endless[: 3 * n], found)
    epochs = found.split(n)
    assert len(epochs) == 3
    assert all(sorted(epoch.tolist()) == sorted(epochs[0].tolist()) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_the_order_is_the_seeds_and_a_run_goes_on_from_any_batch(whole, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)

    def read(**options):
        return list(whole.batches(13, site=POST, epochs=2, mix=40, **options))

    one = read(seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one, read(seed=5), strict=True))
    assert not torch.equal(torch.cat(one), torch.cat(read(seed=6)))
    for start in (*range(0, len(one), 3), len(one) - 1, len(one)):
        rest = read(seed=5, start=start)
        assert len(rest) == len(one) - start
        assert all(torch.equal(a, b) for a, b in zip(one[start:], rest, strict=True))


def test_a_batch_mixes_vectors_of_many_shards(whole, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    shard_of = {tuple(v): n for n in range(len(whole.tokens)) for v in whole.read(n, site=POST).tolist()}
    batch = next(whole.batches(32, site=POST, mix=32))
    assert len({shard_of[tuple(v)] for v in batch.tolist()}) >= min(4, len(whole.tokens))


def test_a_reader_holds_no_more_than_it_mixes(llama, tmp_path, monkeypatch):
    """All tensors that are alive whenever one more lot of vectors has been read and shuffled."""
    monkeypatch.setattr(module, "BLOCK", 8)
    shards = write(llama, tmp_path / "s", corpus(120), tokens_per_shard=200, max_tokens=512)
    assert len(shards) > 800

    def alive():
        tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.layout is torch.strided]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    original, held = ActivationShards._buffer, []

    def made(*args):
        buffer = original(*args)
        held.append(alive() - before)
        return buffer

    monkeypatch.setattr(ActivationShards, "_buffer", made)
    gc.collect()
    before = alive()
    for batch in shards.batches(20, site=POST, mix=64):
        del batch  # the caller's, which is not counted
    assert 64 * 32 * 4 <= max(held) <= (64 + 20 + 8) * 32 * 4


def test_a_batch_that_is_kept_keeps_no_more_than_itself(whole):
    for batch in whole.batches(7, site=POST, mix=64):
        assert batch.untyped_storage().nbytes() == batch.nbytes


def test_a_site_is_named_where_there_are_several(whole, llama, tmp_path):
    with pytest.raises(InputError, match=r"No site was named; .* holds blocks.0.hook_mlp_out, blocks.1"):
        whole.batches(4)
    with pytest.raises(InputError, match=r"No shards of blocks.2.hook_mlp_out; "):
        whole.batches(4, site=Site(2, "mlp_out"))
    with pytest.raises(InputError, match="size=0"):
        whole.batches(0, site=POST)
    one = write_shards(llama, corpus(), [POST], tmp_path / "one")
    assert next(one.batches(4)).shape == (4, 32)
    np.testing.assert_array_equal(one.read(0)[:40], whole.read(0, site=POST))
