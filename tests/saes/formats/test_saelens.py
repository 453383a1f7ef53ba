"""What we read, SAELens reads alike, and the other way round; and what is folded is folded once."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hooks import Site
from hooks.errors import InputError, RunError, VectorError
from saes import (
    GatedSAE,
    JumpReLUSAE,
    Origin,
    StandardSAE,
    TopKSAE,
    Transcoder,
    load_dictionary,
    load_release,
    load_transcoder,
    save_dictionary,
)
from saes.formats.folding import fold_scale
from saes.formats.saelens import CONFIG, SCALER, WEIGHTS, from_saelens
from saes.formats.weights import filled

KINDS = {"standard": StandardSAE, "topk": TopKSAE, "jumprelu": JumpReLUSAE, "gated": GatedSAE}
RUNTIME = ["none", "constant_norm_rescale", "layer_norm"]
TRANSCODERS = ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
FACTOR = 0.37


def alike(ours, sae, x):
    """The same latents and the same reconstruction, to 1e-5; some latents are active and some are not."""
    z = sae.encode(x)
    assert 0.05 < float((z > 0).float().mean()) < 0.95
    torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(z, x), sae.decode(z), atol=1e-5, rtol=1e-5)


def saved(sae, folder):
    sae.save_model(folder)
    return folder


# --- round trips


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("how", RUNTIME)
@pytest.mark.parametrize("architecture", KINDS)
def test_what_saelens_wrote_means_the_same_here(theirs, tmp_path, x, architecture, how, subtracts):
    sae = theirs(architecture, apply_b_dec_to_input=subtracts, normalize_activations=how)
    ours = load_dictionary(saved(sae, tmp_path / "sae"))
    assert type(ours) is KINDS[architecture]
    alike(ours, sae, x)
    alike(from_saelens(sae), sae, x)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("how", RUNTIME)
@pytest.mark.parametrize("architecture", KINDS)
def test_what_we_wrote_means_the_same_to_saelens(theirs, tmp_path, x, architecture, how, subtracts):
    from sae_lens import SAE

    ours = from_saelens(theirs(architecture, apply_b_dec_to_input=subtracts, normalize_activations=how))
    sae = SAE.load_from_disk(save_dictionary(ours, tmp_path / "sae"))
    assert sae.cfg.architecture() == architecture
    alike(ours, sae, x)
    again = load_dictionary(tmp_path / "sae")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    assert (again.origin.site, again.origin.model) == (Site(1, "resid_post"), "gpt2-small")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", KINDS)
def test_weights_in_another_dtype_come_back_in_float32(theirs, tmp_path, x, architecture, dtype):
    from sae_lens import SAE

    folder = saved(theirs(architecture, dtype=dtype), tmp_path / "sae")
    ours = load_dictionary(folder)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    alike(ours, SAE.load_from_disk(folder, dtype="float32"), x)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_dictionary_of_our_own_is_one_of_version_6_to_saelens(saelens, tmp_path, x, architecture):  # noqa: ARG001
    from sae_lens import SAE

    kind = KINDS[architecture]
    sizes = (6, 20, 4) if kind is TopKSAE else (6, 20)
    origin = Origin(model="gpt2", site=Site(4, "mlp_out"))
    ours = kind(*sizes, apply_b_dec_to_input=False, normalize_activations="layer_norm", origin=origin)
    ours.requires_grad_(False)
    sae = SAE.load_from_disk(save_dictionary(ours, tmp_path / "sae"))
    told = (sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name)
    assert told == ("gpt2", "blocks.4.hook_mlp_out"), "of before version 6, it would have lost them"
    alike(ours, sae, x)


def test_a_folder_names_all_that_it_knows(theirs, tmp_path):
    sae = theirs(
        "topk", metadata={"context_size": 128, "neuronpedia_id": "gpt2-small/1-res", "prepend_bos": True}
    )
    ours = load_dictionary(saved(sae, tmp_path / "sae"))
    assert (ours.d_in, ours.d_sae, ours.k) == (6, 20, 4)
    assert (ours.origin.model, ours.origin.hook_name) == ("gpt2-small", "blocks.1.hook_resid_post")
    assert ours.origin.site == Site(1, "resid_post")
    assert ours.origin.metadata["neuronpedia_id"] == "gpt2-small/1-res"
    settings = json.loads((save_dictionary(ours, tmp_path / "again") / CONFIG).read_text())
    kept = {"context_size": 128, "neuronpedia_id": "gpt2-small/1-res", "prepend_bos": True}
    assert kept.items() <= settings["metadata"].items()


@pytest.mark.parametrize(
    ("hook_name", "site"),
    [
        ("blocks.3.hook_resid_pre", Site(3, "resid_pre")),
        ("blocks.30.hook_resid_post", Site(30, "resid_post")),
        ("blocks.0.hook_mlp_out", Site(0, "mlp_out")),
        ("blocks.7.hook_attn_out", Site(7, "attn_out")),
        ("model.layers.12", Site(12, "resid_post")),
        ("blocks.3.attn.hook_z", None),
        ("blocks.3.ln2.hook_normalized", None),
        ("hook_embed", None),
        ("blocks.٣.hook_resid_post" + "9" * 5000, None),
    ],
)
def test_a_hook_name_is_a_site_or_kept_as_it_is(theirs, tmp_path, hook_name, site):
    ours = load_dictionary(saved(theirs("standard", metadata={"hook_name": hook_name}), tmp_path / "sae"))
    assert (ours.origin.site, ours.origin.hook_name) == (site, hook_name)
    written = json.loads((save_dictionary(ours, tmp_path / "again") / CONFIG).read_text())
    assert written["metadata"]["hook_name"] == (hook_name if site is None else str(site))


def test_a_dictionary_of_one_head_is_of_no_site(theirs, tmp_path):
    metadata = {"hook_name": "blocks.1.hook_attn_out", "hook_head_index": 3}
    assert load_dictionary(saved(theirs("standard", metadata=metadata), tmp_path / "sae")).origin.site is None


def test_heads_side_by_side_are_one_activation(theirs, tmp_path, x):
    from sae_lens import SAE

    sae = theirs("topk", reshape_activations="hook_z", metadata={"hook_name": "blocks.1.attn.hook_z"})
    ours = load_dictionary(saved(sae, tmp_path / "sae"))
    heads = x.unflatten(-1, (2, 3))
    torch.testing.assert_close(ours.encode(x), sae.encode(heads), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), sae(heads).flatten(-2), atol=1e-5, rtol=1e-5)
    again = SAE.load_from_disk(save_dictionary(ours, tmp_path / "again"))
    torch.testing.assert_close(again(heads), sae(heads), atol=1e-5, rtol=1e-5)


# --- what is folded


def scaled(sae, x):
    """A dictionary of activations times FACTOR, one step at a time."""
    z = sae.encode(FACTOR * x)
    return z, sae.decode(z) / FACTOR


def same(ours, expected, x):
    z, back = expected
    return torch.allclose(ours.encode(x), z, atol=1e-5, rtol=1e-5) and torch.allclose(
        ours(x), back, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", KINDS)
def test_a_scale_is_folded_exactly_once(theirs, tmp_path, x, architecture, subtracts):
    sae = theirs(
        architecture, apply_b_dec_to_input=subtracts, normalize_activations="expected_average_only_in"
    )
    expected = scaled(sae, x)
    folder = saved(sae, tmp_path / "sae")
    ours = load_dictionary(folder, norm_scaling_factor=FACTOR)
    assert same(ours, expected, x)
    sae.fold_activation_norm_scaling_factor(FACTOR)
    alike(ours, sae, x)

    never = from_saelens(theirs(architecture, apply_b_dec_to_input=subtracts))
    assert not same(never, expected, x), "the test would not see a scale that was not folded"
    twice = filled(load_dictionary(folder, norm_scaling_factor=FACTOR), fold_scale(ours.state_dict(), FACTOR))
    assert not same(twice, expected, x), "the test would not see a scale that was folded twice"


def test_what_was_folded_and_written_is_not_folded_again(theirs, tmp_path, x):
    from sae_lens import SAE

    sae = theirs("topk", normalize_activations="expected_average_only_in")
    expected = scaled(sae, x)
    ours = load_dictionary(saved(sae, tmp_path / "sae"), norm_scaling_factor=FACTOR)
    folder = save_dictionary(ours, tmp_path / "folded")
    settings = json.loads((folder / CONFIG).read_text())
    assert settings["normalize_activations"] == "none"
    assert settings["metadata"]["folded_norm_scaling_factor"] == FACTOR
    assert same(load_dictionary(folder), expected, x)
    assert same(from_saelens(SAE.load_from_disk(folder)), expected, x)
    with pytest.raises(InputError, match=r"'none', so that norm_scaling_factor=0\.37 would scale twice"):
        load_dictionary(folder, norm_scaling_factor=FACTOR)


def test_the_scale_of_a_checkpoint_is_found_beside_it(theirs, tmp_path, x):
    from sae_lens.training.activation_scaler import ActivationScaler

    sae = theirs("gated", normalize_activations="expected_average_only_in")
    folder = saved(sae, tmp_path / "sae")
    ActivationScaler(scaling_factor=FACTOR).save(str(folder / SCALER))
    assert same(load_dictionary(folder), scaled(sae, x), x)
    assert same(load_dictionary(folder, norm_scaling_factor=FACTOR), scaled(sae, x), x)
    with pytest.raises(InputError, match=r"scaled by 0\.37, and norm_scaling_factor is 0\.5\. Leave it out"):
        load_dictionary(folder, norm_scaling_factor=0.5)


def test_a_scale_beside_weights_that_hold_it_is_left_alone(theirs, tmp_path, x):
    """As a checkpoint after the trainer has folded it."""
    sae = theirs("standard")
    folder = saved(sae, tmp_path / "sae")
    (folder / SCALER).write_text(json.dumps({"scaling_factor": FACTOR, "has_whitening": False}))
    alike(load_dictionary(folder), sae, x)
    (folder / SCALER).write_text(json.dumps({"scaling_factor": None, "has_whitening": False}))
    alike(load_dictionary(folder), sae, x)


def test_a_scale_that_nobody_knows_is_refused(theirs, tmp_path):
    folder = saved(theirs("standard", normalize_activations="expected_average_only_in"), tmp_path / "sae")
    with pytest.raises(
        InputError, match=r"mean norm of sqrt\(d_in\) = 2\.449, .* Pass norm_scaling_factor=2\.449 / "
    ):
        load_dictionary(folder)
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="it is a finite number above zero"):
            load_dictionary(folder, norm_scaling_factor=factor)


@pytest.mark.parametrize("factor", [None, FACTOR])
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_checkpoint_means_what_the_trainer_would_have_made_of_it(
    in_training, tmp_path, x, architecture, by_norm, factor
):
    """Decoder norms, the scale and BatchTopK's threshold are folded in the order of SAELens."""
    from sae_lens import SAE

    how = "none" if factor is None else "expected_average_only_in"
    sae = in_training(
        architecture, k=K_OF[architecture], rescale_acts_by_decoder_norm=by_norm, normalize_activations=how
    )
    folder = saved(sae, tmp_path / "checkpoint")
    ours = load_dictionary(folder, norm_scaling_factor=factor)
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    sae.save_inference_model(tmp_path / "done")
    alike(ours, SAE.load_from_disk(tmp_path / "done"), x)
    assert type(ours) is (TopKSAE if architecture == "topk" else JumpReLUSAE)


