"""The loop: rows that share a prefill, enter and leave one cache, fail alone, and survive full memory."""

from contextlib import contextmanager

import pytest
import torch
from transformers import MambaConfig

from hooks.cache import PackedCache
from hooks.decode import Decoder, out_of_memory, places_after
from hooks.edits import Add, Patch
from hooks.errors import ModelRefusedError
from hooks.generate import generate_rows
from hooks.inject import inject
from hooks.positions import after, everything, generated, mask, prompt, step
from hooks.rows import Row
from hooks.sampling import Sampling
from hooks.sites import Site


@contextmanager
def shapes(lm):
    """(rows, tokens) of each forward pass."""
    seen = []
    handle = lm.model.base_model.register_forward_hook(lambda _m, _a, out: seen.append(out[0].shape[:2]))
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def many(rows):
    """Thirty prompts of 1 to 13 tokens, some of them equal."""
    pool = [t for row in rows for t in row.tokens]
    lengths = [1 + (5 * i) % 13 for i in range(30)]
    return [Row(tuple(pool[i % 9 : i % 9 + n]), n) for i, n in enumerate(lengths)]


def cells(receipt):
    return sorted(zip(receipt.site.tolist(), receipt.row.tolist(), receipt.position.tolist(), strict=True))


def same(one, other):
    assert [c.tokens for c in one] == [c.tokens for c in other]
    assert [c.finish for c in one] == [c.finish for c in other]
    assert cells(one.receipt) == cells(other.receipt)
    assert dict(one.receipt.seen) == dict(other.receipt.seen)


# --- shared prefills


@pytest.fixture(scope="module")
def few_shot(rows):
    """Six prompts that begin with the same 11 tokens and go on with 1 to 6 of their own."""
    start, pool = rows[2].tokens[:11], [t for row in rows for t in row.tokens]
    return [Row((*start, *pool[3 * i : 4 * i + 1]), 12 + i) for i in range(6)]


@pytest.mark.parametrize("positions", [None, generated, everything, "after"], ids=str)
def test_prompts_that_begin_alike_get_what_each_gets_alone(lm, few_shot, vector, positions):
    if positions == "after":  # a text within the shared tokens
        positions = after(str(lm.tokenizer.decode(few_shot[0].tokens[5:6])))
    edits = [] if positions is None else [Add(Site(1, "resid_post"), vector, positions=positions)]
    made = generate_rows(lm, few_shot, edits=edits, max_new_tokens=6, logprobs=True)
    for number, row in enumerate(few_shot):
        (alone,) = generate_rows(lm, [row], edits=edits, max_new_tokens=6, logprobs=True)
        assert made[number].tokens == alone.tokens
        assert made[number].logprobs == pytest.approx(alone.logprobs, abs=2e-3)
    for number, row in enumerate(few_shot):
        assert made.receipt.seen[number] == len(row.tokens) + len(made[number].tokens) - 1
        assert made.receipt.prompt_length[number] == row.prompt_length


def test_first_tokens_that_all_prompts_share_run_once(llama, few_shot, vector):
    own = sum(len(row.tokens) - 1 for row in few_shot)
    late, early = (Add(Site(1, "resid_post"), vector, positions=p) for p in (generated, everything))
    shared = 10  # the shortest prefix is the shared tokens less one, and keeps a token of its own
    for edits, expected in (([late], own - 5 * shared), ([early], own), ([[late]] * 5 + [[early]], own)):
        with shapes(llama) as seen:
            generate_rows(llama, few_shot, edits=edits, max_new_tokens=1)
        padded = sum(rows * tokens for rows, tokens in seen[:-1])
        assert padded >= expected
        assert (seen[0] == (1, shared)) == (expected < own), "the start ran once, unless an edit touches it"


