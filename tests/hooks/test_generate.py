"""Decoding many rows together, with a cache, padding and compaction, is decoding each row alone.

The reference throughout is a loop of ten lines that uses no cache: it runs one unpadded row from its
first token at every step, under the same edits.
"""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooks import Add, Clamp, Patch, ProjectOut, adopt, generate, inject
from hooks.capture import run_to
from hooks.errors import EmptySelectionError, InputError, ReceiptError
from hooks.generate import generate_rows
from hooks.positions import (
    Frame,
    after,
    answer,
    everything,
    first,
    generated,
    last,
    last_prompt,
    mask,
    prompt,
    response,
    step,
    steps,
    think,
)
from hooks.rows import Row, pad_left
from hooks.sampling import Sampling
from hooks.sites import Site

CPU = torch.device("cpu")
THINK = 4  # the tokenizer's <think>
N = 7


@torch.no_grad()
def uncached(lm, rows, edits, *, n):
    """Greedy decoding without a cache: of each row, the tokens and the log-probability of each."""
    with inject(lm, edits) as injection:
        for number, row in enumerate(rows):
            ids, found = list(row.tokens), []
            for _ in range(n):
                injection.tracker.begin(torch.tensor([number]), torch.tensor([row.prompt_length]))
                logits = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                ids.append(int(logits.argmax()))
                found.append(float(logits.log_softmax(-1)[ids[-1]]))
                if ids[-1] in lm.stop_ids:
                    break
            yield tuple(ids[len(row.tokens) :]), found


def check_against_uncached(lm, prompts, made, edits, *, n=N):
    for number, (tokens, found) in enumerate(uncached(lm, prompts, edits, n=n)):
        assert made[number].tokens == tokens, f"row {number}"
        assert made[number].logprobs == pytest.approx(found, abs=2e-3), f"row {number}"


@pytest.fixture(scope="module")
def prompts(rows):
    """``rows``, two of which end inside a thought that their prompt has opened."""
    opened = [Row((*row.tokens[:-2], THINK, row.tokens[-1]), row.prompt_length) for row in rows]
    return [opened[0], rows[1], opened[2], rows[3]]


def two_edits(vector, positions):
    """One of them rotates the stream, so that a doubled or a missing one would show."""
    out = ProjectOut(Site(0, "mlp_out"), vector.roll(3), positions=positions)
    return [Add(Site(1, "resid_post"), vector, positions=positions), out]


def fresh(made, prompts, among):
    """A row and a step, neither its first nor its last, whose token is ordinary and new to the row."""
    return next(
        (number, at)
        for number in among
        for at, token in enumerate(made[number].tokens[:-1])
        if at > 0 and token > 5 and token not in prompts[number].tokens + made[number].tokens[:at]
    )


# --- with a cache as without


TABLE = torch.zeros(4, 40, dtype=torch.bool)
TABLE[0, [2, 9, 11]] = TABLE[2, 3:16] = TABLE[3, 8] = True

