"""An edit does what it says where it says, nothing anywhere else, and is gone afterwards."""

import pytest
import torch

from hooks import Add, Clamp, Patch, ProjectOut, adopt, capture, inject
from hooks.capture import run_to
from hooks.errors import EmptySelectionError, InputError, SiteNotFoundError, UnlatchError, VectorError
from hooks.positions import (
    after,
    everything,
    first,
    generated,
    last,
    last_prompt,
    mask,
    prompt,
    response,
    step,
    think,
)
from hooks.rows import Row, pad_left
from hooks.sites import Site

CPU = torch.device("cpu")


def every_site(lm):
    return [Site(layer, kind) for layer in range(lm.n_layers) for kind in lm.anatomy.kinds]


@torch.no_grad()
def logits(lm, batch, edits=()):
    """Logits under the edits, on real tokens only."""
    with inject(lm, edits) as injection:
        injection.tracker.begin(batch.row, batch.prompt_length)
        out = lm.model(**batch.inputs, use_cache=False).logits
    return out[batch.attention_mask.bool()]


def single(rows, number):
    return pad_left(rows, [number], pad_id=0, device=CPU)


# --- identities of the whole model


@pytest.mark.parametrize("edit", ["add", "project out", "patch", "elsewhere"])
def test_an_edit_of_size_zero_changes_no_bit(lm, batch, vector, edit):
    """T2. At every site; ``patch`` puts back the values that are there."""
    own = run_to(lm, batch, every_site(lm))
    table = torch.zeros(4, 13, dtype=torch.bool)
    table[0, 2] = True
    plain = logits(lm, batch)
    for site in every_site(lm):
        real = [value[keep] for value, keep in zip(own[site], batch.attention_mask.bool(), strict=True)]
        edits = {
            "add": [Add(site, vector, 0.0, everything)],
            "project out": [ProjectOut(site, vector, 0.0, everything)],
            "patch": [[Patch(site, values)] for values in real],
            "elsewhere": [Add(site, vector, 1.0, mask(table))],
        }[edit]
        found = logits(lm, batch, edits)
        if edit == "elsewhere":  # the first nine tokens are those of row 0
            assert not torch.equal(found[:9], plain[:9])
            assert torch.equal(found[:2], plain[:2]), "tokens before the edit moved"
            assert torch.equal(found[9:], plain[9:]), "another row moved"
        else:
            assert torch.equal(found, plain), f"{edit} of size zero at {site}"


def test_adding_at_resid_post_is_adding_at_the_next_resid_pre(lm, batch, vector):
    """T3."""
    for layer in range(lm.n_layers - 1):
        behind = logits(lm, batch, [Add(Site(layer, "resid_post"), vector, positions=everything)])
        before = logits(lm, batch, [Add(Site(layer + 1, "resid_pre"), vector, positions=everything)])
        assert torch.equal(behind, before)


def test_adding_and_taking_away_in_one_pass_cancels(lm, batch, vector):
    """T4. In one list, in nested blocks, and over two sites that are one place."""
    plain = logits(lm, batch)
    for site in every_site(lm):
        plus, minus = Add(site, vector, 1.0, everything), Add(site, vector, -1.0, everything)
        torch.testing.assert_close(logits(lm, batch, [plus, minus]), plain, atol=2e-3, rtol=1e-3)
        with inject(lm, [plus]):
            torch.testing.assert_close(logits(lm, batch, [minus]), plain, atol=2e-3, rtol=1e-3)
    there = [
        Add(Site(0, "resid_post"), vector, positions=everything),
        Add(Site(1, "resid_pre"), vector, -1.0, everything),
    ]
    torch.testing.assert_close(logits(lm, batch, there), plain, atol=2e-3, rtol=1e-3)


def test_an_edited_batch_of_padded_rows_is_each_row_alone(lm, rows, batch, vector):
    """T5, under an edit."""
    edits = [
        Add(Site(1, "resid_post"), vector, positions=prompt - last(2)),
        ProjectOut(Site(2, "attn_out"), vector),
    ]
    together = logits(lm, batch, edits).split([len(r.tokens) for r in rows])
    for number in range(len(rows)):
        torch.testing.assert_close(
            together[number], logits(lm, single(rows, number), edits), atol=1e-3, rtol=1e-3
        )


