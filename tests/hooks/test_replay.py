"""A replay from where an edit begins equals the full run with the edit."""

import pytest
import torch

from hooks.capture import run_to
from hooks.edits import Add, Patch, ProjectOut
from hooks.errors import EmptySelectionError, InputError, ModelRefusedError, VectorError
from hooks.inject import inject
from hooks.load import adopt
from hooks.positions import after, everything, last, last_prompt, mask, prompt, step
from hooks.replay import Replay, Variant
from hooks.rows import Row, pad_left
from hooks.sites import KINDS, Site


def whole(logits, _numbers):
    return logits


def full_run(lm, batch, variants):
    """Each variant alone through the whole model: one forward pass with its edits, on its batch."""
    found = []
    for variant in variants:
        edits = [list(variant.edits) if place == variant.place else [] for place in range(len(batch.row))]
        with inject(lm, edits) as injection:
            injection.tracker.begin(batch.row, batch.prompt_length)
            found.append(lm.model(**batch.inputs, use_cache=False).logits[variant.place, -1])
    return torch.stack(found)


def variants_of(lm, vector, positions):
    """Every site of every block on some row, several edits together, and none."""
    kinds = [kind for kind in KINDS if kind in lm.anatomy.kinds]
    single = [
        Variant(place % 4, (Add(Site(layer, kind), vector, positions=positions),))
        for place, (layer, kind) in enumerate((layer, kind) for layer in range(3) for kind in kinds)
    ]
    several = Variant(
        2,
        (
            Add(Site(2, "attn_out"), vector, positions=positions),
            ProjectOut(Site(0, "mlp_out"), vector, positions=positions),
            Add(Site(1, "resid_post"), -vector, scale=0.5, positions=positions),
        ),
    )
    return [single[-1], several, Variant(1), *single, Variant(0)]


@pytest.mark.parametrize("positions", [everything, last(1), last(3)], ids=str)
def test_it_equals_the_full_run_on_every_family(lm, batch, vector, positions):
    variants = variants_of(lm, vector, positions)
    with torch.no_grad():
        expected = full_run(lm, batch, variants)
    width = batch.input_ids.shape[1]
    for since in {everything: (0,), last(1): (0, width - 1), last(3): (0, width - 3, 2)}[positions]:
        made = Replay(lm, batch, since=since).run(variants, whole)
        torch.testing.assert_close(made.values, expected, atol=2e-4, rtol=1e-4)
        assert set(made.receipt.row.tolist()) == {n for n, v in enumerate(variants) if v.edits}
        for number, variant in enumerate(variants):
            if variant.edits:
                receipt = made.receipt.of_rows(range(number, number + 1))
                found = {
                    (receipt.sites[s], int(p)) for s, p in zip(receipt.site, receipt.position, strict=True)
                }
                length = int(batch.attention_mask[variant.place].sum())
                places = range({everything: 0, last(1): length - 1, last(3): length - 3}[positions], length)
                assert found == {(edit.site, place) for edit in variant.edits for place in places}


def test_one_variant_of_every_row_is_bit_equal(lm, batch, vector):
    """The same shapes run the same kernels, so not even rounding differs."""
    edit = Add(Site(1, "resid_pre"), vector, positions=everything)
    with torch.no_grad(), inject(lm, [edit]):
        expected = lm.model(**batch.inputs, use_cache=False).logits[:, -1]
    made = Replay(lm, batch).run([Variant(place, (edit,)) for place in range(4)], whole)
    assert torch.equal(made.values, expected)


def test_without_edits_it_is_the_models_own_output(lm, batch):
    recorded = Replay(lm, batch, since=5)
    with torch.no_grad():
        expected = lm.model(**batch.inputs, use_cache=False).logits[:, -1]
    torch.testing.assert_close(recorded.logits, expected, atol=1e-4, rtol=1e-4)


def test_a_full_residual_patched_in_gives_the_other_run_from_any_block(lm, rows):
    """T10: whatever the layer, the patched row goes on as the row that it was taken from."""
    clean = pad_left([rows[0]], [0], pad_id=lm.pad_id, device=lm.device)
    other = pad_left([Row(rows[2].tokens[:9], 9)], [0], pad_id=lm.pad_id, device=lm.device)
    sites = [Site(layer, kind) for layer in range(3) for kind in ("resid_pre", "resid_post")]
    acts = run_to(lm, clean, sites)
    variants = [Variant(0, (Patch(site, acts[site][0]),)) for site in sites]
    made = Replay(lm, other).run(variants, whole)
    with torch.no_grad():
        expected = lm.model(**clean.inputs, use_cache=False).logits[0, -1]
    torch.testing.assert_close(made.values, expected.expand(len(sites), -1), atol=2e-4, rtol=1e-4)


def test_a_block_runs_only_what_has_entered(llama, batch, vector):
    ran: list[tuple[int, int]] = []
    watch = [
        block.module.register_forward_hook(lambda _m, _a, out: ran.append(tuple(out.shape[:2])))
        for block in llama.anatomy.blocks
    ]
    try:
        recorded = Replay(llama, batch, since=batch.input_ids.shape[1] - 1)
        ran.clear()
        layers = [Variant(0, (Add(Site(i, "resid_pre"), vector, positions=last(1)),)) for i in range(3)]
        recorded.run([*layers, Variant(1)], whole)
    finally:
        for handle in watch:
            handle.remove()
    assert ran[:3] == [(1, 1), (2, 1), (3, 1)]


