"""An edit of latents writes the difference they make, and keeps what the dictionary cannot explain."""

import math

import pytest
import torch
from torch import nn

from hooks import Add, Site, adopt, generate, inject
from hooks.capture import run_to
from hooks.edits import Edit
from hooks.errors import VectorError
from hooks.positions import everything, generated, last, prompt
from hooks.rows import pad_left
from saes import (
    ClampLatents,
    GatedSAE,
    JumpReLUSAE,
    Origin,
    ScaleLatents,
    ShiftPreactivations,
    StandardSAE,
    TopKSAE,
    Transcoder,
    edits,
)

SITE, D, CPU = Site(1, "resid_post"), 32, torch.device("cpu")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sae():
    """A dictionary that explains part of an activation: 100 latents of 32 dimensions, six active."""
    made = TopKSAE(D, 100, 6)
    with torch.no_grad():
        made.b_dec.copy_(randn(D, seed=1))
        made.b_enc.copy_(0.1 * randn(100, seed=2))
    return made.requires_grad_(False)


H = 3 * randn(3, 5, D, seed=3)


def written(edit, h=H):
    """The edit applied to every row of ``h``."""
    position = torch.arange(h.shape[1]).expand(h.shape[:2])
    return edit.apply(h, position, *(p[None] for p in edit.parameters()))


def slow(sae, h, change):
    """``h + decode(z') - decode(z)`` a token at a time; ``change(z)`` alters one token's latents."""
    out = h.clone()
    for index in torch.cartesian_prod(torch.arange(h.shape[0]), torch.arange(h.shape[1])).tolist():
        z = sae.encode(h[tuple(index)])
        new = z.clone()
        change(new)
        out[tuple(index)] += sae.decode(new) - sae.decode(z)
    return out


# --- identities


def test_an_edit_that_asks_for_what_is_there_changes_no_bit(sae):
    """The reconstruction misses much of these activations, and none of that is lost."""
    assert float((sae(H) - H).norm() / H.norm()) > 0.3
    for h in H.reshape(15, 1, 1, D):
        own = dict(enumerate(sae.encode(h)[0, 0].tolist()))
        assert torch.equal(written(ClampLatents(SITE, sae, own), h), h)
    assert torch.equal(written(ScaleLatents(SITE, sae, {i: 1.0 for i in range(100)})), H)
    assert torch.equal(written(ShiftPreactivations(SITE, sae, {i: 0.0 for i in range(100)})), H)


def test_an_inactive_latent_can_be_ablated_or_scaled_without_effect(sae):
    z = sae.encode(H)
    silent = [i for i in range(100) if not z[..., i].any()]
    assert silent
    for number in (0.0, 7.0, -2.0):
        assert torch.equal(written(ScaleLatents(SITE, sae, dict.fromkeys(silent, number))), H)
    assert torch.equal(written(ClampLatents(SITE, sae, dict.fromkeys(silent, 0.0))), H)


def test_the_effect_is_the_difference_that_the_decoder_makes(sae):
    z = sae.encode(H)
    moved = {4: 2.5, 17: 0.0, 60: -1.0}
    new = z.clone()
    for latent, value in moved.items():
        new[..., latent] = value
    assert torch.equal(written(ClampLatents(SITE, sae, moved)), H + (sae.decode(new) - sae.decode(z)))
    new = z.clone()
    for latent, factor in moved.items():
        new[..., latent] *= factor
    assert torch.equal(written(ScaleLatents(SITE, sae, moved)), H + (sae.decode(new) - sae.decode(z)))


def test_clamping_a_latent_moves_along_its_direction_alone(sae):
    """By the gap between the value and what was there."""
    latent = int(sae.encode(H)[0, 0].argmax())
    change = written(ClampLatents(SITE, sae, {latent: 9.0})) - H
    gap = 9.0 - sae.encode(H)[..., latent]
    torch.testing.assert_close(change, gap[..., None] * sae.W_dec[latent], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [ClampLatents, ScaleLatents])
def test_it_is_a_loop_over_single_tokens(sae, make):
    numbers = {3: 0.0, 50: 4.0, 99: -2.0}

    def change(z):
        for latent, number in numbers.items():
            z[latent] = number if make is ClampLatents else number * z[latent]

    torch.testing.assert_close(written(make(SITE, sae, numbers)), slow(sae, H, change), atol=1e-5, rtol=1e-5)