def test_adding_raises_the_component_by_the_square_of_the_norm(lm, batch, vector):
    """T8. Plus means toward: v.h rises by |v|^2 at the hooked point, at every kind of site."""
    real = batch.attention_mask.bool()
    for site in every_site(lm):
        before = run_to(lm, batch, [site])[site][real] @ vector
        with inject(lm, [Add(site, vector, 1.0, everything)]):
            up = run_to(lm, batch, [site])[site][real] @ vector
        with inject(lm, [Add(site, vector, -0.5, everything)]):
            down = run_to(lm, batch, [site])[site][real] @ vector
        square = (vector @ vector).expand_as(before)
        torch.testing.assert_close(up - before, square, rtol=1e-4, atol=1e-2, msg=f"up at {site}")
        torch.testing.assert_close(down - before, -0.5 * square, rtol=1e-4, atol=1e-2, msg=f"down at {site}")


def test_what_is_projected_out_or_clamped_is_so_in_the_running_model(lm, batch, vector):
    real, unit = batch.attention_mask.bool(), vector / vector.norm()
    for site in every_site(lm):
        for edit, component in (
            (ProjectOut(site, vector, 1.0, everything), 0.0),
            (Clamp(site, vector, 3.0, everything), 3.0),
        ):
            with inject(lm, [edit]):
                left = run_to(lm, batch, [site])[site][real] @ unit
            torch.testing.assert_close(
                left, torch.full_like(left, component), atol=1e-4, rtol=0, msg=str(site)
            )


def test_an_edit_at_resid_mid_is_the_same_edit_at_attn_out(sequential, batch, vector):
    for layer in range(sequential.n_layers):
        middle = logits(sequential, batch, [Add(Site(layer, "resid_mid"), vector, positions=everything)])
        attention = logits(sequential, batch, [Add(Site(layer, "attn_out"), vector, positions=everything)])
        torch.testing.assert_close(middle, attention, atol=2e-3, rtol=1e-3)
        assert not torch.allclose(middle, logits(sequential, batch), atol=0.05)


def test_every_site_of_a_block_can_be_edited_at_once(sequential, batch, vector):
    """They fire in the order of the computation, each on what the one before left."""
    order = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    sites = [Site(1, kind) for kind in order]
    edits = [Clamp(s, vector, v, everything) for v, s in zip((1.0, 9.0, 3.0, 4.0, 5.0), sites, strict=True)]
    real, unit = batch.attention_mask.bool(), vector / vector.norm()
    with inject(sequential, edits):
        acts = run_to(sequential, batch, sites)
    # resid_mid is written by moving attn_out once more, from its own 9 to mid - pre
    for value, site in zip((1, 3 - 1, 3, 4, 5), sites, strict=True):
        found = acts[site][real] @ unit
        torch.testing.assert_close(
            found, torch.full_like(found, float(value)), atol=1e-4, rtol=0, msg=str(site)
        )


# --- patching


def test_patching_the_whole_stream_gives_the_clean_logits(lm, rows, batch):
    """T10. Other tokens of the same lengths, with the clean stream put in at any layer."""
    clean = logits(lm, batch)
    others = [Row(tuple(reversed(row.tokens)), row.prompt_length) for row in rows]
    corrupted = pad_left(others, range(4), pad_id=0, device=CPU)
    assert not torch.allclose(logits(lm, corrupted), clean, atol=0.1)
    for layer in range(lm.n_layers):
        for kind in {"resid_pre", "resid_mid", "resid_post"} & set(lm.anatomy.kinds):
            site = Site(layer, kind)
            acts = run_to(lm, batch, [site])[site]
            values = [v[keep] for v, keep in zip(acts, batch.attention_mask.bool(), strict=True)]
            found = logits(lm, corrupted, [[Patch(site, v)] for v in values])
            torch.testing.assert_close(found, clean, atol=1e-3, rtol=1e-3, msg=f"patched {site}")


def test_a_patched_position_affects_only_itself_and_what_follows(llama, rows, vector):
    one = single(rows, 2)
    plain = logits(llama, one)
    values = vector.expand(13, -1)
    found = logits(llama, one, [Patch(Site(0, "resid_post"), values, last(4))])
    assert torch.equal(found[:9], plain[:9])
    assert (found[9:] - plain[9:]).abs().amax(-1).min() > 1e-3


