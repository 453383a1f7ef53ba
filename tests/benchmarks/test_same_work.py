"""What is timed side by side computes the same: otherwise the ratio would mean nothing."""

import pytest
import torch

from benchmarks import passk, patching, steered
from benchmarks.decoding import bound, step_times
from benchmarks.inputs import endless, equal_prompts, evenly, text_rows, whole_batch
from benchmarks.peers import Absent, hooked_transformer, require, traced, unless_absent
from hooks.rows import Row
from hooks.sampling import Sampling
from interp.prompt_pairs import PromptPair


@pytest.fixture(scope="module")
def equal_rows(llama):
    return equal_prompts(llama, 3)


@pytest.fixture(scope="module")
def pairs(rows):
    """Pairs of 9 tokens that differ in their fourth."""
    clean = rows[0].tokens
    made = []
    for other, answers in ((20, (30, 31)), (21, (40, 50))):
        corrupted = (*clean[:3], other, *clean[4:])
        made.append(PromptPair(Row(clean, 9), Row(corrupted, 9), *answers, (3, 4)))
    return made


def test_the_plain_loop_and_ours_make_the_same_tokens_with_the_vector_and_without(llama, equal_rows, vector):
    plain = steered.plain(llama, whole_batch(llama, equal_rows), 12)
    ours = steered.ours(llama, equal_rows, 12)
    unsteered = plain(1, None)
    assert ours(1, None) == unsteered
    for layer, scale in ((0, 0.5), (0, 1.0), (1, 1.0), (1, 3.0)):
        assert ours(layer, scale * vector) == plain(layer, scale * vector)
    assert plain(1, vector) != unsteered
    assert plain(1, None) == unsteered  # its hook is gone


def test_transformer_lens_and_ours_make_the_same_unsteered_tokens(llama, equal_rows):
    pytest.importorskip("transformer_lens")
    absent: dict[str, str] = {}
    ways = steered.peers(llama, whole_batch(llama, equal_rows), 6, absent)
    (lens,) = (way for name, way in ways.items() if name.startswith("transformer-lens"))
    assert lens(1, None) == steered.ours(llama, equal_rows, 6)(1, None)


def test_the_replay_gives_what_a_full_forward_for_each_patch_gives(llama, pairs):
    looped = patching.loop(llama, pairs, [0, 2])
    assert looped.shape == (2, 2, 2)
    assert looped.std() > 0.01
    torch.testing.assert_close(patching.ours(llama, pairs, [0, 2]), looped, atol=1e-3, rtol=1e-3)


def test_transformer_lens_has_the_same_logits(llama, equal_rows):
    pytest.importorskip("transformer_lens")
    batch = whole_batch(llama, equal_rows)
    with torch.no_grad():
        ours = llama.model(**batch.inputs).logits
        theirs = hooked_transformer(llama)(batch.input_ids)
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)


def test_a_library_that_is_not_there_leaves_its_reason():
    absent: dict[str, str] = {}
    with unless_absent("nothing", absent):
        require("unlatch-no-such-package")
    assert absent == {"nothing": "not installed; `make bench` installs it where the package index has it"}


def test_a_family_that_a_library_is_not_made_for_leaves_its_reason(tiny):
    pytest.importorskip("transformer_lens")
    with pytest.raises(Absent, match="made here for llama and qwen2, and tiny-gpt2 is gpt2"):
        hooked_transformer(tiny("gpt2"))


def test_nnsight_leaves_the_model_that_it_was_given_as_it_was(llama):
    pytest.importorskip("nnsight")
    before = llama.model.forward
    _, blocks = traced(llama)
    assert len(blocks) == llama.n_layers
    assert llama.model.forward == before


def test_without_a_stop_token_every_row_makes_its_whole_budget(llama):
    rows = text_rows(llama, 3, 5)
    assert len({row.tokens for row in rows}) == 3
    assert len(step_times(endless(llama), rows, 4)) == 3
    assert llama.stop_ids


def test_samples_are_of_one_length_and_the_likeliest_are_the_same_in_every_way(llama, rows):
    """With a nucleus of one token there is nothing to draw; no sample stops, which one would."""
    same = Sampling(1.0, 1e-9)
    twice = [row for row in rows for _ in range(2)]
    ours = passk.packed(endless(llama), twice, 12, same)
    assert {len(line) for line in ours} == {12}
    free = [line for line in ours if not set(line) & llama.stop_ids]  # transformers' may not name the end
    assert len(free) >= 4
    for theirs in (passk.looped(llama, twice, 12, same), passk.returned(llama, rows, 2, 12, same)):
        assert {len(line) for line in theirs} == {12}
        assert [line for line in theirs if line in free] == free


@pytest.mark.parametrize(
    ("n", "chosen"), [(1, [4]), (2, [0, 7]), (3, [0, 4, 7]), (8, list(range(8))), (99, list(range(8)))]
)
def test_evenly_takes_the_first_the_last_and_what_lies_between(n, chosen):
    assert evenly(range(8), n) == chosen


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ((0.4, 0.9, 0.1), "not products"),
        ((0.8, 0.1, 0.7), "reading the weights"),
        ((0.8, 0.7, 0.1), "bound by arithmetic"),
        ((0.8, 0.3, 0.4), "too small for either ceiling"),
    ],
)
def test_a_step_is_bound_by_the_largest_share(shares, what):
    assert what in bound(*shares)
