"""The layout of SAELens 6: a folder with ``cfg.json`` and ``sae_weights.safetensors``.

Read are the architectures standard, topk, jumprelu and gated, and batchtopk as the jumprelu that it is once
trained; folders of before version 6, whose ``cfg.json`` is flat; checkpoints of a training that is not over,
with the scale or the whitening of their activations beside them; and transcoders. Written is what SAELens
itself would write: what was folded is in the weights, and ``normalize_activations`` no longer asks for it.

Not read: the architectures abstopk, temporal and matching_pursuit, scaling factors of a finetuning, and
transcoders that normalise their input.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from hooks.errors import InputError, SiteNotFoundError, VectorError
from hooks.files import whole, writing
from hooks.sites import Site
from saes.autoencoder import Autoencoder, Normalization
from saes.dictionary import Origin
from saes.formats.folding import fold_decoder_norms, fold_scale, fold_whitening
from saes.formats.weights import Weights, filled, fitted, read_settings, read_tensors, setting, shapes_of
from saes.gated import GatedSAE
from saes.jumprelu import JumpReLUSAE
from saes.standard import StandardSAE
from saes.topk import TopKSAE
from saes.transcoder import Transcoder

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

VERSION = "6.54.12"
"""Whose layout is written; a folder that names no version is taken for one of before 6."""

ARCHITECTURES: dict[str, type[Autoencoder]] = {
    "standard": StandardSAE,
    "topk": TopKSAE,
    "jumprelu": JumpReLUSAE,
    "gated": GatedSAE,
}
BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

LARGEST = sys.float_info.max

RUNTIME: tuple[str, ...] = get_args(Normalization)
NORMALIZATIONS = (*RUNTIME, "expected_average_only_in", "covariance_whitening")
"""The last two are of all activations alike, and are folded."""


@dataclass(frozen=True)
class Unfolded:
    """What a dictionary's activations were normalised by, if its weights do not hold that yet."""

    scale: float | None = None
    asked: float | None = None
    """The scale that the caller gave."""

    whitening: Mapping[str, Tensor] | None = None


def read_saelens(folder: Path, *, norm_scaling_factor: float | None = None) -> Autoencoder | Transcoder:
    """The dictionary in a folder.

    Args:
        norm_scaling_factor: What activations are multiplied by before this dictionary encodes them, where
            ``cfg.json`` says ``expected_average_only_in`` and the folder does not hold the factor.

    Raises:
        InputError: if a file is missing, or a factor is given and another one, or none, is needed.
        VectorError: if a file is damaged or contradicts another; for an architecture that is not read.
    """
    settings, tensors = read_settings(folder / CONFIG), read_tensors(folder / WEIGHTS)
    whitening = folder / WHITENING
    unfolded = Unfolded(
        scale=_stored_scale(folder / SCALER),
        asked=norm_scaling_factor,
        whitening=read_tensors(whitening) if whitening.exists() else None,
    )
    return _built(settings, tensors, folder, unfolded)


def from_saelens(sae: nn.Module, *, norm_scaling_factor: float | None = None) -> Autoencoder | Transcoder:
    """The dictionary that SAELens holds in memory, in training or after it, with weights of its own.

    Args:
        norm_scaling_factor: As for :func:`read_saelens`.

    Raises:
        InputError, VectorError: as :func:`read_saelens`.
    """
    settings: dict[str, Any] = sae.cfg.to_dict()  # type: ignore[union-attr, operator]
    tensors = {name: weight.detach().cpu().clone() for name, weight in sae.state_dict().items()}
    return _built(settings, tensors, "The dictionary of SAELens", Unfolded(asked=norm_scaling_factor))


