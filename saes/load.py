"""From a folder, a file or a release to a dictionary that may be trusted."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.sites import Site
from saes.autoencoder import Autoencoder
from saes.dictionary import check_model, check_site
from saes.formats.gemma_scope import PARAMS, read_gemma_scope
from saes.formats.saelens import CONFIG, from_saelens, read_saelens
from saes.formats.saelens import WEIGHTS as SAELENS
from saes.formats.sparsify import WEIGHTS as SPARSIFY
from saes.formats.sparsify import read_sparsify
from saes.transcoder import Transcoder

BUNDLED = Path(__file__).parent / "bundled" / "smollm2-135m-instruct" / "blocks.15.hook_resid_post"
"""The folder of the dictionary that comes with the toolkit, of its bundled model; ``make sae`` makes it."""


def load_dictionary(
    path: str | Path,
    lm: LanguageModel | None = None,
    *,
    site: Site | None = None,
    any_model: bool = False,
    norm_scaling_factor: float | None = None,
) -> Autoencoder:
    """Read and check a dictionary: a folder of SAELens or sparsify, or a Gemma Scope ``params.npz``.

    Nothing is unpickled and nothing executed. Weights come back in float32, and take activations as they are:
    a scale that the dictionary was trained with is folded into them, once.

    Args:
        path: The folder, or one of its files.
        lm: The model that it will be used on; None checks the file alone. A dictionary that names no model
            is taken for one of this.
        site: Where it will be used; None takes any. A dictionary that names no place is taken for one of it.
        any_model: Accept a dictionary that was trained on another model of the same width.
        norm_scaling_factor: See :func:`saes.formats.saelens.read_saelens`.

    Raises:
        InputError: if there is no dictionary, or none that is read; with what would be.
        VectorError: for a damaged or self-contradicting one, or one of another width, model or site.
        SiteNotFoundError: if the model has no such site.

    Example:
        >>> sae = load_dictionary("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", lm)
        >>> inject(lm, [ClampLatents(sae.origin.site, sae, {7054: 80.0})])
    """
    loaded = _read(Path(path), norm_scaling_factor)
    return _checked(loaded, path, lm, site, any_model)


def load_release(
    release: str,
    sae_id: str,
    lm: LanguageModel | None = None,
    *,
    site: Site | None = None,
    any_model: bool = False,
) -> Autoencoder:
    """Have SAELens fetch a dictionary by its release and id, with the conversion that it knows for it.

    Args:
        release: A name of SAELens's list of releases, or a hub id.
        sae_id: Which one of it.
        lm: As for :func:`load_dictionary`; so are ``site`` and ``any_model``.

    Raises:
        InputError: if SAELens is not installed, does not know it, or cannot reach the hub.
        VectorError: as :func:`load_dictionary`.

    Example:
        >>> sae = load_release("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical", lm)
    """
    loaded = from_saelens(_fetched(release, sae_id))
    return _checked(loaded, f"{release}, {sae_id}", lm, site, any_model)


def load_transcoder(path: str | Path) -> Transcoder:
    """Read a transcoder, from the same layouts.

    It can encode what it reads, and say what its latents write. It cannot be edited with, judged, or written:
    what it reads and what it writes are two places.

    Raises:
        InputError: if there is none.
        VectorError: for a damaged or self-contradicting one.
    """
    loaded = _read(Path(path), None)
    if not isinstance(loaded, Transcoder):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, no transcoder. Read it with load_dictionary."
        )
    return loaded


def _read(path: Path, norm_scaling_factor: float | None) -> Autoencoder | Transcoder:
    known = (CONFIG, SAELENS, SPARSIFY, PARAMS)
    folder = path.parent if path.is_file() and path.name in known else path
    if not path.exists():
        raise InputError(f"No folder or file {path}. For a release of SAELens, use load_release.")
    if (folder / SAELENS).is_file():
        return read_saelens(folder, norm_scaling_factor=norm_scaling_factor)
    if norm_scaling_factor is not None:
        raise InputError(f"norm_scaling_factor is for folders of SAELens, and {path} is none. Leave it out.")
    if (folder / SPARSIFY).is_file():
        return read_sparsify(folder)
    if path.suffix == ".npz" or (folder / PARAMS).is_file():
        return read_gemma_scope(path if path.suffix == ".npz" else folder / PARAMS)
    raise InputError(f"{path} holds no dictionary that is read: {_contents(path)}")


def _contents(path: Path) -> str:
    """What is there instead, and what would work."""
    layouts = (
        f"Read are {CONFIG} with {SAELENS} (SAELens) or {SPARSIFY} (sparsify), and {PARAMS} (Gemma Scope)."
    )
    if not path.is_dir():
        pickled = path.suffix in (".pt", ".pth", ".bin", ".pkl")
        why = "pickled files may run code" if pickled else "it is of no known kind"
        return f"{why}. {layouts}"
    below = [file for depth in range(1, 5) for file in path.glob("*/" * depth + "*")]
    inside = sorted(f for f in below if f.name in (SAELENS, SPARSIFY) or f.suffix == ".npz")
    if inside:
        more = f" … ({len(inside) - 5} more)" if len(inside) > 5 else ""
        names = ", ".join(str(file.parent.relative_to(path)) for file in inside[:5])
        return f"it has several below it. Pass one of {names}{more}."
    names = ", ".join(sorted(file.name for file in path.iterdir())[:5])
    return f"it has {names or 'nothing'}. {layouts}"


def _fetched(release: str, sae_id: str) -> nn.Module:
    try:
        from sae_lens import SAE
    except ImportError:
        raise InputError(
            "A release is fetched by SAELens, which is not installed. Either "
            "pip install 'unlatch[saelens]', or get the folder yourself and pass it to load_dictionary."
        ) from None
    try:
        fetched: nn.Module = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except Exception as error:  # its own, the hub's, the network's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"SAELens cannot load {sae_id!r} of {release!r}: {reason} It needs the network once. Its "
            "releases and ids: sae_lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()."
        ) from error
    return fetched


def _checked(
    loaded: Autoencoder | Transcoder,
    name: str | Path,
    lm: LanguageModel | None,
    site: Site | None,
    any_model: bool,
) -> Autoencoder:
    """The dictionary, if it is what was asked for; what it does not say of itself, the caller has said."""
    if isinstance(loaded, Transcoder):
        raise InputError(
            f"{name} holds a transcoder, which reads one place and writes another. Read it with "
            "load_transcoder; edits and quality need a dictionary of one site."
        )
    if lm is not None:
        site = None if site is None else lm.anatomy.resolve(site)
        check_model(loaded, lm, name=str(name), any_model=any_model)
        loaded.origin = replace(loaded.origin, model=loaded.origin.model or lm.name)
        if loaded.origin.site is not None:
            lm.anatomy.resolve(loaded.origin.site)
    if site is not None:
        check_site(loaded.origin, site, name=str(name))
        loaded.origin = replace(loaded.origin, site=loaded.origin.site or site)
    return loaded