def test_memory_for_two_rows_gives_the_same_in_more_waves(llama, batch, vector, monkeypatch):
    variants = variants_of(llama, vector, everything)
    recorded = Replay(llama, batch)
    together = recorded.run(variants, whole)
    monkeypatch.setattr(Replay, "_max_rows", 2)
    apart = recorded.run(variants, whole)
    torch.testing.assert_close(apart.values, together.values, atol=1e-5, rtol=1e-5)
    assert str(apart.receipt) == str(together.receipt)


def test_what_is_read_belongs_to_the_variants_that_are_named(llama, batch, vector):
    variants = variants_of(llama, vector, everything)
    recorded = Replay(llama, batch)
    numbers = recorded.run(variants, lambda _, numbers: torch.tensor(numbers).float()).values
    assert numbers.tolist() == list(range(len(variants)))


def test_texts_are_found_as_in_a_full_run(llama, tokenizer_with, vector):
    tokenizer = tokenizer_with()
    ids = tuple(tokenizer("the thing in a sea", add_special_tokens=False).input_ids)
    batch = pad_left([Row(ids, len(ids))], [0], pad_id=llama.pad_id, device=llama.device)
    variants = [Variant(0, (Add(Site(1, "resid_post"), vector, positions=after("thing")),))]
    with torch.no_grad():
        expected = full_run(llama, batch, variants)
    made = Replay(llama, batch).run(variants, whole)
    torch.testing.assert_close(made.values, expected, atol=1e-4, rtol=1e-4)
    made.receipt.check(after("thing"))


def test_the_model_is_left_as_it_was(lm, batch, vector, hook_count):
    before = hook_count(lm.model), [vars(b.module).get("forward") for b in lm.anatomy.blocks]
    with torch.no_grad():
        expected = lm.model(**batch.inputs, use_cache=False).logits
    recorded = Replay(lm, batch)
    recorded.run(variants_of(lm, vector, everything), whole)
    with pytest.raises(ZeroDivisionError):
        recorded.run([Variant(0)], lambda *_: 1 / 0)
    assert (hook_count(lm.model), [vars(b.module).get("forward") for b in lm.anatomy.blocks]) == before
    with torch.no_grad():
        assert torch.equal(lm.model(**batch.inputs, use_cache=False).logits, expected)


def test_a_block_that_remembers_is_refused(model_of, tokenizer_with, batch):
    """One that does not compute the same when it is run again cannot be replayed."""
    lm = adopt(model_of("llama"), tokenizer_with())
    ran: list[int] = []

    def drift(_module, _args, out):
        ran.append(1)
        return out + 0.1 * len(ran)

    lm.anatomy.blocks[-1].mlp.register_forward_hook(drift)
    with pytest.raises(ModelRefusedError, match="cannot be replayed: its last block"):
        Replay(lm, batch)


def test_what_cannot_be_replayed_is_refused(llama, batch, vector):
    recorded = Replay(llama, batch, since=4)
    with pytest.raises(InputError, match="was given no variants"):
        recorded.run([], whole)
    with pytest.raises(InputError, match=r"No row 4: the batch has 0\.\.3"):
        recorded.run([Variant(4)], whole)
    with pytest.raises(InputError, match="begins in column 0; this replay keeps the columns before 4"):
        recorded.run([Variant(2, (Add(Site(0, "resid_pre"), vector, positions=everything),))], whole)
    table = torch.ones(4, 20, dtype=torch.bool)
    with pytest.raises(InputError, match="which counts rows"):
        recorded.run([Variant(0, (Add(Site(0, "resid_pre"), vector, positions=mask(table)),))], whole)
    with pytest.raises(VectorError, match="all zero"):
        recorded.run([Variant(0, (Add(Site(0, "resid_pre"), 0 * vector),))], whole)
    with pytest.raises(EmptySelectionError, match="asked for positions step"):
        recorded.run([Variant(0, (Add(Site(0, "resid_pre"), vector, positions=step(3)),))], whole)
    with pytest.raises(InputError, match=r"since=13: the batch has columns 0\.\.12"):
        Replay(llama, batch, since=13)
    with inject(llama, [Add(Site(0, "resid_pre"), vector, positions=prompt | last_prompt)]):
        with pytest.raises(InputError, match="inside an open `inject`"):
            Replay(llama, batch)
        with torch.no_grad():
            llama.model(**batch.inputs)


def test_memory_that_changes_between_waves_loses_no_variant(llama, batch, vector, monkeypatch):
    variants = variants_of(llama, vector, everything)
    recorded = Replay(llama, batch)
    expected = recorded.run(variants, whole).values
    room = iter([3, 2, 1, 5, *[2] * 99])
    monkeypatch.setattr(Replay, "_max_rows", property(lambda _: next(room)))
    torch.testing.assert_close(recorded.run(variants, whole).values, expected, atol=1e-5, rtol=1e-5)