def save_dictionary(
    dictionary: Autoencoder | Transcoder, folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a folder that SAELens 6 and :func:`saes.load_dictionary` read.

    Args:
        dtype: Of the weights on disk, which are read as float32; torch.float16 halves the file.

    Raises:
        InputError: if the folder holds a dictionary already, if this one is a transcoder or of an
            architecture of your own, or if its metadata is no JSON.
        VectorError: if a weight is not finite, in ``dtype`` neither.
        RunError: if it cannot be written.
    """
    folder = Path(folder)
    names = {kind: name for name, kind in ARCHITECTURES.items()}
    if isinstance(dictionary, Transcoder) or type(dictionary) not in names:
        raise InputError(
            f"A {type(dictionary).__name__} cannot be written; {', '.join(k.__name__ for k in names)} can."
        )
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} already holds a dictionary. Pass another folder, or delete it yourself.")
    state = dictionary.state_dict()
    narrow = {name: weight.cpu().to(dtype).contiguous() for name, weight in state.items()}
    fitted(narrow, shapes_of(dictionary), "The dictionary")
    try:
        text = json.dumps(_settings(dictionary, names[type(dictionary)]), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The metadata of the dictionary cannot be written as JSON: {error}.") from None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # the settings last: a folder without them holds no dictionary yet
    for name, content in ((WEIGHTS, to_bytes(narrow)), (CONFIG, f"{text}\n".encode())):
        with whole(folder / name) as part:
            part.write_bytes(content)
    return folder


def _settings(dictionary: Autoencoder, architecture: str) -> dict[str, Any]:
    origin = dictionary.origin
    hook_name = origin.hook_name if origin.site is None else str(origin.site)
    known = {"model_name": origin.model, "hook_name": hook_name, "model_fingerprint": origin.fingerprint}
    metadata = {**origin.metadata, **{name: value for name, value in known.items() if value is not None}}
    return {
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.apply_b_dec_to_input,
        "normalize_activations": dictionary.normalize_activations,
        "reshape_activations": "hook_z" if (hook_name or "").endswith("hook_z") else "none",
        "metadata": metadata | {"sae_lens_version": VERSION},
        "architecture": architecture,
    } | ({"k": dictionary.k} if isinstance(dictionary, TopKSAE) else {})


def _built(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path | str, unfolded: Unfolded
) -> Autoencoder | Transcoder:
    if "metadata" not in settings:
        settings = _of_version_6(settings, where)
    named = setting(settings, "architecture", str, where)
    if named in TRANSCODERS:
        return _transcoder(named, settings, tensors, where)
    architecture = "jumprelu" if named in BATCHTOPK else named
    if architecture not in ARCHITECTURES:
        raise VectorError(
            f"{where} is of the architecture {named!r:.60}, which is not read. "
            f"{', '.join([*ARCHITECTURES, *BATCHTOPK])} are, and transcoders by load_transcoder."
        )
    d_in, d_sae = _sizes(settings, tensors, where)
    options: dict[str, Any] = {
        "seed": None,
        "apply_b_dec_to_input": setting(settings, "apply_b_dec_to_input", bool, where, True),
        "origin": _origin(settings, where),
    }
    if architecture == "topk":
        options["k"] = k_of(settings, d_sae, where)
    dictionary = ARCHITECTURES[architecture](d_in, d_sae, **options)
    shapes = shapes_of(dictionary)
    weights = fitted(_renamed(tensors, named, d_sae, where), shapes, where)
    folded = _folded(dictionary, weights, settings, where, unfolded)
    return filled(
        dictionary, folded if folded is weights else fitted(folded, shapes, f"{where}, once folded")
    )


def _folded(
    dictionary: Autoencoder,
    weights: Weights,
    settings: Mapping[str, Any],
    where: Path | str,
    unfolded: Unfolded,
) -> Weights:
    """Weights that take activations as they are; what cannot be folded, the dictionary does itself."""
    how = _normalization(settings, where)
    by_norm = setting(settings, "rescale_acts_by_decoder_norm", bool, where, False)
    by_norm = by_norm and setting(settings, "architecture", str, where) in ("topk", *BATCHTOPK)
    if unfolded.asked is not None and how != "expected_average_only_in":
        raise InputError(
            f"{where} says normalize_activations={how!r}, so that norm_scaling_factor={unfolded.asked} would "
            "scale twice, or what is not to be scaled. Leave it out."
        )
    note: dict[str, Any] = {}
    if how == "expected_average_only_in":
        factor = _factor(unfolded, dictionary.d_in, where)
        weights, note = fold_scale(weights, factor), {"folded_norm_scaling_factor": factor}
        if by_norm and "threshold" in weights:  # it is compared with latents that grow with the rows of W_dec
            weights["threshold"] = weights["threshold"] / factor
    if by_norm:
        weights = fold_decoder_norms(weights)
    if how == "covariance_whitening":
        parts = _whitening(unfolded, dictionary.d_in, where)
        subtracted = dictionary.apply_b_dec_to_input
        weights = fold_whitening(weights, **parts, apply_b_dec_to_input=subtracted)
        note = {"folded_whitening": True}
    if how in RUNTIME:
        dictionary.normalize_activations = how  # type: ignore[assignment]  # it is one of the literals
    dictionary.origin = replace(dictionary.origin, metadata={**dictionary.origin.metadata, **note})
    return weights


def _factor(unfolded: Unfolded, d_in: int, where: Path | str) -> float:
    """The scale that the caller gave, or the folder; both must agree."""
    stored, asked = unfolded.scale, unfolded.asked
    if stored is not None and asked is not None and stored != asked:
        raise InputError(
            f"{where} says that its activations are scaled by {stored}, and norm_scaling_factor is {asked}. "
            "Leave it out."
        )
    factor = stored if asked is None else asked
    if factor is None:
        raise InputError(
            f"{where} takes activations that are scaled to a mean norm of sqrt(d_in) = {d_in**0.5:.4g}, and "
            f"does not say by what: there is no {SCALER}. Pass norm_scaling_factor={d_in**0.5:.4g} / (mean "
            "norm of the activations that it was trained on)."
        )
    if not 0 < factor <= LARGEST:
        raise InputError(f"norm_scaling_factor={factor}: it is a finite number above zero.")
    return factor


def _stored_scale(file: Path) -> float | None:
    if not file.exists():
        return None
    scale = read_settings(file).get("scaling_factor")
    if scale is None:
        return None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= LARGEST:
        raise VectorError(f"{file} has scaling_factor={scale!r:.60}; it must be a finite number above zero.")
    return float(scale)


def _whitening(unfolded: Unfolded, d_in: int, where: Path | str) -> Weights:
    if unfolded.whitening is None:
        raise InputError(
            f"{where} takes whitened activations, and does not say how they were whitened: there is no "
            f"{WHITENING}. Take it from the checkpoint, or let SAELens end the training, which folds it."
        )
    square = (d_in, d_in)
    shapes = {"mean": (d_in,), "matrix": square, "inverse_matrix": square}
    parts = fitted(unfolded.whitening, shapes, f"{where}, {WHITENING}")
    return {"mean": parts["mean"], "matrix": parts["matrix"], "inverse": parts["inverse_matrix"]}


def _normalization(settings: Mapping[str, Any], where: Path | str) -> str:
    how = settings.get("normalize_activations", "none")
    old = {None: "none", False: "none", True: "expected_average_only_in"}
    how = old[how] if how is None or isinstance(how, bool) else how
    if how not in NORMALIZATIONS:
        raise VectorError(
            f"{where} has normalize_activations={how!r:.60}; known are {', '.join(NORMALIZATIONS)}."
        )
    return str(how)


def _sizes(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path | str) -> tuple[int, int]:
    """d_in and d_sae as the settings have them, if the weights have them too."""
    sizes = setting(settings, "d_in", int, where), setting(settings, "d_sae", int, where)
    if "W_enc" in tensors and tuple(tensors["W_enc"].shape) != sizes:
        raise VectorError(
            f"{where}: cfg.json says d_in={sizes[0]} and d_sae={sizes[1]}, and W_enc has shape "
            f"{tuple(tensors['W_enc'].shape)}. They belong to different dictionaries; get both again."
        )
    if "W_enc" not in tensors or min(sizes) < 1:
        raise VectorError(f"{where} lacks W_enc, or it is empty; get the weights again.")
    return sizes


def k_of(settings: Mapping[str, Any], d_sae: int, where: Path | str) -> int:
    """How many latents a TopK dictionary keeps."""
    k = setting(settings, "k", int, where)
    if not 0 < k <= d_sae:
        raise VectorError(f"{where} has k={k}; with d_sae={d_sae}, k is in 1..{d_sae}.")
    return k


def _renamed(tensors: Mapping[str, Tensor], architecture: str, d_sae: int, where: Path | str) -> Weights:
    """The tensors by the names of today; the one threshold of a BatchTopK training for every latent."""
    renamed = dict(tensors)
    finetuned = renamed.pop("scaling_factor", None)
    if finetuned is not None and not (finetuned == 1).all():
        raise VectorError(
            f"{where} was finetuned with a scaling factor for each latent, which is not read. Multiply the "
            "rows of W_dec by scaling_factor, and leave it out."
        )
    if "log_threshold" in renamed:
        renamed["threshold"] = renamed.pop("log_threshold").exp()
    if architecture in BATCHTOPK and "topk_threshold" in renamed:
        threshold = renamed.pop("topk_threshold")
        if threshold.numel() == 1:
            renamed["threshold"] = threshold.reshape(1).expand(d_sae)
    return renamed


def _origin(settings: Mapping[str, Any], where: Path | str) -> Origin:
    metadata = setting(settings, "metadata", dict, where)
    model, hook_name, fingerprint = (
        (setting(metadata, name, str, where) or None) if metadata.get(name) is not None else None
        for name in ("model_name", "hook_name", "model_fingerprint")
    )
    single_head = metadata.get("hook_head_index") is not None
    site = None if hook_name is None or single_head else site_of(hook_name)
    return Origin(model, site, hook_name, fingerprint, metadata)


def site_of(hook_name: str) -> Site | None:
    """The site by this name; None if it is none of ours."""
    try:
        return Site.parse(hook_name)
    except (SiteNotFoundError, ValueError):
        return None


def _of_version_6(settings: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """A flat file of before version 6, in the order of today."""
    old = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
    flat = {old.get(name, name): value for name, value in settings.items()}
    flat.setdefault("architecture", "standard")
    activation = flat.get("activation_fn_str", flat.get("activation_fn", "relu"))
    if activation == "topk" and flat["architecture"] == "standard":
        flat["architecture"] = "topk"
        flat["k"] = setting(flat, "activation_fn_kwargs", dict, where, {}).get("k")
    elif activation not in ("relu", "topk"):
        raise VectorError(f"{where} has the activation {activation!r:.60}; relu and topk are read.")
    structure = {"d_in", "d_sae", "dtype", "device", "architecture", "k"}
    return flat | {"metadata": {name: value for name, value in flat.items() if name not in structure}}


def _transcoder(
    architecture: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path | str
) -> Transcoder:
    d_in, d_sae = _sizes(settings, tensors, where)
    d_out = setting(settings, "d_out", int, where)
    if "W_dec" in tensors and tuple(tensors["W_dec"].shape) != (d_sae, d_out):
        raise VectorError(
            f"{where}: cfg.json says d_sae={d_sae} and d_out={d_out}, and W_dec has shape "
            f"{tuple(tensors['W_dec'].shape)}. They belong to different dictionaries; get both again."
        )
    if (how := _normalization(settings, where)) != "none":
        raise VectorError(f"{where} is a transcoder with normalize_activations={how!r}; only none is read.")
    if setting(settings, "apply_b_dec_to_input", bool, where, False):
        raise VectorError(f"{where} is a transcoder that subtracts b_dec, of its output, from its input.")
    origin = _origin(settings, where)
    hook_out = origin.metadata.get("hook_name_out")
    transcoder = Transcoder(
        d_in,
        d_sae,
        d_out,
        jump="jumprelu" in architecture,
        skip="skip" in architecture,
        origin=origin,
        site_out=site_of(hook_out) if isinstance(hook_out, str) else None,
    )
    return filled(
        transcoder, fitted(_renamed(tensors, architecture, d_sae, where), shapes_of(transcoder), where)
    )
