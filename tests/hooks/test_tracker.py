"""Where each token stands in its row, through padding, caches, chunks and compaction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from hooks.errors import InputError
from hooks.positions import NEVER
from hooks.rows import Row, pad_left
from hooks.tracker import Tracker, frame_of

CPU = torch.device("cpu")


@pytest.fixture
def tracker():
    return Tracker((), str)


def passes(tracker, attention, sizes):
    """Frames of rows with this attention mask, fed through one cache in chunks of these sizes."""
    cache, start = DynamicCache(), 0
    for size in sizes:
        mask = attention[:, : start + size]
        ids = torch.zeros(len(mask), size, dtype=torch.long)
        yield tracker.frame((), {"input_ids": ids, "attention_mask": mask, "past_key_values": cache})
        keys = torch.zeros(len(mask), 1, size, 1)
        cache.update(keys, keys, 0)
        start += size


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4), st.lists(st.integers(1, 4), min_size=1, max_size=6)
)
def test_a_position_counts_real_tokens_however_they_are_padded_and_cut(padding, sizes):
    total = 5 + sum(sizes)
    attention = (torch.arange(total)[None] >= torch.tensor(padding)[:, None]).long()
    frames = list(passes(Tracker((), str), attention, [5, *sizes]))
    found = torch.cat([f.position for f in frames], dim=1)
    assert torch.equal(found, torch.where(attention > 0, attention.cumsum(1) - 1, -1))
    for frame in frames:
        assert frame.row.tolist() == list(range(len(padding)))
        assert frame.prompt_length.tolist() == [5 - p for p in padding], (
            "the prompt is what the first pass holds"
        )


def test_a_token_that_is_masked_while_decoding_is_no_token_of_its_row(tracker):
    """As the rows that have ended, until they leave."""
    attention = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])
    *_, last = passes(tracker, attention, [3, 1, 1])
    assert last.position.tolist() == [[4], [-1]]
    tracker.finish()
    assert tracker.seen == {0: 5, 1: 2}


def test_rows_are_numbered_as_they_enter_until_someone_says_otherwise(tracker):
    attention = torch.ones(2, 3, dtype=torch.long)
    (first,), (second,) = passes(tracker, attention, [3]), passes(tracker, attention, [3])
    tracker.begin(torch.tensor([9, 4]), torch.tensor([1, 2]))
    (announced,) = passes(tracker, attention, [3])
    (after,) = passes(tracker, attention, [3])
    assert [f.row.tolist() for f in (first, second, announced, after)] == [[0, 1], [2, 3], [9, 4], [6, 7]]
    assert announced.prompt_length.tolist() == [1, 2]
    assert announced.given_length.tolist() == [3, 3]
    assert tracker.rows == {0: 3, 1: 3, 2: 3, 3: 3, 9: 1, 4: 2, 6: 3, 7: 3}


def test_a_row_that_leaves_is_seen_as_far_as_it_came(tracker):
    attention = torch.ones(3, 6, dtype=torch.long)
    frames = passes(tracker, attention, [3, 1])
    next(frames), next(frames)
    tracker.resume(torch.tensor([0, 2]))
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 4, 1), torch.zeros(2, 1, 4, 1), 0)
    frame = tracker.frame((torch.zeros(2, 1, dtype=torch.long),), {"past_key_values": cache})
    assert frame.row.tolist() == [0, 2]
    assert frame.position.tolist() == [[4], [4]]
    tracker.finish()
    assert tracker.seen == {0: 5, 1: 4, 2: 5}


def test_rows_announced_over_a_filled_cache_begin_there(tracker):
    """So rows that share a prompt can share its prefill."""
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 4, 1), torch.zeros(2, 1, 4, 1), 0)
    tracker.begin(torch.tensor([5, 6]), torch.tensor([5, 4]))
    frame = tracker.frame((torch.zeros(2, 1, dtype=torch.long),), {"past_key_values": cache})
    assert frame.position.tolist() == [[4], [4]]
    assert frame.prompt_length.tolist() == [5, 4]
    assert frame.given_length.tolist() == [5, 5]


def test_the_frame_of_a_batch_is_that_of_its_one_pass(llama):
    rows = [Row((7, 8, 9), 2), Row((10,), 1)]
    batch = pad_left(rows, [1, 0], pad_id=0, device=CPU)
    frame = frame_of(llama, batch, [llama.tokenizer.decode([9])])
    assert frame.row.tolist() == [1, 0]
    assert frame.position.tolist() == [[-1, -1, 0], [0, 1, 2]]
    assert frame.prompt_length.tolist() == [1, 2]
    (completed,) = frame.completed.values()
    assert completed.tolist() == [NEVER, 2]


@pytest.mark.parametrize(
    "mask", [torch.ones(1, 1, 3, 3), torch.ones(1, 2), torch.ones(2, 3), {"full_attention": None}]
)
def test_a_mask_that_does_not_count_tokens_is_refused(tracker, mask):
    with pytest.raises(InputError, match=r"Edits need an attention mask \[batch, past \+ chunk\] = \(1, 3\)"):
        tracker.frame((), {"input_ids": torch.tensor([[7, 8, 9]]), "attention_mask": mask})


def test_a_cache_whose_rows_were_moved_is_noticed_and_one_that_was_copied_is_not(tracker):
    attention = torch.ones(2, 5, dtype=torch.long)
    cache = DynamicCache()
    cache.update(torch.randn(2, 1, 3, 2), torch.randn(2, 1, 3, 2), 0)
    tracker.frame((), {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": attention[:, :3]})
    tracker.leave(cache)
    step = {"input_ids": torch.zeros(2, 1, dtype=torch.long), "attention_mask": attention[:, :4]}
    cache.batch_select_indices(torch.tensor([0, 1]))
    tracker.frame((), {**step, "past_key_values": cache})
    tracker.leave(cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    with pytest.raises(InputError, match="The cache was reordered since the last pass, as beam search does"):
        tracker.frame((), {**step, "past_key_values": cache})
