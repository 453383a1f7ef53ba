"""A folder of sparsify is its equation, and says what it was trained on as far as its place tells."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from hooks import Site
from hooks.errors import InputError, VectorError
from saes import TopKSAE, load_dictionary, load_transcoder

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def tensors(seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"encoder.weight": (20, 6), "encoder.bias": (20,), "W_dec": (20, 6), "b_dec": (6,)} | more
    return {name: 0.6 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def written(folder, weights=None, **changes):
    """As sparsify 1.3 writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 20, "k": 4,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 6,
    } | changes  # fmt: skip
    kept = {name: value for name, value in settings.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(kept))
    save_file(weights or tensors(), folder / WEIGHTS)
    return folder


def expected(x, w, k=4, *, transcodes=False):
    """Latents and reconstruction, one number at a time."""
    latents, back = [], []
    for row in x.reshape(-1, 6):
        entry = row if transcodes else row - w["b_dec"]
        pre = [max(0.0, float(entry @ w["encoder.weight"][j] + w["encoder.bias"][j])) for j in range(20)]
        kept = sorted(range(20), key=lambda j: -pre[j])[:k]
        z = torch.tensor([pre[j] if j in kept else 0.0 for j in range(20)])
        out = sum(z[j] * w["W_dec"][j] for j in range(20)) + w["b_dec"]
        latents.append(z)
        back.append(out + w["W_skip"] @ row if "W_skip" in w else out)
    return torch.stack(latents).reshape(*x.shape[:-1], 20), torch.stack(back).reshape(x.shape)


@pytest.mark.parametrize("normalize_decoder", [True, False])
def test_it_is_its_equation(tmp_path, x, normalize_decoder):
    ours = load_dictionary(written(tmp_path / "layers.3", normalize_decoder=normalize_decoder))
    assert isinstance(ours, TopKSAE)
    z, back = expected(x, tensors())
    torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), back, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("skips", [True, False])
def test_a_transcoder_subtracts_nothing_and_may_skip(tmp_path, x, skips):
    weights = tensors(**({"W_skip": (6, 6)} if skips else {}))
    folder = written(tmp_path / "layers.3.mlp", weights, transcode=True, skip_connection=skips)
    ours = load_transcoder(folder)
    z, out = expected(x, weights, transcodes=True)
    torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), out, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="Read it with load_transcoder"):
        load_dictionary(folder)


def test_the_number_of_latents_may_be_a_multiple_of_the_width(tmp_path):
    weights = tensors(**{"encoder.weight": (24, 6), "encoder.bias": (24,), "W_dec": (24, 6)})
    for latents in (0, None):
        folder = written(tmp_path / str(latents), weights, num_latents=latents, expansion_factor=4)
        assert load_dictionary(folder).d_sae == 24


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("layers.12", Site(12, "resid_post")),
        ("model.layers.0", Site(0, "resid_post")),
        ("h.5", Site(5, "resid_post")),
        ("layers.12.mlp", None),
        ("embed_tokens", None),
    ],
)
def test_a_block_is_a_site_and_a_module_inside_it_is_none(tmp_path, name, site):
    origin = load_dictionary(written(tmp_path / "run" / name)).origin
    assert (origin.site, origin.hook_name, origin.model) == (site, name, None)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m"}))
    assert load_dictionary(tmp_path / "run" / name).origin.model == "EleutherAI/pythia-70m"


def test_half_precision_comes_back_in_float32(tmp_path):
    half = {name: value.to(torch.bfloat16) for name, value in tensors().items()}
    ours = load_dictionary(written(tmp_path / "layers.3", half))
    assert ours.W_enc.dtype == torch.float32
    assert torch.equal(ours.W_enc, half["encoder.weight"].T.float())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"activation": "groupmax"}, "the activation 'groupmax'; of sparsify, dictionaries with TopK"),
        ({"signed": True}, "has signed latents"),
        ({"skip_connection": True}, "skips its latents and is no transcoder"),
        ({"k": 21}, r"k=21; with d_sae=20, k is in 1\.\.20"),
        ({"k": None}, "has no k; k must be a whole number"),
        ({"d_in": 7}, r"d_in=7 and 20 latents, and encoder.weight has shape \(20, 6\)"),
        ({"num_latents": 21}, r"d_in=6 and 21 latents, and encoder.weight has shape \(20, 6\)"),
        ({"transcode": 1}, "transcode=1; transcode must be true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, what):
    with pytest.raises(VectorError, match=what):
        load_dictionary(written(tmp_path / "layers.3", **changes))


@pytest.mark.parametrize("name", tensors())
def test_missing_and_damaged_weights_are_named(tmp_path, name):
    folder = written(tmp_path / "layers.3")
    held = load_file(folder / WEIGHTS)
    bad = held[name].clone()
    bad.view(-1)[0] = math.nan
    save_file(held | {name: bad}, folder / WEIGHTS)
    ours = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}.get(name, name)
    with pytest.raises(VectorError, match=f"1 of the .* numbers of {ours} are not finite"):
        load_dictionary(folder)
    save_file({other: value for other, value in held.items() if other != name}, folder / WEIGHTS)
    with pytest.raises(VectorError, match=f"lacks {ours}|encoder.weight has shape None"):
        load_dictionary(folder)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(VectorError, match="damaged, cut off"):
        load_dictionary(folder)
