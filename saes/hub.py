"""Dictionaries on the Hugging Face hub as SAELens loads them: a folder each, several in a repository.

What :func:`push_to_hub` has written, ``SAE.from_pretrained("user/repo", "blocks.14.hook_resid_post")`` of
SAELens reads, and :func:`from_pretrained` what SAELens has uploaded. Read are ``cfg.json`` and safetensors
alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hooks.errors import InputError
from hooks.hub import CARD, PICKLED, Repo, located, plain, some
from hooks.language_model import LanguageModel
from hooks.sites import Site
from saes.activity import LATENTS
from saes.autoencoder import Autoencoder
from saes.card import dictionary_card
from saes.formats.saelens import CONFIG, SCALER, WEIGHTS, WHITENING, save_dictionary
from saes.formats.sparsify import WEIGHTS as SPARSIFY
from saes.load import load_dictionary

SPARSITY = "sparsity.safetensors"
"""log10 of how often each latent fires, where SAELens has counted it."""

UPLOADED = (CONFIG, WEIGHTS, SPARSITY, LATENTS, CARD)
FETCHED = (CONFIG, WEIGHTS, SPARSIFY, SCALER, WHITENING, LATENTS)

Source = Autoencoder | str | Path
"""A dictionary in memory, or its folder."""


def push_to_hub(
    dictionaries: Source | Mapping[str, Source],
    repo_id: str,
    *,
    sae_id: str | None = None,
    private: bool | None = None,
    license: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload dictionaries and a card written from their metadata, in one commit.

    A folder of SAELens's layout is uploaded byte for byte, with the density of its latents if that is beside
    it. Any other is written as SAELens would first, with what scales its activations folded into the weights.
    The repository is made if it is not there; what is in it stays, and so does what people wrote in its card.

    Args:
        dictionaries: One, in memory or as a folder; a folder of such folders, as a run of ``unlatch
            sae-train`` leaves; or several by their ids.
        repo_id: ``user/repo``.
        sae_id: Folder in the repository, of one dictionary; None takes its site's name, or its folder's.
        private: Whether a new repository is; None leaves it to the hub's settings.
        license: Of the dictionaries, for the card: ``apache-2.0``, ``mit``, ...
        revision: Branch to commit to, made if it is not there; None is the main one.
        create_pr: Suggest it as a pull request, where you may not write.
        token: None takes the one that is logged in.
        endpoint: Address of another hub than the default.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        InputError: if there is no dictionary, or no id for it; if this login may not write there; if the hub
            refuses or cannot be reached. Nothing is committed then.
        VectorError: for a damaged dictionary.

    Example:
        >>> push_to_hub("runs/sae/dictionaries", "ada/smollm2-saes", license="apache-2.0")
        >>> from_pretrained("ada/smollm2-saes", lm, sae_id="blocks.14.hook_resid_post")
    """
    sources = _sources(dictionaries, sae_id)
    with TemporaryDirectory(prefix="unlatch-") as scratch:
        files: dict[str, bytes | Path] = {}
        loaded: dict[str, Autoencoder] = {}
        for number, (name, source) in enumerate(sources.items()):
            plain(name)
            loaded[name], folder = _ready(source, Path(scratch) / str(number))
            files |= {f"{name}/{file}": folder / file for file in UPLOADED if (folder / file).is_file()}

        def card(repo: str, text: str | None) -> str:
            for name, dictionary in loaded.items():
                text = dictionary_card(dictionary, repo, name, card=text, license=license)
            assert text is not None
            return text

        return Repo(repo_id, revision, token, endpoint).commit(
            files,
            card,
            message=commit_message or f"Sparse dictionaries {some(list(sources), 3)}",
            private=private,
            create_pr=create_pr,
        )