def test_ablating_is_clamping_to_zero(sae):
    active = sae.encode(H)[0, 0].topk(3).indices.tolist()
    numbers = dict.fromkeys(active, 0.0)
    ablated = written(ScaleLatents(SITE, sae, numbers))
    assert torch.equal(ablated, written(ClampLatents(SITE, sae, numbers)))
    assert not torch.equal(ablated, H)


def test_a_long_prompt_is_encoded_a_few_positions_at_a_time(sae, monkeypatch):
    edit, sizes = ClampLatents(SITE, sae, {3: 2.0}), []
    whole = written(edit)
    monkeypatch.setattr(edits, "NUMBERS", 3 * 100 * 2)
    monkeypatch.setattr(sae, "encode", lambda x: sizes.append(x.shape[1]) or TopKSAE.encode(sae, x))
    torch.testing.assert_close(written(edit), whole)
    assert sizes == [2, 2, 1]
    shift = ShiftPreactivations(SITE, sae, {3: 2.0})
    monkeypatch.setattr(edits, "NUMBERS", 2**25)
    whole = written(shift)
    monkeypatch.setattr(edits, "NUMBERS", 3 * 100 * 2)
    assert torch.equal(written(shift), whole)


def test_a_model_in_another_dtype_keeps_what_it_had(sae):
    """The dictionary works in float32; only its difference is added to a float64 stream."""
    edit = ClampLatents(SITE, sae, {3: 2.0})
    double = edit.apply(
        H.double(), torch.zeros(3, 5, dtype=torch.long), *(p[None] for p in edit.parameters())
    )
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), written(edit))
    fine = H.double() + 1e-12
    still = ScaleLatents(SITE, sae, {3: 1.0})
    out = still.apply(fine, torch.zeros(3, 5, dtype=torch.long), *(p[None] for p in still.parameters()))
    assert torch.equal(out, fine)


# --- before the nonlinearity


def filled(made):
    """A dictionary in which no bias or threshold is zero."""
    with torch.no_grad():
        made.b_dec.copy_(randn(D, seed=1))
        for seed, name in enumerate(made.vectors):
            getattr(made, name).copy_(0.5 * randn(100, seed=2 + seed))
    return made.requires_grad_(False)


def kept(pre, k):
    """The ``k`` largest of one token's pre-activations, where they are above zero."""
    z = torch.zeros_like(pre)
    for latent in sorted(range(len(pre)), key=lambda i: -float(pre[i]))[:k]:
        z[latent] = max(0.0, float(pre[latent]))
    return z


LATENTS_OF = {
    "standard": (lambda: StandardSAE(D, 100), lambda sae, p: (p + sae.b_enc).relu()),
    "topk": (lambda: TopKSAE(D, 100, 6), lambda sae, p: kept(p + sae.b_enc, 6)),
    "jumprelu": (
        lambda: JumpReLUSAE(D, 100),
        lambda sae, p: (p + sae.b_enc).relu() * (p + sae.b_enc > sae.threshold),
    ),
    "gated": (
        lambda: GatedSAE(D, 100),
        lambda sae, p: (p * sae.r_mag.exp() + sae.b_mag).relu() * (p + sae.b_gate > 0),
    ),
}
"""A new dictionary of each architecture, and its latents of one token's ``(x - b_dec) W_enc``."""


@pytest.mark.parametrize("architecture", LATENTS_OF)
def test_a_shift_is_each_architectures_equation_with_more_before_its_nonlinearity(architecture):
    make, latents = LATENTS_OF[architecture]
    made = filled(make())
    numbers = {3: 6.0, 50: -4.0, 60: 0.5, 99: 20.0}
    out, moved = written(ShiftPreactivations(SITE, made, numbers)), 0
    for h, new in zip(H.reshape(-1, D), out.reshape(-1, D), strict=True):
        p = (h - made.b_dec) @ made.W_enc
        shifted = p.clone()
        for latent, number in numbers.items():
            shifted[latent] += number
        before, after = latents(made, p), latents(made, shifted)
        moved += int((before != after).sum())
        torch.testing.assert_close(new, h + (after - before) @ made.W_dec, atol=1e-4, rtol=1e-4)
    assert moved > 15
    assert torch.equal(written(ShiftPreactivations(SITE, made, dict.fromkeys(range(100), 0.0))), H)