@pytest.mark.parametrize(
    ("positions", "prefilled"), [(generated, 1), (step(2), 1), (everything, 2), (prompt, 2)]
)
def test_rows_share_a_prefill_where_their_edits_leave_it_alike(llama, rows, vector, positions, prefilled):
    """Two edits over one prompt, three rows each: one prefill if they begin at the last prompt token."""
    one, two = (Add(Site(1, "resid_post"), vector, scale=x, positions=positions) for x in (0.5, -0.5))
    edits = [[one], [two], [one], [two], [one], [two]]
    with shapes(llama) as seen:
        made = generate_rows(llama, [rows[0]] * 6, edits=edits, max_new_tokens=6, logprobs=True)
    assert seen[0] == (prefilled, rows[0].prompt_length - 1)
    assert {shape for shape in seen[1:]} == {(6, 1)}
    for number, edit in enumerate((one, two)):
        alone = generate_rows(llama, [rows[0]], edits=[edit], max_new_tokens=6, logprobs=True)
        for row in range(number, 6, 2):
            assert made[row].tokens == alone[0].tokens
            assert made[row].logprobs == pytest.approx(alone[0].logprobs, abs=2e-3)
    made.receipt.check(positions)


def test_an_edit_of_a_table_of_rows_is_shared_by_no_row(llama, rows, vector):
    table = torch.zeros(2, 40, dtype=torch.bool)
    table[0, 1] = table[1, 3] = True
    edit = Add(Site(1, "resid_post"), vector, positions=mask(table))
    with shapes(llama) as seen:
        made = generate_rows(llama, [rows[0]] * 2, edits=[edit], max_new_tokens=3)
    assert seen[0][0] == 2
    assert cells(made.receipt) == [(0, 0, 1), (0, 1, 3)]


def test_an_injection_around_the_loop_decides_what_is_shared_too(llama, rows, vector):
    outer = [[Add(Site(0, "resid_post"), vector, scale=x, positions=everything)] for x in (0.5, 1.0)]
    with inject(llama, outer) as injection, shapes(llama) as seen:
        made = generate_rows(llama, [rows[0]] * 2, max_new_tokens=4)
    assert seen[0][0] == 2
    injection.receipt().check(everything)
    alone = generate_rows(llama, [rows[0]] * 2, edits=outer, max_new_tokens=4)
    assert [c.tokens for c in made] == [c.tokens for c in alone]


def test_a_prefill_is_never_longer_than_a_prompt_and_computes_no_logits(llama, rows):
    calls = []
    handle = llama.model.lm_head.register_forward_hook(lambda _m, _a, out: calls.append(out.shape))
    generate_rows(llama, rows, max_new_tokens=3)
    handle.remove()
    assert [shape[1] for shape in calls] == [1, 1, 1]


# --- rows that come and go


@pytest.mark.parametrize("max_rows", [1, 3, 7, 30])
def test_rows_that_take_the_place_of_others_are_as_if_alone(lm, many, vector, max_rows):
    """Few columns, so that the cache is moved to the front again and again."""
    edits = [Add(Site(1, "resid_post"), vector, scale=0.5)]
    together = generate_rows(lm, many, edits=edits, max_new_tokens=20, max_rows=max_rows)
    for number in (0, 7, 12, 29):
        alone = generate_rows(lm, [many[number]], edits=edits, max_new_tokens=20)
        assert together[number].tokens == alone[0].tokens
    together.receipt.check(generated)


