"""Gemma Scope: one ``params.npz`` a dictionary, JumpReLU, b_dec not subtracted from the input.

The file holds weights alone. What they were trained on is in its path, as Google laid them out:
``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz``, or the same in a hub's cache. A file
that was moved out of such folders is of unknown origin.

Read are the residual stream (``res``), the output of the MLP (``mlp``), of attention before its output
projection (``att``, which is no site), and ``transcoders``. Not read: dictionaries of the embeddings, which
take activations that are scaled otherwise.

Source: Lieberum et al. 2024, "Gemma Scope", arXiv:2408.05147.
Differs from the source: nothing. Arrays are read with ``allow_pickle=False``.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hooks.errors import InputError, VectorError
from saes.dictionary import Origin
from saes.formats.saelens import site_of
from saes.formats.weights import filled, fitted, shapes_of
from saes.jumprelu import JumpReLUSAE
from saes.transcoder import Transcoder

PARAMS = "params.npz"

_COLLECTION = re.compile(r"gemma-scope-(?P<size>\w+)-(?P<tuned>pt|it)-(?P<part>res|mlp|att|transcoders)")
_HOOKS = {
    "res": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "att": "blocks.{}.attn.hook_z",
    "transcoders": "blocks.{}.ln2.hook_normalized",
}


def read_gemma_scope(file: Path) -> JumpReLUSAE | Transcoder:
    """The dictionary in a ``params.npz``.

    Raises:
        InputError: if there is no such file, or it is of the embeddings.
        VectorError: if it is damaged, or lacks an array.
    """
    tensors = _arrays(file)
    d_in, d_sae, d_out = _sizes(tensors, file)
    origin, is_transcoder = _origin(file)
    if is_transcoder:
        site_out = None if origin.hook_name is None else site_of(origin.metadata["hook_name_out"])
        transcoder = Transcoder(d_in, d_sae, d_out, jump=True, origin=origin, site_out=site_out)
        return filled(transcoder, fitted(tensors, shapes_of(transcoder), file))
    sae = JumpReLUSAE(d_in, d_sae, seed=None, apply_b_dec_to_input=False, origin=origin)
    return filled(sae, fitted(tensors, shapes_of(sae), file))


def _arrays(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"No file {file}. Pass a {PARAMS}, or the folder that holds it.")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # whatever the parsers make of bytes that are no archive of arrays
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VectorError(
            f"{file} is damaged, cut off, or no archive of arrays: {reason}. Get the file again."
        ) from None
    return {re.sub("^w_", "W_", name): tensor for name, tensor in found.items()}


def _sizes(tensors: Mapping[str, Tensor], file: Path) -> tuple[int, int, int]:
    shapes = [tuple(tensors[name].shape) for name in ("W_enc", "W_dec") if name in tensors]
    if len(shapes) < 2 or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
        raise VectorError(
            f"{file} holds no W_enc and W_dec that are matrices; it holds {', '.join(tensors) or 'nothing'}. "
            f"A {PARAMS} of Gemma Scope holds W_enc, b_enc, threshold, W_dec and b_dec."
        )
    return shapes[0][0], shapes[0][1], shapes[1][1]


def _origin(file: Path) -> tuple[Origin, bool]:
    """What the path says; and whether it is a transcoder's."""
    path = file.absolute().as_posix()
    collection, layer = _COLLECTION.search(path), re.search(r"/layer_(\d+)/", path)
    if re.search(r"/embedding/", path) and collection:
        raise InputError(
            f"{file} is of the embeddings, whose scale is another one; it is not read. Take one of a layer."
        )
    if collection is None:
        return Origin(), False
    tuned = "-it" if collection["tuned"] == "it" else ""
    model = f"google/gemma-2-{collection['size']}{tuned}"
    origin = Origin(model=model, metadata={"model_name": model, "release": collection[0]})
    is_transcoder = collection["part"] == "transcoders"
    if layer is None:
        return origin, is_transcoder
    hook_name = _HOOKS[collection["part"]].format(int(layer[1]))
    metadata = {**origin.metadata, "hook_name": hook_name}
    if is_transcoder:
        metadata["hook_name_out"] = f"blocks.{int(layer[1])}.hook_mlp_out"
    return replace(origin, site=site_of(hook_name), hook_name=hook_name, metadata=metadata), is_transcoder