def test_a_latent_that_is_shifted_into_the_largest_takes_the_place_of_the_smallest(sae):
    pre = sae.preactivations(H[0, 0])
    order = pre.argsort(descending=True).tolist()
    sixth, last_in, ninth = float(pre[order[5]]), order[5], order[8]
    gap = sixth - float(pre[ninth])
    h = H[:1, :1]
    assert torch.equal(written(ShiftPreactivations(SITE, sae, {ninth: 0.9 * gap}), h), h), "not among six"
    change = written(ShiftPreactivations(SITE, sae, {ninth: 1.5 * gap}), h)[0, 0] - h[0, 0]
    expected = (float(pre[ninth]) + 1.5 * gap) * sae.W_dec[ninth] - sixth * sae.W_dec[last_in]
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-5)


def test_a_latent_that_is_shifted_out_lets_another_in_where_an_ablated_one_leaves_a_gap(sae):
    pre = sae.preactivations(H[0, 0])
    order = pre.argsort(descending=True).tolist()
    first, seventh = order[0], order[6]
    assert pre[seventh] > 0
    h = H[:1, :1]
    out = written(ShiftPreactivations(SITE, sae, {first: -1e6}), h)
    gap = written(ScaleLatents(SITE, sae, {first: 0.0}), h)
    torch.testing.assert_close((out - gap)[0, 0], pre[seventh] * sae.W_dec[seventh], atol=1e-5, rtol=1e-5)


def test_a_shift_that_does_not_reach_the_threshold_changes_no_bit():
    made = filled(JumpReLUSAE(D, 100))
    made.threshold.fill_(4.0)
    pre = made.preactivations(H)[..., 7]
    silent = H[pre < 3.0][:, None]
    assert len(silent) > 3
    assert torch.equal(written(ShiftPreactivations(SITE, made, {7: 1.0}), silent), silent)
    assert not torch.equal(written(ShiftPreactivations(SITE, made, {7: 30.0}), silent), silent)


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm"])
def test_a_shift_is_in_the_units_of_a_normalised_input(how):
    made = StandardSAE(D, 100, normalize_activations=how).requires_grad_(False)
    change = written(ShiftPreactivations(SITE, made, {7: 9.0})) - H
    size = H.norm(dim=-1) / D**0.5 if how == "constant_norm_rescale" else H.std(dim=-1)
    pre = made.preactivations(H)[..., 7]
    moved = (pre + 9.0).relu() - pre.relu()
    torch.testing.assert_close(change, (moved * size)[..., None] * made.W_dec[7], atol=1e-4, rtol=1e-4)


# --- in a running model


@torch.no_grad()
def logits(lm, batch, chosen):
    with inject(lm, chosen) as injection:
        injection.tracker.begin(batch.row, batch.prompt_length)
        out = lm.model(**batch.inputs, use_cache=False).logits
    return [row[keep] for row, keep in zip(out, batch.attention_mask.bool(), strict=True)]


def test_the_running_model_holds_the_edited_stream(lm, sae, batch):
    """At every site's own activation: what is read after the edit is the difference on top of before."""
    real = batch.attention_mask.bool()
    for kind in lm.anatomy.kinds:
        site = Site(1, kind)
        before = run_to(lm, batch, [site])[site]
        edit = ClampLatents(site, sae, {4: 3.0, 17: 0.0}, everything)
        with inject(lm, [edit]):
            after = run_to(lm, batch, [site])[site]
        torch.testing.assert_close(after[real], written(edit, before)[real], atol=1e-3, rtol=1e-4)


def test_a_factor_of_one_and_a_shift_of_zero_change_no_logit(lm, sae, batch):
    plain = logits(lm, batch, [])
    for site in (Site(0, "resid_pre"), SITE, Site(2, "mlp_out")):
        still = ScaleLatents(site, sae, {i: 1.0 for i in range(100)}, everything)
        assert all(map(torch.equal, logits(lm, batch, [still]), plain))
        still = ShiftPreactivations(site, sae, {i: 0.0 for i in range(100)}, everything)
        assert all(map(torch.equal, logits(lm, batch, [still]), plain))