def test_a_row_that_ends_makes_room_before_the_others_end(llama, reading, many):
    plain = generate_rows(llama, many, max_new_tokens=20)
    common = max(range(6, llama.d_vocab), key=lambda t: sum(t in c.tokens[:10] for c in plain))
    lm = reading(llama, "<|im_end|>", common)
    assert {c.finish for c in generate_rows(lm, many, max_new_tokens=20)} == {"stop", "length"}
    with shapes(lm) as seen:
        generate_rows(lm, many, max_new_tokens=20, max_rows=8)
    steps_ = [rows for rows, tokens in seen if tokens == 1]
    assert max(steps_) == 8
    assert len(steps_) < 20 * -(-len(many) // 8), "batches waited for their longest row"


@pytest.mark.parametrize(
    ("done", "order"),
    [
        ([False, False], [0, 1]),
        ([True, False, False, False], [3, 1, 2]),
        ([True, True, False, True, False], [4, 2]),
        ([False, True], [0]),
        ([True, True], []),
    ],
)
def test_the_last_rows_fill_the_places_that_are_left(done, order):
    found = places_after(done)
    assert sorted(found) == [place for place, gone in enumerate(done) if not gone]
    assert all(source >= place for place, source in enumerate(found))
    assert len(found) == len(order)


# --- rows that fail


@pytest.mark.parametrize("max_rows", [2, 8])
def test_a_row_whose_numbers_are_lost_fails_alone(lm, rows, many, vector, max_rows):
    """At its fourth step a row is pushed past what float32 holds; those after it in its place are whole."""
    lost = Add(Site(1, "resid_post"), vector, scale=3e38, positions=step(3))
    work = [rows[0], rows[1], *many[:10]]
    made = generate_rows(
        lm, work, edits=[[lost], *([] for _ in work[1:])], max_new_tokens=9, max_rows=max_rows
    )
    plain = generate_rows(lm, work, max_new_tokens=9)
    assert made[0].finish == "nan"
    assert made[0].tokens == plain[0].tokens[:3]
    assert [c.tokens for c in made[1:]] == [c.tokens for c in plain[1:]]
    made.receipt.check(step(3), rows=[0])


@contextmanager
def room_for(lm, most):
    """A real failure to allocate whenever more than ``most`` rows take a step together."""

    def allocate(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == 1 and len(hidden) > most:
            torch.empty(10**15)

    handle = lm.anatomy.blocks[1].module.register_forward_pre_hook(allocate, with_kwargs=True)
    yield
    handle.remove()


@pytest.mark.parametrize("positions", [generated, everything])
def test_when_memory_runs_out_the_batch_is_halved_and_nothing_else_changes(lm, many, vector, positions):
    edits = [Add(Site(0, "resid_post"), vector, scale=0.5, positions=positions)]
    enough = generate_rows(lm, many, edits=edits, max_new_tokens=6)
    with room_for(lm, 9):
        short = generate_rows(lm, many, edits=edits, max_new_tokens=6)
    assert (enough.halvings, short.halvings) == (0, 2)
    same(short, enough)
    short.receipt.check(positions)


def test_memory_that_runs_out_in_mid_run_starts_the_running_rows_again(llama, many, vector):
    """Rows 0 and on have made tokens, and been written, when the failure comes."""
    calls = []

    def allocate(_module, args, kwargs):
        calls.append(len(args[0] if args else kwargs["hidden_states"]))
        if len(calls) == 12:
            torch.empty(10**15)

    edits = [Add(Site(0, "resid_post"), vector, scale=0.5, positions=everything)]
    enough = generate_rows(llama, many, edits=edits, max_new_tokens=8, max_rows=12)
    handle = llama.anatomy.blocks[1].module.register_forward_pre_hook(allocate, with_kwargs=True)
    short = generate_rows(llama, many, edits=edits, max_new_tokens=8, max_rows=12)
    handle.remove()
    assert short.halvings == 1
    assert max(calls[12:]) <= 6
    same(short, enough)


def test_a_single_row_that_does_not_fit_is_an_error(llama, rows):
    with room_for(llama, 0), pytest.raises(RuntimeError, match="allocate"):
        generate_rows(llama, rows, max_new_tokens=3)


def test_another_error_is_not_taken_for_a_lack_of_memory(llama, rows, vector):
    wrong = Patch(Site(1, "resid_post"), vector[None])
    object.__setattr__(wrong, "values", vector[None, :5])
    with pytest.raises(Exception, match="wide"):
        generate_rows(llama, rows, edits=[wrong], max_new_tokens=3)
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_a_model_that_keeps_more_than_keys_and_values_is_refused():
    with pytest.raises(ModelRefusedError, match="rows can be packed only over keys and values"):
        PackedCache(MambaConfig(num_hidden_layers=2, hidden_size=8), max_rows=1, longest=4, longest_prefix=2)


def test_the_loop_ends_when_every_row_has(llama, rows):
    decoder = Decoder(llama, rows, max_new_tokens=5, sampling=Sampling(), max_rows=3)
    with torch.no_grad():
        ended = list(decoder.steps())
        assert list(decoder.steps()) == []
    assert sorted(row.number for step in ended for row in step) == list(range(len(rows)))
