"""What is recorded is what the model computed there: its own hidden states, and parts that add up."""

import pytest
import torch

from hooks import Add, adopt, capture, inject
from hooks.capture import run_to, stream
from hooks.errors import InputError, SiteNotFoundError
from hooks.positions import everything
from hooks.rows import Row, pad_left
from hooks.sites import Site

STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
CPU = torch.device("cpu")


def every_site(lm):
    return [Site(layer, kind) for layer in range(lm.n_layers) for kind in lm.anatomy.kinds]


@torch.no_grad()
def forward(lm, batch, **options):
    return lm.model(**batch.inputs, use_cache=False, **options)


# --- identities


def test_resid_post_is_the_models_own_hidden_states(lm, batch):
    """T1. The last of ``hidden_states`` is after the final norm, so it is compared through the norm."""
    with capture(lm, [Site(layer, "resid_post") for layer in range(lm.n_layers)]) as acts:
        hidden = forward(lm, batch, output_hidden_states=True).hidden_states
    for layer in range(lm.n_layers - 1):
        assert torch.equal(acts[Site(layer, "resid_post")], hidden[layer + 1]), f"block {layer}"
    children = lm.model.base_model.named_children()
    final_norm = next(module for name, module in children if "norm" in name or name == "ln_f")
    last = acts[Site(lm.n_layers - 1, "resid_post")]
    assert torch.equal(final_norm(last), hidden[-1])
    assert not torch.equal(last, hidden[-1]), "the last hidden state is normed: never take it for resid_post"


def test_resid_pre_is_the_block_before_and_the_first_is_the_embedding(lm, batch):
    sites = [Site(layer, kind) for layer in range(3) for kind in ("resid_pre", "resid_post")]
    with capture(lm, sites) as acts:
        hidden = forward(lm, batch, output_hidden_states=True).hidden_states
    assert torch.equal(acts[Site(0, "resid_pre")], hidden[0])
    for layer in (1, 2):
        assert torch.equal(acts[Site(layer, "resid_pre")], acts[Site(layer - 1, "resid_post")])


def test_the_parts_of_a_block_add_up(lm, batch):
    """Sandwich norms included: ``mlp_out`` is what reaches the stream, not what the MLP returns."""
    acts = run_to(lm, batch, every_site(lm))
    for layer in range(lm.n_layers):
        pre, attn, mlp, post = (
            acts[Site(layer, kind)] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        torch.testing.assert_close(pre + attn + mlp, post)
        assert attn.abs().max() > 1e-3
        assert mlp.abs().max() > 1e-3


def test_resid_mid_lies_between_attention_and_mlp(sequential, batch):
    acts = run_to(sequential, batch, every_site(sequential))
    for layer in range(sequential.n_layers):
        pre, attn, mid, mlp, post = (acts[Site(layer, kind)] for kind in STREAM)
        torch.testing.assert_close(pre + attn, mid)
        torch.testing.assert_close(mid + mlp, post)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
def test_under_sandwich_norms_the_sites_are_not_the_modules_raw_outputs(tiny, batch, family):
    """So the identities above are not satisfied by chance."""
    lm = tiny(family)
    raw = {}
    block = lm.anatomy.blocks[1].module
    handles = [
        block.self_attn.register_forward_hook(lambda _m, _a, out: raw.update(attn_out=out[0])),
        block.mlp.register_forward_hook(lambda _m, _a, out: raw.update(mlp_out=out)),
    ]
    acts = run_to(lm, batch, [Site(1, "attn_out"), Site(1, "mlp_out")])
    for handle in handles:
        handle.remove()
    for kind, value in raw.items():
        assert (acts[Site(1, kind)] - value).abs().max() > 0.1


# --- invariance


def test_left_padding_does_not_change_an_activation(lm, rows, batch):
    """T5. Rows of 4 to 13 tokens in one batch equal each row alone, unpadded."""
    sites = every_site(lm)
    together = run_to(lm, batch, sites)
    for number, row in enumerate(rows):
        alone = run_to(lm, pad_left(rows, [number], pad_id=lm.pad_id, device=CPU), sites)
        for site in sites:
            mine = together[site][number, -len(row.tokens) :]
            torch.testing.assert_close(mine, alone[site][0], rtol=1e-4, atol=1e-4, msg=f"{site} row {number}")


def test_stopping_early_does_not_change_what_is_read(lm, batch):
    with capture(lm, every_site(lm)) as whole:
        forward(lm, batch)
    for site in every_site(lm):
        assert torch.equal(run_to(lm, batch, [site])[site], whole[site])


def test_streaming_gives_every_row_once_whatever_the_batches(llama, rows):
    site = Site(1, "resid_post")
    found = {}
    for max_rows in (1, 3, 64):
        seen = []
        for batch, acts in stream(llama, rows, [site], max_rows=max_rows):
            assert len(batch.row) <= max_rows
            for place, number in enumerate(batch.row.tolist()):
                seen.append(number)
                value = acts[site][place, batch.attention_mask[place].bool()]
                torch.testing.assert_close(value, found.setdefault(number, value), rtol=1e-4, atol=1e-4)
        assert sorted(seen) == [0, 1, 2, 3]


def test_streaming_does_not_keep_what_it_gave(llama, rows):
    given = [acts for _, acts in stream(llama, rows, [Site(0, "mlp_out")], max_rows=1)]
    assert len({id(acts) for acts in given}) == len(rows)


# --- what is run, and what is left behind


def test_nothing_runs_after_the_last_site(lm, batch):
    ran = []
    handles = [
        block.module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(lm.anatomy.blocks)
    ]
    head = lm.model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda *_: ran.append("unembedding")))
    run_to(lm, batch, [Site(1, "mlp_out")])
    assert ran == [0]
    run_to(lm, batch, [Site(-1, "resid_post"), Site(0, "resid_pre")])
    assert ran == [0, 0, 1, 2]
    for handle in handles:
        handle.remove()