def test_rows_that_carry_their_own_edits_equal_rows_run_alone(lm, sae, rows, batch):
    """Other latents, other numbers of them, other kinds, another dictionary, none, and a vector."""
    other = TopKSAE(D, 40, 4, seed=5).requires_grad_(False)
    per_row = [
        [ClampLatents(SITE, sae, {4: 8.0, 17: -3.0}, everything)],
        [
            ClampLatents(SITE, sae, {90: 30.0, 2: 1.0}, everything),
            Add(Site(2, "resid_pre"), randn(D, seed=9)),
        ],
        [],
        [ClampLatents(SITE, other, {4: 8.0, 17: -3.0}, everything)],
    ]
    together = logits(lm, batch, per_row)
    for number in range(4):
        single = pad_left(rows, [number], pad_id=0, device=CPU)
        (alone,) = logits(lm, single, per_row[number])
        torch.testing.assert_close(together[number], alone, atol=2e-3, rtol=1e-3, msg=f"row {number}")
    assert all(map(torch.equal, together[2:3], logits(lm, batch, [])[2:3]))
    mixed = [
        [ScaleLatents(SITE, sae, {int(i): 0.0}, prompt) for i in range(3)],
        [ScaleLatents(SITE, sae, {5: 4.0}, last(2)), ClampLatents(SITE, sae, {5: 4.0}, last(1))],
        [ClampLatents(SITE, sae, {5: 40.0}, last(1)), ShiftPreactivations(SITE, sae, {8: 50.0}, prompt)],
        [ScaleLatents(SITE, sae, {i: -1.0 for i in range(100)}, everything)],
    ]
    together = logits(lm, batch, mixed)
    for number in range(4):
        single = pad_left(rows, [number], pad_id=0, device=CPU)
        (alone,) = logits(lm, single, mixed[number])
        torch.testing.assert_close(together[number], alone, atol=2e-3, rtol=1e-3, msg=f"row {number}")


def test_edits_share_a_pass_only_when_they_share_a_dictionary(sae):
    """Stacked edits run on the dictionary of one of them."""
    twin = TopKSAE(D, 100, 6)
    group = ClampLatents(SITE, sae, {1: 2.0}).group
    assert group == ClampLatents(SITE, sae, {9: -4.0}).group
    others = [
        ClampLatents(SITE, twin, {1: 2.0}),
        ClampLatents(SITE, sae, {1: 2.0, 2: 3.0}),
        ScaleLatents(SITE, sae, {1: 2.0}),
        ScaleLatents(SITE, twin, {1: 2.0}),
        ShiftPreactivations(SITE, sae, {1: 2.0}),
    ]
    assert len({group, *(other.group for other in others)}) == 6
    assert len({hash(group), *(hash(other.group) for other in others)}) == 6


def test_generating_leaves_a_receipt_of_what_was_written(llama, sae):
    edit = ClampLatents(SITE, sae, {4: 60.0})
    assert isinstance(edit, Edit)
    assert edit.positions == generated
    prompts = ["12", "abcdef", "the thing"]
    plain, out = (generate(llama, prompts, edits=e, max_new_tokens=6) for e in ((), [edit]))
    out.receipt.check(generated)
    assert out.receipt.sites == (SITE,)
    assert (out.receipt.ratio > 0).all()
    assert out.texts != plain.texts
    per_row = generate(llama, prompts, edits=[[], [edit], []], max_new_tokens=6)
    per_row.receipt.check(generated, rows=[1])
    assert [c.tokens for c in per_row] == [plain[0].tokens, out[1].tokens, plain[2].tokens]


def test_the_receipt_says_that_nothing_was_changed_where_nothing_was(llama, sae):
    still = ScaleLatents(SITE, sae, {4: 1.0})
    out = generate(llama, ["12", "abc"], edits=[still], max_new_tokens=4)
    out.receipt.check(generated)
    assert not out.receipt.ratio.any()


