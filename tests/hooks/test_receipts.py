"""A receipt says what was written, and its check fails, naming the cell, whenever that is something else."""

import numpy as np
import pytest
import torch

from hooks import Add, ProjectOut, inject
from hooks.capture import run_to
from hooks.errors import ReceiptError
from hooks.generate import generate_rows
from hooks.positions import after, everything, first, generated, last_prompt, mask, prompt, step, steps
from hooks.sites import Site

SITE, OTHER = Site(1, "resid_post"), Site(0, "attn_out")


@pytest.fixture(scope="module")
def steered(llama, rows, vector):
    """Four prompts of 9, 4, 13 and 6 tokens, two sites, steered on what is generated."""
    edits = [Add(SITE, vector, 0.3), ProjectOut(OTHER, vector)]
    return generate_rows(llama, rows, edits=edits, max_new_tokens=5)


# --- what it holds


def test_it_has_one_entry_for_each_site_row_and_position_written(steered, rows):
    receipt = steered.receipt
    assert receipt.sites == (OTHER, SITE)
    for number, (row, completion) in enumerate(zip(rows, steered, strict=True)):
        n = row.prompt_length
        for site in (0, 1):
            mine = (receipt.row == number) & (receipt.site == site)
            assert sorted(receipt.position[mine]) == list(range(n - 1, n - 1 + len(completion.tokens)))
    assert len(receipt) == 2 * sum(len(c.tokens) for c in steered)


def test_the_ratio_is_the_size_of_the_change_over_the_size_of_the_stream(llama, rows, batch, vector):
    before = run_to(llama, batch, [SITE])[SITE]
    with inject(llama, [Add(SITE, vector, 0.3, prompt)]) as injection:
        after_it = run_to(llama, batch, [SITE])[SITE]
    receipt = injection.receipt()
    measured = (after_it - before).norm(dim=-1) / before.norm(dim=-1)
    for row, position, ratio in zip(receipt.row, receipt.position, receipt.ratio, strict=True):
        place = batch.input_ids.shape[1] - rows[row].prompt_length + position
        assert ratio == pytest.approx(float(measured[row, place]), rel=1e-4)
    assert len(receipt) == sum(row.prompt_length for row in rows)


def test_the_phase_of_a_write_is_where_its_token_came_from(steered, rows):
    receipt = steered.receipt
    expected = [
        "prompt" if p < rows[r].prompt_length else "generated"
        for r, p in zip(receipt.row, receipt.position, strict=True)
    ]
    assert receipt.phase == expected
    assert receipt.phase.count("prompt") == 2 * len(rows), "only the last prompt token, at two sites"


def test_of_one_site_it_keeps_that_sites_entries(steered):
    part = steered.receipt.of_site(SITE)
    assert part.sites == (SITE,)
    assert len(part) == len(steered.receipt) / 2
    part.check(generated)
    np.testing.assert_array_equal(part.ratio, steered.receipt.ratio[steered.receipt.site == 1])


def test_an_unedited_run_has_an_empty_receipt_that_knows_its_rows(llama, rows):
    receipt = generate_rows(llama, rows, max_new_tokens=2).receipt
    assert len(receipt) == 0
    assert dict(receipt.prompt_length) == {i: row.prompt_length for i, row in enumerate(rows)}
    assert str(receipt) == "receipt: nothing written in 4 rows"
    receipt.check(generated, rows=[])


# --- checking


def test_the_right_expectation_passes_in_every_form_it_can_be_written(steered):
    check = steered.receipt.check
    check(generated)
    check(everything - (prompt - last_prompt))
    check(generated, rows=range(4))
    check(generated, sites=[SITE, OTHER])


