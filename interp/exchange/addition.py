"""What another program adds to a residual stream at strength 1: all that the formats have in common.

    h_l += a_l    with    a_l = dose * median residual norm at l * unit vector at l

in float32, by 0-based block l. The dose is baked in, so strength 1 of any program is the dose that was
exported, and half the strength is half the dose. A format that has a strength of its own carries 1 there
(but for Neuronpedia, which may normalise the vector: see :mod:`interp.exchange.neuronpedia`).

Beside the vectors a file of ours carries ``facts``: everything that is known of the steering vector it
came from, restricted to the layers it holds, and sealed by a checksum of both. Other programs pass over
them. They bring the vector back whole, and are not believed where anything has changed since.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.edits import Add
from hooks.errors import InputError, VectorError
from hooks.positions import Positions, everything
from hooks.sites import Site, SiteKind
from interp.steering_vector import SteeringVector

KEY = "unlatch"
"""The key of the facts, in whatever a format has for metadata."""

FACTS = "unlatch.exchange.1"

MAX_LAYER = 10_000
MAX_NUMBERS = 2**28
"""More layers, or numbers in all, are no steering vector."""


@dataclass(frozen=True)
class Addition:
    """What is added at strength 1, where, and what is known of it."""

    vectors: Mapping[int, Float[Tensor, " d_model"]]
    """By 0-based layer; float32 on the CPU."""

    kind: SiteKind = "resid_post"
    positions: Positions = everything
    """Where the program of the file adds it."""

    model: str = ""
    """What the file calls the model, which may be its family or its name."""

    facts: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.vectors:
            raise VectorError("It holds no vector.")
        if beyond := [layer for layer in self.vectors if not 0 <= layer <= MAX_LAYER]:
            raise VectorError(f"It names layer {beyond[0]}; layers are counted from 0 to {MAX_LAYER}.")
        widths = sorted({tuple(vector.shape) for vector in self.vectors.values()})
        if len(widths) != 1 or len(widths[0]) != 1 or not 0 < widths[0][0] <= MAX_NUMBERS:
            raise VectorError(f"Its vectors have the shapes {widths[:4]}; one width is needed.")
        for layer, vector in self.vectors.items():
            if not torch.isfinite(vector).all():
                raise VectorError(f"Its vector at layer {layer} has NaN or infinite entries in float32.")

    @property
    def layers(self) -> list[int]:
        return sorted(self.vectors)

    @property
    def sealed(self) -> bool:
        """Whether there are facts, and they are of these very numbers."""
        return self.facts is not None and self.facts["checksum"] == _checksum(self.vectors, self.facts)

    def edits(self, *, strength: float = 1.0) -> list[Add]:
        """What the program of the file does with it; layers of zeros add nothing and are left out."""
        return [
            Add(Site(layer, self.kind), self.vectors[layer], strength, self.positions)
            for layer in self.layers
            if self.vectors[layer].any()
        ]


@dataclass(frozen=True)
class Content:
    """What a file plainly is, for recognising its format."""

    path: Path
    container: str
    """gguf, zip, safetensors, json, or what none of the formats is in."""

    names: frozenset[str] = frozenset()
    """Names of the tensors, or keys of the JSON object (of the first, where it is a list of them)."""

    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One format: what it can say, and who reads and writes it."""

    name: str
    suffix: str
    program: str
    """Who reads it."""

    holds: str
    """What of a vector it holds, in a line."""

    write: Callable[[Path, Addition, str], Sequence[str]]
    """Write a path, given what the vector is called; returns what the reader must know besides."""

    read: Callable[[Path], Addition]
    recognise: Callable[[Content], bool]
    positions: Positions = everything
    where: str = "at every position, the prompt included"
    """``positions`` in words."""

    kinds: tuple[SiteKind, ...] = ("resid_post",)
    first_layer: int = 0
    many: bool = True
    """Several layers in one file."""

    companion: str | None = None
    """The suffix of a second file that is written beside the first."""


def addition_of(
    vector: SteeringVector, target: Format, layers: int | Sequence[int] | None, dose: float | None
) -> Addition:
    """The edit ``vector.at(layers, dose=dose)`` for ``target``; of several layers, ``vector.over``'s.

    Raises:
        VectorError: as those two; or for what the format cannot hold, by name.
    """
    if layers is None or isinstance(layers, int):
        edits = [vector.at(layers, dose=dose)]
    else:
        if dose is None and vector.recommended is not None:
            dose = vector.recommended.dose
        if dose is None:
            raise VectorError("Several layers need a dose to spread over them: pass dose (--dose).")
        edits = vector.over(layers, dose=dose)
    if len(edits) > 1 and not target.many:
        raise VectorError(
            f"{target.program} takes one layer in a {target.name} file, and {len(edits)} were asked for. "
            "Export one layer, or a file for each."
        )
    kinds = {edit.site: _site_in(target, edit.site) for edit in edits}
    added = {kinds[edit.site].layer: edit.parameters()[0].contiguous() for edit in edits}
    for layer, values in added.items():
        finite = bool(torch.isfinite(values).all())
        if not finite or not values.any():
            raise VectorError(
                f"Layer {layer} would add {'nothing' if finite else 'infinity'} at dose {dose}. Pass a dose "
                "that is not zero and that float32 holds."
            )
    facts = facts_of(vector, edits)
    facts["checksum"] = _checksum(added, facts)
    return Addition(added, next(iter(kinds.values())).kind, target.positions, vector.model, facts)