POLICIES = {
    "all": everything,
    "prompt": prompt,
    "last_prompt": last_prompt,
    "generated": generated,
    "response": response,
    "step": step(2),
    "steps": steps(1, 4),
    "first": first(5),
    "last": last(3),
    "mask": mask(TABLE),
    "union": last_prompt | step(3) | first(1),
    "intersection": generated & steps(2, 9),
    "exclusion": everything - prompt - step(1),
    "last and more": (prompt - last(2)) | response,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_generating_under_an_edit_is_the_loop_without_a_cache(lm, prompts, vector, policy):
    """T6. Cached, padded, together; against uncached, unpadded, alone."""
    positions = POLICIES[policy]
    made = generate_rows(lm, prompts, edits=two_edits(vector, positions), max_new_tokens=5, logprobs=True)
    plain = generate_rows(lm, prompts, max_new_tokens=5, logprobs=True)
    assert max(abs(a - b) for a, b in zip(nats(made), nats(plain), strict=False)) > 0.05, "no effect"
    if "last" in policy.split():
        positions = as_given(positions, prompts)
    check_against_uncached(lm, prompts, made, two_edits(vector, positions), n=5)
    made.receipt.check(POLICIES[policy])


def nats(made):
    return [n for completion in made for n in completion.logprobs]


def as_given(positions, prompts):
    """The same cells in a table: ``last(n)`` counts from the end of the row as first given, which for
    a loop without a cache moves at every step."""
    cells = torch.zeros(len(prompts), 40, dtype=torch.bool)
    for number, row in enumerate(prompts):
        length = torch.tensor([len(row.tokens)])
        frame = Frame(
            torch.tensor([number]), torch.arange(40)[None], torch.tensor([row.prompt_length]), length
        )
        cells[number] = positions.select(frame)[0]
    return mask(cells)


def test_steering_after_a_text_is_the_loop_without_a_cache(lm, reading, prompts, vector):
    """T6, for ``after``: a row is made to say the text at a step of its own."""
    plain = generate_rows(lm, prompts, max_new_tokens=N)
    row, at = fresh(plain, prompts, among=range(4))
    lm = reading(lm, "=", plain[row].tokens[at])
    edits = two_edits(vector, after("="))
    made = generate_rows(lm, prompts, edits=edits, max_new_tokens=N, logprobs=True)
    assert made[row].tokens[: at + 1] == plain[row].tokens[: at + 1]
    said = made.receipt.found["="][row]
    assert said == prompts[row].prompt_length + at
    written = made.receipt.position[made.receipt.row == row].tolist()
    assert set(written) == set(range(said, made.receipt.seen[row])), "from the token that completes it on"
    check_against_uncached(lm, prompts, made, edits)
    made.receipt.check(after("="))


@pytest.mark.parametrize(("positions", "before"), [(think, [think]), (answer, [])], ids=["think", "answer"])
def test_steering_a_thought_or_what_follows_is_the_loop_without_a_cache(
    lm, reading, prompts, vector, positions, before
):
    """T6, for ``think`` and ``answer``: opened by the prompt, closed by a token that the row generates.

    ``before`` is what acts on the row up to the close, which settles what it generates until then.
    """
    open_ended = generate_rows(
        lm, prompts, edits=[e for p in before for e in two_edits(vector, p)], max_new_tokens=N
    )
    row, at = fresh(open_ended, prompts, among=(0, 2))
    lm = reading(lm, "</think>", open_ended[row].tokens[at])
    edits = two_edits(vector, positions)
    made = generate_rows(lm, prompts, edits=edits, max_new_tokens=N, logprobs=True)
    opened, closed = prompts[row].prompt_length - 2, prompts[row].prompt_length + at
    assert made.receipt.found["</think>"][row] == closed
    written = set(made.receipt.position[made.receipt.row == row].tolist())
    assert written == set(
        range(opened, closed) if positions == think else range(closed, made.receipt.seen[row])
    )
    check_against_uncached(lm, prompts, made, edits)
    made.receipt.check(positions)


# --- unedited, it is transformers' own


def transformers_greedy(lm, rows, n):
    """``model.generate`` on the rows in one left-padded batch; each row cut after its end."""
    batch = pad_left(rows, range(len(rows)), pad_id=lm.pad_id, device=CPU)
    out = lm.model.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=sorted(lm.stop_ids),
        pad_token_id=lm.pad_id,
    )
    lines = out[:, batch.input_ids.shape[1] :].tolist()
    ends = [next((i for i, t in enumerate(line) if t in lm.stop_ids), n - 1) for line in lines]
    return [tuple(line[: end + 1]) for line, end in zip(lines, ends, strict=True)]


def test_unedited_it_is_token_for_token_transformers_own(lm, prompts):
    made = generate_rows(lm, prompts, max_new_tokens=20)
    assert [c.tokens for c in made] == transformers_greedy(lm, prompts, 20)


