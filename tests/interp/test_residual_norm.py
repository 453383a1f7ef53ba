"""The unit of a dose: the same number as a contrast's on the same tokens, and a loop's."""

import numpy as np
import pytest
import torch

from hooks import Site, capture
from hooks.errors import VectorError
from hooks.rows import Row
from hooks.sites import KINDS
from interp import Pair, contrast
from interp.residual_norm import own_residual_norms, residual_norms

PAIRS = [Pair(f"What is {a} + {a}?", f"{2 * a}.", f"Let us add {a} and {a}.") for a in range(2, 8)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_contrasts_own_on_the_rows_of_its_pairs(kind, llama):
    rows = [row for pair in PAIRS for row in pair.rows(llama.tokenizer)]
    measured = residual_norms(llama, rows, [Site(layer, kind) for layer in range(llama.n_layers)])
    vector = contrast(llama, PAIRS, kind=kind, n_null=0)
    assert {site.layer: norm for site, norm in measured.items()} == vector.resid_norm


def test_it_is_the_median_over_response_tokens_of_a_loop(llama, rows):
    cut = [Row(row.tokens, 2) for row in rows]
    site = Site(1, "resid_post")
    norms = []
    for row in cut:
        with torch.no_grad(), capture(llama, [site]) as acts:
            llama.model(torch.tensor([row.tokens]))
        norms += acts[site][0, row.prompt_length :].norm(dim=-1).tolist()
    assert residual_norms(llama, cut, [site])[site] == pytest.approx(float(np.median(norms)), rel=1e-5)


def test_a_models_own_answers_give_a_number_for_each_site_and_the_same_again(llama):
    sites = [Site(0, "resid_post"), Site(2, "resid_pre")]
    first = own_residual_norms(llama, sites)
    assert first == own_residual_norms(llama, sites)
    assert list(first) == sites
    assert all(norm > 0 for norm in first.values())


def test_rows_without_a_response_are_refused(llama, rows):
    with pytest.raises(VectorError, match="answered nothing"):
        residual_norms(llama, rows, [Site(0, "resid_post")])
