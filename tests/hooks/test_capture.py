"""What is recorded is what the model computed there: its own hidden states, and parts that add up."""

import sys

import pytest
import torch

from hooks import Add, adopt, capture, inject
from hooks.capture import run_pieces, run_to, stream
from hooks.errors import InputError, ModelRefusedError, SiteNotFoundError
from hooks.positions import everything, last, parse_positions, response
from hooks.rows import Row, pad_left
from hooks.sites import Site
from hooks.tracker import frame_of

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


# --- rows that come in pieces


@pytest.mark.parametrize("size", [1, 3, 7])
def test_pieces_hold_what_one_pass_holds(lm, batch, size):
    """Five of eleven families have windows of 6 tokens, which a row of 13 leaves behind; rows are padded."""
    sites = every_site(lm)
    whole = run_to(lm, batch, sites)
    pieces = list(run_pieces(lm, batch, sites, size=size))
    assert [p.columns.stop - p.columns.start <= size for p, _ in pieces] == [True] * -(-13 // size)
    real = batch.attention_mask.bool()
    for site in sites:
        together = torch.cat([acts[site] for _, acts in pieces], dim=1)
        assert together.shape == whole[site].shape
        torch.testing.assert_close(together[real], whole[site][real], rtol=1e-4, atol=1e-4, msg=str(site))


@pytest.mark.parametrize("max_rows", [1, 3])
def test_a_stream_of_pieces_is_the_stream_of_whole_rows(lm, rows, max_rows):
    """Rows of 9 and 13 tokens are cut, in one batch or each alone; those of 4 and 6 fit."""
    sites = [Site(0, "resid_pre"), Site(1, "attn_out"), Site(2, "resid_post")]
    whole = {
        int(batch.row): {site: values[0] for site, values in acts.items()}
        for batch, acts in stream(lm, rows, sites, max_rows=1)
    }
    found = {number: {site: [] for site in sites} for number in whole}
    starts = []
    for piece, acts in stream(lm, rows, sites, piece=7, max_rows=max_rows):
        assert piece.input_ids.shape[1] <= 7
        starts.append(piece.start)
        for place, number in enumerate(piece.row.tolist()):
            real = piece.attention_mask[place].bool()
            done = sum(map(len, found[number][sites[0]]))
            tokens = rows[number].tokens[done : done + int(real.sum())]
            assert tuple(piece.input_ids[place, real].tolist()) == tokens
            for site in sites:
                found[number][site].append(acts[site][place, real])
    assert starts == ([0, 6, 0, 4, 0, 0] if max_rows == 1 else [0, 6, 0]), "the longest rows come first"
    for number, acts in found.items():
        for site, parts in acts.items():
            torch.testing.assert_close(torch.cat(parts), whole[number][site], rtol=1e-4, atol=1e-4)


def test_rows_that_fit_are_one_piece_bit_for_bit(lm, rows):
    sites = every_site(lm)
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n].tokens))
    sorted_batch = pad_left(rows, order, pad_id=lm.pad_id, device=CPU)
    ((given, acts),) = stream(lm, rows, sites, piece=13)
    assert given.whole is given
    assert given.columns == slice(0, 13)
    assert all(torch.equal(given.inputs[name], sorted_batch.inputs[name]) for name in given.inputs)
    alone = run_to(lm, sorted_batch, sites)
    assert all(torch.equal(acts[site], alone[site]) for site in sites)


SELECTIONS = [
    "all", "prompt", "last_prompt", "generated", "response", "think", "answer", "step(2)", "steps(1, 5)",
    "first(3)", "last(2)", 'after("in")', "answer - last(4)",
]  # fmt: skip


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_selection_over_pieces_is_that_over_the_whole(llama, name, size):
    positions = parse_positions(name)
    rows = [
        Row(tuple(llama.tokenizer(text, add_special_tokens=False).input_ids), prompt_length)
        for text, prompt_length in [
            ("ab<think>the inn</think>in the end", 2), ("the<think>still an inn", 1), ("no thoughts", 4)
        ]
    ]  # fmt: skip

    def selected(piece):
        found = []
        for batch, _ in stream(llama, rows, [Site(0, "resid_pre")], piece=piece):
            frame = frame_of(llama, batch, positions.texts)
            chosen = positions.select(frame)
            cut = positions.select(frame_of(llama, batch.whole, positions.texts))[:, batch.columns]
            assert torch.equal(chosen, cut)
            place, column = chosen.nonzero(as_tuple=True)
            columns = batch.row[place], frame.position[place, column], batch.input_ids[place, column]
            found += zip(*(c.tolist() for c in columns), strict=True)
        return sorted(found)

    whole = selected(1000)
    assert whole
    assert selected(size) == whole


def test_every_piece_stops_at_the_last_site_and_no_block_sees_more_than_a_piece(lm, rows):
    ran = []
    handles = [
        block.module.register_forward_pre_hook(
            lambda _m, args, kwargs, layer=layer: ran.append(
                (layer, (args[0] if args else kwargs["hidden_states"]).shape[1])
            ),
            with_kwargs=True,
        )
        for layer, block in enumerate(lm.anatomy.blocks)
    ]
    head = lm.model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda *_: ran.append("unembedding")))
    for _ in stream(lm, rows[2:3], [Site(1, "attn_out"), Site(0, "resid_pre")], piece=5):
        pass
    for handle in handles:
        handle.remove()
    assert ran == [(0, 4), (1, 4), (0, 4), (1, 4), (0, 5), (1, 5)]


