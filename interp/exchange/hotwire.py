"""Vectors of hotwire-vllm: a .pt file in its folder, and the request that asks for it, as JSON.

    NAME.pt      {"directions": float32 [n, d_model]}, row l for block l; zero where there is none
    NAME.json    {"id": "NAME", "layer": l, "scale": 1.0, "decode_only": true}, or a list of them

``scale * directions[l]`` is added to the output of block l. ``decode_only`` leaves whole prompts alone;
with it the last prompt token is not steered, and so the first generated token is not; without it every
position is. The .pt file goes into ``$HOTWIRE_VECTORS``; the text of the other one goes into
``vllm_xargs["hotwire"]``.

Source: moudrkat/hotwire-vllm, README and hotwire/_state.py. Differs from the source: a file is read with
``weights_only``, and only as the zip that torch has written since 1.6.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError, VectorError
from hooks.files import whole
from hooks.positions import everything, response
from interp.exchange.addition import KEY, MAX_NUMBERS, Addition, Content, Format, existing, packed, unpacked
from interp.exchange.wire import float32, layer_number, mapping, number, read_json, write_json

TENSOR, REQUEST = "directions", ".json"


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:  # noqa: ARG001
    """Write both files."""
    layers = addition.layers
    rows = torch.zeros(layers[-1] + 1, len(addition.vectors[layers[0]]))
    for layer in layers:
        rows[layer] = addition.vectors[layer]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        torch.save({TENSOR: rows, KEY: packed(addition)}, part)
    entries = [{"id": path.stem, "layer": layer, "scale": 1.0, "decode_only": True} for layer in layers]
    write_json(path.with_suffix(REQUEST), entries[0] if len(entries) == 1 else entries)
    return (f'the request is {path.with_suffix(REQUEST)}: its text goes into vllm_xargs["hotwire"]',)


def read(path: Path) -> Addition:
    """What the request adds, or without one, each row of the matrix at its own layer.

    Raises:
        InputError: if there is no such file.
        VectorError: if it is not of that form, holds anything but plain data, or its layer is not said.
    """
    file = path.with_suffix(".pt")
    rows, facts = _loaded(file)
    request = file.with_suffix(REQUEST)
    if request.is_file():
        entries = read_json(request)
        return _asked(rows, entries if isinstance(entries, list) else [entries], request, facts)
    if rows.dim() == 1:
        raise VectorError(
            f"{file} is one vector, for any layer. Say which in {request}, as the request does: "
            '{"id": ..., "layer": 15, "scale": 1.0}.'
        )
    vectors = {layer: row.clone() for layer, row in enumerate(rows) if row.any()}
    return Addition(vectors, facts=facts)


def _asked(
    rows: Float[Tensor, "..."], entries: Sequence[object], request: Path, facts: Mapping[str, Any] | None
) -> Addition:
    """The rows that the request names, at its scales."""
    vectors: dict[int, Tensor] = {}
    decode_only = set()
    for entry in entries:
        fields = mapping(entry, f"{request}: an entry")
        layer = layer_number(fields.get("layer"), f"{request}: layer")
        if layer in vectors:
            raise VectorError(
                f"{request} names layer {layer} twice: hotwire takes the last, and adds none up."
            )
        if rows.dim() == 2 and layer >= len(rows):
            raise VectorError(f"{request} names layer {layer}, and the matrix has rows 0..{len(rows) - 1}.")
        row = rows[layer] if rows.dim() == 2 else rows
        scale = number(fields.get("scale"), f"{request}: scale")
        vectors[layer] = float32(row * scale, f"{request}: layer {layer} at its scale")
        decode_only.add(fields.get("decode_only", False) is True)
    if len(decode_only) > 1:
        raise VectorError(
            f"{request} steers some layers in decoding only and others everywhere. Split it in two."
        )
    positions = response if decode_only == {True} else everything
    return Addition(vectors, positions=positions, facts=facts)


def _loaded(file: Path) -> tuple[Float[Tensor, "..."], Mapping[str, Any] | None]:
    """The matrix, or the one vector, of a .pt file; and our facts."""
    if not zipfile.is_zipfile(existing(file)):
        raise VectorError(
            f"{file} is no file of torch.save, or of one before 1.6. Save it again to import it."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > 4 * MAX_NUMBERS:
            raise VectorError(f"{file} holds {size} bytes, more than any steering vector.")
        data = torch.load(file, map_location="cpu", weights_only=True)
    except (VectorError, InputError):
        raise
    except Exception as error:  # torch's reader raises whatever a damaged file leads it to
        raise VectorError(
            f"{file} cannot be read as plain data, and nothing else in it is run: "
            f"{str(error).partition('.')[0]}."
        ) from None
    facts = unpacked(data.get(KEY)) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data = next((item for item in data.values() if isinstance(item, Tensor)), None)
    if (
        not isinstance(data, Tensor)
        or data.layout != torch.strided
        or data.dim() not in (1, 2)
        or not data.numel()
    ):
        raise VectorError(f"{file} holds no tensor of [n_layers, d_model] or [d_model].")
    return float32(data, f"{file}"), facts


def recognise(content: Content) -> bool:
    """A zip, or a request with its keys."""
    return content.container == "zip" or (
        content.container == "json" and {"id", "layer", "scale"} <= content.names
    )


FORMAT = Format(
    name="hotwire",
    suffix=".pt",
    program="hotwire-vllm",
    holds="any blocks, dose baked in; the request at scale 1 adds what was exported, in decoding only",
    write=write,
    read=read,
    recognise=recognise,
    positions=response,
    where="in decoding only, so not at the last prompt token, which produces the first generated one",
    companion=REQUEST,
)