def test_a_bfloat16_model_is_edited_through_a_float32_dictionary(model_of, tokenizer_with, sae, batch):
    lm = adopt(model_of("llama").to(torch.bfloat16), tokenizer_with())
    plain = logits(lm, batch, [])
    still = ScaleLatents(SITE, sae, {i: 1.0 for i in range(100)}, everything)
    assert all(map(torch.equal, logits(lm, batch, [still]), plain))
    moved = logits(lm, batch, [ClampLatents(SITE, sae, {4: 60.0}, everything)])
    assert not torch.equal(moved[0], plain[0])


def test_a_float64_model_keeps_its_digits(model_of, tokenizer_with, sae, batch):
    lm = adopt(model_of("gpt2").double(), tokenizer_with())
    edits_of = [
        [ScaleLatents(SITE, sae, {4: 1.0}, everything)],
        [ClampLatents(SITE, sae, {4: 6.0}, everything)],
    ]
    plain, (still, moved) = logits(lm, batch, []), (logits(lm, batch, e) for e in edits_of)
    assert all(map(torch.equal, still, plain))
    assert all((m - p).abs().max() > 1e-3 for m, p in zip(moved, plain, strict=True))


# --- refusals


def refused(llama, edit, text):
    with pytest.raises(VectorError, match=text):
        edit.check(llama)
    with pytest.raises(VectorError, match=text), inject(llama, [edit]):
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    ("make", "what"), [(ClampLatents, "clamp"), (ScaleLatents, "scale"), (ShiftPreactivations, "shift")]
)
def test_latents_that_the_dictionary_has_not_are_refused(llama, sae, make, what):
    at = r"at blocks\.1\.hook_resid_post"
    refused(
        llama,
        make(SITE, sae, {5: 1.0, 100: 1.0}),
        rf"No latents 100 to {what} {at}: the dictionary has 0\.\.99",
    )
    refused(llama, make(SITE, sae, {-1: 1.0}), "No latents -1 to")
    many = dict.fromkeys(range(100, 120), 1.0)
    refused(llama, make(SITE, sae, many), r"No latents 100, 101, 102, 103, 104 … \(15 more\) to")
    refused(llama, make(SITE, sae, {}), rf"No latents to {what} {at}\. Pass a number for each")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [ClampLatents, ScaleLatents, ShiftPreactivations])
def test_numbers_that_are_not_finite_are_refused(llama, sae, make, bad):
    refused(llama, make(SITE, sae, {5: 1.0, 7: bad}), "The numbers of latents 7 to .* are not finite")


@pytest.mark.parametrize("width", [31, 64])
def test_a_dictionary_of_another_width_is_refused_with_both(llama, width):
    edit = ClampLatents(SITE, TopKSAE(width, 100, 4), {5: 1.0})
    refused(llama, edit, f"reads activations {width} wide; the residual stream of tiny-llama is 32")


def test_a_dictionary_of_another_site_is_refused_with_both(llama):
    origin = Origin(site=Site(2, "resid_post"))
    edit = ClampLatents(SITE, TopKSAE(D, 100, 4, origin=origin), {5: 1.0})
    refused(llama, edit, r"reads blocks\.2\.hook_resid_post, and blocks\.1\.hook_resid_post was asked for")


@pytest.mark.parametrize("site", [Site(1, "resid_post"), Site(2, "resid_pre"), Site(-2, "resid_post")])
def test_what_a_block_leaves_is_what_the_next_one_takes(llama, site):
    for trained in (Site(1, "resid_post"), Site(2, "resid_pre")):
        ClampLatents(site, TopKSAE(D, 100, 4, origin=Origin(site=trained)), {5: 1.0}).check(llama)


def test_a_dictionary_of_another_model_is_refused_unless_any_will_do(llama):
    dictionary = TopKSAE(D, 100, 4, origin=Origin(model="google/gemma-2-2b"))
    refused(
        llama, ClampLatents(SITE, dictionary, {5: 1.0}), "trained on google/gemma-2-2b; this .* tiny-llama"
    )
    ClampLatents(SITE, dictionary, {5: 1.0}, any_model=True).check(llama)