def _site_in(target: Format, site: Site) -> Site:
    """The same site as ``target`` names it: the input of a block is the output of the one before."""
    if site.kind in target.kinds:
        made = site
    elif site.kind == "resid_pre" and "resid_post" in target.kinds:
        made = Site(site.layer - 1, "resid_post")
    else:
        raise VectorError(
            f"{target.program} adds to a block's output, and this vector is of {site}. Estimate it at "
            f"resid_post, or resid_pre, to export it to {target.name}."
        )
    if made.layer < target.first_layer:
        raise VectorError(
            f"{target.program} cannot steer {site}"
            + (
                ", the input or the output of block 0. Export a later layer."
                if target.first_layer
                else ": it adds to outputs of blocks, and this is the input of the first one."
            )
        )
    return made


def facts_of(vector: SteeringVector, edits: Sequence[Add]) -> dict[str, Any]:
    """All that is known of a vector, at the layers of ``edits`` alone, and the dose of each.

    Measures that are not finite, which JSON does not have, are not among it.
    """
    layers = [edit.site.layer for edit in edits]
    facts = vector.facts()
    for name in ("reliability", "length_control"):
        facts[name] = {at: of for at, of in facts[name].items() if int(at) in layers and _numbers(of)}
    facts["resid_norm"] = {at: norm for at, norm in facts["resid_norm"].items() if int(at) in layers}
    if facts["recommended"] is not None and facts["recommended"]["layer"] not in layers:
        facts["recommended"] = None
    facts["poles"] = list(vector.poles)
    return {"format": FACTS, **facts, "doses": {str(edit.site.layer): edit.scale for edit in edits}}


def _checksum(vectors: Mapping[int, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the facts, and of the numbers by layer."""
    others = {name: value for name, value in facts.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for layer, vector in sorted(vectors.items()):
        digest.update(f"{layer}:".encode())
        digest.update(vector.contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def left_behind(vector: SteeringVector, edits: Mapping[int, float]) -> list[str]:
    """What of a vector no file of another program's holds; it is provenance, and changes no effect.

    Args:
        edits: The doses that were exported, by layer.
    """
    left = []
    if others := [layer for layer in vector.layers if layer not in edits]:
        left.append(f"the vectors of {len(others)} other layers ({others[0]}..{others[-1]})")
    norms = ", ".join(f"{float(vector.vectors[i].double().norm()):.4g}" for i in sorted(edits))
    left.append(f"the norm of the vector as it was estimated ({norms}); the dose is baked in instead")
    if vector.recommended is not None and vector.recommended.layer not in edits:
        left.append(
            f"the recommendation, layer {vector.recommended.layer} at dose {vector.recommended.dose:g}"
        )
    return left


def packed(addition: Addition) -> str:
    """The facts as one line of JSON."""
    return json.dumps(addition.facts, ensure_ascii=True, sort_keys=True, allow_nan=False)


def unpacked(text: object) -> Mapping[str, Any] | None:
    """The facts of :func:`packed`; None for anything else, which is then no file of ours."""
    if not isinstance(text, str):
        return None
    try:
        facts = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return checked(facts)


def checked(facts: object) -> Mapping[str, Any] | None:
    """``facts`` if they are facts of ours, each of the kind it should be; else None."""
    if not isinstance(facts, dict) or facts.get("format") != FACTS:
        return None
    texts = ("estimator", "read", "pairs_hash", "model", "fingerprint", "tokenizer_hash", "checksum")
    poles, template = facts.get("poles"), facts.get("template_hash")
    good = (
        all(isinstance(facts.get(name), str) for name in texts)
        and (template is None or isinstance(template, str))
        and isinstance(poles, list)
        and len(poles) == 2
        and all(isinstance(pole, str) for pole in poles)
        and facts.get("kind") in get_args(SiteKind)
        and all(type(facts.get(name)) is int for name in ("n_pairs", "seed"))
        and all(_by_layer(facts.get(name), _number) for name in ("resid_norm", "doses"))
        and facts["resid_norm"].keys() == facts["doses"].keys()
        and all(norm > 0 for norm in facts["resid_norm"].values())
        and all(_by_layer(facts.get(name), _numbers) for name in ("reliability", "length_control"))
        and _texts(facts.get("versions"))
        and _none_or(facts.get("recommended"), {"layer": _whole, "dose": _number, "how": _text})
        and _none_or(facts.get("sign_test"), _SIGN_TEST)
    )
    return facts if good else None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number.")


def _text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_LAYER


def _number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)  # type: ignore[arg-type]


def _numbers(value: object) -> bool:
    return isinstance(value, dict) and all(_text(key) and _number(number) for key, number in value.items())


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(_text(key) and _text(text) for key, text in value.items())


def _by_layer(value: object, good: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        isinstance(layer, str) and layer.isascii() and layer.isdigit() and len(layer) < 6 and good(item)
        for layer, item in value.items()
    )


def _none_or(value: object, fields: Mapping[str, Callable[[object], bool]]) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(good(value[name]) for name, good in fields.items())
    )


_SIGN_TEST: Mapping[str, Callable[[object], bool]] = {
    "outcome": _text,
    **dict.fromkeys(("dose", "plus", "plain", "minus", "low", "high"), _number),
    "n": lambda value: type(value) is int,
    "first_pole": lambda value: value in ("lowers", "raises", "either"),
}


def existing(path: Path) -> Path:
    """``path``, if it is a file of a size that a vector may have."""
    if not path.is_file():
        raise InputError(f"No file {path}. Pass the path of a steering vector's file.")
    if path.stat().st_size > 4 * MAX_NUMBERS:
        raise InputError(f"{path} has {path.stat().st_size} bytes, more than any steering vector.")
    return path