def test_the_bundled_model_says_what_transformers_own_generate_says(smollm2):
    """32 prompts of different lengths in one batch."""
    asked = [f"What is {i} plus {j}?" + " Think about it." * (i % 5) for i in range(8) for j in range(4)]
    assert len(set(map(len, asked))) > 4
    made = generate(smollm2, asked, max_new_tokens=24, max_rows=32)
    rows = [Row(smollm2_ids(smollm2, text), len(smollm2_ids(smollm2, text))) for text in asked]
    assert [c.tokens for c in made] == transformers_greedy(smollm2, rows, 24)
    assert {c.finish for c in made} == {"stop", "length"}, "some should end their turn, and some be cut"


def smollm2_ids(lm, text):
    """By transformers' own road: template and tokenization in one call."""
    turns = [{"role": "user", "content": text}]
    return tuple(lm.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])


def test_the_bundled_model_answers_in_text(smollm2):
    (made,) = generate(smollm2, ["What is the capital of France?"], max_new_tokens=12)
    assert "Paris" in made.text
    assert "<|im_end|>" not in made.text


# --- rows do not meet


def same(one, other):
    assert [c.tokens for c in one] == [c.tokens for c in other]
    assert [c.finish for c in one] == [c.finish for c in other]
    for a, b in zip(one, other, strict=True):
        assert (a.logprobs or ()) == pytest.approx(b.logprobs or (), abs=2e-3)


def cells(receipt):
    return sorted(zip(receipt.site.tolist(), receipt.row.tolist(), receipt.position.tolist(), strict=True))


@contextmanager
def widths(lm):
    """Rows of each forward pass."""
    seen = []
    handle = lm.model.base_model.register_forward_hook(lambda _m, _a, out: seen.append(len(out[0])))
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def many(rows):
    """Twenty prompts of 1 to 13 tokens."""
    pool = [t for row in rows for t in row.tokens]
    return [Row(tuple(pool[i : i + 1 + (5 * i) % 13]), 1 + (5 * i) % 13) for i in range(20)]


def ending(lm, reading, rows, vector, positions, *, n=12):
    """``lm`` with a turn end planted where it ends half of the rows or so, each at its own step."""
    edits = two_edits(vector, positions)
    open_ended = generate_rows(lm, rows, edits=edits, max_new_tokens=n)
    seen = [set(c.tokens) for c in open_ended]
    shared = min(range(6, lm.d_vocab), key=lambda t: abs(sum(t in tokens for tokens in seen) - len(rows) / 2))
    return reading(lm, "<|im_end|>", shared)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "phi"])  # every kind of cache
def test_rows_that_end_leave_and_change_nothing_for_the_rest(tiny, reading, many, vector, family):
    """Compaction and several batches: same tokens, same cells written, whatever runs beside them."""
    positions = steps(0, 6) | after("e")
    lm, edits = ending(tiny(family), reading, many, vector, positions), two_edits(vector, positions)
    with widths(lm) as seen:
        together = generate_rows(lm, many, edits=edits, max_new_tokens=12, logprobs=True)
    prefill, *steps_of = seen
    assert prefill == len({row.tokens[:-1] for row in many} - {()}), "equal prefixes are filled once"
    assert steps_of[0] == 20
    assert steps_of[-1] < 20, "no row left"
    assert {c.finish for c in together} == {"stop", "length"}
    assert all(c.tokens[-1] in lm.stop_ids for c in together if c.finish == "stop")
    assert all(len(c.tokens) == 12 for c in together if c.finish == "length")
    assert all(not lm.stop_ids & set(c.tokens[:-1]) for c in together)
    for max_rows in (1, 6):
        apart = generate_rows(lm, many, edits=edits, max_new_tokens=12, logprobs=True, max_rows=max_rows)
        same(apart, together)
        assert cells(apart.receipt) == cells(together.receipt)
        assert dict(apart.receipt.seen) == dict(together.receipt.seen)
    together.receipt.check(positions)


def test_a_row_is_seen_up_to_the_token_that_ends_it_which_is_not_fed(llama, reading, many, vector):
    lm = ending(llama, reading, many, vector, generated)
    made = generate_rows(lm, many, edits=two_edits(vector, generated), max_new_tokens=12)
    for number, completion in enumerate(made):
        assert made.receipt.seen[number] == many[number].prompt_length + len(completion.tokens) - 1


