"""The dictionary that a command is about: the bundled one by its name, any other by path or hf:// name."""

from pathlib import Path

from hooks import LanguageModel
from hooks.errors import InputError
from hooks.hub import reference
from hooks.sites import Site
from saes import BUNDLED, load_dictionary
from saes.autoencoder import Autoencoder
from saes.hub import fetched


def folder_of(name: str) -> Path:
    """Where it is; one of the hub is downloaded."""
    if name == "bundled":
        return BUNDLED
    return fetched(name) if reference(name) is not None else Path(name)


def chosen_dictionary(name: str, lm: LanguageModel, *, any_model: bool = False) -> tuple[Autoencoder, Site]:
    """The dictionary on the model's device, and the site that it reads.

    Raises:
        InputError, VectorError: as :func:`saes.load_dictionary`; and if it names no site.
    """
    dictionary = load_dictionary(folder_of(name), lm, any_model=any_model)
    if dictionary.origin.site is None:
        raise InputError(
            f"{name} does not say which site it reads. Add metadata.hook_name to its cfg.json, such as "
            "blocks.12.hook_resid_post."
        )
    return dictionary.to(lm.device).requires_grad_(False), dictionary.origin.site
