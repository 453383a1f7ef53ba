"""Steering vectors that travel: to the formats of other programs, and back.

Each format is a file of this folder. What they have in common is in :mod:`interp.exchange.addition`: a
vector is written as what it adds at strength 1, the dose baked in, and read as that. What a format cannot
hold is refused by name where it would change the effect, and named as left behind where it is provenance
only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hooks.edits import Add
from hooks.errors import InputError, VectorError
from hooks.language_model import LanguageModel
from hooks.positions import generated
from hooks.sites import Site, SiteKind
from interp.exchange import (
    aisteer360,
    easysteer,
    gguf,
    hotwire,
    neuronpedia,
    plain,
    repeng,
    steering_vectors,
    vllm_lens,
)
from interp.exchange.addition import Addition, Content, Format, addition_of, existing, left_behind
from interp.exchange.wire import safetensors_names
from interp.residual_norm import own_residual_norms
from interp.steering_vector import FORMAT, Recommendation, SteeringVector, from_facts, library_versions

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        gguf,
        repeng,
        steering_vectors,
        aisteer360,
        vllm_lens,
        hotwire,
        easysteer,
        neuronpedia,
        plain,
    )
}
"""By name. A file is recognised by the first of them that knows it."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what whoever reads it should know."""

    files: tuple[Path, ...]
    left_behind: tuple[str, ...]
    """What is known of the vector and the file does not hold; none of it changes the effect."""

    differs: tuple[str, ...]
    """Where the other program does otherwise than ``vector.at()``, and what it needs to be told."""


def export_vector(
    vector: SteeringVector,
    path: str | Path,
    *,
    to: str,
    layer: int | Sequence[int] | None = None,
    dose: float | None = None,
) -> Exported:
    """Write the edit ``vector.at(layer, dose=dose)`` for another program; strength 1 there is this dose.

    Args:
        to: The name of a format; see ``FORMATS``.
        layer: None takes the recommended layer, and so does ``dose`` the recommended dose. Several layers are
            the edits ``vector.over(layer, dose=dose)``, which share the dose.

    Raises:
        InputError: for an unknown format, or a path of another suffix than its.
        VectorError: as :meth:`SteeringVector.at`; for what the format cannot hold, by name. Nothing is
            written.

    Example:
        >>> print(export_vector(vector, "brief.gguf", to="gguf").differs)
        ('llama.cpp adds it at every position, the prompt included; vector.at() at `generated` by default',)
    """
    target, path = _named(to), Path(path)
    if path.suffix != target.suffix:
        raise InputError(f"A {target.name} file ends in {target.suffix}, and this is {path.name}. Rename it.")
    addition = addition_of(vector, target, layer, dose)
    assert addition.facts is not None
    doses = {int(at): share for at, share in addition.facts["doses"].items()}
    said = target.write(path, addition, _called(vector, doses))
    differs = []
    if target.positions != generated:
        differs.append(f"{target.program} adds it {target.where}; vector.at() at `{generated}` by default")
    if addition.kind != vector.kind:
        differs.append(
            f"the input of block N is written as the output of block N-1: blocks {addition.layers}"
        )
    files = (path,) if target.companion is None else (path, path.with_suffix(target.companion))
    return Exported(files, tuple(left_behind(vector, doses)), (*differs, *said))


def read_vector(path: str | Path, format: str | None = None) -> Addition:
    """What the program of a file would add at strength 1.

    Args:
        format: The name of a format; None recognises it by what the file holds.

    Raises:
        InputError: if there is no such file or format, or none of them is recognised.
        VectorError: if the file is not of its format, or asks for what is not an added vector.
    """
    path = existing(Path(path))
    return (recognised(path) if format is None else _named(format)).read(path)


def recognised(path: str | Path) -> Format:
    """The format of a file, by what it holds.

    Raises:
        InputError: if it is none of ``FORMATS``.
    """
    content = _content(existing(Path(path)))
    for format in FORMATS.values():
        if format.recognise(content):
            return format
    if content.metadata.get("format") == json.dumps(FORMAT):
        raise InputError(f"{path} is a steering vector of this toolkit already: load it as it is.")
    raise InputError(
        f"{path} is none of the formats {', '.join(FORMATS)}, as far as its {content.container} says. Name "
        "one with format (--format)."
    )


def import_vector(
    path: str | Path, lm: LanguageModel | None = None, *, format: str | None = None, any_model: bool = False
) -> SteeringVector:
    """A file of another program, as a steering vector whose recommended edit is what strength 1 adds there.

    A file that we wrote carries what is known of its vector, and is taken for it while nothing in it has
    changed. Any other needs a model: its residual norms are measured on the model's own answers to
    a few questions (:mod:`interp.residual_norm`), and the vector is made for that model. Layers of zeros are
    left out. With several layers nothing is recommended; the dose that reproduces one of them is
    ``vector.vectors[i].norm() / vector.resid_norm[i]``.

    Args:
        lm: The model it will steer; None needs a file of ours.
        any_model: Take a file of ours that was made for another model.

    Raises:
        InputError: as :func:`read_vector`; without a model for a file that is not ours.
        VectorError: as :func:`read_vector`; if the vector does not fit the model.
    """
    path = Path(path)
    chosen = recognised(path) if format is None else _named(format)
    addition = chosen.read(existing(path))
    how = f"strength 1 of {path.name}, {chosen.name}"
    if lm is None and not addition.sealed:
        raise InputError(
            f"{path} {'was changed after we wrote it' if addition.facts else 'is not a file of ours'}, so "
            "nothing in it says how large the residual stream is, or of which weights. Pass the model "
            "that it steers (--model)."
        )
    return vector_of(addition, lm, how=how, any_model=any_model)