def test_each_row_of_a_batch_carries_its_own_edits(lm, prompts, vector):
    """Sites, kinds, positions and doses all differ; the last row has none."""
    edits = [
        two_edits(vector, generated),
        [Add(Site(1, "resid_post"), -vector, 0.5, everything)],
        [
            Clamp(Site(2, "resid_pre"), vector, 9.0, prompt),
            Add(Site(0, "attn_out"), vector, positions=step(2)),
        ],
        [],
    ]
    together = generate_rows(lm, prompts, edits=edits, max_new_tokens=N, logprobs=True)
    for number, row in enumerate(prompts):
        alone = generate_rows(lm, [row], edits=edits[number], max_new_tokens=N, logprobs=True)
        same([together[number]], alone)
        assert (together.receipt.row == number).sum() == len(alone.receipt)
    two_sites = [Site(0, "mlp_out"), Site(1, "resid_post")]
    assert together.receipt.of_row(3) == "row 3: nothing written"
    assert str(two_sites[0]) in together.receipt.of_row(0)


def test_values_of_another_run_can_be_patched_into_a_prompt(llama, prompts):
    """Patching a prompt's own stream changes nothing that follows; another's gives that one's answer."""
    site = Site(0, "resid_post")
    lengths = [Row(tuple(reversed(row.tokens)), row.prompt_length) for row in prompts]
    batch = pad_left(lengths, range(4), pad_id=0, device=CPU)
    acts = run_to(llama, batch, [site])[site]
    values = [v[keep] for v, keep in zip(acts, batch.attention_mask.bool(), strict=True)]
    theirs = generate_rows(llama, lengths, max_new_tokens=1)
    edits = [[Patch(site, v)] for v in values]
    assert [c.tokens for c in generate_rows(llama, prompts, edits=edits, max_new_tokens=1)] == [
        c.tokens for c in theirs
    ]
    same(
        generate_rows(llama, lengths, edits=edits, max_new_tokens=N),
        generate_rows(llama, lengths, max_new_tokens=N),
    )


# --- around the user's own calls


def test_an_injection_works_around_the_users_own_generate(lm, prompts, vector):
    edits = two_edits(vector, generated - step(1))
    made = generate_rows(lm, prompts, edits=edits, max_new_tokens=N)
    with inject(lm, edits) as injection:
        theirs = transformers_greedy(lm, prompts, N)
    assert [c.tokens for c in made] == theirs
    injection.receipt().check(generated - step(1))


def test_beam_search_is_refused(lm, prompts, vector):
    """It moves rows in the cache behind the edits' back."""
    batch = pad_left(prompts, range(4), pad_id=0, device=CPU)
    with (
        pytest.raises(InputError, match=r"cache was reordered .*one sequence a row, num_beams=1"),
        inject(lm, two_edits(vector, generated)),
    ):
        lm.model.generate(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            num_beams=3,
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=0,
        )


def test_a_batch_that_changes_under_an_open_injection_is_refused(llama, prompts, vector):
    batch = pad_left(prompts, range(4), pad_id=0, device=CPU)
    with inject(llama, two_edits(vector, generated)):
        cache = llama.model(**batch.inputs).past_key_values
        cache.batch_select_indices(torch.tensor([0, 2]))
        with pytest.raises(InputError, match="4 rows are running and a pass came with 2"):
            llama.model(torch.tensor([[7], [8]]), past_key_values=cache)