def from_pretrained(
    repo_id_or_folder: str | Path,
    lm: LanguageModel | None = None,
    *,
    sae_id: str | None = None,
    site: Site | None = None,
    any_model: bool = False,
    norm_scaling_factor: float | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Autoencoder:
    """Read and check a dictionary of the hub, or of a folder, without SAELens.

    Only its own files are downloaded, once, and compared with the hashes that the hub has for them. For
    releases that need a conversion, see :func:`saes.load_release`.

    Args:
        repo_id_or_folder: ``user/repo``, ``hf://user/repo[@revision][/sae_id]``, or a folder that is here.
        lm: As for :func:`saes.load_dictionary`; so are ``site``, ``any_model`` and ``norm_scaling_factor``.
        sae_id: Which folder of it; None takes the only one.
        revision: Branch, tag or commit; a commit's hash is the one that cannot change.
        token: None takes the one that is logged in; False none.
        cache_dir: None is the hub's own cache.
        local_files_only: Do without the network.
        endpoint: Address of another hub than the default.

    Raises:
        InputError: if there is no such repository or folder, or none that this login may see; if the hub
            cannot be reached; if there is no such dictionary, or several to choose from, with their ids.
        VectorError: as :func:`saes.load_dictionary`; if a file is not what the hub says it is.
        SiteNotFoundError: if the model has no such site.
    """
    folder = fetched(
        repo_id_or_folder,
        sae_id=sae_id,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        endpoint=endpoint,
    )
    return load_dictionary(
        folder, lm, site=site, any_model=any_model, norm_scaling_factor=norm_scaling_factor
    )


def fetched(
    repo_id_or_folder: str | Path,
    *,
    sae_id: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The folder of a dictionary, downloaded if it is on the hub; see :func:`from_pretrained`."""
    return located(
        repo_id_or_folder,
        sae_id,
        _the_dictionary,
        lambda repo: Repo(repo, None, token, endpoint, cache_dir, local_files_only),
        revision=revision,
        contents=FETCHED,
    )


def _the_dictionary(names: Sequence[str], sae_id: str | None, where: str) -> str:
    """The one folder that is meant, by its name or because there is no other; ``.`` is the repository."""
    within_folder: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        within_folder.setdefault(folder or ".", set()).add(file)
    found = sorted(
        folder for folder, files in within_folder.items() if CONFIG in files and files & {WEIGHTS, SPARSIFY}
    )
    if sae_id is None and len(found) == 1:
        return found[0]
    if sae_id in found:
        return str(sae_id)
    if sae_id is None and found:
        raise InputError(f"{where} has several dictionaries: {some(found)}. Pass sae_id= one of them.")
    asked = "no dictionary" if sae_id is None else f"no dictionary {sae_id!r}"
    if found:
        raise InputError(f"{where} has {asked}; it has {some(found)}. Pass sae_id= one of them.")
    pickled = any(name.endswith(PICKLED) for name in names)
    why = " Pickled files may run code and are not read." if pickled else ""
    raise InputError(
        f"{where} has {asked}; it has {some(sorted(names))}.{why} Read are folders with {CONFIG} and "
        f"{WEIGHTS}, or those of sparsify; for releases that SAELens knows, use load_release."
    )


def _sources(dictionaries: Source | Mapping[str, Source], sae_id: str | None) -> dict[str, Source]:
    """What to upload, by id."""
    if isinstance(dictionaries, Mapping):
        if sae_id is not None or not dictionaries:
            raise InputError(
                f"{len(dictionaries)} dictionaries by their ids, and sae_id={sae_id!r}: pass one or more by "
                "their ids, or one of them with sae_id."
            )
        return dict(dictionaries)
    if not isinstance(dictionaries, (str, Path)):
        return {sae_id or _site_name(dictionaries, "The dictionary"): dictionaries}
    folder = Path(dictionaries)
    if not (folder / CONFIG).exists() and folder.is_dir():
        below = sorted({file.parent for file in folder.rglob(CONFIG) if (file.parent / WEIGHTS).is_file()})
        if below and sae_id is None:
            return {one.relative_to(folder).as_posix(): one for one in below}
    return {sae_id or _site_name(load_dictionary(folder), str(folder)): folder}


def _site_name(dictionary: Autoencoder, name: str) -> str:
    if dictionary.origin.site is None:
        raise InputError(f"{name} does not say which site it reads: pass sae_id, the folder to put it in.")
    return str(dictionary.origin.site)


def _ready(source: Source, scratch: Path) -> tuple[Autoencoder, Path]:
    """A dictionary, and a folder of it that SAELens reads alike."""
    if isinstance(source, Autoencoder):
        return source, save_dictionary(source, scratch)
    folder, dictionary = Path(source), load_dictionary(source)
    if (folder / WEIGHTS).is_file() and not any((folder / file).exists() for file in (SCALER, WHITENING)):
        return dictionary, folder
    return dictionary, save_dictionary(dictionary, scratch)