def test_a_patch_that_covers_no_selected_token_is_an_error(llama, rows, vector):
    """Its values end before the position: it would change nothing, and its receipt would not say so."""
    short = Patch(Site(1, "resid_post"), vector.expand(4, -1), last_prompt)
    with pytest.raises(EmptySelectionError, match=r"asked for positions \(last_prompt & first\(4\)\)"):
        logits(llama, single(rows, 2), [short])
    with inject(llama, [Patch(Site(1, "resid_post"), vector.expand(4, -1))]) as injection:
        llama.model(**single(rows, 2).inputs)
    injection.receipt().check(first(4))


# --- which rows, which tokens


def test_each_row_can_carry_its_own_edits(lm, rows, batch, vector):
    """Kinds, sites, positions and counts mixed; row 2 has none."""
    edits = [
        [Add(Site(0, "resid_post"), vector, positions=everything)],
        [ProjectOut(Site(1, "mlp_out"), vector, positions=last(2)), Add(Site(2, "resid_pre"), vector, -1.0)],
        [],
        [
            Add(Site(0, "resid_post"), -vector, positions=everything),
            Clamp(Site(2, "resid_post"), vector, 4.0),
        ],
    ]
    together = logits(lm, batch, edits).split([len(r.tokens) for r in rows])
    for number in range(4):
        alone = logits(lm, single(rows, number), edits[number])
        torch.testing.assert_close(together[number], alone, atol=1e-3, rtol=1e-3, msg=f"row {number}")
    assert torch.equal(together[2], logits(lm, batch).split([len(r.tokens) for r in rows])[2])


def test_edits_of_one_row_are_applied_in_their_order(llama, rows, vector):
    one, site = single(rows, 0), Site(1, "resid_post")
    add, out = Add(site, vector, 1.0, everything), ProjectOut(site, vector, 1.0, everything)
    unit = vector / vector.norm()
    for edits, component in (([add, out], 0.0), ([out, add], float(vector.norm()))):
        for form in (edits, [edits]):
            with inject(llama, form):
                found = run_to(llama, one, [site])[site] @ unit
            torch.testing.assert_close(found, torch.full_like(found, component), atol=1e-4, rtol=0)


def test_the_last_prompt_token_is_steered_under_generated(lm, batch, vector):
    """T9. And no other token of the prompt is; ``response`` leaves even that one."""
    site = Site(1, "resid_post")
    plain = run_to(lm, batch, [site])[site]
    with inject(lm, [Add(site, vector, 1.0, generated)]):
        moved = (run_to(lm, batch, [site])[site] - plain).norm(dim=-1)
    torch.testing.assert_close(moved[:, -1], vector.norm().expand(4), rtol=1e-4, atol=1e-4)
    assert moved[:, :-1].abs().max() == 0
    with pytest.raises(EmptySelectionError), inject(lm, [Add(site, vector, 1.0, response)]):
        run_to(lm, batch, [site])