def test_a_loop_of_ones_own_is_followed_through_its_cache(lm, prompts, vector):
    edits = two_edits(vector, steps(1, 4))
    expected = generate_rows(lm, prompts[2:3], edits=edits, max_new_tokens=N)[0].tokens
    ids, cache, said = torch.tensor([prompts[2].tokens]), None, []
    with torch.no_grad(), inject(lm, edits) as injection:
        for _ in range(N):
            out = lm.model(ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            said.append(int(ids))
    assert tuple(said[: len(expected)]) == expected
    injection.receipt().check(steps(1, 4))


def test_an_injection_around_generate_adds_to_its_edits(llama, reading, many, vector):
    """Rows are sorted, batched and compacted inside; those outside still follow them."""
    outer, inner = two_edits(vector, generated)
    lm = ending(llama, reading, many, vector, generated)
    both = generate_rows(lm, many, edits=[outer, inner], max_new_tokens=12, max_rows=8)
    with inject(lm, [[outer] for _ in many]) as injection:
        nested = generate_rows(lm, many, edits=[inner], max_new_tokens=12, max_rows=8)
    same(nested, both)
    injection.receipt().check(generated)
    assert cells(injection.receipt()) == [c for c in cells(nested.receipt)]


def test_generating_leaves_no_hook_even_when_it_fails(llama, prompts, vector, hook_count):
    before = hook_count(llama.model)
    generate_rows(llama, prompts, edits=two_edits(vector, generated), max_new_tokens=3)
    assert hook_count(llama.model) == before

    def stop(_n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_rows(llama, prompts, edits=two_edits(vector, generated), on_tokens=stop)
    assert hook_count(llama.model) == before


# --- sampling


def test_sampling_depends_on_the_seed_and_not_on_the_batch(lm, many):
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=5)
    some = many[:10]
    one, eight, all_of_them = (
        generate_rows(lm, some, sampling=sampling, max_new_tokens=6, max_rows=n) for n in (1, 8, 64)
    )
    same(one, eight)
    same(eight, all_of_them)
    other = generate_rows(lm, some, sampling=replace(sampling, seed=6), max_new_tokens=6)
    assert [c.tokens for c in other] != [c.tokens for c in one]


def test_equal_prompts_in_one_run_are_sampled_apart(llama, rows):
    made = generate_rows(llama, rows[:1] * 6, sampling=Sampling(temperature=2.0), max_new_tokens=8)
    assert len({c.tokens for c in made}) > 3


LOGITS = st.lists(st.floats(-6, 6), min_size=2, max_size=9)


def slow_nucleus(logits, temperature, top_p):
    """The smallest set of likeliest tokens that holds ``top_p``, one at a time, renormalised."""
    p = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)
    inside, held = [], 0.0
    for token in sorted(range(len(p)), key=lambda i: -logits[i]):  # p may round to the same
        if held >= top_p:
            break
        inside.append(token)
        held += float(p[token])
    return {token: float(p[token]) / held for token in inside}


@given(LOGITS.filter(lambda x: len(set(x)) == len(x)), st.floats(0.2, 3), st.floats(0.05, 1))
def test_a_nucleus_holds_the_likeliest_tokens_up_to_top_p(logits, temperature, top_p):
    nucleus = slow_nucleus(logits, temperature, top_p)
    uniform = torch.arange(400) / 400
    chosen = Sampling(temperature, top_p).choose(
        torch.tensor(logits, dtype=torch.float64).expand(400, -1), uniform.double()
    )
    shares = torch.bincount(chosen, minlength=len(logits)).double() / 400
    for token, share in enumerate(shares.tolist()):
        assert share == pytest.approx(nucleus.get(token, 0.0), abs=1.01 / 400 + 1e-9)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("likely", [1, 3, 7])
