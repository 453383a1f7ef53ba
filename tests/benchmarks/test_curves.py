"""Every point of a curve can be run, on models made up for it."""

import pytest

from benchmarks import curves
from benchmarks.ceiling import operations


@pytest.mark.parametrize("d_model", sorted({d_model for d_model, _ in curves.Size().shapes}))
def test_a_made_up_model_of_every_width_passes_its_self_check(llama, d_model):
    small, large = (curves.made_up(llama, d_model, n_layers) for n_layers in (1, 2))
    assert small.d_model == d_model
    assert operations(small) < operations(large)


@pytest.mark.parametrize("cost", list(curves.COSTS))
def test_every_cost_can_be_measured(llama, cost):
    assert curves.COSTS[cost](llama, curves.Work(rows=2, tokens=5, layers=2)) > 0


def test_operations_are_two_for_each_weight_of_the_blocks_and_the_unembedding(llama):
    blocks = sum(p.numel() for p in llama.anatomy.blocks[0].module.parameters() if p.ndim == 2)
    head = llama.model.get_output_embeddings().weight.numel()
    assert operations(llama, unembedding=False) == 2 * blocks * llama.n_layers
    assert operations(llama) == 2 * (blocks * llama.n_layers + head)
