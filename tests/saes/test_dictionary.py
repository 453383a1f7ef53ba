"""A dictionary of another width, model or site is refused; the same by another name is not."""

from dataclasses import replace

import pytest
import torch

from hooks import Site, adopt
from hooks.errors import InputError, SiteNotFoundError, VectorError
from saes import TopKSAE, load_dictionary, load_transcoder, save_dictionary
from saes.dictionary import Origin, check_model, check_site

D = 32


@pytest.fixture
def folder(tmp_path):
    def make(*, d_in=D, **origin):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return save_dictionary(TopKSAE(d_in, 40, 4, origin=Origin(**origin)), path)

    return make


@pytest.fixture(scope="module")
def named(model_of, tokenizer_with):
    """A tiny Llama by any name."""
    model = model_of("llama")
    return lambda name: adopt(model, tokenizer_with(), name=name)


# --- width


def test_another_width_is_refused_with_both(llama, folder):
    with pytest.raises(
        VectorError, match="reads activations 31 wide; the residual stream of tiny-llama is 32"
    ):
        load_dictionary(folder(d_in=31), llama, any_model=True)


# --- model


@pytest.mark.parametrize(
    ("trained", "loaded"),
    [
        ("gpt2-small", "gpt2"),
        ("gpt2-small", "openai-community/gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("google/gemma-2-2b", "models/gemma-2-2b/"),
        ("Llama-3.1-8B", "meta-llama/llama-3.1-8b"),
        ("google/gemma-2-2b", "cache/models--google--gemma-2-2b/snapshots/abc"),
    ],
)
def test_a_model_is_known_by_the_last_part_of_its_name(named, folder, trained, loaded):
    assert load_dictionary(folder(model=trained), named(loaded)).origin.model == trained


@pytest.mark.parametrize(
    ("trained", "loaded"),
    [
        ("gemma-2-2b", "google/gemma-2-2b-it"),
        ("google/gemma-2-2b-it", "google/gemma-2-2b"),
        ("pythia-70m", "EleutherAI/pythia-70m-deduped"),
        ("google/gemma-2-2b", "google/gemma-2-9b"),
    ],
)
def test_another_model_is_refused_unless_any_will_do(named, folder, trained, loaded):
    path = folder(model=trained)
    with pytest.raises(VectorError, match=f"trained on {trained}; this model is {loaded}.*any_model=True"):
        load_dictionary(path, named(loaded))
    assert load_dictionary(path, named(loaded), any_model=True).origin.model == trained


def test_weights_that_are_known_decide_whatever_the_names(named, model_of, tokenizer_with, folder):
    lm = named("first")
    path = folder(model="tiny", fingerprint=lm.fingerprint)
    assert load_dictionary(path, lm).origin.fingerprint == lm.fingerprint
    tuned = adopt(model_of("llama", seed=1), tokenizer_with(), name="tiny")
    with pytest.raises(VectorError, match=rf"\(weights {lm.fingerprint}, not {tuned.fingerprint}\)"):
        load_dictionary(path, tuned)


def test_a_dictionary_that_names_no_model_is_taken_for_one_of_this(llama, folder):
    assert load_dictionary(folder(), llama).origin.model == "tiny-llama"
    assert load_dictionary(folder()).origin.model is None


# --- site


def test_another_site_is_refused_with_both(folder):
    path = folder(site=Site(1, "resid_post"))
    with pytest.raises(
        VectorError, match=r"reads blocks\.1\.hook_resid_post, and blocks\.0\.hook_mlp_out was asked for"
    ):
        load_dictionary(path, site=Site(0, "mlp_out"))
    assert load_dictionary(path, site=Site(1, "resid_post")).origin.site == Site(1, "resid_post")


def test_a_site_may_be_counted_from_the_end_of_the_model(llama, folder):
    path = folder(site=Site(1, "resid_post"))
    assert load_dictionary(path, llama, site=Site(-2, "resid_post")).origin.site == Site(1, "resid_post")
    with pytest.raises(VectorError, match=r"blocks\.2\.hook_resid_post was asked for"):
        load_dictionary(path, llama, site=Site(-1, "resid_post"))


@pytest.mark.parametrize("layer", [1, 2, 7])
def test_what_a_block_leaves_is_what_the_next_one_takes(layer):
    after, before = Site(layer - 1, "resid_post"), Site(layer, "resid_pre")
    check_site(Origin(site=after), before)
    check_site(Origin(site=before), after)
    with pytest.raises(VectorError):
        check_site(Origin(site=after), Site(layer, "resid_post"))


def test_the_first_block_takes_what_no_block_left():
    check_site(Origin(site=Site(0, "resid_pre")), Site(0, "resid_pre"))
    with pytest.raises(VectorError):
        check_site(Origin(site=Site(0, "resid_pre")), Site(0, "resid_post"))


def test_a_site_that_the_model_has_not_is_refused(llama, folder):
    with pytest.raises(SiteNotFoundError):
        load_dictionary(folder(site=Site(9, "resid_post")), llama)


def test_a_place_that_is_no_site_is_taken_for_none_but_may_be_declared_one(folder):
    path = folder(hook_name="blocks.1.attn.hook_z")
    with pytest.raises(
        VectorError, match=r"reads blocks\.1\.attn\.hook_z, which is no site .*set dictionary.origin"
    ):
        load_dictionary(path, site=Site(1, "attn_out"))
    sae = load_dictionary(path)
    sae.origin = replace(sae.origin, site=Site(1, "attn_out"))
    check_site(sae.origin, Site(1, "attn_out"))


def test_a_dictionary_that_names_no_place_is_taken_for_one_of_this(folder):
    assert load_dictionary(folder(), site=Site(2, "mlp_out")).origin.site == Site(2, "mlp_out")
    assert load_dictionary(folder()).origin.site is None


def test_checking_changes_nothing(llama):
    sae = TopKSAE(D, 40, 4)
    check_model(sae, llama)
    assert sae.origin == Origin()


# --- where a dictionary is found


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors", "."])
def test_any_file_of_a_folder_stands_for_it(folder, name):
    path = folder(site=Site(1, "resid_post"))
    assert load_dictionary(path / name).origin.site == Site(1, "resid_post")
    assert load_dictionary(str(path / name)).d_sae == 40


def test_a_folder_of_dictionaries_says_which_there_are(tmp_path):
    for layer in range(7):
        save_dictionary(TopKSAE(D, 40, 4), tmp_path / f"layer_{layer}")
    with pytest.raises(
        InputError, match=r"has several below it\. Pass one of layer_0, .*, layer_4 … \(2 more\)\."
    ):
        load_dictionary(tmp_path)


def test_what_holds_no_dictionary_says_what_would(tmp_path):
    layouts = r"Read are cfg\.json with sae_weights\.safetensors \(SAELens\) or sae\.safetensors \(sparsify\)"
    with pytest.raises(InputError, match=rf"it has nothing\. {layouts}"):
        load_dictionary(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=rf"it has ae\.pt\. {layouts}"):
        load_dictionary(tmp_path)
    with pytest.raises(InputError, match=rf"pickled files may run code\. {layouts}"):
        load_dictionary(tmp_path / "ae.pt")
    with pytest.raises(InputError, match=r"No folder or file .* use load_release"):
        load_dictionary(tmp_path / "gpt2-small-res-jb")
    with pytest.raises(InputError, match="No folder or file"):
        load_transcoder(tmp_path / "none")


def test_a_scale_is_for_folders_of_saelens_alone(tmp_path):
    (tmp_path / "sae.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="norm_scaling_factor is for folders of SAELens"):
        load_dictionary(tmp_path, norm_scaling_factor=2.0)


def test_a_dictionary_that_was_read_asks_for_no_gradient(folder):
    sae = load_dictionary(folder())
    assert not any(weight.requires_grad for weight in sae.parameters())
    assert not sae.training
    assert torch.is_tensor(sae.encode(torch.ones(D)))