def test_a_given_response_is_steered_as_if_it_were_generated(llama, rows, vector):
    site, given = Site(1, "resid_post"), Row(rows[2].tokens, 5)
    one = pad_left([given], [0], pad_id=0, device=CPU)
    plain = run_to(llama, one, [site])[site]
    with inject(llama, [Add(site, vector, 1.0, step(2))]) as injection:
        injection.tracker.begin(one.row, one.prompt_length)
        moved = (run_to(llama, one, [site])[site] - plain).norm(dim=-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [4 + 2]
    injection.receipt().check(step(2))


def test_padding_on_the_right_means_the_same_positions(lm, rows, vector):
    """As other libraries pad; nothing here depends on the side."""
    edit = Add(Site(0, "resid_post"), vector, positions=prompt - last(2))
    tokens = torch.zeros(2, 13, dtype=torch.long)
    attention = torch.zeros(2, 13, dtype=torch.long)
    for place, number in enumerate((1, 2)):
        n = len(rows[number].tokens)
        tokens[place, :n], attention[place, :n] = torch.tensor(rows[number].tokens), 1
    with torch.no_grad(), inject(lm, [edit]):
        out = lm.model(tokens, attention_mask=attention, use_cache=False).logits
    for place, number in enumerate((1, 2)):
        alone = logits(lm, single(rows, number), [edit])
        torch.testing.assert_close(out[place, : len(alone)], alone, atol=1e-3, rtol=1e-3)


def test_without_an_attention_mask_every_token_is_real(lm, rows, vector):
    edit = Add(Site(0, "resid_post"), vector, positions=last(2))
    with torch.no_grad(), inject(lm, [edit]):
        out = lm.model(torch.tensor([rows[2].tokens]), use_cache=False).logits[0]
    torch.testing.assert_close(out, logits(lm, single(rows, 2), [edit]), atol=1e-3, rtol=1e-3)


def test_embeddings_can_be_given_instead_of_tokens(llama, rows, vector):
    one = single(rows, 0)
    edit = Add(Site(0, "resid_post"), vector, positions=last_prompt)
    embeds = llama.model.get_input_embeddings()(one.input_ids)
    with torch.no_grad(), inject(llama, [edit]):
        out = llama.model(inputs_embeds=embeds, use_cache=False).logits[0]
    torch.testing.assert_close(out, logits(llama, one, [edit]), atol=1e-4, rtol=1e-4)
    with (
        pytest.raises(InputError, match="look for a text need input_ids, not inputs_embeds"),
        inject(llama, [Add(Site(0, "resid_post"), vector, positions=think)]),
    ):
        llama.model(inputs_embeds=embeds, use_cache=False)


def test_nested_blocks_add(lm, batch, vector):
    site, other = Site(1, "resid_post"), Site(0, "mlp_out")
    with inject(lm, [Add(site, vector, 0.75, everything)]) as outer:
        nested = logits(lm, batch, [Add(site, vector, 0.25, everything), Add(other, vector, 1.0, everything)])
    both = logits(lm, batch, [Add(site, vector, 1.0, everything), Add(other, vector, 1.0, everything)])
    torch.testing.assert_close(nested, both, atol=1e-3, rtol=1e-3)
    outer.receipt().check(everything)


# --- dtypes and gradients


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.float64), ("llama", torch.bfloat16), ("gemma2", torch.bfloat16)]
)
def test_edits_work_in_the_models_own_dtype(model_of, tokenizer_with, batch, vector, family, dtype):
    lm = adopt(model_of(family).to(dtype), tokenizer_with())
    plain = logits(lm, batch)
    assert plain.dtype == dtype
    for site in every_site(lm):
        still = [Add(site, vector, 0.0, everything), ProjectOut(site, vector, 0.0, everything)]
        assert torch.equal(logits(lm, batch, still), plain)
        for edit in (Add(site, vector), ProjectOut(site, vector), Clamp(site, vector, 5.0)):
            assert not torch.equal(logits(lm, batch, [edit]), plain), f"{edit} in {dtype}"


def test_in_float64_an_edit_is_made_in_float64(model_of, tokenizer_with, rows, vector):
    lm, site, one = (
        adopt(model_of("llama").double(), tokenizer_with()),
        Site(1, "resid_post"),
        single(rows, 0),
    )
    before = run_to(lm, one, [site])[site]
    with inject(lm, [Add(site, vector, 1.0, everything)]):
        moved = run_to(lm, one, [site])[site] - before
    torch.testing.assert_close(moved, vector.double().expand_as(moved), atol=1e-12, rtol=0)


def test_gradients_flow_to_a_vector_that_is_being_trained(model_of, tokenizer_with, batch, vector):
    """And are the slope that a finite difference measures."""
    lm, site, vector = (
        adopt(model_of("gpt2").double(), tokenizer_with()),
        Site(1, "resid_post"),
        vector.double(),
    )

    def run(v):
        with inject(lm, [Add(site, v, 0.5)]) as injection:
            value = lm.model(**batch.inputs, use_cache=False).logits[:, -1].logsumexp(-1).sum()
        injection.receipt().check(generated)
        return value

    trained = vector.clone().requires_grad_()
    run(trained).backward()
    ahead = 1e-4 * trained.grad / trained.grad.norm()
    with torch.no_grad():
        slope = float(run(vector + ahead) - run(vector - ahead)) / 2e-4
    assert slope > 1e-3
    assert slope == pytest.approx(float(trained.grad.norm()), rel=1e-5)


# --- what is left behind


