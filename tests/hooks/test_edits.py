"""What an edit writes, on bare tensors: the identity each one satisfies, and the vectors it refuses."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooks.edits import Add, Clamp, Edit, Patch, ProjectOut
from hooks.errors import VectorError
from hooks.positions import everything, first, generated
from hooks.sites import Site

SITE = Site(1, "resid_post")
D = 32


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(edit, h, position=None):
    """The edit applied to every row of ``h``."""
    position = torch.arange(h.shape[1]).expand(h.shape[:2]) if position is None else position
    return edit.apply(h, position, *(p[None] for p in edit.parameters()))


# --- what each edit leaves behind

H, V = randn(3, 5, D, seed=1), randn(D, seed=2)
UNIT = V / V.norm()


@given(st.floats(-8, 8))
def test_adding_moves_by_the_scaled_vector_and_nothing_else(scale):
    torch.testing.assert_close(
        written(Add(SITE, V, scale), H) - H, (scale * V).expand_as(H), atol=1e-5, rtol=0
    )


def test_projecting_out_leaves_nothing_along_the_vector_and_the_rest_as_it_was():
    out = written(ProjectOut(SITE, V), H)
    torch.testing.assert_close(out @ UNIT, torch.zeros(3, 5), atol=1e-5, rtol=0)
    across = torch.eye(D) - torch.outer(UNIT, UNIT)
    torch.testing.assert_close(out @ across, H @ across)


@given(st.floats(-2, 2))
def test_projecting_out_by_a_share_leaves_the_rest_of_the_component(share):
    out = written(ProjectOut(SITE, V, share), H)
    torch.testing.assert_close(out @ UNIT, (1 - share) * (H @ UNIT), atol=1e-5, rtol=1e-4)


def test_projecting_out_twice_is_projecting_out_once():
    once = written(ProjectOut(SITE, V), H)
    torch.testing.assert_close(written(ProjectOut(SITE, V), once), once)


@given(st.floats(-50, 50), st.floats(0.01, 100))
def test_clamping_sets_the_component_whatever_the_vectors_length(value, length):
    out = written(Clamp(SITE, length * V, value), H)
    torch.testing.assert_close(out @ UNIT, torch.full((3, 5), value), atol=1e-4, rtol=1e-4)
    across = torch.eye(D) - torch.outer(UNIT, UNIT)
    torch.testing.assert_close(out @ across, H @ across, atol=1e-4, rtol=0)


def test_clamping_to_zero_is_projecting_out():
    torch.testing.assert_close(written(Clamp(SITE, V, 0.0), H), written(ProjectOut(SITE, V), H))


def test_a_patch_is_read_by_absolute_position_and_beyond_its_values_nothing_changes():
    values = randn(4, D, seed=3)
    position = torch.tensor([[-1, 0, 1, 2, 3], [2, 3, 4, 5, 6], [3, 3, 0, 9, 1]])
    out = written(Patch(SITE, values), H, position)
    for row in range(3):
        for place, at in enumerate(position[row].tolist()):
            expected = values[at] if 0 <= at < 4 else H[row, place]
            assert torch.equal(out[row, place], expected), f"row {row}, position {at}"


def test_stacked_edits_write_to_each_row_its_own():
    edits = [Add(SITE, V), Add(SITE, -2 * V), Add(SITE, randn(D, seed=5))]
    stacked = [torch.stack(column) for column in zip(*(e.parameters() for e in edits), strict=True)]
    together = edits[0].apply(H, torch.zeros(3, 5, dtype=torch.long), *stacked)
    for row, edit in enumerate(edits):
        assert torch.equal(together[row : row + 1], written(edit, H[row : row + 1]))


def test_edits_of_a_kind_are_applied_together_and_patches_only_with_their_own_size():
    assert Add(SITE, V).group == Add(SITE, 2 * V, 3.0).group
    assert len({Add(SITE, V).group, ProjectOut(SITE, V).group, Clamp(SITE, V, 1.0).group}) == 3
    assert Patch(SITE, randn(2, D)).group == Patch(SITE, randn(2, D)).group != Patch(SITE, randn(3, D)).group


def test_vectors_are_added_to_what_is_generated_and_values_are_patched_everywhere_unless_told():
    assert all(e.positions == generated for e in (Add(SITE, V), ProjectOut(SITE, V), Clamp(SITE, V, 1.0)))
    assert Patch(SITE, H[0]).positions == everything & first(5)
    assert all(
        isinstance(e, Edit)
        for e in (Add(SITE, V), ProjectOut(SITE, V), Clamp(SITE, V, 1.0), Patch(SITE, H[0]))
    )


# --- refusals

ALONG = {"add": Add, "project out": ProjectOut, "clamp along": partial(Clamp, value=1.0)}


@pytest.mark.parametrize("what", ALONG)
def test_a_vector_that_points_nowhere_is_refused(llama, what):
    with pytest.raises(
        VectorError, match=f"The vector to {what} at blocks.1.hook_resid_post is all zero: it points"
    ):
        ALONG[what](SITE, torch.zeros(D)).check(llama)


@pytest.mark.parametrize("what", ALONG)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_refused(llama, what, bad):
    vector = V.clone()
    vector[3] = bad
    with pytest.raises(VectorError, match=f"The vector to {what} at .* has NaN or infinite entries"):
        ALONG[what](SITE, vector).check(llama)


@pytest.mark.parametrize("what", ALONG)
@pytest.mark.parametrize("width", [31, 33, 64])
def test_a_vector_of_another_width_is_refused_with_both_widths(llama, what, width):
    text = rf"has shape \({width},\); this model's residual stream takes \(32,\)"
    with pytest.raises(VectorError, match=text):
        ALONG[what](SITE, torch.ones(width)).check(llama)


@pytest.mark.parametrize("size", [math.nan, math.inf])
@pytest.mark.parametrize("make", [Add, ProjectOut, Clamp])
def test_a_size_that_is_not_finite_is_refused(llama, make, size):
    with pytest.raises(
        VectorError, match=rf"at blocks.1.hook_resid_post has the (scale|value) {size}; pass a finite"
    ):
        make(SITE, V, size).check(llama)


def test_values_of_another_width_or_not_finite_are_refused(llama):
    with pytest.raises(
        VectorError, match=r"values to patch at .* are 31 wide; this model's residual stream is 32"
    ):
        Patch(SITE, torch.ones(4, 31)).check(llama)
    with pytest.raises(VectorError, match=r"values to patch at .* have NaN or infinite entries"):
        Patch(SITE, torch.full((4, D), math.nan)).check(llama)
    with pytest.raises(VectorError, match=r"There are no values to patch at blocks\.1\.hook_resid_post"):
        Patch(SITE, torch.ones(0, D))


def test_a_vector_made_for_another_model_is_refused(llama, tiny):
    other = tiny("qwen2")
    Add(SITE, V, made_for=llama.fingerprint).check(llama)
    with pytest.raises(
        VectorError, match=f"made for the model with fingerprint {llama.fingerprint}; tiny-qwen2 has"
    ):
        Add(SITE, V, made_for=llama.fingerprint).check(other)