def test_a_nucleus_that_goes_on_past_the_tokens_put_in_order_is_the_same(likely, top_p, monkeypatch):
    """Rows with a nucleus of 1 to 20 tokens, in one batch; or of all tokens."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.1, 8, 24)[:, None]
    logits = spread * torch.randn(24, 30, generator=generator)
    uniform = torch.rand(24, generator=generator, dtype=torch.float64)
    sampling = Sampling(1.3, top_p)
    sizes = [len(slow_nucleus(line.double().tolist(), 1.3, top_p)) for line in logits]
    assert likely < max(sizes)
    whole = sampling.choose(logits, uniform)
    for line, token, u in zip(logits, whole.tolist(), uniform.tolist(), strict=True):
        nucleus = slow_nucleus(line.double().tolist(), 1.3, top_p)
        assert token == where_it_ends(nucleus, u)
    monkeypatch.setattr("hooks.sampling.LIKELY", likely)
    assert sampling.choose(logits, uniform).tolist() == whole.tolist()


def test_the_largest_uniform_still_falls_inside_the_nucleus():
    almost_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    for seed in range(200):
        logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
        token = int(Sampling(1.0, 0.7).choose(logits, almost_one))
        assert token in slow_nucleus(logits[0].double().tolist(), 1.0, 0.7)


def test_at_temperature_zero_the_likeliest_token_is_taken():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.0]])
    assert Sampling().choose(logits, torch.zeros(2, dtype=torch.float64)).tolist() == [1, 0]


def test_what_is_sampled_follows_the_models_own_probabilities(llama, rows):
    """Planted truth: 3,000 draws of one token against the softmax at that temperature."""
    with torch.no_grad():
        logits = llama.model(torch.tensor([rows[0].tokens])).logits[0, -1]
    made = generate_rows(
        llama, rows[:1] * 3000, sampling=Sampling(temperature=1.5), max_new_tokens=1, max_rows=1000
    )
    drawn = torch.bincount(torch.tensor([c.tokens[0] for c in made]), minlength=llama.d_vocab) / 3000
    expected = (logits / 1.5).softmax(-1)
    assert float((drawn - expected).abs().max()) < 4 * (0.25 / 3000) ** 0.5


def where_it_ends(nucleus, left):
    """The token at which a number in [0, 1) is used up, going down from the likeliest."""
    for token, share in nucleus.items():
        left -= share
        if left < 0:
            return token
    raise AssertionError("the nucleus does not add up to one")


@torch.no_grad()
def test_each_step_of_a_row_takes_the_next_number_of_its_own_stream(lm, rows):
    """Against a slow loop: down the nucleus until the row's number for the step is used up."""
    sampling = Sampling(temperature=1.3, top_p=0.8, seed=3)
    made = generate_rows(lm, rows, sampling=sampling, max_new_tokens=N)
    for number, row in enumerate(rows):
        ids = list(row.tokens)
        for token, left in zip(made[number].tokens, sampling.uniforms(number, N).tolist(), strict=False):
            logits = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == where_it_ends(slow_nucleus(logits.tolist(), 1.3, 0.8), left)
            ids.append(token)
    drawn = torch.stack([sampling.uniforms(number, 50) for number in range(20)])
    assert len(drawn.unique()) == 1000
    assert 0.45 < float(drawn.mean()) < 0.55
    assert 0 <= float(drawn.min()) < float(drawn.max()) < 1


# --- what is reported


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_a_teacher_forced_pass(lm, prompts, vector, temperature):
    """Before temperature and top-p, under the edits."""
    edits = two_edits(vector, generated)
    made = generate_rows(
        lm, prompts, edits=edits, max_new_tokens=N, logprobs=True, sampling=Sampling(temperature, 0.8)
    )
    for number, completion in enumerate(made):
        row = Row(prompts[number].tokens + completion.tokens, prompts[number].prompt_length)
        one = pad_left([row], [0], pad_id=0, device=CPU)
        with torch.no_grad(), inject(lm, edits) as injection:
            injection.tracker.begin(one.row, one.prompt_length)
            all_nats = lm.model(**one.inputs).logits[0].log_softmax(-1)
        produced = all_nats[row.prompt_length - 1 : -1].gather(1, torch.tensor(completion.tokens)[:, None])[
            :, 0
        ]
        assert completion.logprobs == pytest.approx(produced.tolist(), abs=2e-3)
        first, second = all_nats[row.prompt_length - 1 : -1].exp().topk(2).values.T
        assert completion.margins == pytest.approx((first - second).tolist(), abs=2e-3)
    assert generate_rows(lm, prompts[:1], max_new_tokens=1)[0].margins is None