def test_nothing_is_left_behind(lm, batch, vector, hook_count):
    plain, before = logits(lm, batch), hook_count(lm.model)
    logits(lm, batch, [Add(site, vector) for site in every_site(lm)])
    assert hook_count(lm.model) == before
    assert torch.equal(logits(lm, batch), plain)


def test_an_exception_removes_every_hook(lm, batch, vector, hook_count):
    """T7. Raised in the block, and raised in the model."""
    before = hook_count(lm.model)
    edits = [Add(site, vector) for site in every_site(lm)]
    with pytest.raises(ZeroDivisionError), inject(lm, edits):
        raise ZeroDivisionError(lm.model(**batch.inputs))
    assert hook_count(lm.model) == before
    with pytest.raises(IndexError), inject(lm, edits):
        lm.model(torch.tensor([[lm.d_vocab + 5]]))
    assert hook_count(lm.model) == before


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (Add(Site(9, "resid_post"), torch.ones(32)), SiteNotFoundError),
        (Add(Site(1, "resid_post"), torch.zeros(32)), VectorError),
        (ProjectOut(Site(1, "resid_post"), torch.ones(7)), VectorError),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_before_anything_is_hooked(
    llama, vector, hook_count, edit, error
):
    before, good = hook_count(llama.model), Add(Site(0, "resid_post"), vector)
    for edits in ([good, edit], [[good], [good, edit]]):
        with pytest.raises(error), inject(llama, edits):
            pytest.fail("the block was entered")
    assert hook_count(llama.model) == before


# --- refusals


@pytest.mark.parametrize("kind", ["resid_mid"])
@pytest.mark.parametrize("family", ["neox", "phi"])
def test_parallel_blocks_refuse_resid_mid(tiny, vector, family, kind):
    with (
        pytest.raises(SiteNotFoundError, match="attention and MLP in parallel, so nothing lies between them"),
        inject(tiny(family), [Add(Site(1, kind), vector)]),
    ):
        pass


@pytest.mark.parametrize("positions", [step(3), after("no such text"), think, response, everything - prompt])
def test_positions_that_match_no_token_are_an_error(llama, batch, vector, positions):
    with (
        pytest.raises(EmptySelectionError) as error,
        inject(llama, [Add(Site(1, "resid_post"), vector, positions=positions)]),
    ):
        llama.model(**batch.inputs)
    text = str(error.value)
    assert f"Add at blocks.1.hook_resid_post asked for positions {positions}" in text
    assert "none of the 4 rows has such a token (longest prompt 13, longest row 13)" in text


def test_a_block_in_which_nothing_runs_is_no_error(llama, vector):
    with inject(llama, [Add(Site(1, "resid_post"), vector)]) as injection:
        pass
    assert len(injection.receipt()) == 0


def test_a_mixture_of_edits_and_lists_of_edits_is_refused(llama, vector):
    edit = Add(Site(1, "resid_post"), vector)
    with (
        pytest.raises(UnlatchError, match="a list of edits for each row; not a mixture"),
        inject(llama, [edit, [edit]]),
    ):
        pass


def test_more_rows_than_lists_of_edits_are_refused(llama, batch, vector):
    """They would run unedited, without a word."""
    edit = Add(Site(1, "resid_post"), vector)
    with (
        pytest.raises(InputError, match="2 lists of edits and row 3 is running"),
        inject(llama, [[edit], [edit]]),
    ):
        llama.model(**batch.inputs)


def test_a_mask_that_cannot_be_counted_is_refused(llama, batch, vector):
    with (
        pytest.raises(InputError, match=r"need an attention mask \[batch, past \+ chunk\] = \(4, 13\)"),
        inject(llama, [Add(Site(1, "resid_post"), vector)]),
    ):
        llama.model(batch.input_ids, attention_mask=torch.ones(4, 1, 13, 13))


def test_capture_and_inject_do_not_see_each_others_order(llama, batch, vector):
    """A capture that was opened before the injection reads what was there before the edit."""
    site = Site(1, "resid_post")
    plain = run_to(llama, batch, [site])[site]
    with capture(llama, [site]) as outside, inject(llama, [Add(site, vector, 1.0, everything)]):
        llama.model(**batch.inputs)
    assert torch.equal(outside[site], plain)