@pytest.mark.parametrize(
    ("positions", "options", "cell"),
    [
        (everything, {}, "position 0 of row 0 at blocks.0.hook_attn_out was not written"),
        (prompt, {}, "position 0 of row 0 at blocks.0.hook_attn_out was not written"),
        (step(1), {}, "position 8 of row 0 at blocks.0.hook_attn_out was also written"),
        (steps(0, 4), {}, "position 12 of row 0 at blocks.0.hook_attn_out was also written"),
        (generated, {"rows": [0, 1, 2]}, "position 5 of row 3 at blocks.0.hook_attn_out was also written"),
        (generated, {"sites": [SITE]}, "position 8 of row 0 at blocks.0.hook_attn_out was also written"),
        (generated, {"sites": [SITE, OTHER, Site(2, "mlp_out")]}, "row 0 at blocks.2.hook_mlp_out was not"),
    ],
)
def test_a_wrong_expectation_is_an_error_that_names_the_cell(steered, positions, options, cell):
    with pytest.raises(ReceiptError) as error:
        steered.receipt.check(positions, **options)
    text = str(error.value)
    assert f"Expected exactly {positions} of {len(options.get('rows', range(4)))} rows to be written" in text
    assert cell in text
    assert "its prompt has" in text


def test_a_receipt_error_is_an_assertion_error(steered):
    with pytest.raises(AssertionError):
        steered.receipt.check(everything)


def test_each_cell_that_is_missing_or_added_is_noticed(llama, batch, vector):
    """Whatever single cell an edit leaves out or adds, the check of the whole fails, and names it."""
    whole = torch.ones(4, 13, dtype=torch.bool)
    for row, position in ((0, 0), (1, 3), (2, 12), (3, 5)):
        missing = whole.clone()
        missing[row, position] = False
        with inject(llama, [Add(SITE, vector, positions=mask(missing))]) as injection:
            llama.model(**batch.inputs)
        with pytest.raises(
            ReceiptError, match=rf"position {position} of row {row} at .* was not written \(1 such"
        ):
            injection.receipt().check(everything)
        with inject(llama, [Add(SITE, vector, positions=everything)]) as injection:
            llama.model(**batch.inputs)
        with pytest.raises(
            ReceiptError, match=rf"position {position} of row {row} at .* was also written \(1 such"
        ):
            injection.receipt().check(mask(missing))
        injection.receipt().check(mask(missing) | mask(~missing))


def test_each_row_is_checked_by_its_own_edits(llama, rows, vector):
    edits = [[Add(SITE, vector, positions=step(i))] for i in range(4)]
    receipt = generate_rows(llama, rows, edits=edits, max_new_tokens=5).receipt
    for i, row in enumerate(rows):
        assert receipt.position[receipt.row == i].tolist() == [row.prompt_length - 1 + i]
    with pytest.raises(ReceiptError, match="of row 1"):
        receipt.check(step(0))


def test_a_text_that_the_run_did_not_look_for_cannot_be_checked(steered):
    with pytest.raises(ReceiptError, match=r"This run did not look for \['wait'\]"):
        steered.receipt.check(after("wait"))


# --- as text


def test_it_prints_in_one_line_what_was_written_where_and_how_much(steered):
    text = str(steered.receipt)
    n = len(steered.receipt)
    assert "\n" not in text
    assert text.startswith(
        f"receipt: {n} cells written in 4 of 4 rows (8 on prompt tokens, {n - 8} on generated"
    )
    assert "at blocks.0.hook_attn_out, blocks.1.hook_resid_post; |dh|/|h| median " in text


def test_a_row_prints_its_positions_as_spans(llama, rows, vector):
    positions = (prompt - first(1) - last_prompt) | step(2)
    edits = [[Add(SITE, vector, positions=positions)], [], [], []]
    receipt = generate_rows(llama, rows, edits=edits, max_new_tokens=4).receipt
    assert receipt.of_row(0).startswith(
        "row 0: positions 1-7, 10 of 12 (prompt 9) at blocks.1.hook_resid_post"
    )
    assert receipt.of_row(1) == "row 1: nothing written"