def test_a_transcoder_is_refused(llama):
    for make in (ScaleLatents, ShiftPreactivations):
        refused(llama, make(SITE, Transcoder(D, 100, D), {5: 1.0}), "is a transcoder, .* hooks.Add")


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm"])
def test_a_dictionary_that_normalises_its_input_writes_at_the_size_of_that_input(llama, how):
    made = JumpReLUSAE(D, 100, normalize_activations=how).requires_grad_(False)
    edit = ClampLatents(SITE, made, {7: 9.0})
    edit.check(llama)
    change = written(edit) - H
    gap = 9.0 - made.encode(H)[..., 7]
    size = H.norm(dim=-1) / D**0.5 if how == "constant_norm_rescale" else H.std(dim=-1)
    torch.testing.assert_close(change, (gap * size)[..., None] * made.W_dec[7], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_dictionary_that_is_not_in_float32_is_refused(llama, dtype):
    edit = ClampLatents(SITE, TopKSAE(D, 100, 4).to(dtype), {5: 1.0})
    refused(
        llama,
        edit,
        r"(cannot read float32|not safe to run): .*\. Keep it in float32 on cpu, where the model is",
    )


def test_a_dictionary_on_another_device_is_refused(llama):
    refused(llama, ScaleLatents(SITE, TopKSAE(D, 100, 4).to("meta"), {5: 1.0}), "Keep it in float32 on cpu")


class Overflowing(nn.Module):
    """Casts inside, as some published dictionaries do."""

    def __init__(self, where, dtype, back=True):
        super().__init__()
        self.inner = TopKSAE(D, 100, 4)
        self.where, self.dtype, self.back = where, dtype, back
        self.d_in, self.d_sae, self.W_dec, self.origin = D, 100, self.inner.W_dec, Origin()

    def through(self, value, here):
        if here != self.where:
            return value
        cast = value.to(self.dtype)
        return cast.float() if self.back else cast

    def encode(self, x):
        return self.through(self.inner.encode(x), "encode")

    def decode(self, latents, of=None):  # noqa: ARG002
        return self.through(self.inner.decode(latents.float()), "decode")


@pytest.mark.parametrize("where", ["encode", "decode"])
def test_a_dictionary_that_overflows_in_half_precision_inside_is_refused(llama, where):
    edit = ClampLatents(SITE, Overflowing(where, torch.float16), {5: 1.0})
    refused(
        llama,
        edit,
        rf"`{where}` of float32 activations up to 1e5 gives torch\.float32 of shape .*, not finite",
    )


@pytest.mark.parametrize("where", ["encode", "decode"])
def test_a_dictionary_that_answers_in_another_dtype_is_refused(llama, where):
    edit = ClampLatents(SITE, Overflowing(where, torch.float64, back=False), {5: 1.0})
    refused(
        llama,
        edit,
        rf"`{where}` of float32 activations up to 1e5 gives torch\.float64 .* expected finite torch\.float32",
    )


class Stranger(nn.Module):
    """A dictionary of someone else's, which encodes in one step."""

    def __init__(self):
        super().__init__()
        self.inner = TopKSAE(D, 100, 4).requires_grad_(False)
        self.d_in, self.d_sae, self.W_dec, self.origin = D, 100, self.inner.W_dec, Origin()

    def encode(self, x):
        return self.inner.encode(x)

    def decode(self, latents, of=None):  # noqa: ARG002
        return self.inner.decode(latents)


class Contradicting(Stranger):
    """Its two steps forget that only some latents are kept."""

    def preactivations(self, x):
        return self.inner.preactivations(x)

    def activated(self, pre):
        return pre.relu()


class Consistent(Contradicting):
    def activated(self, pre):
        return self.inner.activated(pre)


def test_a_dictionary_that_encodes_in_one_step_can_be_clamped_and_not_shifted(llama):
    ClampLatents(SITE, Stranger(), {5: 1.0}).check(llama)
    refused(
        llama,
        ShiftPreactivations(SITE, Stranger(), {5: 1.0}),
        r"to shift at blocks\.1\.hook_resid_post does not show its pre-activations: Stranger lacks "
        r".*preactivations.*, or use ClampLatents",
    )


def test_a_dictionary_whose_two_steps_are_not_its_encoding_is_refused(llama):
    refused(llama, ShiftPreactivations(SITE, Contradicting(), {5: 1.0}), "contradicts itself: .*encode")
    made = Consistent()
    edit = ShiftPreactivations(SITE, made, {5: 40.0})
    edit.check(llama)
    assert torch.equal(written(edit), written(ShiftPreactivations(SITE, made.inner, {5: 40.0})))
