"""The card of a dictionary: what its files say of it, its quality beside PCA and chance, and what it cannot
show."""

from collections.abc import Mapping
from typing import Any

from hooks.card import code, fenced, front_matter, number, pretty, shown_name, table, with_section
from saes.autoencoder import Autoencoder
from saes.topk import TopKSAE

TAGS = ("unlatch", "sparse-autoencoder", "saelens", "mechanistic-interpretability", "interpretability")
_ROWS = (
    ("dictionary", "dictionary"),
    ("pca", "PCA of as many directions"),
    ("random", "the same, never trained"),
    ("mean", "the mean alone"),
)


def dictionary_card(
    dictionary: Autoencoder,
    repo_id: str,
    sae_id: str,
    *,
    card: str | None = None,
    license: str | None = None,
) -> str:
    """A repository's card with the section about this dictionary.

    Args:
        repo_id: Where it is, in the folder ``sae_id``.
        card: The card as it is; None where there is none.
        license: Of the dictionary.

    Raises:
        InputError: as :func:`hooks.card.with_section`; for a licence that is no identifier.
    """
    parts = (
        f"## Sparse dictionary {code(sae_id)}",
        _facts(dictionary),
        "### How good is it?",
        _quality(dictionary),
        "### How to use it",
        _usage(dictionary, repo_id, sae_id),
        "### What it cannot show",
        _limits(dictionary),
        "### All that its settings say",
        fenced(pretty(_rest(dictionary)), "json"),
        "*Written by unlatch from the metadata of the files.*",
    )
    front = front_matter(TAGS, dictionary.origin.model, license)
    return with_section(card, sae_id, "\n\n".join(parts), front, repo_id.rpartition("/")[2])


def _facts(dictionary: Autoencoder) -> str:
    origin = dictionary.origin
    said = origin.metadata
    k = f", k = {number(dictionary.k, 'd')}" if isinstance(dictionary, TopKSAE) else ""
    place = origin.hook_name if origin.site is None else str(origin.site)
    lines = [
        f"{code(type(dictionary).__name__)}: {dictionary.d_sae:,} latents, activations {dictionary.d_in} "
        f"wide{k}.",
        f"Site: {code(place or 'not given')}, of {code(shown_name(origin.model or 'a model not given'))}; "
        f"weights {code(origin.fingerprint or 'not given')}.",
        f"Normalises activations: {code(dictionary.normalize_activations)}; subtracts b_dec before encoding: "
        f"{'yes' if dictionary.apply_b_dec_to_input else 'no'}.",
    ]
    if "training_vectors" in said:
        distinct = (
            f", {number(said['distinct_vectors'], ',')} distinct ones" if "distinct_vectors" in said else ""
        )
        lines.append(f"Trained on {number(said['training_vectors'], ',')} activations{distinct}.")
    else:
        lines.append("Its settings do not say on how many tokens it was trained.")
    if "positions" in said:
        lines.append(f"Positions: {code(said['positions'])}.")
    if "dataset_path" in said:
        lines.append(f"Text: {code(shown_name(said['dataset_path']))}.")
    if "sae_lens_version" in said:
        lines.append(f"Layout of SAELens {code(said['sae_lens_version'])}.")
    return "\n".join(f"- {line}" for line in lines)


def _quality(dictionary: Autoencoder) -> str:
    found = dictionary.origin.metadata.get("quality")
    if not isinstance(found, Mapping):
        return "Its settings do not say. `saes.quality` measures it, beside PCA, chance and the mean."
    rows = [
        [
            name,
            number(found.get(f"{key}_fvu")),
            number(_less(found.get(f"{key}_ce_nats"), found.get("clean_ce_nats"))),
            number(found.get(f"{key}_recovered"), ".3f"),
        ]
        for key, name in _ROWS
    ]
    return "\n\n".join(
        (
            f"On {number(found.get('n_tokens'), ',')} tokens that it was not trained on: L0 "
            f"{number(found.get('l0'))}, share of latents that never fired "
            f"{number(found.get('dead_fraction'))}.",
            table(("", "FVU", "loss added, nats", "share of loss recovered"), rows),
            "FVU is the fraction of variance that it leaves unexplained; the loss is of the model's next "
            f"token with the reconstruction in place, over {number(found.get('n_next_tokens'), ',')} tokens.",
        )
    )


def _less(left: object, right: object) -> object:
    both = isinstance(left, (int, float)) and isinstance(right, (int, float))
    return left - right if both else None  # type: ignore[operator]


def _usage(dictionary: Autoencoder, repo_id: str, sae_id: str) -> str:
    name = pretty(shown_name(dictionary.origin.model or "the model"))
    python = "\n".join(
        (
            "from hooks import generate, load",
            "from hooks.positions import step",
            "from saes import ShiftPreactivations, from_pretrained",
            "",
            f"lm = load({name})",
            f'sae = from_pretrained("{repo_id}", lm, sae_id="{sae_id}")',
            "edit = ShiftPreactivations(sae.origin.site, sae, {0: 20.0}, step(0))  # latent 0, at one step",
            'print(generate(lm, ["What is 3 + 4?"], edits=[edit]).texts[0])',
        )
    )
    theirs = f'from sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo_id}", "{sae_id}")'
    shell = f"unlatch sae-features --dictionary hf://{repo_id}/{sae_id} --out runs/features"
    return "\n\n".join((fenced(python, "python"), fenced(theirs, "python"), fenced(shell, "sh")))


def _limits(dictionary: Autoencoder) -> str:
    said = [
        "That a latent is a feature of the model: it is a direction that helps to rebuild activations.",
        "What a latent stands for where it fired on few tokens, or on other kinds of text than those it was "
        "trained on.",
        "What it misses: the reconstruction leaves an error, which edits keep and which may hold what is "
        "looked for.",
    ]
    if dictionary.origin.fingerprint is None:
        said.append("Which weights it was trained on: only the model's name is known.")
    return "\n".join(f"- {line}" for line in said)


def _rest(dictionary: Autoencoder) -> dict[str, Any]:
    told = {
        "quality",
        "training_vectors",
        "distinct_vectors",
        "positions",
        "sae_lens_version",
        "dataset_path",
    }
    return {str(name): value for name, value in dictionary.origin.metadata.items() if name not in told}
