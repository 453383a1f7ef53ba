"""Rows, left padding, and batches that are sorted by length and fit the memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooks.errors import InputError
from hooks.rows import MAX_ROWS, Row, batches_of, pad_left, plan, windows

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.data())
def test_a_padded_batch_holds_each_row_whole_at_its_right_end(lengths, data):
    rows = [Row(tuple(range(100 * i, 100 * i + n)), max(1, n - 1)) for i, n in enumerate(lengths)]
    numbers = data.draw(st.permutations(range(len(rows))))
    batch = pad_left(rows, numbers, pad_id=7, device=CPU)
    assert batch.row.tolist() == list(numbers)
    for place, number in enumerate(numbers):
        n = len(rows[number].tokens)
        width = batch.input_ids.shape[1]
        assert tuple(batch.input_ids[place, width - n :].tolist()) == rows[number].tokens
        assert batch.input_ids[place, : width - n].tolist() == [7] * (width - n)
        assert batch.attention_mask[place].tolist() == [0] * (width - n) + [1] * n
        assert batch.position_ids[place, width - n :].tolist() == list(range(n)), (
            "positions count without padding"
        )
        assert int(batch.prompt_length[place]) == rows[number].prompt_length
    assert batch.input_ids.shape[1] == max(len(rows[n].tokens) for n in numbers), (
        "no wider than its longest row"
    )
    assert set(batch.inputs) == {"input_ids", "attention_mask", "position_ids"}


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(1, 2000),
    st.integers(1, 9),
)
def test_a_plan_has_every_row_once_longest_first_within_its_limits(lengths, row_bytes, free, max_rows):
    groups = plan(lengths, row_bytes=row_bytes, free_bytes=free, max_rows=max_rows)
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    flat = [lengths[n] for group in groups for n in group]
    assert flat == sorted(flat, reverse=True)
    for group in groups:
        assert len(group) <= max_rows
        size = len(group) * max(lengths[n] for n in group) * row_bytes
        assert size <= free or len(group) == 1, "only a single row may be larger than the memory"


def test_a_plan_is_as_few_batches_as_the_limits_allow():
    assert plan([3, 1, 2], row_bytes=1, free_bytes=9, max_rows=64) == [[0, 2, 1]]
    assert plan([3, 1, 2], row_bytes=1, free_bytes=8, max_rows=64) == [[0, 2], [1]]
    assert plan([3, 1, 2], row_bytes=1, free_bytes=10**9, max_rows=2) == [[0, 2], [1]]
    assert plan([], row_bytes=1, free_bytes=1, max_rows=1) == []


def test_by_default_a_batch_has_no_more_rows_than_the_measured_best():
    rows = [Row((1,), 1)] * (MAX_ROWS + 3)
    sizes = [len(b.row) for b in batches_of(rows, pad_id=0, device=CPU, row_bytes=1)]
    assert sizes == [MAX_ROWS, 3]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 25))
def test_the_pieces_of_a_batch_are_its_columns_in_order_as_even_as_can_be(lengths, size):
    rows = [Row(tuple(range(100 * i, 100 * i + n)), 1) for i, n in enumerate(lengths)]
    batch = pad_left(rows, range(len(rows)), pad_id=7, device=CPU)
    width = max(lengths)
    pieces = list(batch.pieces(size))
    sizes = [piece.input_ids.shape[1] for piece in pieces]
    assert len(sizes) == -(-width // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert [piece.start for piece in pieces] == [sum(sizes[:n]) for n in range(len(sizes))]
    for name in ("input_ids", "attention_mask", "position_ids"):
        whole = getattr(batch, name)
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], 1), whole)
        assert all(torch.equal(getattr(p, name), whole[:, p.columns]) for p in pieces)
    for piece in pieces:
        assert piece.whole is batch
        assert piece.inputs["attention_mask"].shape[1] == piece.columns.stop, (
            "a pass with a cache sees the past"
        )


@given(st.integers(0, 9), st.integers(1, 4))
def test_windows_hold_every_item_once(n, size):
    found = list(windows(iter(range(n)), size))
    assert [item for _, window in found for item in window] == list(range(n))
    assert all(len(window) == size for _, window in found[:-1])
    assert all(window[0] == start for start, window in found)


@pytest.mark.parametrize(("tokens", "prompt_length"), [((), 0), ((1, 2), 0), ((1, 2), 3), ((1,), -1)])
def test_a_row_without_a_prompt_or_shorter_than_it_is_refused(tokens, prompt_length):
    text = f"A row of {len(tokens)} tokens cannot have a prompt of {prompt_length}; a prompt has at least one"
    with pytest.raises(InputError, match=text):
        Row(tokens, prompt_length)
