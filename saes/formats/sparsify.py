"""EleutherAI's sparsify: a folder named for its module, with ``cfg.json`` and ``sae.safetensors``.

    z     = TopK( ReLU( (x - b_dec) encoder.weightᵀ + encoder.bias ) )
    x_hat = z W_dec + b_dec

A folder ``layers.12`` is of the output of that block. The output of a module inside one (``layers.12.mlp``)
is what the block adds to the residual stream only where no norm follows it, so it is taken for no site.
Transcoders (``transcode``), which may skip the latents and subtract nothing, are read too.

Not read: the activation groupmax, signed latents, and skip connections of a dictionary that is no transcoder.

Source: sparsify 1.3, github.com/EleutherAI/sparsify.
Differs from the source: nothing. SAELens 6.54's own reader of this layout transposes ``W_dec``, and does not
subtract ``b_dec`` where the decoder was normalised.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hooks.errors import VectorError
from saes.dictionary import Origin
from saes.formats.saelens import CONFIG, k_of, site_of
from saes.formats.weights import filled, fitted, read_settings, read_tensors, setting, shapes_of
from saes.topk import TopKSAE
from saes.transcoder import Transcoder

WEIGHTS = "sae.safetensors"
RUN = "config.json"
"""In the folder above: what all dictionaries of a run were trained on."""

NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def read_sparsify(folder: Path) -> TopKSAE | Transcoder:
    """The dictionary in a folder.

    Raises:
        InputError: if a file is missing.
        VectorError: if a file is damaged or contradicts another, or asks for what is not read.
    """
    settings, tensors = read_settings(folder / CONFIG), read_tensors(folder / WEIGHTS)
    activation = setting(settings, "activation", str, folder, "topk")
    if activation != "topk" or setting(settings, "signed", bool, folder, False):
        kind = "signed latents" if activation == "topk" else f"the activation {activation!r:.60}"
        raise VectorError(f"{folder} has {kind}; of sparsify, dictionaries with TopK of a ReLU are read.")
    d_in, d_sae = _sizes(settings, tensors, folder)
    k, origin = k_of(settings, d_sae, folder), _origin(folder)
    transcodes = setting(settings, "transcode", bool, folder, False)
    skips = setting(settings, "skip_connection", bool, folder, False)
    if skips and not transcodes:
        raise VectorError(f"{folder} skips its latents and is no transcoder, which is not read.")
    module: TopKSAE | Transcoder
    if transcodes:
        module = Transcoder(d_in, d_sae, d_in, k=k, skip=skips, origin=origin)
    else:
        module = TopKSAE(d_in, d_sae, k, seed=None, origin=origin)
    named = {NAMES.get(name, name): tensor for name, tensor in tensors.items()}
    named["W_enc"] = named["W_enc"].T
    return filled(module, fitted(named, shapes_of(module), folder))


def _sizes(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> tuple[int, int]:
    """d_in and d_sae as the settings have them, if the weights have them too."""
    d_in = setting(settings, "d_in", int, folder)
    d_sae = setting(settings, "num_latents", int, folder, 0)
    d_sae = d_sae or d_in * setting(settings, "expansion_factor", int, folder, 32)
    encoder = tensors.get("encoder.weight")
    found = None if encoder is None else tuple(encoder.shape)
    if found != (d_sae, d_in) or min(d_sae, d_in) < 1:
        raise VectorError(
            f"{folder}: cfg.json says d_in={d_in} and {d_sae} latents, and encoder.weight has shape {found}. "
            "They belong to different dictionaries, or the weights are damaged; get both again."
        )
    return d_in, d_sae


def _origin(folder: Path) -> Origin:
    run = folder.parent / RUN
    model = read_settings(run).get("model") if run.is_file() else None
    name = folder.name
    return Origin(
        model=model if isinstance(model, str) else None,
        site=site_of(name),
        hook_name=name,
        metadata={"model_name": model, "hook_name": name} if isinstance(model, str) else {"hook_name": name},
    )