K_OF = {"topk": 4, "batchtopk": 3.5}


def test_latents_along_unit_directions_are_read(theirs, tmp_path, x):
    sae = theirs("topk", rescale_acts_by_decoder_norm=True)
    alike(load_dictionary(saved(sae, tmp_path / "sae")), sae, x)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", KINDS)
def test_whitening_is_folded_exactly_once(theirs, tmp_path, x, architecture, subtracts):
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler()
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(8))
    scaler.estimate_whitening(6, iter([x.reshape(-1, 6) @ mix + 3] * 4), n_batches_for_norm_estimate=4)
    x = x @ mix + 3
    sae = theirs(architecture, apply_b_dec_to_input=subtracts, normalize_activations="covariance_whitening")
    z = sae.encode(scaler.scale(x))
    expected = z, scaler.unscale(sae.decode(z))
    folder = saved(sae, tmp_path / "sae")
    with pytest.raises(InputError, match=r"there is no activation_whitening\.safetensors"):
        load_dictionary(folder)
    scaler.save(str(folder / SCALER))
    ours = load_dictionary(folder)
    torch.testing.assert_close(ours.encode(x), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(x), expected[1], atol=1e-4, rtol=1e-4)
    never = from_saelens(theirs(architecture, apply_b_dec_to_input=subtracts))
    assert not torch.allclose(never.encode(x), z, atol=0.1)
    again = load_dictionary(save_dictionary(ours, tmp_path / "folded"))
    assert torch.equal(again.encode(x), ours.encode(x))