def vector_of(
    addition: Addition, lm: LanguageModel | None = None, *, how: str, any_model: bool = False
) -> SteeringVector:
    """The steering vector of what was read, from a file or objects in memory: see :func:`import_vector`."""
    vectors = {layer: vector for layer, vector in addition.vectors.items() if vector.any()}
    if not vectors:
        raise VectorError("All of its vectors are zero: it adds nothing.")
    if lm is not None:
        _check_fits(vectors, addition.kind, lm)
    if addition.sealed:
        vector = _ours(addition, vectors, how)
        if lm is not None and not any_model:
            vector.require(lm)
        return vector
    if lm is None:
        raise InputError("Nothing says how large the residual stream is: pass the model that it steers.")
    norms = own_residual_norms(lm, [Site(layer, addition.kind) for layer in vectors])
    return _recommended(
        SteeringVector(
            vectors=vectors,
            kind=addition.kind,
            poles=("added", "subtracted"),
            estimator=f"imported: {how}",
            read="unknown",
            resid_norm={site.layer: norm for site, norm in norms.items()},
            n_pairs=0,
            pairs_hash="unknown",
            seed=0,
            model=lm.name,
            fingerprint=lm.fingerprint,
            tokenizer_hash=lm.tokenizer_hash,
            template_hash=lm.template_hash,
            versions=library_versions(),
        ),
        {},
        how,
    )


def foreign_edits(
    path: str | Path, lm: LanguageModel, *, format: str | None = None, strength: float = 1.0
) -> list[Add]:
    """A file as edits: what its program does with it at ``strength``, at the positions where it does.

    Raises:
        InputError, VectorError: as :func:`read_vector`; or if the model has another width, or not all of its
            blocks.
    """
    addition = read_vector(path, format)
    _check_fits(addition.vectors, addition.kind, lm)
    edits = addition.edits(strength=strength)
    for edit in edits:
        edit.check(lm)
    return edits


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"No format {name!r}. The formats are {', '.join(FORMATS)}.")
    return FORMATS[name]


def _called(vector: SteeringVector, doses: Mapping[int, float]) -> str:
    """The vector in a few words, for who finds the file."""
    at = ", ".join(f"{dose:g} at {Site(layer, vector.kind)}" for layer, dose in sorted(doses.items()))
    return f"{vector.poles[0]} minus {vector.poles[1]}, dose {at}"


def _content(path: Path) -> Content:
    """What a file plainly is."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] == b"GGUF":
        return Content(path, "gguf")
    if head[:2] == b"PK":
        return Content(path, "zip")
    if head[8:] == b"{":
        names, metadata = safetensors_names(path)
        return Content(path, "safetensors", frozenset(names), metadata)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return Content(path, "content")
    first = value[0] if isinstance(value, list) and value else value
    return Content(path, "json", frozenset(first) if isinstance(first, dict) else frozenset())


def _check_fits(vectors: Mapping[int, object], kind: SiteKind, lm: LanguageModel) -> None:
    """Raise :class:`VectorError` for blocks that the model does not have, or vectors of another width."""
    for layer, vector in vectors.items():
        if layer >= lm.n_layers:
            raise VectorError(
                f"It steers {Site(layer, kind)}, block {layer}; {lm.name} has blocks 0..{lm.n_layers - 1}."
            )
        if (width := len(vector)) != lm.d_model:  # type: ignore[arg-type]
            raise VectorError(
                f"Its vectors are {width} wide; the residual stream of {lm.name} is {lm.d_model}."
            )


def _ours(addition: Addition, vectors: Mapping[int, Any], how: str) -> SteeringVector:
    """The vector whose facts a file of ours carries."""
    assert addition.facts is not None
    facts = dict(addition.facts)
    doses = {int(layer): dose for layer, dose in facts["doses"].items()}
    shift = 1 if facts["kind"] == "resid_pre" and addition.kind == "resid_post" else 0
    own = {layer + shift: -v if doses.get(layer + shift, 1.0) < 0 else v for layer, v in vectors.items()}
    before = facts["recommended"]
    try:
        vector = from_facts(facts, own)
    except (KeyError, TypeError, ValueError) as error:
        raise VectorError(f"It is sealed but not whole: {error!r}. Export it again.") from None
    if before is not None:
        how = f"{how}; recommended before at dose {before['dose']:g}: {before['how']}"
    return _recommended(vector, doses, how)


def _recommended(vector: SteeringVector, doses: Mapping[int, float], how: str) -> SteeringVector:
    """The vector that recommends the one layer it has, at the dose at which that adds the very numbers."""
    vector = replace(vector, recommended=None)
    if len(vector.layers) != 1:
        return vector
    (layer,) = vector.layers
    added = vector.vectors[layer]
    sign = -1.0 if doses.get(layer, 1.0) < 0 else 1.0
    exact = sign * float(added.double().norm()) / vector.resid_norm[layer]
    told = doses.get(layer, exact)
    (written,) = replace(vector, sign_test=None).at(layer, dose=told).parameters()
    return replace(
        vector,
        recommended=Recommendation(layer, told if bool((written == sign * added).all()) else exact, how),
    )
