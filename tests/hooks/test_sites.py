"""Names of sites: one place has one name, every spelling of it is read, and a wrong one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks.errors import SiteNotFoundError
from hooks.sites import KINDS, Site
from hooks.taps import deepest

SITES = st.builds(Site, st.integers(-80, 80), st.sampled_from(KINDS))


@given(SITES)
def test_a_site_reads_back_as_it_prints(site):
    assert Site.parse(str(site)) == site


@given(SITES)
def test_every_spelling_of_a_site_is_the_same_site(site):
    for name in (f"{site.kind}.{site.layer}", f"{site.kind}({site.layer})", f"  {site}\n"):
        assert Site.parse(name) == site


@pytest.mark.parametrize(
    "name", ["model.layers.7", "transformer.h.7", "gpt_neox.layers.7", "layers.7", "h.7"]
)
def test_a_hugging_face_block_is_the_site_of_its_output(name):
    assert Site.parse(name) == Site(7, "resid_post")


@given(st.integers(1, 40), st.data())
def test_a_negative_layer_counts_from_the_end_as_in_a_list(n_layers, data):
    layer = data.draw(st.integers(-n_layers, n_layers - 1))
    assert Site(layer, "mlp_out").on(n_layers).layer == list(range(n_layers))[layer]


@pytest.mark.parametrize("name", ["", "resid_post", "blocks.x.hook_resid_post", "resid_post[3]", "3"])
def test_what_is_no_site_is_refused_with_the_spellings_that_are(name):
    with pytest.raises(
        SiteNotFoundError, match=r"Cannot read .* as a site\. Write blocks\.3\.hook_resid_post"
    ):
        Site.parse(name)


@pytest.mark.parametrize("name", ["blocks.3.hook_z", "hook_resid.3", "head(2)"])
def test_an_unknown_kind_is_refused_with_the_kinds_there_are(name):
    with pytest.raises(
        SiteNotFoundError, match=r"No site kind .* The kinds are resid_pre, attn_out, resid_mid"
    ):
        Site.parse(name)


@pytest.mark.parametrize("layer", [3, -4, 99])
def test_a_layer_that_the_model_does_not_have_is_refused_with_those_it_has(llama, layer):
    with pytest.raises(SiteNotFoundError) as error:
        llama.anatomy.resolve(Site(layer, "resid_post"))
    text = str(error.value)
    assert f"No site blocks.{layer}.hook_resid_post" in text
    assert "layers 0..2 (or -3..-1)" in text
    assert "LlamaForCausalLM" in text


@pytest.mark.parametrize("family", ["neox", "phi"])
def test_parallel_blocks_have_no_resid_mid(tiny, family):
    anatomy = tiny(family).anatomy
    assert anatomy.parallel
    assert "resid_mid" not in anatomy.kinds
    with pytest.raises(SiteNotFoundError, match="run attention and MLP in parallel, so nothing lies between"):
        anatomy.resolve(Site(0, "resid_mid"))


def test_sequential_blocks_have_every_kind(sequential):
    assert not sequential.anatomy.parallel
    assert sequential.anatomy.kinds == KINDS


def test_the_deepest_site_is_the_one_computed_last():
    order = [Site(layer, kind) for layer in range(2) for kind in KINDS]
    assert all(deepest([a, b]) == max(a, b, key=order.index) for a in order for b in order)