def test_capture_leaves_no_trace(lm, batch, hook_count):
    plain, before = forward(lm, batch).logits, hook_count(lm.model)
    with capture(lm, every_site(lm)):
        under = forward(lm, batch).logits
    run_to(lm, batch, every_site(lm))
    assert hook_count(lm.model) == before
    assert torch.equal(under, plain)
    assert torch.equal(forward(lm, batch).logits, plain)


def test_an_exception_inside_capture_leaves_no_hook(llama, hook_count):
    before = hook_count(llama.model)
    with pytest.raises(ZeroDivisionError), capture(llama, every_site(llama)):
        raise ZeroDivisionError
    assert hook_count(llama.model) == before


def test_a_forward_pass_that_fails_in_run_to_leaves_no_hook(llama, hook_count):
    before = hook_count(llama.model)
    bad = pad_left([Row((llama.d_vocab + 5,), 1)], [0], pad_id=0, device=CPU)
    with pytest.raises(IndexError):
        run_to(llama, bad, [Site(0, "resid_post")])
    assert hook_count(llama.model) == before


def test_an_activation_is_under_the_name_it_was_asked_by(llama, batch):
    asked = [Site(-1, "resid_post"), Site(2, "resid_post"), Site(0, "attn_out")]
    acts = run_to(llama, batch, asked)
    assert set(acts) == set(asked)
    assert torch.equal(acts[asked[0]], acts[asked[1]])


def test_the_last_forward_pass_inside_the_block_wins(llama, rows):
    site = Site(1, "resid_post")
    one, other = (pad_left(rows, [n], pad_id=0, device=CPU) for n in (0, 1))
    with capture(llama, [site]) as acts:
        assert acts == {}
        forward(llama, one)
        forward(llama, other)
    torch.testing.assert_close(acts[site], run_to(llama, other, [site])[site])


def test_capture_inside_an_injection_reads_after_the_edit(lm, batch, vector):
    site = Site(1, "resid_post")
    plain = run_to(lm, batch, [site])[site]
    with inject(lm, [Add(site, vector, positions=everything)]), capture(lm, [site]) as acts:
        forward(lm, batch)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(
        (acts[site] - plain)[real], vector.expand(int(real.sum()), -1), atol=1e-4, rtol=0
    )


def test_captured_tensors_carry_no_gradient(llama, batch):
    with capture(llama, [Site(1, "resid_post")]) as acts:
        llama.model(**batch.inputs)
    assert not acts[Site(1, "resid_post")].requires_grad


def test_activations_are_in_the_models_dtype(model_of, tokenizer_with, batch):
    lm = adopt(model_of("llama").to(torch.bfloat16), tokenizer_with())
    assert run_to(lm, batch, [Site(1, "resid_post")])[Site(1, "resid_post")].dtype == torch.bfloat16


# --- refusals


@pytest.mark.parametrize(
    "record", [lambda lm, batch, s: run_to(lm, batch, s), lambda lm, _, s: capture(lm, s).__enter__()]
)
@pytest.mark.parametrize("site", [Site(7, "resid_post"), Site(-4, "attn_out")])
def test_a_site_that_is_not_there_is_refused_and_leaves_no_hook(llama, batch, hook_count, record, site):
    before = hook_count(llama.model)
    with pytest.raises(SiteNotFoundError, match=r"layers 0\.\.2 \(or -3\.\.-1\)"):
        record(llama, batch, [Site(0, "resid_pre"), site])
    assert hook_count(llama.model) == before


def test_running_to_no_site_is_refused(llama, batch):
    with pytest.raises(InputError, match="given no site; name at least one"):
        run_to(llama, batch, [])