@pytest.mark.parametrize(
    ("site", "read"),
    [(Site(1, "resid_post"), Site(2, "resid_post")), (Site(0, "resid_pre"), Site(0, "resid_pre"))],
)
def test_edits_of_a_stream_are_the_same_in_pieces(lm, rows, vector, site, read):
    """Positions from either end, edits that differ by row, and batches sorted out of the rows' order.

    Before the first attention nothing is cached, by which a pass would know how much came before it.
    """
    texts = [Row(row.tokens, 3) for row in rows]
    edits = [[Add(site, vector * (n + 1), positions=last(2) | response)] if n != 1 else [] for n in range(4)]

    def run(**options):
        with inject(lm, edits) as injection:
            found = {}
            for batch, acts in stream(lm, texts, [read], **options):
                for place, number in enumerate(batch.row.tolist()):
                    real = batch.attention_mask[place].bool()
                    found.setdefault(number, []).append(acts[read][place, real])
        return {number: torch.cat(parts) for number, parts in found.items()}, injection.receipt()

    whole, receipt = run()
    cut, receipt_of_pieces = run(piece=4)
    plain = run_to(lm, pad_left(rows, [3], pad_id=0, device=CPU), [read])[read][0]
    assert (whole[3] - plain).norm(dim=-1).gt(0.1).tolist() == [False] * 3 + [True] * 3
    for number in range(4):
        torch.testing.assert_close(cut[number], whole[number], rtol=1e-3, atol=1e-3)
    cells = [
        sorted(zip(r.row.tolist(), r.position.tolist(), strict=True)) for r in (receipt, receipt_of_pieces)
    ]
    expected = [(n, p) for n in (0, 2, 3) for p in range(3, len(rows[n].tokens))]
    assert cells == [expected, expected]
    assert receipt.given_length == receipt_of_pieces.given_length == {0: 9, 1: 4, 2: 13, 3: 6}


def test_given_a_number_of_tokens_the_batches_do_not_depend_on_the_memory(llama, rows, monkeypatch):
    def sizes(**options):
        return [tuple(b.input_ids.shape) for b, _ in stream(llama, rows, [Site(0, "mlp_out")], **options)]

    monkeypatch.setattr("hooks.rows._free_bytes", lambda _device: 1)
    assert sizes() == [(1, 13), (1, 9), (1, 6), (1, 4)]
    assert sizes(piece=12) == [(1, 6), (1, 7), (1, 9), (1, 6), (1, 4)], "never below what is worth a pass"
    short = sizes(max_tokens=24), sizes(max_tokens=5), sizes(piece=4, max_tokens=24)
    monkeypatch.undo()
    assert short == (sizes(max_tokens=24), sizes(max_tokens=5), sizes(piece=4, max_tokens=24))
    assert short[0] == [(1, 13), (2, 9), (1, 4)]
    assert short[1] == [(3, 4), (3, 4), (3, 5), (1, 4)]


def test_where_memory_is_short_the_pieces_are_smaller(llama, monkeypatch):
    """Of 40 columns: the memory of some 20 tokens."""
    row = Row(tuple(torch.randint(6, 100, (160,), generator=torch.Generator().manual_seed(0)).tolist()), 1)
    token_bytes = llama.token_bytes(captured=1) + llama.attention_bytes(160)
    monkeypatch.setattr("hooks.rows._free_bytes", lambda _device: 41 * token_bytes)
    sizes = [b.input_ids.shape[1] for b, _ in stream(llama, [row], [Site(0, "mlp_out")], piece=100)]
    assert sizes == [40, 40, 40, 40]


def test_pieces_are_narrower_where_so_much_came_before_that_masks_would_grow(llama, monkeypatch):
    row = Row(tuple(torch.randint(6, 100, (160,), generator=torch.Generator().manual_seed(0)).tolist()), 1)
    monkeypatch.setattr(sys.modules["hooks.capture"], "SCORES", 20 * llama.attention_bytes(160))
    sizes = [b.input_ids.shape[1] for b, _ in stream(llama, [row], [Site(0, "mlp_out")], piece=100)]
    assert sizes == [20] * 8
    assert len(list(stream(llama, [row], [Site(0, "mlp_out")], piece=160))) == 1, "one pass is as it was"


def test_rows_of_a_window_are_sorted_together_and_numbered_on(llama, rows):
    drawn = []

    def draw():
        for number, row in enumerate(rows):
            drawn.append(number)
            yield row

    numbers = []
    for batch, _ in stream(llama, draw(), [Site(0, "resid_pre")], window=2):
        numbers.append(batch.row.tolist())
        assert len(drawn) == numbers[-1][0] // 2 * 2 + 2, "no window is held before it runs"
    assert numbers == [[0, 1], [2, 3]]


def test_a_model_that_keeps_more_than_keys_and_values_is_not_cut(llama, batch, monkeypatch):
    monkeypatch.setattr(sys.modules["hooks.capture"], "other_states", lambda _config: "MambaLayer")
    with pytest.raises(ModelRefusedError, match="keeps MambaLayer from token to token, so a batch of 13 col"):
        list(run_pieces(llama, batch, [Site(0, "mlp_out")], size=5))
    assert len(list(run_pieces(llama, batch, [Site(0, "mlp_out")], size=13))) == 1