# --- older files, transcoders


def test_a_flat_file_of_before_version_6_is_read(theirs, tmp_path, x):
    folder = saved(theirs("topk"), tmp_path / "sae")
    flat = {
        "d_in": 6, "d_sae": 20, "dtype": "float32", "device": "cpu", "model_name": "gpt2-small",
        "hook_point": "blocks.1.hook_resid_post", "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 4}, "normalize_activations": False,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(flat))
    from sae_lens import SAE

    ours = load_dictionary(folder)
    alike(ours, SAE.load_from_disk(folder), x)
    assert (ours.origin.model, ours.origin.site) == ("gpt2-small", Site(1, "resid_post"))
    (folder / CONFIG).write_text(json.dumps(flat | {"activation_fn_str": "tanh-relu"}))
    with pytest.raises(VectorError, match="the activation 'tanh-relu'; relu and topk are read"):
        load_dictionary(folder)


def test_the_logarithm_of_a_threshold_is_read(theirs, tmp_path, x):
    sae = theirs("jumprelu")
    with torch.no_grad():
        sae.threshold.abs_()
    folder = saved(sae, tmp_path / "sae")
    tensors = load_file(folder / WEIGHTS)
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / WEIGHTS)
    alike(load_dictionary(folder), sae, x)


@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_a_transcoder_is_read_and_not_mistaken_for_a_dictionary(theirs, tmp_path, x, architecture):
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    sae = theirs(architecture, d_out=5, apply_b_dec_to_input=False, metadata=metadata)
    folder = saved(shaken_skip(sae), tmp_path / "sae")
    ours = load_transcoder(folder)
    assert isinstance(ours, Transcoder)
    assert (ours.d_in, ours.d_sae, ours.d_out) == (6, 20, 5)
    assert (ours.origin.hook_name, ours.site_out) == ("blocks.1.ln2.hook_normalized", Site(1, "mlp_out"))
    torch.testing.assert_close(ours.encode(x), sae.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(sae.encode(x)), sae.decode(sae.encode(x)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), sae(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"holds a transcoder.* Read it with load_transcoder"):
        load_dictionary(folder)
    with pytest.raises(InputError, match="A Transcoder cannot be written; StandardSAE, TopKSAE"):
        save_dictionary(ours, tmp_path / "out")


def shaken_skip(sae):
    with torch.no_grad():
        if hasattr(sae, "W_skip"):
            sae.W_skip.copy_(torch.randn(sae.W_skip.shape, generator=torch.Generator().manual_seed(3)))
    return sae


def test_what_a_transcoder_may_not_do_is_said(theirs, tmp_path, rewritten):
    folder = saved(theirs("transcoder", d_out=5, apply_b_dec_to_input=False), tmp_path / "sae")
    rewritten(folder / CONFIG, normalize_activations="layer_norm")
    with pytest.raises(VectorError, match="a transcoder with normalize_activations='layer_norm'; only none"):
        load_transcoder(folder)
    rewritten(folder / CONFIG, normalize_activations="none", apply_b_dec_to_input=True)
    with pytest.raises(VectorError, match="a transcoder that subtracts b_dec, of its output"):
        load_transcoder(folder)
    rewritten(folder / CONFIG, apply_b_dec_to_input=False, d_out=7)
    with pytest.raises(VectorError, match=r"d_sae=20 and d_out=7, and W_dec has shape \(20, 5\)"):
        load_transcoder(folder)
    dictionary = saved(theirs("standard"), tmp_path / "standard")
    with pytest.raises(InputError, match=r"holds a StandardSAE, no transcoder. Read it with load_dictionary"):
        load_transcoder(dictionary)


# --- releases, through SAELens


@pytest.fixture
def hub(saelens, tmp_path, monkeypatch):  # noqa: ARG001
    """A folder in place of the hub: ``someone/saes`` holds ``layer_1``; all else is not found there."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders

    def downloaded(repo_id, filename, **_):
        file = tmp_path / repo_id / filename
        if not file.exists():
            raise LocalEntryNotFoundError(f"no {filename} in {repo_id}")
        return str(file)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", downloaded)
    return tmp_path / "someone" / "saes"


def test_a_release_comes_through_saelens(theirs, hub, x):
    sae = theirs("jumprelu")
    saved(sae, hub / "layer_1")
    ours = load_release("someone/saes", "layer_1", site=Site(2, "resid_pre"))
    alike(ours, sae, x)
    assert ours.origin.site == Site(1, "resid_post")


def test_what_saelens_folded_into_a_release_is_not_folded_again(theirs, hub, x, monkeypatch):
    from sae_lens.saes import sae as module

    sae = theirs("standard", normalize_activations="expected_average_only_in")
    saved(sae, hub / "layer_1")
    monkeypatch.setattr(module, "get_norm_scaling_factor", lambda *_: FACTOR)
    assert same(load_release("someone/saes", "layer_1"), scaled(sae, x), x)


@pytest.mark.filterwarnings("ignore:norm_scaling_factor not found")
def test_a_release_whose_scale_saelens_does_not_know_is_refused(theirs, hub):
    saved(theirs("standard", normalize_activations="expected_average_only_in"), hub / "layer_1")
    with pytest.raises(InputError, match="does not say by what"):
        load_release("someone/saes", "layer_1")


@pytest.mark.usefixtures("hub")
def test_a_release_that_is_not_there_is_refused_with_the_reason():
    with pytest.raises(InputError, match=r"cannot load 'layer_9' of 'someone/saes': no layer_9/cfg.json"):
        load_release("someone/saes", "layer_9")
    with pytest.raises(
        InputError, match="cannot load 'x' of 'no-such-release': Release no-such-release not found"
    ):
        load_release("no-such-release", "x")


def test_without_saelens_a_release_says_what_would_work(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    with pytest.raises(InputError, match=r"not installed.*pip install 'unlatch\[saelens\]'.*load_dictionary"):
        load_release("someone/saes", "layer_1")


# --- refusals


@pytest.fixture
def folder(theirs, tmp_path):
    return saved(theirs("topk"), tmp_path / "sae")


@pytest.mark.parametrize("name", ["d_in", "d_sae", "k", "architecture"])
def test_a_missing_setting_is_named(folder, rewritten, name):
    rewritten(folder / CONFIG, **{name: None})
    with pytest.raises(VectorError, match=f"has no {name}; {name} must be"):
        load_dictionary(folder)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_a_missing_tensor_is_named(folder, name):
    tensors = load_file(folder / WEIGHTS)
    del tensors[name]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(VectorError, match=f"lacks {name}"):
        load_dictionary(folder)


def test_a_tensor_that_the_architecture_does_not_know_is_refused(folder):
    save_file(load_file(folder / WEIGHTS) | {"W_gate": torch.ones(3)}, folder / WEIGHTS)
    with pytest.raises(VectorError, match="holds W_gate, which this architecture does not know"):
        load_dictionary(folder)


@pytest.mark.parametrize("architecture", ["abstopk", "temporal", "matching_pursuit", "x" * 900])
def test_an_unknown_architecture_is_refused_with_the_known(folder, rewritten, architecture):
    rewritten(folder / CONFIG, architecture=architecture)
    with pytest.raises(VectorError, match=r"not read. standard, topk, jumprelu, gated, batchtopk") as refusal:
        load_dictionary(folder)
    assert len(str(refusal.value)) < 400 + len(str(folder))


@pytest.mark.parametrize(("name", "value"), [("d_in", 7), ("d_sae", 10**12), ("d_in", -6), ("d_sae", 19)])
def test_settings_that_lie_about_shapes_are_refused_with_both(folder, rewritten, name, value):
    rewritten(folder / CONFIG, **{name: value})
    with pytest.raises(VectorError, match=rf"cfg.json says .*{name}={value}.* W_enc has shape \(6, 20\)"):
        load_dictionary(folder)


def test_weights_of_another_shape_than_the_encoder_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"W_dec": tensors["W_dec"].T.contiguous()}, folder / WEIGHTS)
    with pytest.raises(VectorError, match=r"W_dec has shape \(6, 20\), and the settings make it \(20, 6\)"):
        load_dictionary(folder)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("k", 21, "k=21; with d_sae=20, k is in 1..20"),
        ("k", 0, "k=0"),
        ("k", 2.5, "k=2.5; k must be a whole number"),
        ("d_in", True, "d_in=True; d_in must be a whole number"),
        ("apply_b_dec_to_input", 1, "apply_b_dec_to_input=1; apply_b_dec_to_input must be true or false"),
        ("architecture", 3, "architecture=3; architecture must be text"),
        ("metadata", [], r"metadata=\[\]; metadata must be an object"),
        ("metadata", {"hook_name": 3}, "hook_name=3; hook_name must be text"),
        ("normalize_activations", "max", "normalize_activations='max'; known are none, constant"),
        ("normalize_activations", {}, r"normalize_activations=\{\}; known are"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(folder, rewritten, name, value, what):
    rewritten(folder / CONFIG, **{name: value})
    with pytest.raises(VectorError, match=what):
        load_dictionary(folder)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_weights_that_are_not_finite_are_refused(folder, name, bad):
    tensors = load_file(folder / WEIGHTS)
    tensors[name].view(-1)[2] = bad
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(VectorError, match=f"1 of the .* numbers of {name} are not finite"):
        load_dictionary(folder)


def test_weights_that_are_no_floating_point_are_refused(folder):
    save_file(load_file(folder / WEIGHTS) | {"b_dec": torch.zeros(6, dtype=torch.long)}, folder / WEIGHTS)
    with pytest.raises(VectorError, match=r"b_dec is torch.int64; weights are floating point"):
        load_dictionary(folder)


def test_a_finetuned_scale_is_refused_and_one_of_ones_is_none(theirs, folder, x):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"scaling_factor": torch.ones(20)}, folder / WEIGHTS)
    alike(load_dictionary(folder), theirs("topk"), x)
    save_file(tensors | {"scaling_factor": torch.full((20,), 2.0)}, folder / WEIGHTS)
    with pytest.raises(VectorError, match="finetuned with a scaling factor"):
        load_dictionary(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_refused(folder, share):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(share * len(data))])
    with pytest.raises(
        VectorError, match=r"is damaged, cut off, or no safetensors file: .* Get the file again"
    ):
        load_dictionary(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"d_in": }', "\udcff"])
def test_settings_that_are_no_object_are_refused(folder, text):
    (folder / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(VectorError, match=r"is damaged: it is no JSON|holds no settings"):
        load_dictionary(folder)


@pytest.mark.parametrize("scale", [0, -1.0, "0.3", True, math.inf])
def test_a_stored_scale_that_means_nothing_is_refused(folder, scale):
    (folder / SCALER).write_text(json.dumps({"scaling_factor": scale}))
    with pytest.raises(VectorError, match="it must be a finite number above zero"):
        load_dictionary(folder)


def test_a_missing_file_is_named(folder):
    (folder / CONFIG).unlink()
    with pytest.raises(InputError, match=r"Cannot read .*cfg\.json: No such file"):
        load_dictionary(folder)


# --- writing


def test_nothing_is_overwritten_and_no_part_is_left(tmp_path):
    folder = save_dictionary(TopKSAE(6, 20, 4), tmp_path / "a" / "b")
    assert sorted(file.name for file in folder.iterdir()) == [CONFIG, WEIGHTS]
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match=r"already holds a dictionary. Pass another folder"):
        save_dictionary(TopKSAE(6, 20, 4, seed=1), folder)
    assert (folder / WEIGHTS).read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        save_dictionary(TopKSAE(6, 20, 4), tmp_path / "file" / "sae")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    sae = TopKSAE(6, 20, 4, origin=Origin(metadata={"when": object()}))
    with pytest.raises(InputError, match="metadata of the dictionary cannot be written as JSON"):
        save_dictionary(sae, tmp_path / "sae")
    sae.origin = replace(sae.origin, metadata={"fvu": math.nan})
    with pytest.raises(InputError, match="cannot be written as JSON"):
        save_dictionary(sae, tmp_path / "sae")
    sae.origin = Origin()
    with torch.no_grad():
        sae.b_dec[3] = math.nan
    with pytest.raises(VectorError, match="1 of the 6 numbers of b_dec are not finite"):
        save_dictionary(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()