def test_progress_adds_up_to_the_tokens_that_were_made(llama, reading, many, vector):
    lm = ending(llama, reading, many, vector, generated)
    steps_made = []
    made = generate_rows(
        lm,
        many,
        edits=two_edits(vector, generated),
        max_new_tokens=12,
        max_rows=7,
        on_tokens=steps_made.append,
    )
    assert sum(steps_made) == sum(len(c.tokens) for c in made)
    assert all(c.logprobs is None for c in made)
    assert made.seconds > 0


def test_completions_are_in_the_order_of_the_prompts_as_a_sequence(llama, many):
    made = generate_rows(llama, many, max_new_tokens=2)
    assert len(made) == len(many)
    assert [c.prompt_tokens for c in made] == [row.prompt_length for row in many]
    assert made.texts == [made[i].text for i in range(len(many))]
    assert list(made[2:4]) == [made[2], made[3]]


def test_the_text_is_the_response_without_special_tokens(llama, reading, rows):
    plain = generate_rows(llama, rows, max_new_tokens=N)
    row, at = fresh(plain, rows, among=range(4))
    lm = reading(llama, "<|im_end|>", plain[row].tokens[at])
    made = generate_rows(lm, rows, max_new_tokens=N)[row]
    assert made.tokens == plain[row].tokens[: at + 1]
    assert made.finish == "stop"
    assert made.text == lm.tokenizer.decode(made.tokens[:-1])


def test_a_model_without_any_turn_end_runs_to_its_budget(model_of, tokenizer_with, rows):
    model, tokenizer = model_of("llama"), tokenizer_with(template=None)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    lm = adopt(model, tokenizer)
    assert lm.stop_ids == frozenset()
    made = generate_rows(lm, rows, max_new_tokens=9)
    assert {(c.finish, len(c.tokens)) for c in made} == {("length", 9)}


def test_text_prompts_are_rendered_and_rows_are_taken_as_they_are(llama):
    text = "the cat"
    templated = generate(llama, [text], max_new_tokens=4)[0]
    assert templated.prompt_tokens > len(llama.tokenizer(text).input_ids)
    bare = generate(llama, [text], max_new_tokens=4, template=False)[0]
    assert bare.prompt_tokens == len(llama.tokenizer(text).input_ids)
    turns = generate(llama, [[{"role": "user", "content": text}]], max_new_tokens=4)[0]
    assert turns.tokens == templated.tokens


# --- refusals


@pytest.mark.parametrize("prompts", [[], "How are you?", ""])
def test_no_prompts_or_a_bare_text_are_refused(llama, prompts):
    with pytest.raises(InputError, match="Pass a list of one or more prompts; got"):
        generate(llama, prompts)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_below_one_token_is_refused(llama, rows, budget):
    with pytest.raises(InputError, match=f"max_new_tokens={budget}: ask for one token or more"):
        generate_rows(llama, rows, max_new_tokens=budget)


def test_another_number_of_edit_lists_than_prompts_is_refused(llama, rows, vector):
    edit = Add(Site(1, "resid_post"), vector)
    with pytest.raises(InputError, match="2 lists of edits for 4 prompts; pass one list for each prompt"):
        generate_rows(llama, rows, edits=[[edit], [edit]])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_a_sampler_out_of_range_is_refused(llama, options):
    with pytest.raises(InputError, match=r"temperature is 0 \(greedy\) or more, and top_p is in \(0, 1\]"):
        generate(llama, ["the"], **options)


def test_an_edit_that_never_finds_its_text_is_an_error(llama, rows, vector):
    edits = [Add(Site(1, "resid_post"), vector, positions=after("never said"))]
    with pytest.raises(
        EmptySelectionError, match=r"asked for positions after\('never said'\), and none of the 4 rows"
    ):
        generate_rows(llama, rows, edits=edits, max_new_tokens=3)


def test_a_receipt_of_something_else_does_not_pass(llama, rows, vector):
    made = generate_rows(llama, rows, edits=two_edits(vector, generated), max_new_tokens=3)
    with pytest.raises(ReceiptError):
        made.receipt.check(prompt)
